"""Conversations cut to a length: newest rounds, whole markup, end markers in their place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from tunesmith.errors import DataError
from tunesmith.templates import base
from tunesmith.templates.fit import fit, misfit, split_rounds
from tunesmith.templates.truncate import Limits, length
from tunesmith.types import Conversation, Message


@pytest.fixture(scope="module")
def chatml(trained):
    return base.load("chatml", trained["bytes"])


def encoder(template):
    return lambda talk: template.encode_batch(template.render(talk, system=""))


def talk_of(*texts: str, system: str = "") -> Conversation:
    roles = ["user", "assistant"] * len(texts)
    messages = [Message.of(r, t) for r, t in zip(roles, texts, strict=False)]
    return Conversation(tuple([Message.of("system", system)] * bool(system) + messages))


def text_of(template, turns) -> str:
    return template.tokenizer.decode(
        id for turn in turns for id in turn.prompt_ids + turn.completion_ids
    )


def test_oldest_rounds_go_first_and_the_system_prompt_stays(chatml):
    talk = talk_of("q1 " * 9, "a1", "q2", "a2", "q3", "a3", system="SYS")
    encode = encoder(chatml)
    whole = length(encode(talk)[0])
    [turns] = fit(talk, encode, chatml.tokenizer, Limits(whole - 1))
    assert text_of(chatml, turns) == text_of(
        chatml, encode(talk_of("q2", "a2", "q3", "a3", system="SYS"))[0]
    )
    [turns] = fit(talk, encode, chatml.tokenizer, Limits(length(turns) - 1))
    assert text_of(chatml, turns) == text_of(chatml, encode(talk_of("q3", "a3", system="SYS"))[0])


@pytest.mark.parametrize("kept", range(1, 8))
def test_as_many_rounds_stay_as_fit(chatml, kept):
    encode = encoder(chatml)
    texts = [f"{letter}{n}" for n in range(8) for letter in "qa"]
    room = length(encode(talk_of(*texts[-2 * kept :]))[0])
    for spare in (0, 5):
        [turns] = fit(talk_of(*texts), encode, chatml.tokenizer, Limits(room + spare))
        assert len(turns) == kept


def test_a_long_question_loses_its_middle_and_no_markup(chatml):
    question = "begin " + "x " * 400 + " end"
    encode = encoder(chatml)
    [turns] = fit(talk_of(question, "the answer"), encode, chatml.tokenizer, Limits(120))
    text = text_of(chatml, turns)
    assert length(turns) <= 120
    assert text.startswith("<|im_start|>user\nbegin x")
    assert " end<|im_end|>\n<|im_start|>assistant\nthe answer<|im_end|>" in text


def test_a_long_answer_keeps_its_end_marker(chatml):
    [turns] = fit(talk_of("q", "word " * 400), encoder(chatml), chatml.tokenizer, Limits(100))
    assert length(turns) == 100
    assert turns[-1].completion_ids[-1] == chatml.tokenizer.added["<|im_end|>"]
    assert text_of(chatml, turns).startswith("<|im_start|>user\nq<|im_end|>\n")


@pytest.mark.parametrize("limit", [1, 5, 20])
def test_what_can_not_fit_is_refused(chatml, limit):
    assert not fit(
        talk_of("q " * 200, "a " * 200), encoder(chatml), chatml.tokenizer, Limits(limit)
    )


def test_a_template_that_refuses_every_part_fits_nothing(chatml):
    def refuse(talk):
        raise DataError("D302", "refused")

    assert fit(talk_of("q", "a"), refuse, chatml.tokenizer, Limits(100)) is None


def test_rounds_begin_with_a_question():
    messages = tuple(
        Message.of(role, role)
        for role in (
            "system",
            "user",
            "assistant",
            "tool",
            "assistant",
            "user",
            "assistant",
            "user",
        )
    )
    system, rounds = split_rounds(messages)
    assert [m.role for m in system] == ["system"]
    assert [[m.role for m in each] for each in rounds] == [
        ["user", "assistant", "tool", "assistant"],
        ["user", "assistant"],
    ]


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(words, min_size=2, max_size=6).filter(lambda found: len(found) % 2 == 0),
    system=words,
    limit=st.integers(10, 200),
)
def test_the_result_fits_ends_well_and_starts_as_inference_would(chatml, texts, system, limit):
    encode = encoder(chatml)
    talk = talk_of(*texts, system=system)
    fitted = fit(talk, encode, chatml.tokenizer, Limits(limit))
    if not fitted:
        assert any(length(turns) > limit for turns in encode(talk))
        return
    end = chatml.tokenizer.added["<|im_end|>"]
    for turns in fitted:
        assert length(turns) <= limit
        for turn in turns:
            assert turn.completion_ids[-1] == end
    if system:
        begin = chatml.prompt_ids(Conversation(talk.messages[:1]), "")
        header = len(chatml.tokenizer.encode_text("<|im_start|>assistant\n"))
        assert fitted[0][0].prompt_ids[: len(begin) - header] == begin[: len(begin) - header]


def test_the_limit_that_leaves_nothing_is_named_with_its_own_tokens(chatml):
    talk, encode = talk_of("word " * 90, "the answer"), encoder(chatml)
    prompt = len(encode(talk)[0][0].prompt_ids)

    def why(limits, talk=talk):
        assert fit(talk, encode, chatml.tokenizer, limits) is None
        return misfit(talk, encode, chatml.tokenizer, limits)

    said = why(Limits(120, max_prompt_length=9))
    assert f"{prompt} tokens in a prompt, but data.max_prompt_length is 9," in said
    assert "max_length is 120" not in said
    assert f"{prompt} tokens, but data.max_length is 12," in why(Limits(12))
    assert "data.max_length is 12," in why(Limits(12, max_prompt_length=9))
    said = why(Limits(900, max_answer_length=1, rule="cut_end"))
    assert "data.max_answer_length is 1," in said
    older = Conversation((*talk.messages, *talk_of("hi", "ho").messages))
    newest = length(encode(talk_of("hi", "ho"))[0])
    tokens = newest - len(encode(talk_of("hi", "ho"))[0][0].completion_ids)
    assert f"does not fit: {tokens} tokens, but data.max_length is 8," in why(Limits(8), older)
