"""Thoughts in answers of the server: apart from what is said, for the official client."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.serving.conftest import running
from tests.serving.test_form import FORM, HOT, TIME, offer_of
from tests.serving.test_tool_calls import CALL, TOOL
from tunesmith.compose import serving
from tunesmith.compose.answering import Engine
from tunesmith.generation.thinking import AfterThoughts

ASK = [{"role": "user", "content": "Weather in Ulm?"}]


class Opening:
    """A template whose prompts end with `<think>`, as those of reasoning models do."""

    def __init__(self, template):
        self._template = template

    def __getattr__(self, name):
        return getattr(self._template, name)

    def prompt_ids(self, *words, **more):
        ids = self._template.prompt_ids(*words, **more)
        return [*ids, *self._template.tokenizer.encode_text("<think>\n")]


@pytest.fixture
def thinking(scripted, tiny_offer):
    """A server whose model answers with this text; `opened`: its prompts open thoughts."""

    def serve(text, *, opened, ends=True):
        tokenizer = tiny_offer.tokenizer
        ids = tokenizer.encode_text(text) + ([tokenizer.eos_id] if ends else [])
        return scripted(lambda request: ids, template="chatml", wrap=Opening if opened else None)

    return serve


def parts(stream):
    """(thoughts, text, calls, reasons) of a stream."""
    choices = [chunk.choices[0] for chunk in stream if chunk.choices]
    thought = [getattr(c.delta, "reasoning_content", None) or "" for c in choices]
    said = [c.delta.content or "" for c in choices]
    calls = [call for c in choices for call in c.delta.tool_calls or ()]
    return thought, said, calls, [c.finish_reason for c in choices if c.finish_reason]


@pytest.mark.parametrize("opened", [True, False])
def test_thoughts_are_apart(thinking, opened):
    text = "<think>" * (not opened) + "\nIt rains.\nOften.\n</think>\n\nRain </think> or not."
    with thinking(text, opened=opened) as (served, generator):
        ask = served.openai.chat.completions.create
        whole = ask(model="tiny", messages=ASK)
        stream = list(
            ask(
                model="tiny",
                messages=ASK,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        count = len(generator.tokenizer.encode_text(text)) + 1
    message = whole.choices[0].message
    assert message.reasoning_content == "It rains.\nOften."
    assert message.content == "Rain </think> or not."
    thought, said, _, reasons = parts(stream)
    assert "".join(thought) == "It rains.\nOften."
    assert "".join(said) == "Rain </think> or not."
    assert sum(map(bool, thought)) > 2  # they come as they are thought
    assert reasons == ["stop"]
    assert whole.usage.completion_tokens == stream[-1].usage.completion_tokens == count


def test_thoughts_without_an_end(thinking):
    with thinking("It rains and", opened=True, ends=False) as (served, _):
        whole = served.openai.chat.completions.create(model="tiny", messages=ASK)
    choice = whole.choices[0]
    assert choice.message.reasoning_content == "It rains and"
    assert (choice.message.content, choice.finish_reason) == ("", "length")


def test_an_engine_with_a_window_is_served():
    """Prompt and answer together may be longer than the model's positions reach."""
    offer = serving.offers("builtin:tiny", "tiny", {}, slots=2, engine=Engine(window=100))[0]
    reach = offer.reader.model.hf.config.max_position_embeddings
    assert any("the last 100 tokens" in note for note in offer.notes)
    with running([offer]) as served:
        body = {"prompt": "Once upon a time " * reach, "max_tokens": 3}
        reply = served.post("/v1/completions", {**body, "prompt": body["prompt"][: 6 * reach]})
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["prompt_tokens"] > reach


def test_an_answer_without_thoughts_has_no_field(thinking):
    with thinking("Rain, <think> I.", opened=False) as (served, _):
        body = {"messages": ASK}
        reply = served.post("/v1/chat/completions", body).json()
        stream = served.post("/v1/chat/completions", {**body, "stream": True}).text
    assert reply["choices"][0]["message"]["content"] == "Rain, <think> I."
    assert "reasoning_content" not in reply["choices"][0]["message"]
    assert "reasoning_content" not in stream


