"""Sampling against transformers' processors, and against counting."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from tunesmith.generation import sampling_impl as sampling
from tunesmith.types import Sampling

VOCABULARY = 50
LOGITS = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3


def same_cut(ours, theirs):
    assert torch.equal(ours.isinf(), theirs.isinf())
    kept = ~ours.isinf()
    assert torch.allclose(ours[kept], theirs[kept])


@pytest.mark.parametrize("k", [1, 2, 7, 49, 50, 500])
def test_top_k_is_transformers(k):
    same_cut(sampling.top_k(LOGITS, [k] * 4), TopKLogitsWarper(k)(None, LOGITS))


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_top_p_is_transformers(p):
    same_cut(sampling.top_p(LOGITS, [p] * 4), TopPLogitsWarper(p)(None, LOGITS))


@pytest.mark.parametrize("p", [0.01, 0.2, 1.0])
def test_min_p_is_transformers(p):
    same_cut(sampling.min_p(LOGITS, [p] * 4), MinPLogitsWarper(p)(None, LOGITS))


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_typical_p_is_transformers(p):
    same_cut(sampling.typical_p(LOGITS, [p] * 4), TypicalLogitsWarper(p)(None, LOGITS))
    mixed = sampling.typical_p(LOGITS, [p, 1.0, p, 1.0])
    assert torch.equal(mixed[1::2], LOGITS[1::2])


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition_penalty_is_transformers(penalty):
    ids = torch.tensor([[1, 2, 2], [3, 3, 3], [0, 49, 7], [5, 6, 7]])
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, LOGITS.clone())
    assert torch.allclose(sampling.repetition_penalty(LOGITS, [penalty] * 4, ids.tolist()), theirs)


def test_all_cuts_in_transformers_order():
    theirs = LOGITS
    for warper in (TemperatureLogitsWarper(0.6), TopKLogitsWarper(20), TopPLogitsWarper(0.8)):
        theirs = warper(None, theirs)
    theirs = MinPLogitsWarper(0.1)(None, theirs)
    chosen = [Sampling(temperature=0.6, top_k=20, top_p=0.8, min_p=0.1)] * 4
    same_cut(sampling.distribution(LOGITS, chosen), theirs)


def test_rows_choose_each_in_their_own_way():
    mixed = [
        Sampling(temperature=1.0, top_k=3),
        Sampling(temperature=0.5, top_p=0.7),
        Sampling(temperature=1.0),
        Sampling(temperature=2.0, min_p=0.3),
    ]
    together = sampling.distribution(LOGITS, mixed)
    apart = [sampling.distribution(LOGITS[i : i + 1], [s]) for i, s in enumerate(mixed)]
    assert torch.equal(together, torch.cat(apart))
    assert not together[2].isinf().any()


def test_ties_at_the_edge_of_top_k_are_kept():
    scores = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    assert sampling.top_k(scores, [1]).isfinite().tolist() == [[False, True, True, False]]


def test_greedy_takes_the_first_best_and_its_logprob():
    logits = torch.tensor([[0.0, 2.0, 2.0], [3.0, 1.0, 1.0]])
    tokens, logprobs = sampling.choose(logits, [Sampling()] * 2, [[0], [0]])
    assert tokens == [1, 0]
    assert logprobs == pytest.approx(
        [math.log(math.e**2 / (1 + 2 * math.e**2)), math.log(math.e**3 / (math.e**3 + 2 * math.e))]
    )


def test_logprobs_are_the_models_own_whatever_the_sampling():
    hot = Sampling(temperature=5.0, top_k=1, repetition_penalty=1.7)
    tokens, logprobs = sampling.choose(LOGITS, [hot] * 4, [[0, 1]] * 4)
    plain = LOGITS.log_softmax(-1)
    assert logprobs == pytest.approx([float(plain[i, t]) for i, t in enumerate(tokens)], abs=1e-6)


def test_draws_follow_the_distribution():
    weights = torch.tensor([[0.0, 0.1, 0.0, 0.6, 0.3, 0.0]])
    scores = weights.log().expand(20000, -1)
    noise = [sampling.uniform(7, position) for position in range(20000)]
    found = torch.bincount(sampling.draw(scores, noise), minlength=6) / 20000
    assert torch.allclose(found, weights[0], atol=0.012)  # 3.5 standard deviations
    assert (found[weights[0] == 0] == 0).all()


@given(noise=st.floats(0, 1, exclude_max=True), hole=st.integers(0, 5))
@settings(deadline=None)
def test_what_is_cut_is_never_drawn(noise, hole):
    scores = torch.zeros(1, 6).index_fill(1, torch.tensor([hole, (hole + 3) % 6]), -math.inf)
    token = int(sampling.draw(scores, [noise]))
    assert scores[0, token] == 0


def test_the_largest_noise_draws_the_last_possible_token():
    scores = torch.tensor([[0.0, 0.0, -math.inf]])
    assert sampling.draw(scores, [1 - 2**-53]).tolist() == [1]
    assert sampling.draw(scores, [0.0]).tolist() == [0]


def test_noise_depends_on_seed_and_position_alone():
    grid = [[sampling.uniform(seed, at) for at in range(100)] for seed in range(20)]
    assert len({value for row in grid for value in row}) == 2000
    assert sampling.uniform(3, 5) == grid[3][5]
    assert sampling.uniform(0, 0) == 0.011546754286331562  # the same on every machine, for good


def test_the_batch_does_not_change_a_row():
    one = Sampling(temperature=0.9, seed=4)
    others = [Sampling(temperature=1.5, seed=9), one, Sampling()]
    together, _ = sampling.choose(LOGITS[:3], others, [[1], [1, 2], [1]])
    alone, _ = sampling.choose(LOGITS[1:2], [one], [[1, 2]])
    assert together[1] == alone[0]


def test_nan_shows_in_the_logprob():
    logits = LOGITS.clone()
    logits[1, 3] = math.nan
    for chosen in (Sampling(), Sampling(temperature=1.0)):
        _, logprobs = sampling.choose(logits, [chosen] * 4, [[0]] * 4)
        assert [math.isnan(value) for value in logprobs] == [False, True, False, False]


def test_presence_and_frequency_count_the_answer_alone():
    history = [1, 1, 2, 3, 3, 3]
    chosen = [Sampling(presence_penalty=0.5, frequency_penalty=0.25), Sampling()]
    scores = sampling.answer_penalties(LOGITS[:2], chosen, [history] * 2, [1, 0])
    wanted = LOGITS[:2].clone()
    for token, count in ((1, 1), (2, 1), (3, 3)):
        wanted[0, token] -= 0.5 + 0.25 * count
    assert torch.allclose(scores, wanted)
    nothing_said = sampling.answer_penalties(LOGITS[:1], chosen[:1], [history], [6])
    assert torch.equal(nothing_said, LOGITS[:1])


def test_bias_is_added_before_anything_else():
    barred = Sampling(logit_bias=((int(LOGITS[0].argmax()), -100.0), (7, 0.0)))
    forced = Sampling(logit_bias=((7, 100.0),), temperature=1.0)
    tokens, logprobs = sampling.choose(LOGITS[:2], [barred, forced], [[0]] * 2)
    assert tokens == [int(LOGITS[0].topk(2).indices[1]), 7]
    assert logprobs == pytest.approx(
        [float(LOGITS[i].log_softmax(-1)[t]) for i, t in enumerate(tokens)], abs=1e-5
    )


def test_only_what_is_allowed_is_chosen():
    order = LOGITS[0].argsort(descending=True).tolist()
    rows, allowed = LOGITS[:1].expand(3, -1), [order[5:9], None, torch.tensor(order[40:])]
    tokens, _ = sampling.choose(rows, [Sampling()] * 3, [[0]] * 3, allowed=allowed)
    assert tokens == [order[5], order[0], order[40]]


def test_the_likeliest_tokens_are_told():
    found = sampling.likeliest(LOGITS, [0, 3, 1, 500])
    assert [len(row) for row in found] == [0, 3, 1, VOCABULARY]
    best = LOGITS[1].log_softmax(-1).topk(3)
    assert [token for token, _ in found[1]] == best.indices.tolist()
    assert [value for _, value in found[1]] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert sampling.likeliest(LOGITS, [0] * 4) == [()] * 4
