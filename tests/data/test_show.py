"""What people see: trained tokens marked, control characters shown, HTML escaped."""

from __future__ import annotations

import itertools
import json

import numpy as np
from hypothesis import given, strategies as st

from tests.data.toy import Encoder
from tunesmith.data import encode, show
from tunesmith.recipe.sections import DataConfig, Source


def decode(ids):
    return bytes(i for i in ids if i > 2).decode(errors="replace")


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
    shown = show.rows(data, [0], decode)
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
    shown = show.rows(data, [1], decode)
    assert show.marked(shown[0]["spans"], colour=False) == "<b>&[[\\x1b[31m</mark>]]"
    finding = {"level": "MAJOR", "check": "<i>", "text": "a & b"}
    page = show.page("<t>", ["<pre>"], [finding], shown)
    assert "&lt;b&gt;&amp;<mark>\\x1b[31m&lt;/mark&gt;</mark>" in page
    assert "<i>" not in page
    assert "<t>" not in page
    assert "\x1b" not in page


@given(st.lists(st.tuples(st.integers(3, 99), st.sampled_from([0, 0.5, 1])), max_size=30))
def test_spans_cover_all_tokens_once(tokens):
    ids = np.array([i for i, _ in tokens], np.int32)
    weights = np.array([w for _, w in tokens], np.float32)
    found = show.spans(ids, weights, lambda part: ",".join(map(str, part)))
    assert ",".join(span.text for span in found) == ",".join(map(str, ids.tolist()))
    assert all(a.weight != b.weight for a, b in itertools.pairwise(found))


@given(st.lists(st.integers(1, 5000), max_size=50))
def test_histogram_counts_every_item_once(lengths):
    found = show.histogram(np.array(lengths, np.int32))
    for one in found:
        assert one["items"] == sum(one["from"] <= n < one["to"] for n in lengths)
    assert sum(one["items"] for one in found) == len(lengths)
    assert len(show.bars(found)) == len(found)
