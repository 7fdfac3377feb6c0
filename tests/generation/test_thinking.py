"""Thoughts apart from what is said, whole and piece by piece."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from tunesmith.generation.thinking import Parts, ThinkingSplit, begins, split

CASES = {
    "<think>\nWhy?\n</think>\n\nBecause.": ("Why?", "Because."),
    "  <think>a</think>b": ("a", "b"),
    "<think></think>b\n": ("", "b\n"),
    "<think>\n\n</think>\n\nb": ("", "b"),
    "Just an answer.": ("", "Just an answer."),
    " with a space": ("", " with a space"),
    "It says <think>x</think> there.": ("", "It says <think>x</think> there."),
    "<think>never closed </thi": ("never closed </thi", ""),
    "<think>a </ b \n c</think>d <think>e</think>": ("a </ b \n c", "d <think>e</think>"),
    "<thin": ("", "<thin"),
    "<thing>": ("", "<thing>"),
    "": ("", ""),
    "<think>a</think>\n": ("a", ""),
}


@pytest.mark.parametrize("answer", CASES)
def test_whole_answers(answer):
    assert split(answer) == Parts(*CASES[answer])


def test_a_prompt_may_have_opened_them():
    assert begins("<|im_start|>assistant\n<think>\n")
    assert not begins("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert split("Hm.\n</think>\n\nYes.", begun=True) == Parts("Hm.", "Yes.")
    assert split("Hm", begun=True) == Parts("Hm", "")


@given(
    st.sampled_from([*CASES, "a</think>b"]),
    st.lists(st.integers(0, 50), max_size=8),
    st.booleans(),
)
def test_pieces_say_the_same(answer, cuts, begun):
    """However the text is cut, the parts joined are those of the whole."""
    edges = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    stream = ThinkingSplit(begun=begun)
    found = [stream.step(answer[a:b]) for a, b in itertools.pairwise(edges)]
    found.append(stream.finish())
    joined = Parts("".join(p.thought for p in found), "".join(p.said for p in found))
    assert joined == split(answer, begun=begun)


def test_what_is_certain_is_not_held_back():
    stream = ThinkingSplit()
    assert stream.step("<think>one two") == Parts("one two", "")
    assert stream.step(" three</th") == Parts(" three", "")
    assert stream.step("ink>\nfour") == Parts("", "four")
    assert stream.step(" five") == Parts("", " five")
