"""LoRA against PEFT both ways, merged, switched off, counted."""

from __future__ import annotations

import copy
import json

import peft
import pytest
import torch
from safetensors.torch import load_file

from tests.models.families import (
    chats,
    distance,
    gradients,
    our_loss,
    random_model,
    reference_loss,
)  # fmt: skip
from tunesmith.models.language_model import LanguageModel
from tunesmith.tuners.base import build, for_adapter
from tunesmith.tuners.lora import LoraConfig
from tunesmith.tuners.lora_impl import deltas

IDS = torch.arange(5, 95).reshape(2, 45)
CASES = {
    "all linear": ("qwen3", {}),
    "two names": ("llama", {"target_modules": ("q_proj", "v_proj"), "r": 3, "lora_alpha": 5}),
    "rank-stabilised": ("llama", {"use_rslora": True, "r": 9}),
    "dora": ("qwen2", {"use_dora": True}),
    "transposed": ("gpt2", {}),
    "transposed dora": ("gpt2", {"use_dora": True, "target_modules": ("c_attn", "c_fc")}),
    "head trained": ("llama", {"modules_to_save": ("lm_head",)}),
    "tied head trained": ("llama tied", {"modules_to_save": ("lm_head",)}),
    "tied pair trained": ("llama tied", {"modules_to_save": ("lm_head", "embed_tokens")}),
}


def adapted(case, dtype=torch.float32):
    """(model, tuner): the case's family with an adapter of random weights."""
    name, fields = CASES[case]
    hf = random_model(name, dtype)
    tuner = build(LoraConfig(**{"r": 4, **fields}))
    model = LanguageModel(hf)
    tuner.apply(model)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.05
    return model, tuner


