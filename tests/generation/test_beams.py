"""Beam search against transformers.generate."""

from __future__ import annotations

import pytest
import torch

from tests.generation.test_torch import FAMILIES, build
from tunesmith.errors import ConfigError
from tunesmith.generation.torch import TorchGenerator
from tunesmith.types import Request, Sampling


@pytest.fixture(scope="module")
def llama():
    model = build(FAMILIES["llama"])
    with torch.no_grad():
        model.lm_head.weight.mul_(0.3)  # so that beams differ from greedy
    return model


def theirs(model, prompt, count, length, penalty, stop):
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=length,
        num_beams=count,
        num_return_sequences=count,
        length_penalty=penalty,
        do_sample=False,
        early_stopping=False,
        eos_token_id=stop,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    rows = [row[len(prompt) :].tolist() for row in out.sequences]
    cut = [row[: row.index(stop) + 1] if stop in row else row for row in rows]
    return [tuple(row) for row in cut], out.sequences_scores.tolist()


@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0])
@pytest.mark.parametrize("count", [2, 4])
def test_the_best_answers_are_those_of_transformers(llama, count, penalty):
    prompt = (5, 6, 7)
    generator = TorchGenerator(llama)
    greedy = [e.token for e in generator.generate([Request("a", prompt, Sampling(12))])["a"]]
    for stop in (greedy[3], 259):
        request = Request("a", prompt, Sampling(12, stop_ids=(stop,)))
        found = generator.beams(request, count, length_penalty=penalty)
        tokens, scores = theirs(llama, prompt, count, 12, penalty, stop)
        assert [beam.tokens for beam in found] == tokens
        assert [beam.score for beam in found] == pytest.approx(scores, abs=1e-4)


def test_beams_that_can_not_be(llama):
    with pytest.raises(ConfigError, match="C210"):
        TorchGenerator(llama).beams(Request("a", (1,)), 0)
    with pytest.raises(ConfigError, match="C210"):
        TorchGenerator(build(FAMILIES["mamba"])).beams(Request("a", (1,)), 2)
    small = TorchGenerator(llama, cache_tokens=64)
    with pytest.raises(ConfigError, match="G121"):
        small.beams(Request("a", (1,), Sampling(40)), 4)
