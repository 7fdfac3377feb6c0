"""Rows from a function of the user's own."""

from __future__ import annotations

import pytest

from tunesmith.data import read, rows_function
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Source


def made(tmp_path, text, name="rows", **given):
    file = tmp_path / "mine.py"
    file.write_text(text)
    said = []
    source = Source(f"{file}:{name}", **given)
    found = rows_function.made(source, tmp_path / "home", lambda _, text: said.append(text))
    return found, said


def test_rows_are_kept_as_a_file(tmp_path):
    (tmp_path / "rows_beside.py").write_text("WORD = 'yo'\n")
    text = (
        "from rows_beside import WORD\n"
        "def rows():\n"
        "    for i in range(3):\n"
        "        yield {'q': str(i), 'a': WORD}\n"
    )
    found, said = made(tmp_path, text, weight=2.0)
    assert [row.value for row in read.rows(found.path)][2] == {"q": "2", "a": "yo"}
    assert found.weight == 2.0
    assert "running your code" in said[0]
    assert "3 rows" in said[1]
    assert made(tmp_path, text)[0].path == found.path
    assert made(tmp_path, text, max_samples=1)[0].path != found.path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "no function `rows`"),
        ("def rows(): return []", "yields no rows"),
        ("def rows(): return [5]", "yields int"),
        ("def rows(): return 5", "TypeError"),
        ("def rows(): raise ValueError('oh')", "ValueError: oh"),
        ("def rows(x): return []", "TypeError"),
        ("def rows(:", "SyntaxError"),
    ],
)
def test_functions_that_fail(tmp_path, text, words):
    with pytest.raises(DataError, match=rf"D134.*{words}"):
        made(tmp_path, text)
    assert not list((tmp_path / "home").rglob("*.*"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"D134.*there is no file"):
        rows_function.made(Source("none.py:rows"), tmp_path, lambda *_: None)


def test_what_names_a_function():
    assert rows_function.is_one("a/b.py:rows")
    for other in ("b.py", "b.py:", "b:rows", "b.py:1", "chats.jsonl"):
        assert not rows_function.is_one(other)
