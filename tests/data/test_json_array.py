"""Arrays that are no UTF-8: what is spoilt is the row, as in JSON Lines."""

from __future__ import annotations

import pytest

from tunesmith.data import read
from tunesmith.errors import DataError

HALF = b'{"text": "half \xed\xa0\xbd of it"}'
"""CESU-8: a surrogate as bytes, which is no UTF-8."""
ESCAPED = b'{"text": "half \\ud83d of it"}'


@pytest.mark.parametrize("half", [HALF, ESCAPED, b'{"text": "caf\xe9"}'])
def test_half_a_character_spoils_its_row_alone(tmp_path, half):
    rows = [b'{"text": "one"}', half, b'{"text": "two"}', b'{"text": "\xe4\xb8\xad"}']
    found = {}
    contents = {"a.jsonl": b"\n".join(rows), "b.json": b"[" + b", ".join(rows) + b"]"}
    contents["a.json"] = b"[\n" + b",\n".join(rows) + b"\n]"
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        bad = []
        texts = [row.value["text"] for row in read.rows(path, on_bad=bad.append)]
        assert texts == ["one", "two", "中"]
        (one,) = bad
        found[name] = (one.code, one.where.removeprefix(str(path)))
    code = "D109" if half is ESCAPED else "D103"
    places = {"a.jsonl": ":2", "a.json": ":3", "b.json": ":1 (row 2)"}
    assert found == {name: (code, place) for name, place in places.items()}


def test_an_array_in_another_encoding_says_so(tmp_path):
    path = tmp_path / "gbk.json"
    path.write_bytes('[\n{"text": "誠實"},\n{"text": "中文"}\n]'.encode("gbk"))
    bad = []
    rows = read.rows(path, on_bad=bad.append)
    with pytest.raises(DataError, match="D103"):  # 誠 has a backslash in it: where it ends is lost
        list(rows)
    path.write_bytes(b'[\n{"text": "a"}\xff]')
    with pytest.raises(DataError, match=r"D103(.|\n)*byte 0xFF"):
        list(read.rows(path))