@pytest.mark.parametrize("opened", [True, False])
def test_a_call_after_thoughts(thinking, opened):
    """What looks like a call within thoughts is a thought."""
    draft = f"Perhaps <tool_call>\n{CALL}\n</tool_call>"
    text = "<think>" * (not opened) + f"{draft}</think>\n<tool_call>\n{CALL}\n</tool_call>"
    with thinking(text, opened=opened) as (served, _):
        ask = served.openai.chat.completions.create
        whole = ask(model="tiny", messages=ASK, tools=[TOOL])
        stream = ask(model="tiny", messages=ASK, tools=[TOOL], stream=True)
        thought, said, calls, reasons = parts(stream)
    message = whole.choices[0].message
    assert message.reasoning_content == "".join(thought) == draft
    assert [c.function.name for c in message.tool_calls] == ["get_weather"]
    assert [c.function.name for c in calls] == ["get_weather"]
    assert "".join(said).strip() == ""
    assert reasons == [whole.choices[0].finish_reason] == ["tool_calls"]


def test_logprobs_are_of_all_tokens(thinking):
    with thinking("It rains.</think>Rain.", opened=True, ends=False) as (served, generator):
        whole = served.openai.chat.completions.create(model="tiny", messages=ASK, logprobs=True)
        ids = generator.tokenizer.encode_text("It rains.</think>Rain.")
    assert len(whole.choices[0].logprobs.content) == len(ids)


# ---------------------------------------------------------------- forms after thoughts


@pytest.mark.parametrize("after", ["", "\n", " \n"])
def test_a_form_begins_after_thoughts(tiny_offer, after):
    """Until then all but the end of the answer is free; from there on it is the form alone."""
    offer = offer_of(tiny_offer, "chatml")
    forms, tokenizer = offer.forms, offer.tokenizer
    make = forms.json({"enum": ["aa", "bb"]})
    spelled = forms.spelled()[0]
    rule = AfterThoughts(make(), tokenizer, spelled, forms.stops)
    ids = tokenizer.encode_text("It rains.</think>")
    for at in range(len(ids)):
        allowed = set(rule.mask(ids[:at]).tolist())
        assert ids[at] in allowed
        assert not allowed & set(forms.stops)
        assert len(allowed) > len(spelled) // 2
    assert rule.mask(ids).tolist() == make().mask([]).tolist()
    blank = tokenizer.encode_text(after)
    assert rule.mask(ids + blank).tolist() == make().mask(blank).tolist()
    wrong = tokenizer.encode_text("It rains. No")  # what was guessed may turn out otherwise
    assert len(rule.mask(wrong)) > len(spelled) // 2


def test_no_token_ends_thoughts_and_says_more(tiny_offer):
    offer = offer_of(tiny_offer, "chatml")
    spelled = list(offer.forms.spelled()[0])
    spelled[50], spelled[51], spelled[52] = b"</think>{", b"nk>x", b"nk>\n"
    rule = AfterThoughts(None, offer.tokenizer, spelled, offer.forms.stops)
    assert 50 not in rule.mask([])
    assert 51 in rule.mask([])
    begun = rule.mask(offer.tokenizer.encode_text("so </thi"))
    assert 51 not in begun
    assert 52 in begun


@pytest.fixture(scope="module")
def opened(tiny_offer):
    offer = offer_of(tiny_offer, "chatml")
    with running([dataclasses.replace(offer, template=Opening(offer.template))]) as found:
        yield found


@pytest.mark.parametrize(
    "asked",
    [{"response_format": FORM}, {"tools": [TIME], "tool_choice": "required"}],
    ids=["form", "call"],
)
def test_the_engine_holds_what_is_said_to_the_form(opened, asked):
    """A small random answer: whatever it thinks, what it says is of the form."""
    bias = {}
    tokenizer = next(iter(opened.service.models.values())).offer.tokenizer
    for id in tokenizer.encode_text("</think>"):
        bias[str(id)] = 30.0
    whole = opened.openai.chat.completions.create(
        model="chatml", messages=ASK, seed=3, **{**HOT, "max_tokens": 400}, logit_bias=bias, **asked
    )
    choice = whole.choices[0]
    if choice.finish_reason == "length":
        assert not choice.message.content
    elif "tools" in asked:
        assert choice.message.tool_calls[0].function.name == "get_time"
    else:
        assert json.loads(choice.message.content) in ("aa", "bb")
