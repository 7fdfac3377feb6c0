"""The random Llama of many tests: two layers, a vocabulary of bytes and four special tokens."""

from __future__ import annotations

from typing import Any

SHAPE: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def llama(**fields: Any):
    """A model whose weights are always the same.

    Args:
        fields: Of its config, beside or instead of `SHAPE`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **fields})).eval()
