"""Chunked log-probabilities and their gradients against log-softmax of full logits."""

from __future__ import annotations

import pytest
import torch

from tunesmith.losses.tokens import Head, chunk_rows, chunked_logprobs, head_logprobs

S, D, V = 21, 12, 50


def inputs(dtype=torch.float64, bias=False, trained=True):
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)
    hidden, weight, b = draw(S, D), draw(V, D), draw(V) if bias else None
    for tensor in (hidden, *((weight, b) if trained else ())):
        if tensor is not None:
            tensor.requires_grad_()
    return hidden, weight, b, torch.randint(0, V, (S,), generator=generator), draw(S)


def expected(hidden, weight, bias, targets, scale=1.0, softcap=None):
    logits = torch.nn.functional.linear(hidden, weight, bias) * scale
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    logprobs = torch.log_softmax(logits, -1)
    return logprobs.gather(1, targets[:, None])[:, 0], logits.argmax(-1) == targets


@pytest.mark.parametrize("chunk", [1, 8, 21, 100])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.25, None), (1.0, 3.0), (2.0, 5.0)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("guess", ["none", "right", "wrong"])
def test_values_and_gradients(chunk, scale, softcap, bias, guess):
    hidden, weight, b, targets, upstream = inputs(bias=bias)
    leaves = [t for t in (hidden, weight, b) if t is not None]
    want, right = expected(hidden, weight, b, targets, scale, softcap)
    want_grads = torch.autograd.grad(want, leaves, upstream)
    weights = {"none": None, "right": upstream * -7.0, "wrong": torch.ones(S)}[guess]
    head = Head(weight, b, scale, softcap)
    found, correct = head_logprobs(hidden, head, targets, weights_S=weights, chunk=chunk)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    assert torch.equal(correct, right)
    grads = torch.autograd.grad(found, leaves, upstream)
    for one, other in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_float32_is_as_good_as_log_softmax():
    hidden, weight, _, targets, upstream = inputs(torch.float32, trained=False)
    found, _ = chunked_logprobs(hidden, weight, None, targets)
    exact, _ = expected(hidden.double(), weight.double(), None, targets)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(found, [hidden], upstream)
    wide = hidden.detach().double().requires_grad_()
    (want,) = torch.autograd.grad(
        expected(wide, weight.double(), None, targets)[0], [wide], upstream.double()
    )
    torch.testing.assert_close(grad.double(), want, rtol=1e-5, atol=1e-6)


def test_a_vanishing_target_has_a_finite_logprob():
    hidden = torch.tensor([[1.0]])
    weight = torch.tensor([[0.0], [300.0]])
    logprobs, correct = chunked_logprobs(hidden, weight, None, torch.tensor([0]))
    assert logprobs.tolist() == [-300.0]
    assert correct.tolist() == [False]


def test_half_precision_heads_are_normalised_in_float32():
    hidden, weight, _, targets, upstream = inputs(torch.float32)
    narrow = hidden.detach().bfloat16().requires_grad_()
    found, _ = chunked_logprobs(narrow, weight, None, targets)
    assert found.dtype == torch.float32
    want, _ = expected(narrow.float(), weight, None, targets)
    torch.testing.assert_close(found, want, rtol=0.05, atol=0.05)
    found.backward(upstream)
    assert narrow.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32


def test_nothing_supervised():
    hidden, weight, _, targets, _ = inputs()
    found, correct = head_logprobs(
        hidden[:0], Head(weight), targets[:0], weights_S=torch.ones(0, dtype=torch.float64)
    )
    found.sum().backward()
    assert len(found) == len(correct) == 0
    assert weight.grad.abs().sum() == 0


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, _, targets, _ = inputs(trained=False)
    chunked_logprobs(hidden, weight, None, targets)[0].sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_chunks_are_whole_rows():
    assert chunk_rows(torch.empty(32000, 1, device="meta")) % 16 == 0
    assert chunk_rows(torch.empty(10**9, 1, device="meta")) == 16
