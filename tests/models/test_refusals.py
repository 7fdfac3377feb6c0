"""What can't be loaded or computed is refused with its code, before anything is read or run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from tunesmith.data.collate import collate
from tunesmith.errors import ConfigError, EnvironmentFault, MissingExtra
from tunesmith.models import attention, heads, kernels, load
from tunesmith.models.language_model import LanguageModel
from tunesmith.recipe.sections import ModelConfig
from tunesmith.types import Example, Segments


def refused(path, **fields) -> EnvironmentFault:
    with pytest.raises(EnvironmentFault) as caught:
        load.load(ModelConfig(path=str(path), **fields), dtype="float32", device="cpu", seed=0)
    return caught.value


@pytest.fixture
def model_dir(tiny_model, tmp_path):
    """A copy of the tiny model that a test may damage."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def change_config(model_dir, **fields):
    path = model_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_model_needs_a_path_or_a_config():
    with pytest.raises(ConfigError) as caught:
        load.load(ModelConfig(), dtype="float32", device="cpu", seed=0)
    assert caught.value.code == "C176"


def test_nothing_there(tmp_path):
    assert refused(tmp_path).code == "E201"


def test_weights_only_as_pickle_are_not_read(model_dir):
    (model_dir / "model.safetensors").unlink()
    (model_dir / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    error = refused(model_dir)
    assert error.code == "E203"
    assert "pytorch_model.bin" in error.what
    assert not (model_dir / "canary").exists()


def test_a_family_with_code_of_its_own(model_dir):
    change_config(model_dir, model_type="mine", auto_map={"AutoModel": "mine.Model"})
    (model_dir / "mine.py").write_text("raise SystemExit('this ran')")
    assert refused(model_dir).code == "E204"


def test_code_beside_a_known_family_is_not_followed(model_dir):
    change_config(model_dir, auto_map={"AutoModelForCausalLM": "mine.Model"})
    (model_dir / "mine.py").write_text("raise SystemExit('this ran')")
    loaded = load.load(ModelConfig(path=str(model_dir)), dtype="float32", device="cpu", seed=0)
    assert type(loaded.hf).__module__.startswith("transformers.")


@pytest.mark.parametrize("kind", ["no-such-family", "vit"])
def test_unknown_family_or_no_language_model(model_dir, kind):
    change_config(model_dir, model_type=kind)
    assert refused(model_dir).code == "E205"


def test_weights_of_another_shape_or_missing(model_dir):
    change_config(model_dir, num_hidden_layers=3)
    error = refused(model_dir)
    assert error.code == "E206"
    assert "layers.2" in error.what


def test_an_adapter_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert refused(tmp_path).code == "E207"


def test_an_encoder_has_no_head():
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with pytest.raises(EnvironmentFault) as caught:
        heads.output_head(BertModel(config))
    assert caught.value.code == "E208"


@pytest.mark.skipif(torch.cuda.is_available(), reason="these are refused only without a GPU")
@pytest.mark.parametrize("choice", [{"attention": "flash"}, {"attention": "flex"}])
def test_attention_that_needs_a_gpu(tiny_hf, choice):
    with pytest.raises(ConfigError) as caught:
        LanguageModel(tiny_hf, **choice)
    assert caught.value.code == "C177"


@pytest.mark.skipif(torch.cuda.is_available(), reason="these are refused only without a GPU")
def test_kernels_that_need_a_gpu(tiny_hf):
    with pytest.raises((ConfigError, MissingExtra)) as caught:
        kernels.install(tiny_hf, "liger", None)
    assert caught.value.code == "C175"


def test_packed_rows_are_refused_where_they_would_see_each_other():
    """Falcon's attention has no hook: two examples in a row would attend to each other."""
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, alibi=False
    )
    model = LanguageModel(FalconForCausalLM(config))
    example = Example(np.arange(5, dtype=np.int32), np.array([0, 1, 1, 1, 1], np.float32))
    assert torch.isfinite(model(collate([example])).logprobs_S).all()
    with pytest.raises(ConfigError) as caught:
        model(collate([example, example]))
    assert caught.value.code == "C178"


@pytest.mark.parametrize(
    ("parents", "context", "kind"),
    [([-1, -1, -1], 2, "blocks"), ([-1, 0, 1], 0, "blocks"), ([-1, 0, 0], 0, "flash")],
    ids=["prefix-LM", "grandparent", "flash"],
)
def test_what_attention_does_not_know_is_not_computed_wrongly(parents, context, kind):
    starts, lengths = np.array([0, 3, 6], np.int32), np.array([3, 3, 3], np.int32)
    segments = Segments(starts, lengths, np.array(parents, np.int32), np.array([0, context, 0]))
    with pytest.raises(ConfigError) as caught:
        attention.Plan(segments, 9, torch.device("cpu"), kind)
    assert caught.value.code == "C179"


def test_a_shared_prompt_under_a_sliding_window_is_refused():
    starts, lengths = np.array([0, 3], np.int32), np.array([3, 3], np.int32)
    segments = Segments(starts, lengths, np.array([-1, 0], np.int32), np.zeros(2, np.int32))
    plan = attention.Plan(segments, 6, torch.device("cpu"))
    heads = [torch.ones(6, 1, 4)] * 3
    with pytest.raises(ConfigError) as caught:
        attention.attend(*heads, plan, attention.Rule(0.5, window=4), 1)
    assert caught.value.code == "C179"


@pytest.fixture
def tiny_hf(tiny_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)
