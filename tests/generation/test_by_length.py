"""Rotations that depend on the length of a pass: an answer is the request's own all the same."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.generation.test_torch import reference, requests, tokens
from tunesmith.generation.torch import TorchGenerator

DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32,
    "short_factor": [1.0] * 8, "long_factor": [float(n) for n in range(1, 9)], "factor": 4.0,
}  # fmt: skip


def model(rope):
    reach = 32 if rope["rope_type"] == "dynamic" else 512
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=reach,
        rope_parameters=dict(rope), initializer_range=0.4, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("rope", [DYNAMIC, LONGROPE], ids=lambda rope: rope["rope_type"])
@pytest.mark.parametrize("options", [{}, {"deterministic": True}, {"speculate": 4}], ids=str)
def test_answers_are_those_of_a_fresh_model(rope, options):
    draw = torch.Generator().manual_seed(1)
    lengths = (5, 30, 70, 12, 300 if rope is LONGROPE else 100)
    prompts = [torch.randint(1, 64, (n,), generator=draw).tolist() for n in lengths]
    prompts.append(prompts[4][:66] + prompts[0])  # begins as an earlier one does
    wanted = [reference(model(rope), prompt, 20) for prompt in prompts]
    generator = TorchGenerator(model(rope), **options)
    assert any("one at a time" in note for note in generator.notes)
    found = tokens(generator.generate(requests(prompts, max_tokens=20)))
    assert list(found.values()) == wanted
