"""Damage of every kind is mended and counted; what has no single meaning is rejected and kept."""

from __future__ import annotations

import codecs
import gzip
import json
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from tunesmith.data import decode, mend, read, repair, texts
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Source

ROW = {"instruction": "Grüße", "output": "Hi!"}
LINE = json.dumps(ROW, ensure_ascii=False)


def mended(tmp_path, raw, name="a.jsonl", out="out.jsonl"):
    path = tmp_path / name
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    found = repair.repair(Source(str(path)), tmp_path / out)
    return found, [row.value for row in read.rows(tmp_path / out)]


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (codecs.BOM_UTF8 + LINE.encode(), "BOM removed"),
        (LINE.encode("utf-16"), "UTF-16 → UTF-8"),
        (LINE.encode("utf-32"), "UTF-32 → UTF-8"),
        (LINE.encode("cp1252"), "CP1252 → UTF-8"),
        (LINE + "\r\n", "CRLF → LF"),
        (LINE + "\n\n", "empty rows removed"),
        (LINE + "\n{}\n", "empty rows removed"),
        (LINE + ",\n", "comma between rows removed"),
        (LINE[:-1] + ",}", "trailing commas removed"),
        (repr(ROW), "Python literals → JSON"),
        (LINE.replace("Hi!", "Hi!\0"), "NUL removed"),
        (LINE.replace("Hi!", "Hi!\\u0000"), "NUL removed"),
        (LINE.replace("Hi!", "Hi!\\ud800"), "halves of characters removed"),
        (LINE.encode().decode("cp1252"), "mojibake undone"),
        (json.dumps(ROW, indent=2), "objects over several lines"),
        (f"[{LINE},]", "end of the array mended"),
        (f"[{LINE}", "end of the array mended"),
    ],
)
def test_one_kind_of_damage(tmp_path, raw, kind):
    found, rows = mended(tmp_path, raw, "a.json")
    assert rows == [ROW]
    assert found["repairs"] == {kind: 1}
    assert found["rejected"] == 0


def test_what_is_mended_has_no_hidden_characters_any_more(tmp_path):
    row = {"instruction": "a\u202eb\u200b\x01", "output": "c\x0cd \u1780\u200b\u1780"}
    found, rows = mended(tmp_path, json.dumps(row))
    assert rows == [{"instruction": "ab", "output": "c d \u1780\u200b\u1780"}]
    assert found["repairs"] == {"invisible or control characters removed": 2}
    left = texts.check(Source(str(tmp_path / "out.jsonl")))
    assert {one.level for one in left} == {"OK"}


def test_an_object_over_several_lines_among_others(tmp_path):
    nested = {**ROW, "history": [["a {", "b }"], ["c", "d"]], "more": {"x": {}}}
    lines = [LINE, json.dumps(nested, indent=1), LINE, LINE[:20], LINE, "{", '"instruction":']
    found, rows = mended(tmp_path, "\n".join(lines), "a.jsonl")
    assert rows == [ROW, nested, ROW, ROW]
    assert found["repairs"] == {"objects over several lines": 1}
    assert found["rejected"] == 3


def test_chinese_text_is_told_from_european(tmp_path):
    row = {"instruction": "你好，世界", "output": "很好"}
    found, rows = mended(tmp_path, json.dumps(row, ensure_ascii=False).encode("gb18030"))
    assert rows == [row]
    assert found["repairs"] == {"GB18030 → UTF-8": 1}


def test_nan_becomes_null_and_two_rows_on_a_line_become_two(tmp_path):
    raw = '{"prompt": "a", "completion": "b", "score": NaN}{"prompt": "c", "completion": "NaN"}'
    found, rows = mended(tmp_path, raw)
    assert [row.get("score", 0) for row in rows] == [None, 0]
    assert rows[1]["completion"] == "NaN"  # in a string it is a word
    assert found["repairs"]["NaN and Infinity → null"] == 1
    assert found["repairs"]["several rows on one line"] == 1


