"""What is a document of a corpus."""

from __future__ import annotations

import json

import pytest

from tunesmith.data import documents
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Source

WRAPPED = "one\ntwo\n\nthree\n"


def of(path, divided="auto", said=None):
    said = [] if said is None else said
    found = documents.batches([Source(str(path))], divided, lambda topic, text: said.append(text))
    return [text for batch in found for text in batch]


def test_a_blank_line_among_the_first_says_paragraphs(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(WRAPPED)
    said: list[str] = []
    assert of(path, said=said) == ["one\ntwo", "three"]
    assert "a blank line ends a document" in said[0]
    assert of(path, "lines") == ["one", "two", "three"]
    path.write_text("one\ntwo\nthree\n")
    said.clear()
    assert of(path, said=said) == ["one", "two", "three"]
    assert "each line is a document" in said[0]
    assert of(path, "paragraphs") == ["one\ntwo\nthree"]


def test_only_the_first_lines_are_looked_at_and_files_end_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LOOK_AT", 3)
    (tmp_path / "a.txt").write_text("1\n2\n3\n4\n\n5\n")
    assert of(tmp_path) == ["1", "2", "3", "4", "5"]
    (tmp_path / "a.txt").write_text("1\n\n2\n3\n")
    (tmp_path / "b.txt").write_text("4\n")
    assert of(tmp_path) == ["1", "2\n3", "4"]
    assert of(tmp_path, "paragraphs") == ["1", "2\n3", "4"]


def test_a_file_without_blank_lines_is_no_document_of_any_length(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_ROW", 100)
    path = tmp_path / "a.txt"
    path.write_text("short\n\n" + "ten letters\n" * 50)
    with pytest.raises(DataError, match="D230") as caught:
        of(path, "paragraphs")
    assert caught.value.where == f"{path}:3"
    assert len(of(path, "lines")) == 51


def test_batches_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BATCH_CHARACTERS", 100)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * 40}) + "\n" for _ in range(10)))
    found = list(documents.batches([Source(str(path))], "auto", lambda topic, text: None))
    assert [len(batch) for batch in found] == [3, 3, 3, 1]
