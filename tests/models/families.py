"""Tiny random models of several families, and chats, to be compared with transformers."""

from __future__ import annotations

import copy

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.data.collate import collate
from tunesmith.types import Example

LENGTHS = (7, 40, 13, 4)
VOCABULARY = 100
_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GPT2 = {
    "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FIELDS = {
    "llama": {"model_type": "llama", **_SHAPE},
    "llama tied": {"model_type": "llama", **_SHAPE, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", **_SHAPE},
    "qwen3": {"model_type": "qwen3", **_SHAPE, "head_dim": 24},
    "mistral window": {"model_type": "mistral", **_SHAPE, "sliding_window": 8},
    "gpt2": {"model_type": "gpt2", **_GPT2},
    "gemma2 softcap": {"model_type": "gemma2", **_SHAPE, "head_dim": 16, "sliding_window": 8},
    "phi bias": {"model_type": "phi", **_SHAPE},
    "granite scales": {"model_type": "granite", **_SHAPE, "logits_scaling": 8.0},
}


def random_model(name: str, dtype=torch.float32, **fields):
    """A model of the family with weights drawn from seed 0."""
    fields = {**FIELDS[name], **fields}
    config = AutoConfig.for_model(**fields)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype).eval()


def twin(hf):
    """An untouched copy that transformers computes by itself."""
    return copy.deepcopy(hf)


def chats(lengths=LENGTHS, seed=0) -> list[Example]:
    """Examples of these lengths, the first third untrained, with one weight of a half."""
    generator = np.random.default_rng(seed)
    made = []
    for length in lengths:
        weights = (np.arange(length) >= max(1, length // 3)).astype(np.float32)
        weights[-1] = 0.5
        made.append(Example(generator.integers(3, VOCABULARY, length).astype(np.int32), weights))
    return made


def reference_loss(hf, examples) -> torch.Tensor:
    """Σ −w·log p by transformers, one unpadded sequence at a time."""
    loss = torch.zeros((), dtype=hf.dtype)
    for example in examples:
        ids = torch.as_tensor(example.ids_T)[None].long()
        logprobs = torch.log_softmax(hf(input_ids=ids, use_cache=False).logits[0, :-1], -1)
        picked = logprobs.gather(1, ids[0, 1:, None])[:, 0]
        loss = loss - (picked * torch.as_tensor(example.weights_T)[1:].to(hf.dtype)).sum()
    return loss


def our_loss(model, examples, **layout) -> torch.Tensor:
    tokens = model(collate(examples, **layout))
    return -(tokens.logprobs_S * tokens.weights_S).sum()


def distance(found: dict, wanted: dict) -> float:
    """Relative 2-norm of the difference of two sets of gradients."""
    assert found.keys() == wanted.keys()
    square = lambda values: sum(float((v.double() ** 2).sum()) for v in values)
    return (square(found[n] - wanted[n] for n in wanted) / square(wanted.values())) ** 0.5


def gradients(hf) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in hf.named_parameters() if p.grad is not None}
