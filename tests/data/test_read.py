"""Hostile and ordinary files: read, or refused with file and line."""

from __future__ import annotations

import csv
import gzip
import json
import resource
import subprocess
import sys
import time

import pytest

from tunesmith.cli.main import main
from tunesmith.data import json_rows, read, repair, tables
from tunesmith.errors import DataError, MissingExtra
from tunesmith.recipe.sections import Source

GOOD = b'{"text": "one"}\n{"text": "two"}\n'
FIVE = b'{"text": "fine"}\n' * 5

# name, bytes, code, line: the fault stands on `line`.
HOSTILE = [
    ("utf16.jsonl", GOOD.decode().encode("utf-16"), "D103", 1),
    ("gbk.jsonl", FIVE + '{"text": "中文"}\n'.encode("gbk"), "D103", 6),
    ("invalid.jsonl", FIVE + b'{"text": "a\xffb"}\n', "D103", 6),
    ("overlong.jsonl", FIVE + b'{"text": "\xc0\xaf"}\n', "D103", 6),
    ("surrogate.jsonl", FIVE + b'{"text": "a\\ud800b"}\n', "D109", 6),
    ("surrogate_key.jsonl", FIVE + b'{"\\udc00": "a"}\n', "D109", 6),
    ("nul_byte.jsonl", FIVE + b'{"text": "a\0b"}\n', "D109", 6),
    ("nul_escaped.jsonl", FIVE + b'{"text": "a\\u0000b"}\n', "D109", 6),
    ("truncated.jsonl", FIVE + b'{"text": "a', "D105", 6),
    ("cut_after_comma.jsonl", FIVE + b'{"text": "a",', "D105", 6),
    ("array_row.jsonl", FIVE + b'["a", "b"]\n', "D106", 6),
    ("string_row.jsonl", FIVE + b'"a"\n', "D106", 6),
    ("number_row.jsonl", FIVE + b"42\n", "D106", 6),
    ("null_row.jsonl", FIVE + b"null\n", "D106", 6),
    ("duplicate.jsonl", FIVE + b'{"text": "a", "text": "b"}\n', "D107", 6),
    ("duplicate_deep.jsonl", FIVE + b'{"a": [{"b": 1, "b": 2}]}\n', "D107", 6),
    ("nan.jsonl", FIVE + b'{"text": NaN}\n', "D109", 6),
    ("infinity.jsonl", FIVE + b'{"text": -Infinity}\n', "D109", 6),
    ("huge_float.jsonl", FIVE + b'{"text": 1e999}\n', "D109", 6),
    ("huge_int.jsonl", FIVE + b'{"n": ' + b"9" * 5000 + b"}\n", "D109", 6),
    ("int_65_bits.jsonl", FIVE + b'{"n": 18446744073709551616}\n', "D109", 6),
    ("nested.jsonl", FIVE + b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "D105", 6),
    ("two_on_a_line.jsonl", FIVE + b'{"text": "a"} {"text": "b"}\n', "D105", 6),
    ("trailing.jsonl", FIVE + b'{"text": "a"} # note\n', "D105", 6),
    ("single_quotes.jsonl", FIVE + b"{'text': 'a'}\n", "D105", 6),
    ("empty.jsonl", b"", "D102", 1),
    ("blank.jsonl", b"\n \n\n", "D102", 1),
    ("gzip.jsonl", gzip.compress(GOOD), "D104", 1),
    ("plain.jsonl.gz", GOOD, "D104", 1),
    ("cut.jsonl.gz", gzip.compress(GOOD * 1000)[:-20], "D104", None),
    ("csv.jsonl", b"text,label\nhello,1\n", "D105", 1),
    ("one_object.json", b'{\n  "a": 1,\n  "b": 2\n}\n', "D106", 1),
    ("truncated.json", b'[\n{"text": "a"},\n{"text": "b', "D105", 3),
    ("unclosed.json", b'[\n{"text": "a"},\n{"text": "b"}\n', "D105", 4),
    ("comma.json", b'[\n{"text": "a"},\n]\n', "D105", 3),
    ("no_comma.json", b'[\n{"text": "a"}\n{"text": "b"}]\n', "D105", 3),
    ("after.json", b'[\n{"text": "a"}]\n{"text": "b"}\n', "D105", 3),
    ("scalar_element.json", b'[\n{"text": "a"},\n 7\n]', "D106", 3),
    ("duplicate.json", b'[\n{"text": "a"},\n {"a": 1,\n "a": 2}\n]', "D107", 3),
    ("nan.json", b'[\n{"text": "a"},\n {"a": NaN}\n]', "D109", 3),
    ("syntax.json", b'[\n{"text": "a"},\n {"a": \n tru}\n]' + b" " * 99, "D105", 4),
    ("nested.json", b'[\n{"a": ' + b"[" * 100_000, "D105", 2),
    ("invalid.json", b'[\n{"text": "a"},\n{"text": "\xff"}]', "D103", 3),
    ("fields.csv", b"a,b\n1,2\n1,2,3\n", "D110", 3),
    ("quotes.csv", b'a,b\n1,2\n"x,2\n3,4\n', "D110", 3),
    ("columns.csv", b"a,a\n1,2\n", "D110", 1),
    ("header_only.csv", b"a,b\n", "D102", 1),
    ("latin1.csv", b"a,b\n1,caf\xe9\n", "D103", 2),
    ("nul.txt", b"fine\na\0b\n", "D109", 2),
    ("notes.docx", b"anything", "D104", None),
]


