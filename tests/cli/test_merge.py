"""`tunesmith merge`: adapters, runs and checkpoints by name; what it prints; what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.exporting.models import logits, make, reload, train
from tunesmith.cli.main import main


@pytest.fixture
def pair(tmp_path):
    base = make("llama", tmp_path / "base")
    live = train(base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
    return base, tmp_path / "adapter", live


def test_an_adapter_directory(pair, tmp_path, capsys):
    _, adapter, live = pair
    out = tmp_path / "merged"
    assert main(["merge", str(adapter), "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "KL" in shown
    assert f"tunesmith chat {out}" in shown
    assert torch.allclose(logits(reload(out)), live, atol=1e-5)


def test_json_is_the_whole_report(pair, tmp_path, capsys):
    _, adapter, _ = pair
    words = ["merge", str(adapter), "-o", str(tmp_path / "merged"), "--dtype", "bfloat16", "--json"]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dtype"] == "bfloat16"
    assert report["changed"] == 4
    assert 0 < report["kl"] < 1e-3


def test_a_base_that_moved_is_named(pair, tmp_path, capsys):
    base, adapter, _ = pair
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "gone"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    words = ["merge", str(adapter), "-o", str(tmp_path / "merged")]
    assert main(words) == 2
    assert "E20" in capsys.readouterr().err
    assert main([*words, "--base", str(base)]) == 0


def test_a_full_model_has_nothing_to_merge(pair, tmp_path, capsys):
    base, _, _ = pair
    assert main(["merge", str(base), "-o", str(tmp_path / "merged")]) == 1
    assert "X101" in capsys.readouterr().err


def test_what_is_there_stays_without_yes(pair, tmp_path, capsys):
    _, adapter, _ = pair
    words = ["merge", str(adapter), "-o", str(tmp_path / "merged"), "--no-verify"]
    assert main(words) == 0
    assert "not compared" in capsys.readouterr().out
    assert main(words) == 2
    assert "C212" in capsys.readouterr().err
    assert main([*words, "--yes"]) == 0


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch):
    """A run of two steps, with a checkpoint of each."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Say {i}", "completion": f"{i}"} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"model={tiny_model}", "data.train=rows.jsonl", "data.num_proc=1"]
    words += ["train.max_steps=2", "train.save_steps=1", "train.dtype=float32", "data.system=Hm."]
    assert main(["train", *words, "optim.learning_rate=0.05", "output.name=short"]) == 0


def test_checkpoints_of_a_run(run, tmp_path, capsys):
    assert main(["merge", "short", "-o", "final", "--json"]) == 0
    assert main(["merge", "short@step-2", "-o", "last"]) == 0
    assert main(["merge", "short@step-1", "-o", "first"]) == 0
    final, last, first = (
        load_file(tmp_path / name / "model.safetensors") for name in ("final", "last", "first")
    )
    assert all(torch.equal(final[name], last[name]) for name in final)
    assert any(not torch.equal(final[name], first[name]) for name in final)
    for name in ("final", "last"):
        assert (tmp_path / name / "chat_template.jinja").is_file()
        assert json.loads((tmp_path / name / "tunesmith.json").read_text())["system"] == "Hm."


def test_a_damaged_checkpoint_answers_nothing(run, tmp_path):
    """Of a run without final/: the newest that is whole answers; a named one is refused."""
    from tunesmith.compose import source
    from tunesmith.errors import RunError

    copy = tmp_path / "damaged"
    shutil.copytree(source.find_run("short", "runs")[0].path, copy)
    shutil.rmtree(copy / "final")
    newest, *older = sorted((copy / "checkpoints").iterdir(), key=lambda p: -int(p.name[5:]))
    assert source.locate(str(copy)).checkpoint == newest
    weights = next(newest.glob("weights-*.safetensors"))
    raw = bytearray(weights.read_bytes())
    raw[-8:] = b"damaged!"
    weights.write_bytes(raw)
    assert source.locate(str(copy)).checkpoint == older[0]
    with pytest.raises(RunError, match=newest.name.replace("step-", "step ")) as caught:
        source.locate(f"{copy}@{newest.name}")
    assert caught.value.code == "R113"


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_a_run_is_what_merging_makes_of_it(run, tmp_path, dtype):
    """Bit for bit, in every type: a chat with the run and with the merged model are the same."""
    from tunesmith.compose import model, source
    from tunesmith.recipe.sections import ModelConfig

    def weights(spec):
        found = source.locate(spec)
        start = model.Origin(found, tmp_path, "")
        config = ModelConfig(path=found.base)
        return model.weights(start, config, dtype=dtype, device="cpu", seed=0).state_dict()

    assert main(["merge", "short", "-o", "merged"]) == 0
    assert main(["merge", "short@step-1", "-o", "first"]) == 0
    for spec, merged in (("short", "merged"), ("short@step-1", "first")):
        here, there = weights(spec), weights(merged)
        assert here.keys() == there.keys()
        assert {str(tensor.dtype) for tensor in here.values()} == {f"torch.{dtype}"}
        assert all(torch.equal(here[name], there[name]) for name in here)
