"""What people see: trained tokens marked, control characters shown, HTML escaped."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.data.toy import Encoder
from tunesmith.data import encode, show, show_page, show_pairs, store, unseen
from tunesmith.recipe.sections import DataConfig, Source
from tunesmith.types import Encoded, Example


def decode(ids):
    return bytes(i for i in ids if i > 2).decode(errors="replace")


LOOK = show.Look(decode, {})


def data_of(tmp_path, rows):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(on_bad_row="skip")
    source = Source(str(path))
    return source, encode.build((source,), config, Encoder(), {}, num_proc=1, home=tmp_path)


ROWS = [
    {"instruction": "say é", "output": "é!"},
    {"instruction": "<b>&", "output": "\x1b[31m</mark>"},
    {"instruction": "x", "output": ""},
]


def test_rows_and_summary(tmp_path):
    source, data = data_of(tmp_path, ROWS)
    shown = show.rows(data, [0], LOOK)
    assert shown[0]["ids"] == data[0][0].ids_T.tolist()
    assert shown[0]["weights"] == data[0][0].weights_T.tolist()
    assert shown[0]["text"] == "say éé!"
    assert shown[0]["where"] == f"{source.path}:1"
    assert show.marked(shown[0]["spans"], colour=False) == "say é[[é!]]"
    assert show.marked(shown[0]["spans"], colour=True) == "say é\x1b[32mé!\x1b[0m"
    summary = show.summary(data)
    assert (summary["rows"], summary["items"], summary["left_out"]) == (3, 2, 1)
    assert summary["lengths"]["max"] == max(data.lengths)
    assert sum(one["items"] for one in summary["histogram"]) == 2
    assert summary["problems"][0]["line"] == 3
    assert json.loads(json.dumps(summary)) == summary


def test_roles(tmp_path):
    source, _ = data_of(tmp_path, ROWS)
    assert show.roles(source, "alpaca", DataConfig()) == {"user": 2, "assistant": 2}
    pairs = tmp_path / "p.jsonl"
    pairs.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}))
    counts = show.roles(Source(str(pairs)), "preference", DataConfig())
    assert counts == {"user": 1, "chosen": 1, "rejected": 1}
    verdicts = tmp_path / "k.jsonl"
    verdicts.write_text(json.dumps({"prompt": "a", "completion": "b", "label": False}))
    counts = show.roles(Source(str(verdicts)), "feedback", DataConfig())
    assert counts == {"user": 1, "assistant": 1, "undesirable": 1}
    text = tmp_path / "t.txt"
    text.write_text("a\nb\n")
    assert show.roles(Source(str(text)), "text", DataConfig()) == {"document": 2}


def test_data_does_not_steer_terminal_or_browser(tmp_path):
    _, data = data_of(tmp_path, ROWS)
    shown = show.rows(data, [1], LOOK)
    assert show.marked(shown[0]["spans"], colour=False) == "<b>&[[\\x1b[31m</mark>]]"
    finding = {"level": "MAJOR", "check": "<i>", "text": "a & b"}
    page = show_page.page("<t>", ["<pre>"], [finding], shown)
    assert "&lt;b&gt;&amp;<mark>\\x1b[31m&lt;/mark&gt;</mark>" in page
    assert "<i>" not in page
    assert "<t>" not in page
    assert "\x1b" not in page


@given(st.lists(st.tuples(st.integers(3, 99), st.sampled_from([0, 0.5, 1])), max_size=30))
def test_spans_cover_all_tokens_once(tokens):
    ids = np.array([i for i, _ in tokens], np.int32)
    weights = np.array([w for _, w in tokens], np.float32)
    look = show.Look(lambda part: "".join(f"{id}," for id in part), {})
    found = show.spans(ids, weights, look)
    assert "".join(span.text for span in found) == "".join(f"{id}," for id in ids.tolist())
    assert all(a.weight != b.weight for a, b in itertools.pairwise(found))


def test_tokens_and_text_that_spells_them_are_told_apart():
    look = show.Look(decode, {1: "<s>", 2: "</s>"})
    ids = np.array([1, *b"say </s>", 2], np.int32)
    weights = np.array([0] * 5 + [1] * 5, np.float32)
    found = [span._asdict() for span in show.spans(ids, weights, look)]
    assert [(one["text"], one["kind"]) for one in found] == [
        ("<s>", "token"), ("say ", "text"), ("</s>", "spelled"), ("</s>", "token"),
    ]  # fmt: skip
    assert show.marked(found, colour=False) == r"<s>say [[\</s></s>]]"
    row = {"where": "f:1", "side": "", "ids": ids, "weights": weights, "spans": found}
    row |= {"tokens_before_cut": len(ids), "measured": False}
    page = show_page.page("t", [], [], [row])
    assert "<span class=spelled title='plain text that spells a control token'>\\&lt;/s&gt;" in page
    assert "<span class=token title='a control token'>&lt;/s&gt;" in page
    assert "not the token" in show.notes([row])[0]
    assert "not the token" in page


def test_what_was_cut_is_marked(tmp_path):
    whole = Example(np.array([*b"abcdefgh"], np.int32), np.ones(8, np.float32))
    cut = Example(np.array([*b"abcgh"], np.int32), np.ones(5, np.float32))
    store.write_shard(tmp_path / "s", [store.Item((cut,), 0, 1), store.Item((whole,), 0, 2)])
    data = store.open_dataset([tmp_path / "s"], ["f"], {"truncated": 3})
    look = show.Look(
        decode, {}, cut=lambda item: Encoded((cut,), gaps=lambda: [{3: 3} if item == 0 else {}])
    )
    one, other = show.rows(data, [0, 1], look)
    assert show.marked(one["spans"], colour=False) == "[[abc]]…(3 tokens cut)…[[gh]]"
    assert (one["tokens_before_cut"], other["tokens_before_cut"]) == (8, 8)
    assert show.marked(other["spans"], colour=False) == "[[abcdefgh]]"
    # Blocks of one document go on in each other; pairs of one tree don't.
    store.write_shard(tmp_path / "b", [store.Item((cut,), 0, 1) for _ in range(2)])
    data = store.open_dataset([tmp_path / "b"], ["f"], {"truncated": 0})
    shown = show.rows(data, [0, 1], show.Look(decode, {}, blocks=True))
    assert [show.marked(row["spans"], colour=False) for row in shown] == [
        "[[abcgh]]…",
        "…[[abcgh]]",
    ]
    assert "goes on in another example" in show.notes(shown)[0]
    shown = show.rows(data, [0, 1], LOOK)
    assert [show.marked(row["spans"], colour=False) for row in shown] == ["[[abcgh]]"] * 2


def array(text):
    return np.array([*text.encode()], np.int32)


def pair_of(tmp_path, chosen, rejected, weights=None):
    """A pair of texts of which what follows `:` is trained, as it is shown."""
    sides = []
    for text in (chosen, rejected):
        weight = np.zeros(len(text), np.float32)
        weight[text.index(":") + 1 :] = 1
        sides.append(Example(array(text), weight if weights is None else weights(text)))
    store.write_shard(tmp_path / "p", [store.Item(tuple(sides), 0, 1)])
    data = store.open_dataset([tmp_path / "p"], ["f"], {"truncated": 0})
    look = show.Look(decode, {}, show.SIDES, margin=lambda item: 2.5)
    return show.rows(data, [0], look)


def test_a_pair_is_shown_whole_with_its_prompt_once_and_its_margin(tmp_path):
    shown = pair_of(tmp_path, "ask:yes indeed", "ask:no")
    (block,) = show_pairs.blocks(shown)
    assert (block.where, block.note) == ("f:1", "margin 2.5")
    texts = [(part.title, show.marked(part.spans, colour=False)) for part in block.parts]
    assert texts == [("prompt", "ask:"), ("chosen", "[[yes indeed]]"), ("rejected", "[[no]]")]
    assert block.parts[2].note == "6 tokens, 2 trained"
    assert json.loads(json.dumps(shown))[0]["margin"] == 2.5
    page = show_page.page("t", [], [], shown)
    assert page.count("ask:") == 1
    assert "f:1 · margin 2.5" in page
    assert "<div class=half><h3>rejected · 6 tokens, 2 trained</h3><pre><mark>no</mark>" in page


def test_prompts_that_were_cut_to_different_texts_are_both_shown(tmp_path):
    (block,) = show_pairs.blocks(pair_of(tmp_path, "long ask:yes", "ask:no"))
    assert [part.title for part in block.parts] == ["chosen", "rejected"]
    assert show.marked(block.parts[0].spans, colour=False) == "long ask:[[yes]]"
    untrained = pair_of(tmp_path, "ask:yes", "ask:no", lambda text: np.zeros(len(text), np.float32))
    assert [part.title for part in next(show_pairs.blocks(untrained)).parts] == [
        "chosen",
        "rejected",
    ]


@pytest.mark.parametrize("c", ["\u202e", "\u2066", "\u200b", "\x9b", "\x1b", "\ufeff", "\u2028"])
def test_characters_that_steer_or_hide_are_escaped(c):
    assert unseen.printable(f"a{c}b") == f"a{ascii(c)[1:-1]}b"
    text = json.dumps({"a": f"x{c}\n"}, ensure_ascii=False, indent=1)
    assert c not in unseen.json_text(text)
    assert json.loads(unseen.json_text(text)) == {"a": f"x{c}\n"}


def test_what_people_read_is_left_alone():
    text = "naïve 四\u3000👩\u200d💻 a\tb\n"
    assert unseen.printable(text) == text


@given(st.lists(st.integers(1, 5000), max_size=50))
def test_histogram_counts_every_item_once(lengths):
    found = show.histogram(np.array(lengths, np.int32))
    for one in found:
        assert one["items"] == sum(one["from"] <= n < one["to"] for n in lengths)
    assert sum(one["items"] for one in found) == len(lengths)
    assert len(show.bars(found)) == len(found)
