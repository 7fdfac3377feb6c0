"""Beam search over HTTP: the answers of transformers, beside others, refused where it can't be."""

from __future__ import annotations

import asyncio
import dataclasses
import threading

import openai
import pytest
import torch

from tests.serving.conftest import running, wait_for
from tunesmith.compose import serving
from tunesmith.serving.engine import Engine
from tunesmith.serving.faults import Refusal
from tunesmith.serving.metrics import Metrics

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASK = [{"role": "user", "content": "What does the miller sell?"}]
BEAMS = {"use_beam_search": True}
LENGTH = 14


@pytest.fixture(scope="module")
def offer():
    return serving.offers("builtin:tiny", "tiny", {}, slots=8, dtype="float32")[0]


@pytest.fixture(scope="module")
def served(offer):
    with running([offer]) as found:
        yield found


def theirs(offer, ids, count, stop_ids, **fields):
    """The texts of `transformers.generate(num_beams)`, best first, and their tokens' number."""
    out = offer.reader.model.hf.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=LENGTH,
        num_beams=count,
        num_return_sequences=count,
        do_sample=False,
        eos_token_id=list(stop_ids),
        pad_token_id=0,
        **fields,
    )
    found = []
    for row in out[:, len(ids) :].tolist():
        end = next((at for at, token in enumerate(row) if token in stop_ids), len(row))
        found.append(offer.tokenizer.decode([*ids, *row[:end]], skip_special=True))
    return found


@pytest.mark.parametrize("stopping", [False, True, "never"])
@pytest.mark.parametrize(("count", "penalty"), [(2, 1.0), (4, 0.0), (4, 2.0), (3, -1.0)])
def test_the_answers_are_those_of_transformers(offer, served, count, penalty, stopping):
    """By the `openai` client, which sends what is not OpenAI's in `extra_body`."""
    ids = offer.tokenizer.encode_text("Once upon a time")
    plain = served.openai.completions.create(model="tiny", prompt=ids, max_tokens=LENGTH)
    said = plain.choices[0].text
    stop = offer.tokenizer.encode_text(said)[4]  # so that some beams end early
    stop_ids = (*offer.defaults.stop_ids, stop)
    wanted = theirs(offer, ids, count, stop_ids, length_penalty=penalty, early_stopping=stopping)
    more = {**BEAMS, "length_penalty": penalty, "early_stopping": stopping}
    reply = served.openai.completions.create(
        model="tiny", prompt=ids, n=count, max_tokens=LENGTH, temperature=0,
        extra_body={**more, "stop_token_ids": [stop]}, echo=True,
    )  # fmt: skip
    assert [choice.text for choice in reply.choices] == wanted
    assert {choice.finish_reason for choice in reply.choices} <= {"stop", "length"}
    best = served.openai.completions.create(
        model="tiny", prompt=ids, best_of=count, max_tokens=LENGTH,
        extra_body={**more, "stop_token_ids": [stop]}, echo=True,
    )  # fmt: skip
    assert [choice.text for choice in best.choices] == wanted[:1]


def test_several_prompts_each_have_their_answers(served):
    create = served.openai.completions.create
    prompts, fields = ["Once upon a time", "The sun"], {"max_tokens": 8, "extra_body": BEAMS}
    both = create(model="tiny", prompt=prompts, n=2, **fields)
    each = [create(model="tiny", prompt=prompt, n=2, **fields) for prompt in prompts]
    assert [c.text for c in both.choices] == [c.text for one in each for c in one.choices]
    assert [c.index for c in both.choices] == [0, 1, 2, 3]
    usage = [sum(part) for part in zip(*((u.usage.prompt_tokens, u.usage.completion_tokens)
                                         for u in each), strict=True)]  # fmt: skip
    assert [both.usage.prompt_tokens, both.usage.completion_tokens] == usage


def test_a_conversation_has_beams_too(offer, served):
    ids = served.post("/tokenize", {"messages": ASK}).json()["tokens"]
    reply = served.openai.chat.completions.create(
        model="tiny", messages=ASK, n=3, max_tokens=LENGTH, extra_body=BEAMS
    )
    wanted = theirs(offer, ids, 3, offer.defaults.stop_ids)
    before = offer.tokenizer.decode(ids, skip_special=True)
    prefix = offer.template.answer_prefix
    said = [prefix + choice.message.content for choice in reply.choices]
    assert [before + text for text in said] == wanted


