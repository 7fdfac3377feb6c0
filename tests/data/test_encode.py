"""Encoding: the store's content, warm starts, resumed and damaged stores, and bad rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.toy import Encoder, encode_one
from tunesmith.data import encode, read, report as reports, workers
from tunesmith.data.formats import base
from tunesmith.errors import DataError, RunError
from tunesmith.recipe.sections import DataConfig, Source
from tunesmith.types import Conversation, Document, Preference

CONFIG = DataConfig()


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def alpaca(n: int):
    return [{"instruction": f"say {i}", "output": f"{i} " * (i % 7 + 1)} for i in range(n)]


def build(path, home, *, config=CONFIG, encoder=None, processes=1, **rest):
    sources = path if isinstance(path, tuple) else (Source(str(path)),)
    maker = encoder or Encoder()
    return encode.build(sources, config, maker, {}, num_proc=processes, home=home, **rest)


def content(data):
    return [[(e.ids_T.tolist(), e.weights_T.tolist()) for e in data[i]] for i in range(len(data))]


def calls(log: Path) -> list[int]:
    return [int(line.split()[1]) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.parametrize("processes", [1, 2])
def test_content_is_what_the_stage_made(tmp_path, processes):
    path = write(tmp_path / "a.jsonl", alpaca(3000))
    data = build(path, tmp_path / "home", processes=processes)
    rows = list(read.rows(path))
    assert len(data) == len(rows) == 3000
    assert content(data) == [
        [(e.ids_T.tolist(), e.weights_T.tolist()) for e in _expected(row)] for row in rows
    ]
    assert [data.where(i) for i in range(3000)] == [row.where for row in rows]
    report = data.report
    assert (report["rows"], report["items"], report["bad_rows"]) == (3000, 3000, 0)
    assert report["tokens"] == data.lengths.sum()
    assert report["trained"] == data.trained.sum()


def _expected(row):
    return encode_one(base.load("alpaca").parse(row, {}, CONFIG)).examples


def test_second_start_encodes_nothing(tmp_path):
    path = write(tmp_path / "a.jsonl", alpaca(50))
    log = tmp_path / "log"
    first = build(path, tmp_path / "home", encoder=Encoder(str(log)))
    said = []
    second = build(
        path, tmp_path / "home", encoder=Encoder(str(log)), progress=lambda *line: said.append(line)
    )
    assert calls(log) == [50]
    assert content(first) == content(second)
    assert first.report == second.report
    assert said == [("data", f"{path}: alpaca (detected)")]
    path.rename(tmp_path / "b.jsonl")
    moved = build(tmp_path / "b.jsonl", tmp_path / "home", encoder=Encoder(str(log)))
    assert calls(log) == [50]
    assert moved.where(3) == f"{tmp_path / 'b.jsonl'}:4"


def test_interrupted_encoding_goes_on(tmp_path):
    """One process is killed in the middle; what it finished is not done again."""
    rows = alpaca(4 * encode.BATCH_ROWS)
    die = 3 * encode.BATCH_ROWS + 5
    rows[die] = {"instruction": "please", "output": "die"}
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(RunError, match="R220"):
        build(path, tmp_path / "home", processes=2)
    (store,) = (tmp_path / "home" / "store").glob("*/*")
    assert not (store / "report.json").exists()
    done = [json.loads(line) for line in (store / "manifest.jsonl").read_text().splitlines()]
    assert 1 <= len(done) <= 3
    with (store / "manifest.jsonl").open("a") as manifest:
        manifest.write('{"shard": "shard-0000')  # torn while it was written
    (store / "shard-000003.tmp-123").write_bytes(b"half")
    log = tmp_path / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "_exit", lambda code: None)  # the row is harmless now
        data = build(path, tmp_path / "home", encoder=Encoder(str(log)))
    assert sum(calls(log)) == (4 - len(done)) * encode.BATCH_ROWS
    assert len(data) == len(rows)
    assert data[die][0].ids_T.tolist() == [1, *b"please", *b"die", 2]
    assert [path.name for path in store.glob("*tmp*")] == []
    assert not (store / "manifest.jsonl").exists()


@pytest.mark.parametrize("damage", ["cut", "gone", "report"])
def test_damaged_store_is_made_again(tmp_path, damage):
    path = write(tmp_path / "a.jsonl", alpaca(50))
    before = content(build(path, tmp_path / "home"))
    (shard,) = (tmp_path / "home" / "store").glob("*/*/shard-*")
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-8])
    elif damage == "gone":
        shard.unlink()
    else:
        (shard.parent / "report.json").write_text('{"rows": 5')
    assert content(build(path, tmp_path / "home")) == before


BUILD = """
import sys
from tests.data.test_encode import build
print(len(build(sys.argv[1], __import__("pathlib").Path(sys.argv[2]))))
"""


def test_two_processes_at_once(tmp_path):
    path = write(tmp_path / "a.jsonl", alpaca(2000))
    command = [sys.executable, "-c", BUILD, str(path), str(tmp_path / "home")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in running] == ["2000\n"] * 3


def test_several_sources_with_weights_and_limits(tmp_path):
    one = Source(str(write(tmp_path / "a.jsonl", alpaca(9))), weight=0.5, max_samples=4)
    two = Source(str(write(tmp_path / "b.jsonl", alpaca(3))), system="be kind")
    data = build((one, two), tmp_path / "home")
    assert len(data) == 7
    assert data.where(6) == f"{two.path}:3"
    assert set(data[0][0].weights_T.tolist()) == {0.0, 0.5}
    assert bytes(data[4][0].ids_T[1:9].tolist()) == b"be kind|"
    assert [source["rows"] for source in data.report["sources"]] == [4, 3]


def test_blocks_of_a_document_are_drawn_singly_sides_of_a_pair_together(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("x" * 25 + "\nshort\n")
    data = build(text, tmp_path / "home")
    assert data.lengths.tolist() == [12, 12, 7, 7]
    assert [data.where(i)[-2:] for i in range(4)] == [":1", ":1", ":1", ":2"]
    pair = write(tmp_path / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "cc"}])
    data = build(pair, tmp_path / "home")
    assert len(data) == 1
    assert [e.ids_T.tolist() for e in data[0]] == [[1, 97, 98, 2], [1, 97, 99, 99, 2]]
    assert data.lengths.tolist() == [9]


# ------------------------------------------------------------ bad rows


BAD = [
    *alpaca(2),
    {"instruction": "no answer"},
    {"messages": []},
    {"instruction": "a", "output": ""},
    {"instruction": "b", "output": ""},
]


def test_bad_rows_are_an_error_that_counts_them(tmp_path):
    path = write(tmp_path / "a.jsonl", [*alpaca(20), *BAD])
    with path.open("a") as stream:
        stream.write("not json\n")
    for _ in range(2):  # the second time the store is found, and says the same
        with pytest.raises(DataError) as caught:
            build(path, tmp_path / "home")
        error = caught.value
        assert error.code == "D121"
        assert error.what == "5 of 27 rows can't be used: see below"
        assert error.where.startswith(f"{path}:23 (+4 more;")
        assert "2 × `output` is empty" in error.why
        assert "on_bad_row=skip" in error.fix
        assert len(str(error).splitlines()) <= 8


def test_bad_rows_are_skipped_and_listed(tmp_path):
    path = write(tmp_path / "a.jsonl", [*alpaca(20), *BAD])
    with path.open("a") as stream:
        stream.write("not json\n")
    data = build(path, tmp_path / "home", config=DataConfig(on_bad_row="skip"))
    assert len(data) == 22
    listed = [(p["line"], p["code"]) for p in data.report["skipped"]]
    assert listed == [(23, "D121"), (24, "D121"), (25, "D122"), (26, "D122"), (27, "D105")]
    assert data.report["skipped"][0]["file"] == str(path)
    assert data.report["bad_rows"] == 5


def test_rows_with_nothing_to_train(tmp_path):
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = {"messages": [{"role": "user", "content": "a"}]}
    path = write(tmp_path / "a.jsonl", [good, bad, good, bad])
    with pytest.raises(DataError, match=r"D204.*2 of 4 rows can't be used: no assistant turn"):
        build(path, tmp_path / "home")
    write(path, [good, bad])
    with pytest.raises(DataError, match=r"D204\]: no assistant turn\n  --> .*a.jsonl:2\n"):
        build(path, tmp_path / "home")


def test_rows_that_are_too_long(tmp_path):
    long = {"instruction": "a", "output": "long skip"}
    path = write(tmp_path / "a.jsonl", [*alpaca(3), long, long])
    data = build(path, tmp_path / "home")  # left out on purpose: no error whatever on_bad_row says
    assert len(data) == 3
    assert (data.report["left_out"], data.report["bad_rows"]) == (2, 0)
    assert [p["line"] for p in data.report["skipped"]] == [4, 5]
    write(path, [*alpaca(3), long, {"instruction": "a", "output": "long error"}])
    for policy in ("error", "skip"):
        with pytest.raises(DataError, match=r"D207.*1 of 5 rows are too long: 99 tokens(.|\n)*:5"):
            build(path, tmp_path / "home", config=DataConfig(on_bad_row=policy))
    write(path, [long])
    with pytest.raises(DataError, match=r"D203(.|\n)*all 1 are longer"):
        build(path, tmp_path / "home")


def test_no_row_is_left(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"instruction": "a", "output": ""}] * 2)
    with pytest.raises(DataError, match=r"D122.*2 of 2"):
        build(path, tmp_path / "home", config=DataConfig(on_bad_row="skip"))
    with pytest.raises(DataError, match="D203"):
        build((), tmp_path / "home")
    with pytest.raises(DataError, match="D203"):
        build((Source(str(path), max_samples=0),), tmp_path / "home")


def test_data_of_another_stage(tmp_path):
    path = write(tmp_path / "a.jsonl", alpaca(3))
    with pytest.raises(DataError, match=r"D205.*alpaca gives conversations.*trains on documents"):
        build(path, tmp_path / "home", checks=encode.Checks((Document,)))
    build(path, tmp_path / "home", checks=encode.Checks((Preference, Conversation)))


def test_a_tokenizer_that_does_not_know_the_text(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"instruction": "x" * 96, "output": "?"}] * 2)
    build(path, tmp_path / "home", checks=encode.Checks(unk_id=7))
    with pytest.raises(DataError, match=r"D202.*97.0% of the tokens"):
        build(path, tmp_path / "home", checks=encode.Checks(unk_id=ord("x")))
    path = write(tmp_path / "b.jsonl", [{"instruction": "x" * 96, "output": "?"}] * 2)
    ones = encode.Checks(unk_id=ord("?"))  # 2 of 198 tokens
    with pytest.raises(DataError, match="D202"):
        build(path, tmp_path / "home", checks=ones)
    path = write(tmp_path / "c.jsonl", [{"instruction": "x" * 98, "output": "?"}] * 2)
    build(path, tmp_path / "home", checks=ones)


def test_unknown_role_and_format_are_told_before_reading(tmp_path):
    path = write(tmp_path / "a.jsonl", alpaca(3))
    with pytest.raises(DataError, match=r"D125.*no role `question`"):
        build((Source(str(path), "alpaca", {"question": "q"}),), tmp_path / "home")


def test_no_room_for_the_store(tmp_path):
    path = write(tmp_path / "a.jsonl", alpaca(3))
    (tmp_path / "home").write_text("a file where a folder should be")
    with pytest.raises(RunError, match="R221"):
        build(path, tmp_path / "home")


def test_default_is_all_cores(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        workers, "run", lambda make, tasks, n: asked.append(n) or (make()(t) for t in tasks)
    )
    build(write(tmp_path / "a.jsonl", alpaca(2000)), tmp_path / "home", processes=None)
    assert asked in ([workers.cores()], [])  # one core: no processes


@pytest.mark.parametrize(
    ("code", "reason", "items", "fix"),
    [
        ("D204", "the prompt alone does not fit data.max_length = 9 tokens", 5,
         "raise data.max_length, or data.on_bad_row=skip to go on without them"),
        ("D204", "prompt and answers do not fit data.max_length = 9 tokens", 0,
         "raise data.max_length"),
        ("D204", "no assistant turn", 0, "mend the rows"),
        ("D122", "`a` is empty", 0,
         "mend the rows, or say what they are: --format and --columns (format: and columns: in a"
         " recipe)"),
        ("D122", "`a` is empty", 5,
         "mend the rows, or data.on_bad_row=skip to go on without them"),
    ],
)  # fmt: skip
def test_what_to_do_about_bad_rows(code, reason, items, fix):
    problem = {"file": "f", "line": 1, "code": code, "reason": reason, "policy": "row"}
    dropped = {**problem, "line": 2, "reason": "too long on purpose", "policy": "skip"}
    report = {
        "refused": 0, "bad_rows": 2, "rows": items + 3, "items": items,
        "reasons": {reason: 2, "too long on purpose": 1},
        "skipped": [problem, dropped, {**problem, "line": 3}],
    }  # fmt: skip
    with pytest.raises(DataError, match=code) as caught:
        reports.judge(report, DataConfig(), unk=False)
    assert caught.value.fix == fix
    assert caught.value.what == f"2 of {items + 3} rows can't be used: {reason}"
    looked_at = "f" if code == "D122" else "RECIPE"
    assert (f"tunesmith data inspect {looked_at} --all" in caught.value.where) == (items > 0)
