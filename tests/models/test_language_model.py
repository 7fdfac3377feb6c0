"""Loss and gradients of packed batches equal those of transformers, one sequence at a time."""

from __future__ import annotations

import pytest
import torch

from tests.models.families import (
    FIELDS,
    chats,
    distance,
    gradients,
    our_loss,
    random_model,
    reference_loss,
    twin,
)  # fmt: skip
from tunesmith.data.collate import collate
from tunesmith.errors import ConfigError
from tunesmith.models.language_model import LanguageModel


def compare(model, other, examples, bound, **layout):
    found, wanted = our_loss(model, examples, **layout), reference_loss(other, examples)
    assert abs(found - wanted) <= bound * abs(wanted)
    found.backward()
    wanted.backward()
    assert distance(gradients(model.hf), gradients(other)) <= bound


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("kernels", ["eager", "fused"])
def test_as_transformers(name, kernels):
    hf = random_model(name)
    other = twin(hf)
    compare(LanguageModel(hf, kernels=kernels), other, chats(), 2e-6)


@pytest.mark.parametrize("name", ["gpt2", "phi bias"])
def test_as_transformers_in_float64(name):
    """Families with LayerNorm, for transformers' RMSNorm computes in float32 even here."""
    hf = random_model(name, torch.float64)
    other = twin(hf)
    other.set_attn_implementation("sdpa")  # the eager one takes its softmax in float32
    compare(LanguageModel(hf, kernels="eager"), other, chats(), 1e-12)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral window", "gemma2 softcap"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows(name, side):
    hf = random_model(name)
    other = twin(hf)
    compare(LanguageModel(hf), other, chats(), 2e-6, padded=True, padding_side=side)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["qwen3", "mistral window"])
def test_every_attention(attention, name):
    hf = random_model(name)
    other = twin(hf)
    compare(LanguageModel(hf, attention=attention), other, chats(), 2e-6)


@pytest.mark.parametrize("kernels", ["eager", "fused"])
def test_checkpointed_activations_change_nothing(kernels):
    hf = random_model("qwen3")
    other = twin(hf)
    model = LanguageModel(hf, kernels=kernels)
    model.checkpoint_activations()
    model.train()
    compare(model, other, chats(), 2e-6)


def test_the_last_layer_ends_at_supervised_positions():
    """Trimming is an economy of `forward`; `hidden` still gives every position."""
    model = LanguageModel(random_model("qwen3"))
    batch = collate(chats())
    hidden_BTD = model.hidden(batch)
    assert hidden_BTD.shape[:2] == batch.ids_BT.shape
    position_S = batch.weights_BT[0].nonzero()[:, 0]
    logits_SV = model.hf.lm_head(hidden_BTD[0, position_S - 1])
    targets_S1 = batch.ids_BT[0, position_S, None].long()
    wanted_S = torch.log_softmax(logits_SV, -1).gather(1, targets_S1)[:, 0]
    torch.testing.assert_close(model(batch).logprobs_S, wanted_S)


def test_what_is_said_of_each_position():
    model = LanguageModel(random_model("llama"))
    examples = chats()
    tokens = model(collate(examples))
    counts = torch.bincount(tokens.segment_S).tolist()
    assert counts == [int((e.weights_T != 0).sum()) for e in examples]
    assert tokens.weights_S.sum() == sum(e.weights_T.sum() for e in examples)
    assert tokens.correct_S.dtype == torch.bool


def test_a_filler_batch_has_a_gradient_of_zero():
    examples = chats((5,))
    examples[0].weights_T[:] = 0
    for name in ("llama", "gpt2"):
        model = LanguageModel(random_model(name))
        our_loss(model, examples).backward()
        assert all(g.abs().sum() == 0 for g in gradients(model.hf).values())


def test_embeddings_can_be_changed():
    model = LanguageModel(random_model("llama"))
    batch = collate(chats())
    same = model(batch, embed=lambda embedded_BTD, _: embedded_BTD).logprobs_S
    torch.testing.assert_close(same, model(batch).logprobs_S)
    seen = []
    model(batch, embed=lambda embedded_BTD, given: seen.append(given) or embedded_BTD * 2)
    assert seen == [batch]


def test_families_without_the_interface_take_padded_rows():
    config = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100}
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    hf = BloomForCausalLM(BloomConfig(**config)).eval()
    other = twin(hf)
    model = LanguageModel(hf)
    assert not model.packable
    compare(model, other, chats(), 2e-6, padded=True)
    with pytest.raises(ConfigError, match="C178"):
        model(collate(chats()))


def test_names_are_those_of_transformers():
    hf = random_model("llama")
    assert LanguageModel(hf).named_tensors().keys() == hf.state_dict().keys()


def test_half_precision_follows_float32():
    wide = LanguageModel(random_model("qwen3"))
    narrow = LanguageModel(random_model("qwen3", torch.bfloat16))
    wanted = our_loss(wide, chats())
    found = our_loss(narrow, chats())
    assert narrow.compute_dtype == torch.bfloat16
    assert not narrow.autocast
    assert abs(found - wanted) <= 0.02 * wanted


def test_float32_weights_compute_in_bfloat16():
    model = LanguageModel(random_model("llama"), compute_dtype=torch.bfloat16)
    assert model.autocast
    our_loss(model, chats()).backward()
    assert {g.dtype for g in gradients(model.hf).values()} == {torch.float32}


def test_without_master_weights_trained_ones_are_narrow():
    hf = random_model("llama")
    model = LanguageModel(hf, compute_dtype=torch.bfloat16, master_weights=False)
    assert {p.dtype for p in hf.parameters()} == {torch.bfloat16}
    assert not model.autocast