@pytest.mark.parametrize("case", CASES)
def test_peft_reads_what_we_write(case, tmp_path):
    model, tuner = adapted(case)
    tuner.save(model, tmp_path)
    base = random_model(CASES[case][0])
    theirs = peft.PeftModel.from_pretrained(base, tmp_path, is_trainable=True).eval()
    torch.testing.assert_close(theirs(IDS).logits, model.hf(IDS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_we_read_what_peft_writes(case, tmp_path):
    name, fields = CASES[case]
    torch.manual_seed(4)
    fields = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", **fields}
    lists = {k: list(v) for k, v in fields.items() if isinstance(v, tuple)}
    config = peft.LoraConfig(init_lora_weights=False, **{**fields, **lists})
    theirs = peft.get_peft_model(random_model(name), config).eval()
    theirs.save_pretrained(tmp_path)
    hf = random_model(name)
    tuner = for_adapter(tmp_path)
    tuner.apply(hf)
    tuner.load(hf, tmp_path)
    torch.testing.assert_close(hf(IDS).logits, theirs(IDS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["all linear", "two names", "dora", "transposed", "head trained"])
def test_gradients_as_peft(case, tmp_path):
    model, tuner = adapted(case)
    tuner.save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(
        random_model(CASES[case][0]), tmp_path, is_trainable=True
    ).eval()
    our_loss(model, chats()).backward()
    reference_loss(theirs, chats()).backward()

    def ours(name):
        for old, new in (
            ("base_model.model.", ""), ("modules_to_save.default.", ""), (".default.weight", ""),
            ("lora_magnitude_vector", "lora_magnitude"),
        ):  # fmt: skip
            name = name.replace(old, new)
        return name

    wanted = {ours(name): g for name, g in gradients(theirs).items()}
    assert distance(gradients(model.hf), wanted) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded(case, tmp_path):
    model, tuner = adapted(case)
    tuner.save(model, tmp_path)
    hf = random_model(CASES[case][0])
    again = for_adapter(tmp_path)
    again.apply(hf)
    again.load(hf, tmp_path)
    torch.testing.assert_close(hf(IDS).logits, model.hf(IDS).logits)
    fields = json.loads((tmp_path / "adapter_config.json").read_text())
    assert fields["peft_type"] == "LORA"
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(t.numel() for t in tensors.values()) == sum(p.numel() for p in trained)


@pytest.mark.parametrize("case", CASES)
def test_merged(case):
    """Exactly W + s·B·A in float32: float64 shows that nothing else is lost."""
    model, tuner = adapted(case, torch.float64)
    before = model.hf(IDS).logits
    tuner.merge(model)
    assert not deltas(model.hf)
    assert not any("lora" in name for name, _ in model.hf.named_parameters())
    torch.testing.assert_close(model.hf(IDS).logits, before, rtol=1e-5, atol=1e-6)
    tied = model.hf.lm_head.weight is model.hf.get_input_embeddings().weight
    assert model.hf.config.tie_word_embeddings == tied


@pytest.mark.parametrize("case", CASES)
def test_reference_is_the_base(case):
    model, tuner = adapted(case)
    trained = model.hf(IDS).logits
    with tuner.reference(model):
        torch.testing.assert_close(model.hf(IDS).logits, random_model(CASES[case][0])(IDS).logits)
    assert torch.equal(model.hf(IDS).logits, trained)


def test_the_number_of_trained_parameters_is_closed():
    """r·(in + out) for each linear layer but the head."""
    hf = random_model("llama")
    linears = [
        m for n, m in hf.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"
    ]
    wanted = sum(5 * (m.in_features + m.out_features) for m in linears)
    build(LoraConfig(r=5)).apply(hf)
    assert sum(p.numel() for p in hf.parameters() if p.requires_grad) == wanted
    assert len(deltas(hf)) == len(linears) == 14


def test_what_is_frozen_stays_bit_for_bit():
    model, tuner = adapted("all linear")
    frozen = {n: p.clone() for n, p in model.hf.named_parameters() if not p.requires_grad}
    groups = tuner.parameter_groups(model, 0.1)
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    our_loss(model, chats()).backward()
    optimizer.step()
    now = dict(model.hf.named_parameters())
    assert all(torch.equal(now[name], before) for name, before in frozen.items())


def test_starts_as_the_base_and_draws_by_seed():
    drawn = []
    for _ in range(2):
        hf = random_model("llama")
        torch.manual_seed(7)
        build(LoraConfig()).apply(hf)
        torch.testing.assert_close(hf(IDS).logits, random_model("llama")(IDS).logits)
        drawn.append(next(iter(deltas(hf).values())).lora_A)
    assert torch.equal(*drawn)


def test_a_module_trained_whole_gets_no_delta():
    hf = random_model("llama")
    build(LoraConfig(modules_to_save=("mlp",))).apply(hf)
    assert not any(".mlp." in name for name in deltas(hf))
    assert hf.model.layers[0].mlp.up_proj.weight.requires_grad


def test_adapters_of_half_precision_models_are_kept_in_float32():
    hf = random_model("qwen3", torch.bfloat16)
    build(LoraConfig()).apply(hf)
    assert {p.dtype for p in hf.parameters() if p.requires_grad} == {torch.float32}
    model = LanguageModel(copy.deepcopy(hf), master_weights=False)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_head_trained_in_float32_beside_bfloat16():
    model = LanguageModel(random_model("llama", torch.bfloat16))
    build(LoraConfig(modules_to_save=("lm_head", "embed_tokens"))).apply(model)
    assert model.autocast
    our_loss(model, chats()).backward()
    assert model.hf.lm_head.weight.grad.dtype == torch.float32
    assert model.hf.model.embed_tokens.weight.grad.abs().sum() > 0


def test_a_real_adapter(shared_data):
    """Saved by TRL: r 16 on GPT-2's transposed c_attn."""
    path = shared_data / "adapters" / "trl-kto-anthropic-hh"
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config()).eval()
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), path).eval()(IDS).logits
        tuner = for_adapter(path)
        tuner.apply(base)
        tuner.load(base, path)
        torch.testing.assert_close(base(IDS).logits, theirs, rtol=1e-4, atol=1e-4)
