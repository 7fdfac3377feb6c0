"""Bounds and multiples of numbers, formats and patterns of strings, against plain arithmetic and
Python's own readers; and that no digit leads to where no number is."""

from __future__ import annotations

import datetime
import ipaddress
import json
import random
import re
import uuid
from fractions import Fraction
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings, strategies as st

from tunesmith.errors import ConfigError
from tunesmith.generation.grammar_impl import Automaton
from tunesmith.generation.schema_impl import grammar

SEEDS = range(12)


def automaton(schema):
    return Automaton(grammar(schema))


def allowed(schema, value: Fraction) -> bool:
    """What JSON Schema says of a number."""
    bounds = {
        "minimum": lambda b: value >= b,
        "maximum": lambda b: value <= b,
        "exclusiveMinimum": lambda b: value > b,
        "exclusiveMaximum": lambda b: value < b,
        "multipleOf": lambda b: (value / b).denominator == 1,
    }
    given = ((name, Fraction(str(b))) for name, b in schema.items() if name in bounds)
    return all(bounds[name](b) for name, b in given)


def wander(machine: Automaton, seed: int, alphabet=range(256)) -> str:
    """A text of the grammar, drawn byte by byte; fails where the way ends before the text does."""
    draw, state, said = random.Random(seed), machine.first, b""
    while True:
        ways = [byte for byte in alphabet if machine.step(state, byte)]
        if machine.complete(state) and (not ways or draw.random() < 0.3):
            return said.decode()
        assert ways, f"{said!r} leads nowhere"
        state, said = machine.step(state, byte := draw.choice(ways)), said + bytes([byte])
        assert len(said) < 4000


BOUND = st.integers(-130, 130)


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "minimum": BOUND,
            "maximum": BOUND,
            "exclusiveMinimum": BOUND,
            "exclusiveMaximum": BOUND,
            "multipleOf": st.integers(1, 40),
        },
    )
)
def test_integers_are_those_within_the_bounds(schema):
    numbers = [n for n in range(-150, 151) if allowed(schema, Fraction(n))]
    if not numbers:
        return
    machine = automaton({"type": "integer", **schema})
    found = [n for n in range(-150, 151) if machine.accepts(str(n).encode())]
    assert found == numbers
    for spelled in (b"-0", b"007", b"1.0", b"", b"+1"):
        assert not machine.accepts(spelled) or (spelled == b"-0" and not schema)


NUMBERS = [
    {"minimum": 0, "maximum": 1},
    {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"minimum": -1.5, "maximum": 2.25},
    {"minimum": 0.1, "multipleOf": 0.1, "maximum": 12},
    {"multipleOf": 0.25, "minimum": -3},
    {"exclusiveMinimum": 99.5},
    {"maximum": -7},
    {"minimum": 3, "maximum": 3},
    {"multipleOf": 2.5, "minimum": 0, "maximum": 10},
]


@pytest.mark.parametrize("schema", NUMBERS, ids=str)
def test_numbers_are_those_within_the_bounds(schema):
    machine = automaton({"type": "number", **schema})
    for hundredths in range(-400, 1300, 15):
        text = f"{hundredths / 100:.2f}"
        value = Fraction(text)
        shortest = text.rstrip("0").rstrip(".").replace("-0", "0") if value == 0 else text
        shortest = shortest.rstrip("0").rstrip(".") if "." in shortest else shortest
        assert machine.accepts(shortest.encode()) == allowed(schema, value), shortest
        assert not machine.accepts(text.encode()) or allowed(schema, value), text
    for seed in SEEDS:
        assert allowed(schema, Fraction(wander(machine, seed, b"-.0123456789")))


def test_every_way_through_large_bounds_ends_in_a_number():
    schema = {"type": "integer", "minimum": 10**6 + 1, "maximum": 10**15, "multipleOf": 997}
    machine = automaton(schema)
    for seed in SEEDS:
        assert allowed(schema, Fraction(wander(machine, seed, b"-.0123456789")))
    assert machine.accepts(str(997 * 10**6).encode())
    assert not machine.accepts(str(997 * 10**6 + 1).encode())
    of_32_bits = automaton({"type": "integer", "format": "int32"})
    assert of_32_bits.accepts(str(2**31 - 1).encode())
    assert not of_32_bits.accepts(str(2**31).encode())


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no number is within"),
        ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4}, "no number is within"),
        ({"type": "integer", "minimum": 1, "maximum": 6, "multipleOf": 7}, "no number is within"),
        ({"type": "integer", "exclusiveMinimum": True}, "true is no number"),
        ({"type": "number", "minimum": "3"}, "is no number"),
        ({"type": "number", "multipleOf": 0}, "above 0"),
        ({"type": "integer", "format": "roman"}, "`roman` is not supported"),
        ({"type": "string", "format": "regex"}, "`regex` is not supported"),
        ({"type": "string", "format": "date", "maxLength": 4}, "`format` beside a length"),
        ({"type": "string", "pattern": "a+", "maxLength": 4}, "`pattern` beside a length"),
        ({"anyOf": [{"type": "null"}], "properties": {}}, "`properties` beside `anyOf`"),
        ({"enum": ["a", "b"], "minLength": 2}, "none of the values"),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused_by_name(schema, why):
    with pytest.raises(ConfigError, match="G126") as caught:
        grammar(schema)
    assert why in str(caught.value)