@pytest.mark.parametrize(("name", "content", "code", "line"), HOSTILE, ids=[h[0] for h in HOSTILE])
def test_hostile_file_is_refused_with_its_line(tmp_path, name, content, code, line):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read.rows(path))
    assert caught.value.code == code
    place = f"{path}:{line}" if line else str(path)
    assert (caught.value.where + ":").startswith(f"{place}:" if line else place)
    assert len(str(caught.value).splitlines()) <= 8


GOOD_FILES = [
    ("bom.jsonl", b"\xef\xbb\xbf" + GOOD),
    ("crlf.jsonl", GOOD.replace(b"\n", b"\r\n")),
    ("no_newline.jsonl", GOOD.rstrip()),
    ("blank_lines.jsonl", b"\n" + GOOD.replace(b"\n", b"\n\n  \n")),
    ("lines.json", GOOD),
    ("array.json", b'[{"text": "one"}, {"text": "two"}]'),
    ("array.jsonl", b'[{"text": "one"},\n{"text": "two"}]'),
    ("pretty.json", json.dumps([{"text": "one"}, {"text": "two"}], indent=2).encode()),
    ("bom.json", b"\xef\xbb\xbf \n[" + b'{"text": "one"}, {"text": "two"}]'),
    ("zip.jsonl.gz", gzip.compress(GOOD)),
    ("zip.json.gz", gzip.compress(b'[{"text": "one"}, {"text": "two"}]')),
    ("table.csv", b"text\none\ntwo\n"),
    ("bom.csv", b"\xef\xbb\xbftext\r\none\r\n\r\ntwo"),
    ("table.tsv", b"text\none\ntwo\n"),
]


@pytest.mark.parametrize(("name", "content"), GOOD_FILES, ids=[g[0] for g in GOOD_FILES])
def test_ordinary_file_is_read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert [row.value for row in read.rows(path)] == [{"text": "one"}, {"text": "two"}]


def test_line_separators_of_unicode_are_text(tmp_path):
    path = tmp_path / "u2028.jsonl"
    path.write_text('{"text": "a\u2028b\u2029c\x85d"}\n{"text": "e"}\n', encoding="utf-8")
    assert [row.value["text"] for row in read.rows(path)] == ["a\u2028b\u2029c\x85d", "e"]
    text = tmp_path / "u2028.txt"
    text.write_text("a\u2028b\r\n\n  c\n", encoding="utf-8")
    assert [(row.value, row.line) for row in read.rows(text)] == [("a\u2028b", 1), ("  c", 3)]


def test_pairs_of_surrogates_and_escaped_backslashes_are_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "\\ud83d\\ude00"}\n{"text": "\\\\u0000 \\\\ud800"}\n')
    assert [r.value["text"] for r in read.rows(path)] == ["😀", "\\u0000 \\ud800"]


def test_lines_are_counted_through_a_pretty_array(tmp_path):
    rows = [{"text": "x" * n, "deep": [n, {"a": "\n"}]} for n in range(300)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, indent=3))
    lines = path.read_text().splitlines()
    read_back = list(read.rows(path))
    assert [row.value for row in read_back] == rows
    for row in read_back:
        assert lines[row.line - 1].strip() == "{"
        assert f'"{row.value["text"]}"' in lines[row.line]


