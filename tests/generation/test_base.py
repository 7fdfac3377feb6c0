"""Streamed text and stop strings on any cutting into tokens; requests that can't be answered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from tunesmith.errors import ConfigError, DataError
from tunesmith.generation import base
from tunesmith.generation.base import TextStream
from tunesmith.types import Event, Request, Sampling


class Bytes:
    """A tokenizer of pieces of bytes: token i is the i-th piece."""

    def __init__(self, pieces):
        self.pieces = pieces

    def decode(self, ids, skip_special=False):
        return b"".join(self.pieces[id] for id in ids).decode("utf-8", errors="replace")


def cut(text, sizes):
    """The text's bytes in pieces of these sizes, over and over."""
    data, pieces, at = text.encode(), [], 0
    while data:
        size = sizes[at % len(sizes)]
        pieces.append(data[:size])
        data, at = data[size:], at + 1
    return pieces


def run(pieces, stops=()):
    """(every delta in order, whether it was stopped)."""
    stream = TextStream(Bytes(pieces), [], stops)
    said = []
    for id in range(len(pieces)):
        text, stopped = stream.step(id)
        said.append(text)
        if stopped:
            return said, True
    text, stopped = stream.finish()
    return [*said, text], stopped


sizes = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@given(text=st.text(), sizes=sizes)
@settings(deadline=None)
def test_deltas_join_to_the_text_and_never_split_a_character(text, sizes):
    said, stopped = run(cut(text, sizes))
    assert "".join(said) == text
    assert not stopped
    assert all("\ufffd" not in delta for delta in said) or "\ufffd" in text


@given(text=st.text("abé世"), sizes=sizes, stops=st.lists(st.text("abé世", min_size=1, max_size=4)))
@settings(deadline=None, max_examples=150)
def test_the_stop_string_that_is_complete_first_ends_the_text(text, sizes, stops):
    said, stopped = run(cut(text, sizes), stops)
    # by the definition, on whole characters
    for end in range(len(text) + 1):
        begun = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begun:
            assert stopped
            assert "".join(said) == text[: min(begun)]
            break
    else:
        assert not stopped
        assert "".join(said) == text


def test_bytes_that_stay_broken_do_not_hold_text_back_for_ever():
    said, _ = run([b"\xff"] * 40 + [b"a", b"b"])
    assert "".join(said) == "\ufffd" * 40 + "ab"
    assert len("".join(said[:20])) > 15


def test_what_may_become_a_stop_string_is_held_back():
    said, stopped = run([b"a</", b"en", b"d", b"!"], ["</end>"])
    assert (said, stopped) == (["a", "", "", "</end!", ""], False)
    said, stopped = run([b"a</", b"en", b"d>", b"!"], ["</end>"])
    assert (said, stopped) == (["a", "", ""], True)


def test_broken_bytes_are_shown_at_the_end():
    assert run([b"a", b"\xe4", b"\xb8"])[0] == ["a", "", "", "\ufffd"]


def test_the_leading_space_comes_from_the_prompt():
    """SentencePiece drops the space of whatever is decoded first."""
    from tokenizers import Tokenizer, decoders, models

    rust = Tokenizer(models.BPE({"▁a": 0, "▁b": 1, "c": 2}, []))
    rust.decoder = decoders.Metaspace()

    class Real:
        def decode(self, ids, skip_special=False):
            return rust.decode(ids, skip_special_tokens=skip_special)

    stream = TextStream(Real(), [0])
    assert [stream.step(id)[0] for id in (1, 2, 0)] == [" b", "c", " a"]
    assert TextStream(Real(), []).step(1)[0] == "b"


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"typical_p": 0.0},
        {"typical_p": 1.5},
        {"presence_penalty": float("nan")},
        {"frequency_penalty": float("inf")},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((1, float("inf")),)},
        {"top_logprobs": -1},
        {"seed": -1},
        {"seed": 2**64},
        {"stop": ("a", "")},
    ],
    ids=str,
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(ConfigError, match=f"C210.*{next(iter(wrong))}"):
        base.check_sampling(Sampling(**wrong))


def test_greedy_is_possible():
    base.check_sampling(Sampling(temperature=0))
    base.check_sampling(Sampling(temperature=0.0, top_p=1, seed=2**64 - 1))


@pytest.mark.parametrize(
    ("ids", "code"), [((), "D402"), ((1, 10), "D402"), ((-1,), "D402"), ((1,) * 8, "D401")]
)
def test_prompts_that_can_not_be_answered(ids, code):
    with pytest.raises(DataError) as caught:
        base.check_request(Request("a", ids), context=8, vocabulary=10)
    assert caught.value.code == code
    base.check_request(Request("a", (1,) * 7), context=8, vocabulary=10)
    base.check_request(Request("a", (1,) * 99), context=None, vocabulary=10)


def test_bias_of_a_token_that_is_not_there():
    biased = Request("a", (1,), Sampling(logit_bias=((10, 1.0),)))
    with pytest.raises(ConfigError, match="C210"):
        base.check_request(biased, context=None, vocabulary=10)
    base.check_request(biased, context=None, vocabulary=11)


def test_answers_in_order_whoever_is_finished_first():
    """An engine that finishes short requests first; leaving early cancels the rest."""

    class Backwards:
        def __init__(self):
            self.left, self.cancelled, self.most = {}, [], 0

        def submit(self, request):
            self.left[request.id] = request.sampling.max_tokens
            self.most = max(self.most, len(self.left))

        def cancel(self, id):
            self.cancelled.append(id)

        def step(self):
            self.left = {id: n - 1 for id, n in self.left.items() if n}
            return [Event(id, n, 0.0, "", None if n else "length") for id, n in self.left.items()]

        def generate(self, requests):
            return base.drain(self, requests)

    asked = [Request(str(i), (1,), Sampling(max_tokens=1 + (7 * i) % 5)) for i in range(20)]
    engine = Backwards()
    found = list(base.in_order(engine, asked, ahead=4))
    assert [events[0].id for events in found] == [request.id for request in asked]
    assert [len(events) for events in found] == [r.sampling.max_tokens for r in asked]
    assert engine.most <= 8
    assert engine.cancelled == []
    rest = base.in_order(engine, asked, ahead=4)
    next(rest)
    rest.close()
    assert engine.cancelled == ["1", "2", "3"]
