"""What is written is what is read again, in every kind of file."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tunesmith.data import read, write
from tunesmith.errors import ConfigError, DataError

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"))
RELAXED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30
)


def written(path, rows):
    with write.writer(path) as put:
        for row in rows:
            put(row)
    return [row.value for row in read.rows(path)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.parquet"])
@RELAXED
@given(st.lists(st.fixed_dictionaries({"a": text, "b": st.lists(text)}), min_size=1, max_size=5))
def test_objects(tmp_path, name, rows):
    assert written(tmp_path / name, rows) == rows


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@RELAXED
@given(st.lists(st.fixed_dictionaries({"a": text, "b": text}), min_size=1, max_size=5))
def test_tables(tmp_path, name, rows):
    assert written(tmp_path / name, rows) == rows


def test_text_and_an_empty_array(tmp_path):
    assert written(tmp_path / "a.txt", ["one", {"text": "two"}]) == ["one", "two"]
    with write.writer(tmp_path / "b.json"):
        pass
    assert (tmp_path / "b.json").read_text() == "[]\n"


@pytest.mark.parametrize(
    ("name", "rows", "what"),
    [
        ("a.csv", [{"a": [1]}], "a list or an object"),
        ("a.csv", [{"a": "1"}, {"b": "1"}], "not in the first row"),
        ("a.txt", [{"a": "1"}], "one text a line"),
        ("a.txt", ["one\ntwo"], "several lines"),
        ("a.parquet", [{"a": 1}, {"a": "x"}], "column types"),
    ],
)
def test_what_a_kind_of_file_can_not_hold(tmp_path, name, rows, what):
    path = tmp_path / name
    with pytest.raises(DataError, match="D111") as caught:
        written(path, rows)
    assert what in str(caught.value)
    assert list(tmp_path.iterdir()) == []  # nothing half written is left


def test_targets_that_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ConfigError, match="C212"):
        write.check_target(path, replace=False)
    with pytest.raises(ConfigError, match="C212"):
        write.check_target(path, replace=True, sources=(path,))
    with pytest.raises(DataError, match="D104"):
        write.check_target(tmp_path / "a.doc", replace=True)
    write.check_target(path, replace=True)