def test_a_comma_in_a_string_is_no_trailing_comma():
    text = '{"a": "x,}", "b": "y,]",}'
    assert list(mend.values(text, Counter())) == [{"a": "x,}", "b": "y,]"}]


def test_what_can_not_be_mended_is_kept_beside(tmp_path):
    lines = [LINE, '{"instruction": "a", "instruction": "b"}', '{"instruction": "cut", "outp',
             '{"other": 1}', "words", LINE.replace("Hi!", "")]  # fmt: skip
    found, rows = mended(tmp_path, "\n".join(lines))
    assert rows == [ROW]
    assert (found["rows"], found["written"], found["rejected"]) == (6, 1, 5)
    reasons = [problem["reason"] for problem in found["problems"]]
    assert reasons[0] == "the key `instruction` stands twice in one object"
    assert reasons[1] == "the row is cut off"
    rejects = (tmp_path / "out.jsonl.rejected.txt").read_text("utf-8")
    assert "a.jsonl:2: the key" in rejects and '{"instruction": "cut", "outp' in rejects  # noqa: PT018


def test_a_broken_element_does_not_take_the_rest_with_it(tmp_path):
    rows = [{"instruction": str(i), "output": "x"} for i in range(4)]
    text = json.dumps(rows, indent=2).replace('"instruction": "1",', '"instruction": "1" "oops",')
    found, kept = mended(tmp_path, text, "a.json")
    assert [row["instruction"] for row in kept] == ["0", "2", "3"]
    assert found["problems"][0]["where"].endswith("a.json:6")


def test_tables_and_text(tmp_path):
    raw = "prompt,completion\r\na,caf\u00e9\r\n,\r\nb\r\n".encode("cp1252")
    found, rows = mended(tmp_path, raw, "a.csv", "out.csv")
    assert rows == [{"prompt": "a", "completion": "café"}]
    assert (found["repairs"]["empty rows removed"], found["rejected"]) == (1, 1)
    _, lines = mended(tmp_path, "eins\r\n\r\nzwölf".encode("latin-1"), "a.txt", "out.txt")
    assert lines == ["eins", "zwölf"]


def test_gzip_and_good_files_are_left_as_they_are(tmp_path):
    found, rows = mended(tmp_path, gzip.compress(f"{LINE}\n{LINE}\n".encode()), "a.jsonl.gz")
    assert (found["repairs"], found["rejected"], rows) == ({}, 0, [ROW, ROW])


def test_what_is_no_single_file(tmp_path):
    with pytest.raises(DataError, match="D112"):
        repair.repair(Source(str(tmp_path)), tmp_path / "out.jsonl")
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="D102"):
        repair.repair(Source(str(tmp_path / "a.jsonl")), tmp_path / "out.jsonl")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_good_text_is_no_mojibake(text):
    """Undoing must be safe: text that was right stays, but for what could not be told apart."""
    once = decode.unmangled(text)
    if once != text:
        assert decode._as_windows(text).decode() == once


@pytest.mark.parametrize("text", ["é", "naïve café", "你好", "Ж", "“quoted” — dash", "😀"])
def test_mojibake_is_undone_exactly(text):
    mangled = "".join(
        bytes([byte]).decode("cp1252") if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(byte)
        for byte in text.encode()
    )
    assert decode.unmangled(mangled) == text
    assert decode.unmangled(text) == text


@pytest.mark.shared
def test_a_real_file_that_breaks_off(shared_data, tmp_path):
    (path,) = (shared_data / "instruct" / "malformed").iterdir()
    with pytest.raises(DataError, match="D105"):
        list(read.rows(path))
    found = repair.repair(Source(str(path)), tmp_path / "out.jsonl")
    assert (found["rows"], found["written"]) == (2801, 2799)
    hidden = {"invisible or control characters removed": 19}
    assert found["repairs"] == {"end of the array mended": 1, **hidden}
