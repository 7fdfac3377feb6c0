"""Families whose attention says more than ours hears are left to their own code."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.generation.torch import TorchGenerator
from tunesmith.models.load import packable
from tunesmith.types import Request, Sampling

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SINKS = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
FOREIGN = {
    "gpt_oss": SINKS,  # a learned sink beside the scores
    "diffllama": {},  # two attentions a layer
    "phimoe": {**MOE, "sliding_window": 8},  # a window that only its mask knows
    "hrm_text": {},  # layers run several times
    "pegasus": {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4,
                "decoder_ffn_dim": 48, "is_decoder": True},  # counts positions itself
}  # fmt: skip
PROMPTS = [(5,), (7, 8, 9, 10, 11, 12), tuple(range(20, 40))]


def config(family, **more):
    return AutoConfig.for_model(family, **{**SIZES, **more})


@pytest.mark.parametrize("family", FOREIGN)
def test_greedy_tokens_are_those_of_transformers(family):
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config(family, **FOREIGN[family])).float().eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    assert not packable(hf.config)
    expected = []
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(8):
            with torch.no_grad():
                logits = hf(torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
        expected.append(ids[len(prompt) :])
    requests = [
        Request(str(at), prompt, Sampling(max_tokens=8)) for at, prompt in enumerate(PROMPTS)
    ]
    found = TorchGenerator(hf).generate(requests)
    assert [[event.token for event in events] for events in found.values()] == expected


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", {}), ("mistral", {"sliding_window": 8}), ("qwen2", {}), ("qwen3", {}),
        ("gemma2", {"head_dim": 8}), ("gemma3_text", {"head_dim": 8}), ("phi3", {}),
        ("olmo2", {}), ("stablelm", {}), ("mixtral", MOE), ("phimoe", MOE),
    ],
)  # fmt: skip
def test_families_that_say_all_are_ours(family, more):
    assert packable(config(family, **more))
