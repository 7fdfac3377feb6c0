"""OpenAssistant's trees: the best-ranked path, ranked siblings, and what is refused."""

from __future__ import annotations

import pytest

from tests.data.formats.parsing import CONFIG, row, said
from tunesmith.data.formats import base
from tunesmith.errors import DataError
from tunesmith.types import Conversation, Preference


def node(text, role="assistant", rank=None, replies=(), **more):
    return {"text": text, "role": role, "rank": rank, "replies": list(replies), **more}


def tree(*answers):
    return {"message_tree_id": "1", "prompt": node("hi", "prompter", replies=answers)}


BEST = node(
    "best",
    rank=0,
    replies=[
        node("worse question", "prompter", 1),
        node("and?", "prompter", 0, [node("so", rank=1), node("thus", rank=0)]),
    ],
)
TREE = tree(node("third", rank=2), BEST, node("unranked"), node("second", rank=1))


def samples(value, name):
    return base.samples(base.load(name), row(value), {}, CONFIG)


def test_the_best_path_is_the_conversation():
    (found,) = samples(TREE, "oasst")
    assert said(found) == [
        ("user", "hi"),
        ("assistant", "best"),
        ("user", "and?"),
        ("assistant", "thus"),
    ]


def test_a_last_question_without_an_answer_is_left_away():
    asked = tree(node("yo", rank=0, replies=[node("and?", "prompter")]))
    assert [said(one) for one in samples(asked, "oasst")] == [[("user", "hi"), ("assistant", "yo")]]
    assert samples(tree(), "oasst") == ()


def test_deleted_messages_are_not_followed():
    value = tree(node("gone", rank=0, deleted=True), node("kept", rank=1))
    assert said(samples(value, "oasst")[0])[-1] == ("assistant", "kept")
    assert samples(value, "oasst_pairs") == ()


def test_every_two_ranked_siblings_are_a_pair():
    pairs = samples(TREE, "oasst_pairs")
    assert [(said(p.chosen)[0][1], said(p.rejected)[0][1]) for p in pairs] == [
        ("best", "second"),
        ("best", "third"),
        ("second", "third"),
        ("thus", "so"),
    ]
    assert said(pairs[0].prompt) == [("user", "hi")]
    assert said(pairs[-1].prompt) == [("user", "hi"), ("assistant", "best"), ("user", "and?")]
    equal = tree(node("a", rank=0), node("b", rank=0))
    assert samples(equal, "oasst_pairs") == ()


def test_the_stage_decides_between_conversations_and_pairs():
    rows = [row(TREE)]
    assert base.detect(rows, accepts=(Conversation,)) == "oasst"
    assert base.detect(rows, accepts=(Preference,)) == "oasst_pairs"
    assert base.detect(rows, accepts=(Conversation, Preference)) == "oasst"
    with pytest.raises(DataError, match=r"D120(.|\n)*oasst, oasst_pairs"):
        base.detect(rows)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"prompt": "hi"}, "D123"),
        ({}, "D121"),
        (tree(node("")), "D122"),
        (tree(node("yo", "prompter")), "D123"),
        (tree(node("yo", rank="first")), "D122"),
        ({"prompt": {"text": "hi", "replies": "none"}}, "D123"),
        (tree("yo"), "D123"),
    ],
)
def test_trees_that_are_bad(value, code):
    for name in ("oasst", "oasst_pairs"):
        with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
            samples(value, name)
