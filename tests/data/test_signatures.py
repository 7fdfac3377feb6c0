"""Files that are something else than their names say, and files that are passed over."""

from __future__ import annotations

import gzip

import pytest

from tunesmith.data import read
from tunesmith.errors import DataError

GOOD = b'{"text": "one"}\n{"text": "two"}\n'


OTHERS = [
    ("book.csv", b"PK\x03\x04rest", "Excel"),
    ("book.jsonl", b"PAR1\x15rest", "rename it to end in .parquet"),
    ("rows.json", b"\x28\xb5\x2f\xfdrest", "zstd -d"),
    ("rows.txt", b"%PDF-1.7", "pdftotext"),
    ("rows.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("rows.csv", b"<!DOCTYPE html><p>", "the address gave a page"),
    ("rows.zip", b"PK\x03\x04rest", "unzip it"),
    ("rows.jsonl.bz2", b"BZh91AY&SYrest", "bunzip2"),
    ("rows.jsonl", gzip.compress(GOOD), "name it with .gz"),
    ("rows.jsonl.gz", gzip.compress(b"PK\x03\x04rest"), "unzip it"),
]


@pytest.mark.parametrize(("name", "content", "fix"), OTHERS, ids=[o[2] for o in OTHERS])
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path, name, content, fix):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read.rows(tmp_path / name))
    assert caught.value.code == "D104"
    assert fix in str(caught.value)


def test_a_page_may_be_a_document(tmp_path):
    (tmp_path / "page.txt").write_text("<html>\n<p>one</p>\n")
    assert [row.value for row in read.rows(tmp_path / "page.txt")] == ["<html>", "<p>one</p>"]


def test_files_of_a_folder_that_are_passed_over_are_told(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    for name in ("README.md", "LICENSE", ".hidden", "dataset_info.json"):
        (tmp_path / name).write_text("x")
    assert read.notes(tmp_path) == []
    (tmp_path / "b.jsonl.zst").write_bytes(b"x")
    (tmp_path / "c.xlsx").write_bytes(b"x")
    (note,) = read.notes(tmp_path)
    assert note.endswith("2 files passed over, no rows: b.jsonl.zst, c.xlsx")
    (tmp_path / "bad.json").write_text("[{")
    assert read.notes(tmp_path / "bad.json") == []  # what is wrong is told where it is read
