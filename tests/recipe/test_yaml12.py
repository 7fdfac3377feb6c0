"""Strict YAML: 1.2 scalars, places, and everything that is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, strategies as st

from tunesmith.errors import ConfigError
from tunesmith.recipe import yaml12
from tunesmith.recipe.typed import free


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        yaml12.parse(text, "r.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("+3", 3),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("~", None),
        ("", None),
        (".inf", float("inf")),
        ("'no'", "no"),
        ("'12'", "12"),
        ("!!str 12", "12"),
    ],
)
def test_scalars_are_read_as_yaml_1_2(text, value):
    found = free(yaml12.parse(f"k: {text}", "r.yaml"))["k"]
    assert (found, type(found)) == (value, type(value))


def test_places_count_from_one_and_quote_the_line():
    root = yaml12.parse("a: 1\noptim:\n  learnin_rate: 1e-4\n", "r.yaml")
    place = root.value["optim"].key_place("learnin_rate")
    assert str(place) == "r.yaml:3:3      learnin_rate: 1e-4"


def test_a_byte_order_mark_and_crlf_are_harmless(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes("\ufeffa: ä\r\nb: 2\r\n".encode())
    assert free(yaml12.read(path)) == {"a": "ä", "b": 2}


@pytest.mark.parametrize(
    ("text", "code", "where"),
    [
        ("a: [1, 2", "C101", "r.yaml:1:"),
        ("a: 1\n\tb: 2", "C101", "r.yaml:2:1"),
        ("", "C101", "r.yaml"),
        ("# only a comment\n", "C101", "r.yaml"),
        ("a: b: c", "C101", "r.yaml:1:5"),
        ("? [x]\n: 1", "C101", "r.yaml:1:3"),
        ("a: \x07", "C101", "r.yaml"),
        ("a: *nothing", "C101", "r.yaml:1:4"),
        ("a: 1\nb: 2\na: 3", "C106", "r.yaml:3:1"),
        ("s: {x: 1, 'x': 2}", "C106", "r.yaml:1:11"),
        ("a: 1\n---\nb: 2", "C108", "r.yaml:3:1"),
        ("a: !!python/object/apply:os.system ['true']", "C108", "r.yaml:1:4"),
        ("a: !include /etc/passwd", "C108", "r.yaml:1:4"),
        ("a: !!int 3", "C108", "r.yaml:1:4"),
        ("a: &x {b: *x}", "C108", "r.yaml:1:4"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "C108", "r.yaml:3:3"),
        ("a: " + "[" * 60 + "]" * 60, "C108", "r.yaml:1:"),
        ("a: " + "[" * 400 + "]" * 400, "C108", "r.yaml"),
    ],
)
def test_what_is_refused_names_its_place(text, code, where):
    error = refused(text)
    assert error.code == code
    assert error.where.startswith(where)


def test_an_alias_bomb_is_refused_at_once():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    start = time.perf_counter()
    assert refused("\n".join(lines)).code == "C108"
    assert time.perf_counter() - start < 5.0


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"a: \xff\xfe"),
        lambda path: path.write_bytes(b"a: 1\n" * 300_000),
    ],
    ids=["missing", "directory", "not UTF-8", "too large"],
)
def test_files_that_cannot_be_read(tmp_path, make):
    path = tmp_path / "r.yaml"
    make(path)
    with pytest.raises(ConfigError) as caught:
        yaml12.read(path)
    assert caught.value.code == "C100"
    assert "r.yaml" in caught.value.what


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        free(yaml12.parse(text, "r.yaml"))
        code = ""
    except ConfigError as error:
        code = error.code
    assert code in {"", "C101", "C106", "C108"}
