"""Texts that are read line by line, and look like one."""

from __future__ import annotations

import gzip

import pytest

from tunesmith.cli.main import main
from tunesmith.data import lines

VERSE = (
    "First Citizen:\nBefore we proceed any further, hear me\nspeak, all of you, before the day\n\n"
)
HARD = (
    "It was the best of times, it was the\nworst of times, and nobody had said\na word to me.\n\n"
)
APART = "A whole article stands in this line. It ends here.\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VERSE * 10, True),
        (HARD * 10, True),
        (HARD, False),  # too little to tell
        (APART * 40, False),
        ((APART + "\n") * 40, False),  # each line a text, blank lines between
        ((APART * 3 + "\n") * 20, False),  # groups of whole sentences
        ("word\n" * 100, False),
        ((APART * 9).replace("\n", " ") + "\n" + "and on\n\n", False),
        ((HARD.replace("\n", " " * 200 + "x\n")) * 10, False),
    ],
)
def test_what_looks_like_one_text(text, expected):
    assert lines.one_text(text.splitlines()) == expected


def test_files_are_found_among_sources(tmp_path):
    (tmp_path / "a.txt").write_text(VERSE * 10)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress((APART * 40).encode()))
    play, apart = str(tmp_path / "a.txt"), str(tmp_path / "b.txt.gz")
    source = lambda path, format: {"path": path, "format": format, "items": 70}
    assert lines.suspects([source(str(tmp_path), "text")]) == ([play], 2, 70)
    assert lines.suspects([source(play, "text"), source(apart, "text")]) == ([play], 2, 70)
    others = [source(play, "document"), source(apart, "text"), source("hf:a/b", "text")]
    assert lines.suspects(others) == ([], 1, 0)


def test_it_is_said_and_the_key_it_names_mends_it(tmp_path, capsys):
    path = tmp_path / "play.txt"
    said = (f"Citizen {n}:\nBefore {n} of us\nspeak to {n * n} more\n\n" for n in range(20))
    path.write_text("".join(said))
    assert main(["data", "check", str(path)]) == 0
    assert "MINOR" in (out := capsys.readouterr().out)
    assert "looks like one text" in out
    assert main(["data", "check", str(path), "--format", "document"]) == 0
    assert "like one text" not in capsys.readouterr().out


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text/tinyshakespeare/input.txt", True),
        ("text/gutenberg/war-and-peace.txt", True),
        ("text/gutenberg/GrimmsFairyTales.txt", True),
        ("text/wikitext-2/test.txt", False),
        ("text/wikitext-2/valid.txt", False),
        ("instruct/llamafactory/wiki_demo.txt", False),
        ("instruct/llms_tool/expand_vocab/common-char-3500.txt", False),
        ("instruct/llms_tool/expand_vocab/common-word-6000.txt", False),
    ],
)
def test_real_files(shared_data, name, expected):
    source = {"path": str(shared_data / name), "format": "text", "items": 1}
    assert bool(lines.suspects([source])[0]) == expected
