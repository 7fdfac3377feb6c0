"""Schemas that no text is of are refused; what is accepted can always be ended."""

from __future__ import annotations

import json
from collections import deque

import pytest
from hypothesis import assume, given, strategies as st

from tests.generation.test_constraints import accepts
from tunesmith.errors import ConfigError
from tunesmith.generation import schema_impl
from tunesmith.generation.grammar_impl import Automaton

NAMES = "abc"
SELF = {"$ref": "#"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"next": SELF}, "required": ["next"]},
        {"type": "array", "items": SELF, "minItems": 1},
        {
            "$ref": "#/$defs/a",
            "$defs": {
                "a": {
                    "type": "object",
                    "properties": {"b": {"$ref": "#/$defs/b"}},
                    "required": ["b"],
                },
                "b": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 2},
            },
        },
        {
            "anyOf": [
                {"type": "object", "properties": {"x": SELF}, "required": ["x"]},
                {"type": "array", "items": SELF, "minItems": 1},
            ]
        },
        {"oneOf": [{"type": "object", "properties": {"x": SELF}, "required": ["x"]}]},
    ],
)
def test_schemas_without_end_are_refused(schema):
    with pytest.raises(ConfigError, match="can never end") as caught:
        schema_impl.grammar(schema)
    assert caught.value.code == "G126"


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "object", "properties": {"next": SELF}}, {"next": {"next": {}}}, {"next": 1}),
        ({"type": "array", "items": SELF}, [[], [[]]], [1]),
        (
            {
                "type": "object",
                "properties": {"next": {"anyOf": [{"type": "null"}, SELF]}},
                "required": ["next"],
            },
            {"next": {"next": None}},
            {"next": {}},
        ),
    ],
)
def test_schemas_with_a_way_out_are_not(schema, good, bad):
    grammar = schema_impl.grammar(schema)
    assert accepts(grammar, json.dumps(good))
    assert not accepts(grammar, json.dumps(bad))


ENDLESS = {"type": "object", "properties": {"x": {"$ref": "#/$defs/e"}}, "required": ["x"]}


def test_what_can_not_be_ended_is_never_begun():
    """An optional property whose value has no end: no object has it, so none begins to write it."""
    schema = {
        "type": "object",
        "properties": {"v": {"type": "null"}, "x": {"$ref": "#/$defs/e"}},
        "$defs": {"e": ENDLESS},
    }
    automaton = Automaton(schema_impl.grammar(schema))
    assert automaton.accepts(b'{"v":null}')
    assert automaton.accepts(b"{}")
    state = automaton.first
    for byte in b'{"':
        state = automaton.step(state, byte)
    assert automaton.step(state, ord("v"))
    assert not automaton.step(state, ord("x"))
    listed = {"type": "array", "items": {"$ref": "#/$defs/e"}, "$defs": {"e": ENDLESS}}
    automaton = Automaton(schema_impl.grammar(listed))
    assert automaton.accepts(b"[]")
    assert not automaton.step(automaton.step(automaton.first, ord("[")), ord("{"))


def test_a_long_chain_of_references_is_no_matter():
    chain = {str(n): {"type": "array", "items": {"$ref": f"#/$defs/{n + 1}"}, "minItems": 1,
                      "maxItems": 1} for n in range(150)}  # fmt: skip
    schema = {"$ref": "#/$defs/0", "$defs": {**chain, "150": {"type": "null"}}}
    assert accepts(schema_impl.grammar(schema), "[" * 150 + "null" + "]" * 150)
    schema["$defs"]["150"] = {"$ref": "#/$defs/149"}
    with pytest.raises(ConfigError, match="can never end"):
        schema_impl.grammar(schema)


# ---------------------------------------------------------------- any schema


def objects(inner):
    named = st.dictionaries(st.sampled_from("pq"), inner, min_size=1, max_size=2)
    return named.flatmap(
        lambda fields: st.sets(st.sampled_from(sorted(fields))).map(
            lambda must: {
                "type": "object",
                "properties": fields,
                "required": sorted(must),
                "additionalProperties": False,
            }
        )
    )


def lists(inner):
    return st.builds(
        lambda items, least: {"type": "array", "items": items, "minItems": least},
        inner,
        st.integers(0, 2),
    )


def options(inner):
    return st.builds(
        lambda word, found: {word: found},
        st.sampled_from(["anyOf", "oneOf"]),
        st.lists(inner, min_size=1, max_size=2),
    )


LEAF = st.just({"type": "null"}) | st.sampled_from(NAMES).map(lambda n: {"$ref": f"#/$defs/{n}"})
SCHEMA = st.recursive(LEAF, lambda i: objects(i) | lists(i) | options(i), max_leaves=5)
SCHEMAS = st.builds(
    lambda root, *defs: {**root, "$defs": dict(zip(NAMES, defs, strict=True))},
    SCHEMA,
    *[SCHEMA for _ in NAMES],
)


def least(schema, known):
    """A smallest value of a schema by those that are known of the definitions; or Nothing."""
    if "$ref" in schema:
        return known.get(schema["$ref"][-1:])
    for word in ("anyOf", "oneOf"):
        if word in schema:
            found = [value for value in (least(s, known) for s in schema[word]) if value]
            return min(found, key=len, default=None)
    if schema["type"] == "null":
        return "null"
    if schema["type"] == "array":
        item = least(schema["items"], known) if schema["minItems"] else ""
        return None if item is None else f"[{', '.join([item] * schema['minItems'])}]"
    parts = {name: least(schema["properties"][name], known) for name in schema["properties"]}
    must = [name for name in schema["properties"] if name in schema["required"]]
    if any(parts[name] is None for name in must):
        return None
    return "{" + ", ".join(f'"{name}": {parts[name]}' for name in must) + "}"


def least_of(schema):
    """A text of a whole schema, found by trying definitions as often as there are any."""
    known: dict[str, str] = {}
    for _ in NAMES:
        for name, one in schema["$defs"].items():
            if name not in known and (value := least(one, known)) is not None:
                known[name] = value
    return least(schema, known)


@given(SCHEMAS)
def test_a_schema_is_refused_if_and_only_if_nothing_is_of_it(schema):
    example = least_of(schema)
    try:
        grammar, why = schema_impl.grammar(schema), ""
    except ConfigError as error:
        grammar, why = None, error.why
    assume("says nothing of the text between" not in why)
    if grammar is None:
        assert (example, "can never end" in why) == (None, True)
    else:
        assert example is not None
        assert accepts(grammar, example)


@given(SCHEMAS, st.lists(st.integers(0, 255), max_size=14))
def test_whatever_was_begun_can_be_ended(schema, choices):
    try:
        automaton = Automaton(schema_impl.grammar(schema))
    except ConfigError:
        return
    state = automaton.first
    for choice in choices:
        steps = [after for byte in range(256) if (after := automaton.step(state, byte))]
        if not steps:
            break
        state = steps[choice % len(steps)]
    waiting, seen = deque([state]), {state}
    while waiting and not automaton.complete(waiting[0]):
        at = waiting.popleft()
        for byte in (*b'}],: "', *b"nulpqx[{"):
            after = automaton.step(at, byte)
            if after and after not in seen:
                seen.add(after)
                waiting.append(after)
        assert len(seen) < 20_000
    assert waiting
