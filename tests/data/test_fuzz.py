"""Whatever the bytes: rows or a DataError, never another exception; and JSON that Python wrote is
read back as it was."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tunesmith import registry
from tunesmith.data import read
from tunesmith.data.formats import base
from tunesmith.data.json_rows import Row
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(TEXT, VALUE, max_size=4), min_size=1, max_size=5)
RELAXED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
NAMES = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz"]


@RELAXED
@given(rows=ROWS, indent=st.sampled_from([None, 0, 2]), ascii=st.booleans())
def test_json_is_read_back(tmp_path, rows, indent, ascii):
    array, lines = tmp_path / "a.json", tmp_path / "a.jsonl"
    array.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii), encoding="utf-8")
    made = [json.dumps(row, ensure_ascii=ascii) for row in rows]
    lines.write_bytes("\n".join(made).encode())
    assert [row.value for row in read.rows(array)] == rows
    assert [row.value for row in read.rows(lines)] == rows


@RELAXED
@given(rows=ROWS, cut=st.floats(0, 1), junk=st.binary(max_size=3), name=st.sampled_from(NAMES))
def test_damaged_json_is_rows_or_an_error(tmp_path, rows, cut, junk, name):
    raw = json.dumps(rows, indent=1).encode()
    at = int(cut * len(raw))
    read_all(tmp_path / name, raw[:at] + junk + raw[at + len(junk) :])


@RELAXED
@given(raw=st.binary(max_size=60), name=st.sampled_from(NAMES))
def test_any_bytes_are_rows_or_an_error(tmp_path, raw, name):
    read_all(tmp_path / name, raw)


def read_all(path, raw):
    path.write_bytes(raw)
    bad = []
    with suppress(DataError):
        count = len(list(read.rows(path, on_bad=bad.append)))
        assert count + len(bad) > 0
    assert all(isinstance(error, DataError) and error.where for error in bad)


MAPPED = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "messages": "conversations",
    "prompt": "input",
    "instruction": "input",
    "system": "",
    "tree": "prompt",
    "text": "value",
}
NAMES_OF_COLUMNS = """role content from value name arguments function type text id label weight
tool_calls messages conversations prompt chosen rejected instruction input output history system
tools context completion src tgt data instances text role rank replies question human_answers
chatgpt_answers kto_tag"""
KEYS = st.sampled_from(NAMES_OF_COLUMNS.split())
LIKELY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["user", "assistant", "human", "gpt", "function_call", "", "hi", "{", "[1]"])
    | st.just("\n\nHuman: a\n\nAssistant: b"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", registry.names("formats"))
@settings(max_examples=60, deadline=None)
@given(value=st.dictionaries(KEYS, LIKELY, max_size=5) | TEXT, mapped=st.booleans())
def test_any_row_is_a_sample_or_an_error(name, value, mapped):
    module = base.load(name)
    row = Row(value, "f.jsonl", 3)
    columns = {role: column for role, column in MAPPED.items() if mapped and role in module.ROLES}
    module.detect([base.renamed(row, columns)])
    caught, samples = None, ()
    try:
        samples = base.samples(module, row, columns, DataConfig())
    except DataError as error:
        caught = error
    assert all(isinstance(sample, module.SAMPLE) for sample in samples)
    assert caught is None or caught.where == "f.jsonl:3"
