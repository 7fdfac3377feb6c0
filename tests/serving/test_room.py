"""How long an answer may be: what the prompt leaves of the context, and what the server allows."""

from __future__ import annotations

import re

import pytest

from tests.serving.conftest import running
from tunesmith.serving.service import Limits

ASK = [{"role": "user", "content": "What does the miller sell?"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def told(reply):
    """The bound that a refusal names."""
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["code"] == "context_length_exceeded"
    return int(re.search(r"at most ([\d,]+)", error["message"])[1].replace(",", ""))


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_bound_that_is_told_holds_for_this_prompt(tiny, tiny_offer, field):
    stop = {"stop": "e"}  # ends soon: how long it may be is what is asked
    refused = tiny.post(CHAT, {"messages": ASK, field: tiny_offer.context})
    bound = told(refused)
    assert refused.json()["error"]["param"] == field
    taken = tiny.post(CHAT, {"messages": ASK, field: bound, **stop})
    assert taken.status_code == 200
    assert taken.json()["usage"]["prompt_tokens"] + bound == tiny_offer.context
    assert told(tiny.post(CHAT, {"messages": ASK, field: bound + 1})) == bound
    longer = [{"role": "user", "content": ASK[0]["content"] * 2}]
    assert told(tiny.post(CHAT, {"messages": longer, field: bound + 1})) < bound


def test_of_several_prompts_the_longest_counts(tiny, tiny_offer):
    prompts = [[5, 6, 7], [5] * 40, [9]]
    bound = told(tiny.post(COMPLETIONS, {"prompt": prompts, "max_tokens": tiny_offer.context}))
    assert bound == tiny_offer.context - 40


def test_what_is_not_given_fits(tiny, tiny_offer):
    prompt = [5] * (tiny_offer.context - 3)
    reply = tiny.post(COMPLETIONS, {"prompt": prompt, "logit_bias": {"9": 100}}).json()
    assert reply["usage"]["completion_tokens"] == 3
    assert reply["choices"][0]["finish_reason"] == "length"


def test_a_servers_own_bound_is_told_as_such(tiny_offer):
    with running([tiny_offer], limits=Limits(max_tokens=7)) as served:
        reply = served.post(CHAT, {"messages": ASK, "max_tokens": 8})
    assert told(reply) == 7
    assert "this server" in reply.json()["error"]["message"]