def test_array_larger_than_the_window(tmp_path, monkeypatch):
    """Every position of the border between two chunks."""
    rows = [{"t": 'é\\"', "n": [1.5, True, None]}, {"u": "中\n" * 5}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    for chunk in range(1, 40):
        monkeypatch.setattr("tunesmith.data.json_rows.CHUNK", chunk)
        assert [row.value for row in read.rows(path)] == rows


def test_bad_rows_can_be_collected(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"nonsense\n" + GOOD + b"null\n" + GOOD)
    bad = []
    assert len(list(read.rows(path, on_bad=bad.append))) == 6
    assert [(e.code, e.where) for e in bad] == [("D105", f"{path}:3"), ("D106", f"{path}:6")]
    array = tmp_path / "a.json"
    array.write_text('[{"a": 1}, 5, {"a": 1, "a": 2},\n{"n": ' + "9" * 5000 + '}, {"b": 2}]')
    bad.clear()
    assert [r.value for r in read.rows(array, on_bad=bad.append)] == [{"a": 1}, {"b": 2}]
    assert [e.code for e in bad] == ["D106", "D107", "D109"]


def test_max_samples(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"nonsense\n")
    assert len(list(read.rows(path, max_samples=2))) == 2
    assert list(read.rows(path, max_samples=0)) == []


def test_csv_with_quoted_newlines_knows_its_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('q,a\n"one\n\nmore",1\n"two, with comma",2\n', encoding="utf-8")
    found = [(row.value, row.line) for row in read.rows(path)]
    assert found == [
        ({"q": "one\n\nmore", "a": "1"}, 2),
        ({"q": "two, with comma", "a": "2"}, 5),
    ]


def test_folder_is_read_recursively_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.jsonl").write_bytes(GOOD)
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / ".hidden.jsonl").write_bytes(b"nonsense")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "LICENSE").write_text("free")
    names = [row.file for row in read.rows(tmp_path)]
    assert names == [str(tmp_path / "a.jsonl")] * 2 + [str(tmp_path / "b" / "2.jsonl")] * 2


def test_folder_of_several_kinds_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.csv").write_bytes(b"a\n1\n")
    with pytest.raises(DataError, match=r"D104.*mixes"):
        list(read.rows(tmp_path))


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="D101"):
        list(read.rows(tmp_path / "missing.jsonl"))
    with pytest.raises(DataError, match=r"D101.*no data files"):
        list(read.rows(tmp_path))
    with pytest.raises(DataError, match=r"D101(.|\n)*known: builtin:"):
        list(read.rows("builtin:no-such-set"))