def test_a_stop_string_cuts_what_was_found(served):
    fields = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 10, "best_of": 3}
    more = {**BEAMS, "length_penalty": 3}
    text = served.openai.completions.create(**fields, extra_body=more).choices[0].text
    stop = text[3:6]
    assert len(stop) == 3
    cut = served.openai.completions.create(**fields, extra_body=more, stop=stop).choices[0]
    assert (cut.text, cut.finish_reason) == (text[: text.index(stop)], "stop")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"stream": True}, "stream", "S124"),
        ({"temperature": 0.7}, "temperature", "S124"),
        ({"top_p": 0.9}, "top_p", "S124"),
        ({"top_k": 5}, "top_k", "S124"),
        ({"repetition_penalty": 1.1}, "repetition_penalty", "S124"),
        ({"frequency_penalty": 1}, "frequency_penalty", "S124"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "S124"),
        ({"n": 4, "best_of": 2}, "best_of", "S111"),
        ({"best_of": 17}, "best_of", "S111"),
        ({"early_stopping": "soon"}, "early_stopping", "S111"),
        ({"length_penalty": 11}, "length_penalty", "S111"),
        ({"use_beam_search": False, "length_penalty": 2}, "length_penalty", "S111"),
        ({"use_beam_search": False, "early_stopping": True}, "early_stopping", "S111"),
        ({"use_beam_search": False, "best_of": 2}, "best_of", "S111"),
        ({"use_beam_search": 1}, "use_beam_search", "S111"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_what_can_not_be_searched_is_refused_by_name(served, path, fields, param, code):
    asked = {"messages": ASK} if path == CHAT else {"prompt": "The sun"}
    reply = served.post(path, {**asked, **BEAMS, **fields})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["tunesmith"]) == (400, param, code)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"logprobs": True}, "logprobs"),
        (COMPLETIONS, {"logprobs": 0}, "logprobs"),
        (CHAT, {"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_tokens_of_a_beam_have_no_values_and_no_form(served, path, fields, param):
    asked = {"messages": ASK} if path == CHAT else {"prompt": "The sun"}
    reply = served.post(path, {**asked, **BEAMS, **fields})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_values_that_change_nothing_are_taken(served):
    plain = {"temperature": 0, "top_p": 1, "n": 1, "presence_penalty": 0, "stream": False}
    body = {"prompt": "The sun", "max_tokens": 4, **BEAMS, **plain, "seed": 5}
    assert served.post(COMPLETIONS, body).status_code == 200


def test_a_models_own_penalty_is_not_dropped_in_silence(offer):
    defaults = dataclasses.replace(offer.defaults, repetition_penalty=1.2)
    with running([dataclasses.replace(offer, defaults=defaults)]) as served:
        body = {"prompt": "The sun", "max_tokens": 4, **BEAMS}
        refused = served.post(COMPLETIONS, body)
        taken = served.post(COMPLETIONS, {**body, "repetition_penalty": 1})
    assert "repetition penalty of 1.2" in refused.json()["error"]["message"]
    assert taken.status_code == 200


def test_another_engine_has_none(scripted):
    with scripted(lambda request: [5]) as (at, _):
        reply = at.post(COMPLETIONS, {"prompt": "The sun", **BEAMS})
    assert reply.json()["error"]["param"] == "use_beam_search"


def test_beams_that_do_not_fit_the_cache(offer):
    from tunesmith.generation.torch import TorchGenerator

    small = TorchGenerator(offer.reader.model, offer.tokenizer, cache_tokens=128)
    with running([dataclasses.replace(offer, generator=small)]) as served:
        with pytest.raises(openai.BadRequestError, match="don't fit") as caught:
            served.openai.completions.create(
                model="tiny", prompt="The sun", n=8, max_tokens=100, extra_body=BEAMS
            )
        assert caught.value.code == "context_length_exceeded"
        reply = served.post(COMPLETIONS, {"prompt": "The sun", "max_tokens": 3})
        assert reply.status_code == 200


# ---------------------------------------------------------------- beside others


def endless(until, closed):
    """Work in pieces that goes on until something happened."""
    try:
        while not until.is_set():
            yield
        return "done"
    finally:
        closed.set()


def test_streams_go_on_beside_long_work(served):
    until, closed = threading.Event(), threading.Event()
    engine = served.service.engine

    async def search():
        return await engine.gradually(endless(until, closed), 4)

    found = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(search())))
    thread.start()
    wait_for(lambda: engine.held == 4)
    reply = served.post(CHAT, {"messages": ASK, "max_tokens": 5})  # would wait for ever
    assert reply.json()["usage"]["completion_tokens"] == 5
    until.set()
    thread.join(30)
    assert found == ["done"]
    wait_for(lambda: engine.held == 0)


async def scene():
    engine = Engine([], limit=8, metrics=Metrics())
    engine.start()
    try:
        never, first, second = threading.Event(), threading.Event(), threading.Event()
        task = asyncio.create_task(engine.gradually(endless(never, first), 5))
        over = threading.Event()
        over.set()
        waits = asyncio.create_task(engine.gradually(endless(over, second), 3))
        await asyncio.sleep(0.05)
        with pytest.raises(Refusal, match="full"):
            await engine.gradually(endless(over, threading.Event()), 1)
        assert not waits.done()  # one search at a time holds memory
        task.cancel()
        assert await waits == "done"
        assert first.is_set()
        assert engine.held == 0
        last = asyncio.create_task(engine.gradually(endless(never, threading.Event()), 1))
        await asyncio.sleep(0.05)
    finally:
        engine.stop()
    with pytest.raises(Refusal, match="shutting down"):
        await last


def test_work_that_nobody_waits_for_is_closed_and_the_next_has_its_turn():
    asyncio.run(scene())


def test_a_client_that_leaves_ends_its_search(offer, monkeypatch):
    import httpx2 as httpx

    never, closed = threading.Event(), threading.Event()
    monkeypatch.setattr(offer.generator, "searching", lambda *_, **__: endless(never, closed))
    with running([offer]) as served:
        body = {"prompt": [5] * 8, "n": 8, "max_tokens": 9, **BEAMS}
        with pytest.raises(httpx.ReadTimeout):
            served.http.post(COMPLETIONS, json=body, timeout=0.3)
        wait_for(lambda: served.service.engine.held == 0)
        assert closed.is_set()
        assert served.post(COMPLETIONS, {"prompt": "a", "max_tokens": 2}).status_code == 200
