"""Loading: the same weights as transformers', fresh ones by seed, RoPE scaling before building."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.models import load
from tunesmith.recipe.sections import ModelConfig

SCRATCH = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}


def test_a_directory(tiny_model):
    found = load.load(ModelConfig(path=str(tiny_model)), dtype="bfloat16")
    wanted = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    assert found.tokenizer_dir == found.source == tiny_model
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(found.hf.state_dict()[name], tensor), name
    assert found.description.startswith("llama 2L×32 ")
    assert "bfloat16" in found.description


def test_from_scratch_is_a_function_of_the_seed(tiny_model):
    config = ModelConfig(config=SCRATCH, tokenizer=str(tiny_model))
    state = torch.random.get_rng_state()
    one, same, other = (load.load(config, seed=seed).hf for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    weight = lambda hf: hf.model.layers[0].mlp.up_proj.weight
    assert torch.equal(weight(one), weight(same))
    assert not torch.equal(weight(one), weight(other))
    assert one.config.vocab_size == 260  # 256 bytes and 4 special tokens of the tokenizer
    narrow = load.load(config, seed=1, dtype="bfloat16").hf
    assert torch.equal(weight(narrow), weight(one).bfloat16())


def test_rotations_are_never_rounded(tiny_model):
    """Frequencies in bfloat16 are off by 0.4 %: at position 1,000 by several radians."""
    wanted = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    fresh = load.load(ModelConfig(config=SCRATCH, tokenizer=str(tiny_model)), dtype="bfloat16").hf
    turned = load.to_dtype(load.load(ModelConfig(path=str(tiny_model))).hf, torch.bfloat16)
    for hf in (wanted, fresh, turned):
        assert hf.dtype == torch.bfloat16
        assert hf.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(turned.model.rotary_emb.inv_freq, wanted.model.rotary_emb.inv_freq)


def test_rope_scaling_changes_what_is_computed(tiny_model):
    """Set after building it would do nothing: the tables are made by the constructor."""
    scaling = {"rope_type": "linear", "factor": 4.0}
    plain = load.load(ModelConfig(path=str(tiny_model))).hf
    scaled = load.load(ModelConfig(path=str(tiny_model), rope_scaling=scaling)).hf
    ids = torch.arange(5, 40)[None]
    assert not torch.allclose(plain(ids).logits[0, -1], scaled(ids).logits[0, -1])
    positions = torch.arange(35)[None] * 4
    torch.testing.assert_close(scaled(ids, position_ids=positions).logits, plain(ids).logits)
    assert scaled.config.rope_parameters["rope_theta"] == plain.config.rope_parameters["rope_theta"]


def test_rope_scaling_of_a_fresh_model(tiny_model):
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}
    config = ModelConfig(config=SCRATCH, tokenizer=str(tiny_model), rope_scaling=scaling)
    hf = load.load(config).hf
    assert hf.model.rotary_emb.rope_type == "yarn"


def test_another_tokenizer(tiny_model, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    config = ModelConfig(path=str(tiny_model), tokenizer=str(tmp_path))
    assert load.load(config).tokenizer_dir == tmp_path


@pytest.mark.parametrize(("fields", "expected"), [
    ({"model_type": "llama"}, True),
    ({"model_type": "qwen3"}, True),
    ({"model_type": "gpt2"}, True),
    ({"model_type": "bloom"}, False),
    ({"model_type": "falcon"}, False),
    ({"model_type": "codegen"}, False),
    ({"model_type": "gptj"}, False),
    ({"model_type": "mpt"}, False),
    ({"model_type": "rwkv"}, False),
    ({"model_type": "mamba"}, False),
    ({"model_type": "qwen3_next"}, False),
])  # fmt: skip
def test_packable_families(fields, expected):
    from transformers import AutoConfig

    assert load.packable(AutoConfig.for_model(**fields)) is expected


def test_real_models(shared_data):
    path = shared_data / "models" / "stories260K" / "hf"
    found = load.load(ModelConfig(path=str(path)))
    fields = json.loads((path / "config.json").read_text())
    assert found.hf.config.num_hidden_layers == fields["num_hidden_layers"]
    assert sum(p.numel() for p in found.hf.parameters()) == 260_032


@pytest.mark.parametrize(
    ("count", "text"), [(1_240_000_000, "1.24B"), (5_800_000, "5.8M"), (260_032, "260K")]
)
def test_counts_in_short(count, text):
    assert load.in_short(count) == text
