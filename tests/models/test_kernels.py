"""Kernels are put into one model's modules, and said; every other model is left as it is."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from tests.models.families import chats, our_loss, random_model
from tunesmith.models.kernels import choose, install, trims
from tunesmith.models.language_model import LanguageModel
from tunesmith.tuners.lora import LoraConfig
from tunesmith.tuners.lora_impl import apply


def test_classes_and_other_models_are_untouched():
    before = LlamaMLP.forward, LlamaRMSNorm.forward
    other = random_model("llama")
    hf = random_model("llama")
    assert install(hf, "fused") == ["kernels: fused"]
    assert (LlamaMLP.forward, LlamaRMSNorm.forward) == before
    assert not any("forward" in m.__dict__ for m in other.modules())
    assert trims(hf)
    assert not trims(other)


def test_unknown_families_are_said():
    for name in ("gpt2", "gemma2 softcap"):
        hf = random_model(name)
        (note,) = install(hf, "fused")
        assert hf.config.model_type in note
        assert not any("forward" in m.__dict__ for m in hf.modules())


def test_another_activation_keeps_its_code():
    hf = random_model("llama", hidden_act="gelu")
    install(hf, "fused")
    patched = {type(m).__name__ for m in hf.modules() if "forward" in m.__dict__}
    assert "LlamaMLP" not in patched
    assert "LlamaAttention" in patched


def test_copies_call_their_own_modules():
    hf = random_model("llama")
    install(hf, "fused")
    other = copy.deepcopy(hf)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    assert other.model.norm(torch.ones(1, 64)).abs().sum() == 0
    assert hf.model.norm(torch.ones(1, 64)).abs().sum() > 0


def test_what_is_cheap_to_form_again_is_not_kept():
    """Of an MLP gate and up are kept, not their product; of a norm its input, not its output."""
    model = LanguageModel(random_model("llama").requires_grad_(False), kernels="fused")
    apply(model.hf, LoraConfig(r=2))
    kept = {}
    note = lambda t: kept.setdefault(t.data_ptr(), t) is None or t
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        our_loss(model, chats())
    config, stored = model.hf.config, {p.data_ptr() for p in model.hf.parameters()}
    widths = Counter(t.shape[-1] for place, t in kept.items() if place not in stored)
    assert widths[config.intermediate_size] == 2 * config.num_hidden_layers
    assert widths[config.hidden_size] <= 4 * config.num_hidden_layers


def test_auto_never_compiles_on_a_cpu():
    assert choose("auto", "cpu", 10**12) == "fused"
    assert choose("auto", "cuda", 10**12) == "compiled"
    assert choose("compiled", "cpu", None) == "compiled"
    assert install(random_model("llama"), "eager") == []