def test_whole_files_are_documents(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")
    (tmp_path / "b.md").write_text("# three\n")
    found = [(row.value, row.line) for row in read.rows(tmp_path, whole=True)]
    assert found == [("one\n\ntwo\n", 1), ("# three\n", 1)]


def test_parquet_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtra, match="pyarrow"):
        list(read.rows(tmp_path / "a.parquet"))


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="the extra `hub` is not installed")
    import pyarrow.parquet

    table = arrow.table({"prompt": ["a", "b"], "n": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = [(row.value, row.line) for row in read.rows(tmp_path / "a.parquet")]
    assert found == [({"prompt": "a", "n": 1}, 1), ({"prompt": "b", "n": 2}, 2)]
    (tmp_path / "b.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="D104"):
        list(read.rows(tmp_path / "b.parquet"))
    whole = bytearray((tmp_path / "a.parquet").read_bytes())
    whole[4:40] = b"x" * 36  # the footer is there, the pages are not
    (tmp_path / "b.parquet").write_bytes(whole)
    with pytest.raises(DataError, match="D104"):
        list(read.rows(tmp_path / "b.parquet"))


READ_ALL = r"""
import re, sys
from tunesmith.data import json_rows, read
from tunesmith.errors import DataError
try:
    for _ in read.rows(sys.argv[1]): pass
except DataError as error:
    print(error.code, error.where)
# Not ru_maxrss, which a child inherits from the process that started it.
print(int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_line_of_100_mb_ends_in_an_error_in_little_memory(tmp_path, name):
    path = tmp_path / name
    start = {"a.jsonl": b'{"a": "', "a.json": b'[\n{"a": "', "a.csv": b'a\n"', "a.txt": b""}[name]
    with path.open("wb") as stream:
        stream.write(start)
        for _ in range(100):
            stream.write(b"x" * (1 << 20))
    line = 1 + start.count(b"\n")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, path], capture_output=True, text=True, check=True
    )
    said, memory = done.stdout.splitlines()
    assert said == f"D108 {path}:{line}"
    assert int(memory) < 300
    assert time.monotonic() - began < 10


def test_content_hash_is_of_bytes_not_of_names(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.jsonl").write_bytes(GOOD)
    first = read.content_hash(tmp_path / "a.jsonl")
    assert first == read.content_hash(tmp_path / "b.jsonl")
    (tmp_path / "b.jsonl").write_bytes(GOOD + b"\n")
    assert first != read.content_hash(tmp_path / "b.jsonl")


def test_alpaca_is_read_fast(shared_data):
    path = shared_data / "instruct" / "alpaca_data.json"
    began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    found = list(read.rows(path))
    assert len(found) == 52_002
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - began < 2
    assert found[0].line == 2
    assert found[-1].line == 260_007


def test_the_real_broken_file_breaks_at_its_line(shared_data):
    path = next((shared_data / "instruct" / "malformed").iterdir())
    found = []
    with pytest.raises(DataError) as caught:
        found.extend(row for row in _collect(path, found))
    assert caught.value.code == "D105"
    assert caught.value.where == f"{path}:14007"
    assert len(found) == 2801


def _collect(path, found):
    for row in read.rows(path):
        found.append(row)
    return []


def test_a_hub_set_without_its_prefix_is_told_the_prefix():
    with pytest.raises(DataError, match=r"D101(.|\n)*hf:org/name"):
        read.locate("org/name")
    with pytest.raises(DataError) as caught:
        read.locate("folder/chats.jsonl")
    assert "hf:" not in str(caught.value)


def test_rows_that_share_a_line_are_numbered(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}, 5, {"a": 2}]')
    bad: list[DataError] = []
    found = list(read.rows(path, on_bad=bad.append))
    assert [row.where for row in found] == [f"{path}:1 (row 1)", f"{path}:1 (row 3)"]
    assert bad[0].where == f"{path}:1 (row 2)"
    assert [json_rows.line_and_row(row.place) for row in found] == [(1, 1), (1, 3)]
    path.write_text('[\n{"a": 1},\n{"a": 2}, {"a": 3},\n{"a": 4}\n]')
    places = [row.where.removeprefix(f"{path}:") for row in read.rows(path)]
    assert places == ["2", "3", "3 (row 3)", "4"]


@pytest.mark.parametrize(
    ("said", "place"),
    [("f:3", (3, 0)), ("f:3:14", (3, 0)), ("f:3 (row 9)", (3, 9)), ("f:3:1 (row 9)", (3, 9))],
)
def test_a_place_is_found_in_what_is_said_of_it(said, place):
    assert json_rows.line_and_row(json_rows.place_of(said, "f")) == place
    assert json_rows.place_of("f", "f") == 0


@pytest.mark.parametrize(
    ("name", "header", "separator"),
    [
        ("a.csv", "q,a", ","),
        ("a.csv", "q;a", ";"),
        ("a.csv", "q\ta", "\t"),
        ("a.csv", "q|a", "|"),
        ("a.csv", '"q, please";a', ";"),  # a comma in quotes separates nothing
        ("a.csv", "q;note,a", ","),  # the usual one, if it is there at all
        ("a.tsv", "q\ta, short; or long", "\t"),
        ("a.tsv", "q,a", ","),
        ("a.csv", "text;", ","),  # a column would have no name
        ("a.csv", "text", ","),
    ],
)
def test_separators_are_seen_in_the_first_line_and_said(tmp_path, name, header, separator):
    kind = name[-3:]
    assert tables.delimiter(header + "\r\n", kind) == separator
    path = tmp_path / name
    columns = next(csv.reader([header], delimiter=separator))
    quoted = separator.join('"x, y; z"' for _ in columns)
    path.write_text(f"\ufeff{header}\r\n{quoted}\r\n", encoding="utf-8", newline="")
    assert [row.value for row in read.rows(path)] == [dict.fromkeys(columns, "x, y; z")]
    said = read.separators(path)
    told = f"{path}: columns separated by {tables.SPOKEN[separator]}, as its first line says"
    assert said == ([] if separator == tables.USUAL[kind] else [told])


def test_line_ends_in_cells_are_those_of_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'q,a\r\n"one\r\n\r\nmore","x\ny"\r\n')
    assert [row.value for row in read.rows(path)] == [{"q": "one\n\nmore", "a": "x\ny"}]


def test_a_table_of_semicolons_is_mended_and_split_as_one(tmp_path, capsys):
    path = tmp_path / "a.csv"
    rows = "".join(f"Frage {n};Antwort, {n}\r\n" for n in range(4))
    path.write_bytes(b"question;answer\r\n" + rows.encode() + b";\r\nnur eins\r\n")
    out = tmp_path / "m.jsonl"
    found = repair.repair(Source(str(path)), out)
    assert (found["written"], found["rejected"]) == (4, 1)
    assert json.loads(out.read_text().splitlines()[3]) == {
        "question": "Frage 3",
        "answer": "Antwort, 3",
    }
    path.write_bytes(b"question;answer\r\n" + rows.encode())
    assert main(["data", "split", str(path), "-o", str(tmp_path / "s"), "--eval", "1"]) == 0
    assert "columns separated by semicolons" in capsys.readouterr().err
    assert (tmp_path / "s" / "train.csv").read_text().startswith("question,answer\n")
    assert main(["data", "inspect", str(path)]) == 0
    shown = capsys.readouterr()
    assert "columns separated by semicolons" in shown.err
    assert "[[Antwort, 0" in shown.out
