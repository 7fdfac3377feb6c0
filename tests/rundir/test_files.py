"""Files are replaced whole, lines survive a torn neighbour."""

from __future__ import annotations

import os

import pytest

from tunesmith.rundir import files


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    files.write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    monkeypatch.undo()
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_torn_line_spoils_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    files.append_line(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    files.append_line(path, {"step": 2, "loss": float("inf"), "text": "é\n\u2028"})
    assert files.read_lines(path) == [
        {"step": 1},
        {"step": 2, "loss": None, "text": "é\n\u2028"},
    ]
    files.keep_lines(path, lambda line: line["step"] > 1)
    assert len(path.read_text().split("\n")) == 2


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (950, "950 B"), (21_400, "21.4 KB"), (3e6, "3.0 MB"), (1.25e9, "1.25 GB")],
)
def test_sizes_for_people(count, text):
    assert files.size_text(count) == text
