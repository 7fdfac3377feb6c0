"""Words that can be the best one: never without the best, whatever the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tunesmith import platform
from tunesmith.models import screening


def made(bits: int, weight_IV, bias_V=None):
    if bits == 16 and platform.choose_dtype() != "bfloat16":
        pytest.skip("products in bfloat16 are slow here, or kill the process")
    try:
        build = {8: screening.eight_bits, 16: screening.sixteen_bits}[bits]
        return build(weight_IV, bias_V)
    except (RuntimeError, AttributeError):
        pytest.skip(f"torch has no product with {bits}-bit weights on this machine")


BITS = pytest.mark.parametrize("bits", [8, 16])


def drawn(kind: str, inputs: int, words: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(inputs, words, generator=draw)
    x = torch.randn(8, inputs, generator=draw)
    if kind == "outliers":  # a few inputs a hundred times as large, as in trained models
        x[:, ::50] *= 100
        weight[::40] *= 30
    if kind == "sizes":  # words of very different lengths
        weight *= torch.logspace(-6, 3, words)
    if kind == "zeros":
        weight[:, ::3] = 0
    return weight, x


@BITS
@pytest.mark.parametrize("kind", ["plain", "outliers", "sizes", "zeros"])
@pytest.mark.parametrize(("inputs", "words"), [(64, 500), (384, 9001)])
def test_scores_are_within_their_bounds_and_the_best_word_is_found(bits, kind, inputs, words):
    weight_IV, x_NI = drawn(kind, inputs, words)
    screen = made(bits, weight_IV)
    for x_I in x_NI:
        exact_V = (x_I.double() @ weight_IV.double()).numpy()
        away_V = np.abs(screen.about(x_I[None])[0] - exact_V)
        assert (away_V <= screen.bound_V * float(x_I.norm())).all()
        found = screen(x_I[None])
        if found is None:
            assert kind == "outliers"
            continue
        ((words, scores),) = found
        assert words[scores.argmax()] == exact_V.argmax()
        np.testing.assert_allclose(scores, exact_V[words], rtol=1e-4, atol=1e-4 * x_I.norm())


@BITS
def test_few_words_remain(bits):
    weight_IV, x_NI = drawn("plain", 384, 9001)
    found = made(bits, weight_IV)(x_NI)
    assert len(found) == len(x_NI)
    assert all(len(words) < 100 for words, _ in found)


@BITS
def test_a_bias_is_counted(bits):
    weight_IV, x_NI = drawn("plain", 64, 500)
    bias_V = torch.zeros(500)
    bias_V[123] = 1e4
    ((words, scores),) = made(bits, weight_IV, bias_V)(x_NI[:1])
    assert words.tolist() == [123]
    assert scores[0] == pytest.approx(float(x_NI[0] @ weight_IV[:, 123]) + 1e4, rel=1e-6)


@BITS
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_asks_the_whole_layer(bits, value):
    weight_IV, x_NI = drawn("plain", 64, 500)
    x_NI[1, 3] = value
    assert made(bits, weight_IV)(x_NI[:2]) is None


@BITS
def test_equals_are_told_in_order(bits):
    weight_IV = torch.zeros(64, 500)
    weight_IV[:, [7, 300]] = 1.0
    ((words, scores),) = made(bits, weight_IV)(torch.ones(1, 64))
    assert words.tolist() == [7, 300]
    assert scores[0] == scores[1]


@BITS
def test_too_many_candidates_ask_the_whole_layer(bits):
    assert made(bits, torch.ones(64, 3000))(torch.ones(1, 64)) is None
