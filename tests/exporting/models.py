"""Tiny random models and PEFT adapters on them, with the logits of the live adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 60
IDS = torch.arange(2 * 16).reshape(2, 16) % VOCABULARY
_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def make(family: str, path: Path, *, dtype: torch.dtype = torch.float32, tied: bool = True) -> Path:
    """Saves a random model whose weights are large enough that an adapter matters."""
    torch.manual_seed(0)
    if family == "llama":
        model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**_SMALL, tie_word_embeddings=tied))
    elif family == "qwen3":
        fields = {**_SMALL, "head_dim": 8, "attention_bias": True}
        model = Qwen3ForCausalLM(Qwen3Config(**fields, tie_word_embeddings=tied))
    else:
        config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.to(dtype).save_pretrained(path)
    return path


def train(base: Path, path: Path, *, resize: int | None = None, **fields: Any) -> Tensor:
    """Makes an adapter whose every trained tensor is random, saves it, and returns its logits.

    The logits are those of the model in memory, in float32.
    """
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if resize:
        model.resize_token_embeddings(resize, mean_resizing=False)
        with torch.no_grad():  # else they are random anew in every process
            model.get_input_embeddings().weight[VOCABULARY:].normal_(0, 0.15)
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **fields))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                scale = 1.0 if "magnitude" in name else 0.1
                parameter.add_(torch.randn_like(parameter).abs() * scale)
    adapted.save_pretrained(path)
    return logits(adapted)


def logits(model: PreTrainedModel | PeftModel) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def reload(path: Path) -> PreTrainedModel:
    """The directory as anyone would load it, computing in float32."""
    return AutoModelForCausalLM.from_pretrained(path).float()
