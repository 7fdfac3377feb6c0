"""One token at a time gives what transformers gives, in every family and kind it serves."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from tunesmith.generation.lanes_impl import Lanes
from tunesmith.models import single
from tunesmith.models.decoding import Decoder
from tunesmith.models.single import fits, pooled

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
MODELS = {
    "llama": LlamaConfig(**SHAPE),
    "llama, biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "mistral, window": MistralConfig(**SHAPE, sliding_window=5),
}
IDS = [7, 3, 250, 9, 9, 41, 17, 120, 6, 2, 88, 13]


def build(config, dtype=torch.float32):
    """All parameters random: gains and biases must not be 1 and 0."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3)
            if "norm" in name:
                parameter.add_(1)
    return model.to(dtype).eval()


@pytest.mark.parametrize("narrow", [single.NARROW, 3], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name, narrow, monkeypatch):
    """Whether NumPy attends or, over more tokens than `NARROW`, torch."""
    monkeypatch.setattr(single, "NARROW", narrow)
    hf = build(MODELS[name])
    decoder = Decoder(hf, pack=True)
    place = Lanes(64).take(len(IDS))
    with torch.no_grad():
        wanted_TV = hf(torch.tensor([IDS])).logits[0]
        found = [decoder.single(id, at, place.lane, place.row) for at, id in enumerate(IDS)]
    torch.testing.assert_close(torch.cat(found), wanted_TV, atol=2e-4, rtol=2e-4)


def test_a_row_goes_on_when_its_lane_gets_other_memory():
    """Others come to the lane: it grows, and what was held of the row is somewhere else."""
    hf = build(MODELS["llama"])
    decoder = Decoder(hf, pack=True)
    lanes = Lanes(10_000)
    first, place = lanes.take(len(IDS)), lanes.take(len(IDS))
    with torch.no_grad():
        wanted_TV = hf(torch.tensor([IDS])).logits[0]
        found = []
        for at, id in enumerate(IDS):
            if at == 4:
                lanes.take(len(IDS)), lanes.take(len(IDS))
            if at == 8:
                lanes.release(first)  # the last row moves into the gap
            found.append(decoder.single(id, at, place.lane, place.row))
            place.length += 1
    torch.testing.assert_close(torch.cat(found), wanted_TV, atol=2e-4, rtol=2e-4)


def test_weights_that_are_not_finite_are_told_by_the_logits(recwarn):
    hf = build(MODELS["qwen3"])
    with torch.no_grad():
        hf.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    place = Lanes(64).take(4)
    with torch.no_grad():
        logits = Decoder(hf, pack=True).single(7, 0, place.lane, place.row)
    assert not logits.isfinite().all()
    assert not recwarn.list


def test_an_own_adapter_is_in_its_weights():
    from tunesmith.tuners.lora import LoraConfig, LoraTuner

    hf = build(MODELS["qwen3"])
    tuner = LoraTuner(LoraConfig(r=4))
    tuner.apply(hf)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    hf.eval()
    decoder = Decoder(hf, pack=True)
    place = Lanes(64).take(len(IDS))
    tuner.merge(hf)
    with torch.no_grad():
        wanted_TV = hf(torch.tensor([IDS])).logits[0]
        found = [decoder.single(id, at, place.lane, place.row) for at, id in enumerate(IDS)]
    torch.testing.assert_close(torch.cat(found), wanted_TV, atol=2e-4, rtol=2e-4)


def test_it_is_not_there_for_half_precision_or_weights_that_change():
    assert Decoder(build(MODELS["llama"]), pack=False).single is None
    half = Decoder(build(MODELS["llama"], torch.bfloat16), pack=True)
    assert half.single is None
    assert not fits(half)


def test_pooled_matrices_are_copies_that_begin_at_cache_lines():
    matrices = [torch.randn(3, 5), torch.randn(7, 2)]
    found = pooled(matrices)
    for copy, matrix in zip(found, matrices, strict=True):
        assert torch.equal(copy, matrix)
        assert copy.data_ptr() % 64 == 0
        assert copy.data_ptr() != matrix.data_ptr()
