"""`model.quantize` and `--quantize`: what is refused before weights load, what answers later."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.compose import test_refused_early
from tunesmith import compose, recipe
from tunesmith.compose import memory, model, quantising, serving
from tunesmith.compose.source import Source
from tunesmith.errors import ConfigError, MissingExtra
from tunesmith.models import load, quantised
from tunesmith.recipe.sections import Quantization

settings = test_refused_early.settings


@pytest.mark.parametrize("short", ["bnb4", {"kind": "bnb", "bits": 4}, {"kind": "bnb4"}, "bnb"])
def test_short_and_long_forms_say_the_same(settings, short):
    found = recipe.from_dict(settings(model={"path": "builtin:tiny", "quantize": short}))
    assert found.model.quantize == Quantization("bnb", 4)
    assert found.model.quantize.name == "bnb4"


def test_forms_that_contradict_themselves(settings):
    given = {"kind": "bnb8", "bits": 4}
    with pytest.raises(ConfigError) as caught:
        recipe.from_dict(settings(model={"path": "builtin:tiny", "quantize": given}))
    assert caught.value.code == "C105"


@pytest.mark.parametrize("tuner", ["full", "freeze", {"kind": "lora", "use_dora": True}])
def test_what_would_change_the_weights_is_refused(settings, tuner, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "load", lambda *_, **__: pytest.fail("weights were read"))
    wanted = settings(model={"path": settings()["model"], "quantize": "bnb4"}, tuner=tuner)
    with pytest.raises(ConfigError) as caught:
        compose.train(recipe.from_dict(wanted))
    assert caught.value.code == "E230"
    assert not (tmp_path / "runs").exists()


def test_an_adapter_as_base_is_refused(settings):
    wanted = recipe.from_dict(settings(model={"path": "builtin:tiny", "quantize": "bnb4"}))
    with pytest.raises(ConfigError) as caught:
        quantising.check(wanted, Source("run", "base", (Path("adapter"),)))
    assert caught.value.code == "E230"
    assert "merge run" in caught.value.fix


def test_a_missing_package_is_told_before_weights(settings, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    wanted = recipe.from_dict(settings(model={"path": settings()["model"], "quantize": "bnb8"}))
    with pytest.raises(MissingExtra):
        compose.train(wanted)


def test_several_adapters_stay_not_beside(tmp_path):
    with pytest.raises(ConfigError):
        quantising.over(Source("run", "base", (tmp_path, tmp_path)), merges=True)
    with pytest.raises(ConfigError):
        quantising.over(Source("run", "base", (), tmp_path), merges=False)
    quantising.over(Source("run", "base", (tmp_path,)), merges=False)


def test_a_file_is_quantised_as_it_is(tmp_path):
    with pytest.raises(ConfigError) as caught:
        serving.offers("some.gguf", "some", {}, slots=1, quantize="bnb4")
    assert caught.value.code == "E230"


def test_the_estimate_counts_few_bits(settings, tiny_model):
    wanted = recipe.from_dict(settings())
    few = dataclasses.replace(wanted.model, quantize=Quantization("bnb4"))
    origin = model.origin(wanted)
    whole = memory.memory(wanted, origin, "float32", 10)
    found = memory.memory(dataclasses.replace(wanted, model=few), origin, "float32", 10)
    skeleton = model.skeleton(origin, wanted.model)
    linears = sum(p.numel() for n, p in skeleton.named_parameters() if "_proj" in n)
    rate = 4 - 0.5 - 1 / 64 - 4 / (64 * 256)
    assert whole.weights - found.weights == pytest.approx(linears * rate / 1e9)


def test_a_run_answers_as_it_was_trained(settings, tmp_path):
    pytest.importorskip("bitsandbytes")
    wanted = settings(model={"path": settings()["model"], "quantize": "bnb4"})
    wanted["tuner"] = {"kind": "lora", "r": 4}
    wanted["train"]["save_steps"] = 2
    run = compose.train(recipe.from_dict(wanted))
    card = json.loads((run.path / "final" / "tunesmith.json").read_text())
    assert Quantization(**card["quantize"]) == Quantization("bnb4")
    for name in (run.path, f"{run.path}@step-2"):
        hf = compose.load(str(name), dtype="float32").model.hf
        assert {layer.bits for layer in quantised.layers(hf).values()} == {4}
        assert any("lora_B" in key and p.abs().max() > 0 for key, p in hf.named_parameters())
    plain = compose.load(str(run.path), dtype="float32", quantize="none").model.hf
    assert quantised.layers(plain) == {}
    eight = compose.load(str(run.path), dtype="float32", quantize="bnb8").model.hf
    assert {layer.bits for layer in quantised.layers(eight).values()} == {8}