def test_listed_values_keep_to_the_other_keywords():
    machine = automaton({"type": "integer", "enum": [1, 2, 3, "4"], "minimum": 2})
    assert [n for n in range(6) if machine.accepts(str(n).encode())] == [2, 3]
    assert not machine.accepts(b'"4"')


# ---------------------------------------------------------------- strings

READERS = {
    "date": datetime.date.fromisoformat,
    "date-time": datetime.datetime.fromisoformat,
    "time": datetime.time.fromisoformat,
    "uuid": uuid.UUID,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uri": urlsplit,
    "email": lambda text: (
        re.fullmatch(r"[^@\s.]+(\.[^@\s.]+)*@([a-zA-Z0-9-]+\.)+[a-zA-Z]+", text) or 1 / 0
    ),
    "hostname": lambda text: re.fullmatch(r"[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*", text) or 1 / 0,
}


@pytest.mark.parametrize("name", READERS)
def test_drawn_texts_of_a_format_are_read_by_python(name):
    machine = automaton({"type": "string", "format": name})
    for seed in SEEDS:
        READERS[name](json.loads(wander(machine, seed)))


GOOD = [
    ("date", "2024-02-29", True), ("date", "2023-02-29", False), ("date", "2000-02-29", True),
    ("date", "1900-02-29", False), ("date", "2024-04-31", False), ("date", "2026-12-31", True),
    ("date-time", "2024-02-29T23:59:59Z", True), ("date-time", "2024-02-29 23:59:59Z", False),
    ("date-time", "2024-01-01T24:00:00Z", False), ("time", "08:30:00.5+01:00", True),
    ("time", "08:30:00", False), ("email", "ann.lee+x@mail.example.org", True),
    ("email", "ann@", False), ("uuid", "123e4567-e89b-12d3-a456-426614174000", True),
    ("uuid", "123e4567", False), ("ipv4", "192.168.0.255", True), ("ipv4", "256.1.1.1", False),
    ("uri", "https://example.org/a?b=c#d", True), ("uri", "example", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "good"), GOOD, ids=str)
def test_formats(name, text, good):
    machine = automaton({"type": "string", "format": name})
    assert machine.accepts(json.dumps(text).encode()) == good


@pytest.mark.parametrize("pattern", [r"^\d{3}-\w+$", r"a.c", r'[^"x]{2}', r'"\\"', r"\s", "é|世"])
def test_patterns_hold_for_what_the_string_means(pattern):
    """What must be escaped in JSON is, and counts as the character it stands for."""
    machine = automaton({"type": "string", "pattern": pattern})
    texts = [
        "123-ab",
        "12-a",
        "abc",
        'a"c',
        "a\\c",
        "a\nc",
        '"x',
        '\\"',
        '"\\"',
        " ",
        "\t",
        "é",
        "世",
    ]
    for text in texts:
        spelled = json.dumps(text, ensure_ascii=False).encode()
        assert machine.accepts(spelled) == bool(re.fullmatch(pattern, text, re.ASCII)), text
    for seed in SEEDS:
        assert re.fullmatch(pattern, json.loads(wander(machine, seed)), re.ASCII)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"minLength": 2, "maxLength": 3}, ["ab", "世界é"], ["a", "abcd", ""]),
        ({"type": "string", "maxLength": 0}, [""], ["a"]),
        (
            {"minItems": 1, "maxItems": 2, "items": {"type": "integer"}},
            [[1], [1, 2]],
            [[], [1] * 3],
        ),
        ({"maxItems": 0}, [[]], [[1]]),
    ],
    ids=str,
)
def test_lengths(schema, good, bad):
    machine = automaton(schema)
    spelled = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert [machine.accepts(spelled(value)) for value in good] == [True] * len(good)
    assert [machine.accepts(spelled(value)) for value in bad] == [False] * len(bad)
