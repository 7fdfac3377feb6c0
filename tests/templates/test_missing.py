"""Where tokens were cut away: in front of which token, how many."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings, strategies as st

from tests.templates.test_fit import encoder, talk_of
from tunesmith.templates import base, missing
from tunesmith.templates.fit import fit
from tunesmith.templates.truncate import Limits, length
from tunesmith.types import Truncation

RULES = get_args(Truncation)


def ids_of(turns):
    return [id for turn in turns for id in turn.prompt_ids + turn.completion_ids]


def stands_in(ids, gaps, whole, new):
    """Whether the ids are the whole without what the gaps say; up to `new` of them in front of each
    gap may be other ones, with as many more of the whole's missing."""
    spots = {0}  # how many of the whole's tokens may stand before the token that is looked at
    for at in range(len(ids) + 1):
        if at in gaps:
            spots = {spot + gaps[at] for spot in spots}
        if at == len(ids):
            break
        seam = any(at < place <= at + new for place in gaps)
        spots = {
            spot + 1 for spot in spots if spot < len(whole) and (seam or whole[spot] == ids[at])
        }
    return len(whole) in spots


def marked(template, talk, limits):
    """The text with marks where tokens are missing."""
    encode = encoder(template)
    [turns] = fit(talk, encode, template.tokenizer, limits)
    [gaps] = missing.gaps(talk, encode, template.tokenizer, limits)
    ids, text, before = ids_of(turns), "", 0
    for place in sorted({*gaps, len(ids)}):
        text += template.tokenizer.decode(ids[before:place])
        text += f"…{gaps[place]}…" if place in gaps else ""
        before = place
    return text


@pytest.fixture(scope="module", params=["chatml", "llama3"])
def template(request, trained):
    return base.load(request.param, trained["bytes"])


def test_rounds_that_were_dropped_are_marked_after_the_system_prompt(trained):
    chatml = base.load("chatml", trained["bytes"])
    texts = [f"{letter} {n} and more" for n in range(6) for letter in ("question", "answer")]
    talk = talk_of(*texts, system="You are a polite guide.")
    whole = length(encoder(chatml)(talk)[0])
    text = marked(chatml, talk, Limits(whole // 2))
    assert text.startswith("<|im_start|>system\nYou are a polite guide.<|im_end|>…")
    assert text.count("…") == 2
    rest = text.split("…")[2]
    assert rest.strip().startswith("<|im_start|>user\nquestion")


def test_question_and_answer_of_like_words_have_a_mark_each(template):
    talk = talk_of("again and " * 300, "and again " * 300)
    text = marked(template, talk, Limits(160))
    assert text.count("…") == 4
    question, _, middle, _, end = text.split("…")
    assert question.endswith(("again", "and", "again ", "and ", "a", "n", "g", "i"))
    assert "assistant" in middle
    assert end in ("<|im_end|>", "<|eot_id|>")


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_marks_stand_where_tokens_are_missing(template, rule, data):
    words = st.lists(st.sampled_from(["sea", "colour", "é", "the", "a", "\n"]), max_size=60)
    texts = data.draw(st.lists(words.map(" ".join), min_size=1, max_size=5))
    talk = talk_of(
        *(f"{text} q{n}" for n, one in enumerate(texts) for text in (one, one[::-1])),
        system=data.draw(st.sampled_from(["", "Be kind", "the sea " * 5])),
    )
    encode = encoder(template)
    [whole] = encode(talk)
    part = st.none() | st.integers(12, 60)
    limits = Limits(
        data.draw(st.integers(12, length(whole))), data.draw(part), data.draw(part), rule
    )
    fitted = fit(talk, encode, template.tokenizer, limits)
    found = missing.gaps(talk, encode, template.tokenizer, limits)
    assert len(found) == len(fitted or [])
    for turns, gaps in zip(fitted or [], found, strict=True):
        ids, of = ids_of(turns), ids_of(whole)
        assert sum(gaps.values()) == len(of) - len(ids)
        assert all(0 <= place <= len(ids) and count > 0 for place, count in gaps.items())
        new = 6 if rule == "newest_rounds" else 0  # only there text is cut, and tokenised again
        assert stands_in(ids, gaps, of, new)
