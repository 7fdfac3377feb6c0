"""Constraints against Python's own readers of JSON and patterns, and on real models."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given, settings, strategies as st

from tests.conftest import byte_tokenizer
from tunesmith.errors import ConfigError
from tunesmith.generation import base, pattern_impl, schema_impl
from tunesmith.generation.constraints_impl import (
    json_constraint,
    pattern_constraint,
    spellings,
)  # fmt: skip
from tunesmith.generation.grammar_impl import Constraint, Trie
from tunesmith.generation.torch import TorchGenerator
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Request, Sampling

BYTES = [bytes([byte]) for byte in range(256)]
TRIE = Trie.of(BYTES)


def accepts(grammar, text: str) -> bool:
    return Constraint(grammar, BYTES, TRIE, [256]).accepts(text.encode())


# ---------------------------------------------------------------- patterns

PATTERNS = [
    "abc", "a|bc|", "(ab)*c+", "[a-c]{2,3}", r"\d+\.\d{2}", r"[^a-y\n]", r"\w\s\S", "a?b??c",
    "(?:x|y){2}", "é+|[α-ω]", "^a$", r"\$\^\\", "a{2,}", "[-a]", "[a-]", "[]a]", r"[\d_]", ".",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_what_python_matches(pattern):
    grammar = pattern_impl.grammar(pattern)
    compiled = re.compile(pattern, re.ASCII)
    texts = [
        "",
        "a",
        "b",
        "ab",
        "abc",
        "ababcc",
        "aa",
        "bca",
        "cccc",
        "12.34",
        "1.2",
        "z",
        "y",
        "-",
    ]
    texts += [
        "_ x",
        "ac",
        "bc",
        "c",
        "xy",
        "xyx",
        "é",
        "éé",
        "ω",
        "αβ",
        "$^\\",
        "aaaa",
        "]",
        "\n",
        "漢",
    ]
    for text in texts:
        assert accepts(grammar, text) == bool(compiled.fullmatch(text)), text


@given(st.characters(exclude_categories=["Cs"]), st.characters(exclude_categories=["Cs"]),
       st.characters(exclude_categories=["Cs"]))  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_ranges_of_characters_are_their_bytes(first, last, other):
    first, last = sorted((first, last))
    pattern = f"[\\u{ord(first):04x}-\\u{ord(last):04x}]"
    if ord(last) < 0x10000:
        assert accepts(pattern_impl.grammar(pattern), other) == (first <= other <= last)


@pytest.mark.parametrize(
    "pattern",
    ["(a", "a)", "(?=a)", r"\1", r"\b", "*a", "a**", "[a", "a{x}", "a{3,2}", "[b-a]", "a^"],
)
def test_patterns_that_can_not_be_are_refused(pattern):
    with pytest.raises(ConfigError, match="G125"):
        pattern_impl.grammar(pattern)


# ---------------------------------------------------------------- schemas

plain = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(max_size=6)
plain |= st.floats(allow_nan=False, allow_infinity=False, width=16)
names = st.text(max_size=3)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(values, st.sampled_from([None, 1]), st.booleans())
@settings(deadline=None, max_examples=100)
def test_true_is_any_json(value, indent, ascii):
    written = json.dumps(value, indent=indent, ensure_ascii=ascii)
    assert accepts(schema_impl.grammar(True), written)


@given(st.text('{}[]",:0-1eE.+ \ntrufalsn\\x', max_size=12))
@settings(deadline=None, max_examples=250)
def test_what_is_no_json_is_no_answer(text):
    if accepts(schema_impl.grammar(True), text):
        json.loads(text, strict=True)


PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 4},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
        "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ('{"name": "x", "tags": ["a"]}', True),
        ('{"name":"x","tags":["a","b"]}', True),
        ('{"name": "x", "age": -3, "tags": ["a"]}', True),
        (
            '{"name": "é漢", "tags": ["b"], "next": {"name": "y", "tags": ["a"], "next": null}}',
            True,
        ),
        ('{\n  "name": "x",\n  "tags": [\n    "a"\n  ]\n}', True),
        ('{"name": "\\u00e9\\n", "tags": ["a"]}', True),
        ('{"name": "", "tags": ["a"]}', False),
        ('{"name": "xxxxx", "tags": ["a"]}', False),
        ('{"tags": ["a"]}', False),
        ('{"name": "x", "tags": []}', False),
        ('{"name": "x", "tags": ["a", "b", "a"]}', False),
        ('{"name": "x", "tags": ["c"]}', False),
        ('{"tags": ["a"], "name": "x"}', False),
        ('{"name": "x", "age": 1.5, "tags": ["a"]}', False),
        ('{"name": "x", "tags": ["a"], "more": 1}', False),
        ('{"name": "x", "tags": ["a"],}', False),
        ('{, "name": "x", "tags": ["a"]}', False),
    ],
)
def test_a_schema(text, good):
    assert accepts(schema_impl.grammar(PERSON), text) is good


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"type": ["integer", "null"]}, ["3", "null", "0"], ["03", "3.0", '"3"']),
        ({"type": "number"}, ["3", "-0.5", "1e9"], ["1.", ".5", "+1"]),
        ({"const": {"a": [1]}}, ['{"a": [1]}'], ['{"a":[2]}']),
        ({"type": "string", "pattern": "^[A-Z]{2}$"}, ['"AB"'], ['"A"', "AB"]),
        (
            {"properties": {"a": {}, "b": {}}},
            ["{}", '{"b": 1}', '{"a": [], "b": {}}'],
            ['{"c": 1}'],
        ),
        (
            {"type": "object", "additionalProperties": {"type": "boolean"}},
            ['{"x": true}'],
            ['{"x": 1}'],
        ),
        (
            {
                "properties": {"a": {"type": "string"}, "ab": {}, "é\n": {"type": "null"}},
                "additionalProperties": {"type": "integer"},
            },
            ['{"b": 1}', '{"a": "x", "": 2, "abc": 3}', '{"é": 1, "ax\\u0061": 2}'],
            ['{"a": 5}', '{"a": "x", "a": 5}', '{"\\u0061": 5}', '{"ab": 1, "\u00e9\\n": 1}'],
        ),
        ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
        (
            {"type": "integer", "oneOf": [{"maximum": 5}, {"type": "number", "minimum": 10}]},
            ["3", "11"],
            ["2.15", "7", "10.5"],
        ),
        ({"type": "string", "anyOf": [{"type": "integer"}, {"enum": ["a", 1]}]}, ['"a"'], ["1"]),
        ({"type": "number", "anyOf": [{"type": "integer"}, {"type": "null"}]}, ["1"], ["null"]),
        ({"const": True, "enum": [1, True]}, ["true"], ["1"]),
        ({"$defs": {"n": {"type": "null"}}, "items": {"$ref": "#/$defs/n"}}, ["[null]"], ["[1]"]),
        (None, ["{}", '{"a": {"b": [1, "x"]}}'], ["[]", "1"]),
    ],
)
def test_keywords(schema, yes, no):
    grammar = schema_impl.grammar(schema)
    assert [text for text in yes if not accepts(grammar, text)] == []
    assert [text for text in no if accepts(grammar, text)] == []


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "$ref": "#"}, "`type` beside `$ref`"),
        ({"type": "string", "anyOf": [{"$ref": "#"}]}, "no plain schemas"),
        ({"type": "string", "anyOf": [{"type": "null"}]}, "leaves none"),
        ({"type": "integer", "contentEncoding": "x"}, "contentEncoding"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "not"),
        ({"$ref": "https://example.org/x"}, "https"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"type": "text"}, "text"),
        ({"required": ["a"], "type": "object"}, "`a`"),
        ({"enum": []}, "belongs"),
        ([], "schema"),
        ({"$ref": "#"}, "back to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "#/$defs/a"),
        (
            {
                "type": "object",
                "properties": {"x": {"$ref": "#/$defs/a"}},
                "$defs": {
                    "a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}]},
                    "b": {"oneOf": [{"$ref": "#/$defs/a"}]},
                },
            },
            "back to itself",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(schema, named):
    with pytest.raises(ConfigError, match="G126") as caught:
        schema_impl.grammar(schema)
    assert named in str(caught.value)


# ---------------------------------------------------------------- tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes")
    byte_tokenizer(path)
    return Tokenizer.load(path)


def brute(constraint, spelled, text):
    """Allowed tokens by trying each."""
    automaton, state = constraint._automaton, constraint._automaton.first
    for byte in text:
        state = automaton.step(state, byte)
    found = []
    for token, spelling in enumerate(spelled):
        after = state
        for byte in spelling or b"":
            after = automaton.step(after, byte)
        if spelling and after:
            found.append(token)
    return found


def test_masks_are_what_trying_each_token_gives(tokenizer):
    constraint = json_constraint(PERSON, tokenizer, [258])
    spelled = spellings(tokenizer)
    written = '{"name": "é", "tags": ["a"]}'
    ids = tokenizer.encode_text(written)
    for end in range(len(ids)):
        allowed = constraint.mask(ids[:end]).tolist()
        assert allowed == brute(constraint, spelled, b"".join(spelled[id] for id in ids[:end]))
        assert ids[end] in allowed
    assert constraint.mask(ids).tolist() == [258]
    assert constraint.mask([*ids[:3], ids[0]]).tolist() == []  # broken, and not for good:
    assert ids[3] in constraint.mask(ids[:3]).tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_random_model_writes_what_the_schema_says(tokenizer, temperature):
    from tests.generation.test_torch import FAMILIES, build

    model = build(FAMILIES["llama"])
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "yy"]}},
        "required": ["a", "b"],
    }
    generator = TorchGenerator(model, tokenizer, speculate=3)
    stop = tokenizer.vocab_size - 1
    asked = [
        Request(
            str(i), (5, 6, i), Sampling(90, temperature, seed=i, stop_ids=(stop,)),
            constraint=json_constraint(schema, tokenizer, [stop]),
        )
        for i in range(3)
    ]  # fmt: skip
    asked.append(Request("free", (5, 6), Sampling(90)))
    found = generator.generate(asked)
    for id in "012":
        assert found[id][-1].finish_reason == "stop"
        written = json.loads(base.text(found[id]))
        assert set(written) == {"a", "b"}
        assert written["b"] in ("x", "yy")
    number = pattern_constraint(r"\d{3}-\d{2}", tokenizer, [stop])
    request = Request("n", (1, 2), Sampling(20, stop_ids=(stop,)), constraint=number)
    assert re.fullmatch(r"\d{3}-\d{2}", base.text(generator.generate([request])["n"]))


@pytest.mark.parametrize("name", ["stories260K", "babyllama105"])
def test_real_tokenizers_are_spelled(shared_data, name):
    tokenizer = Tokenizer.load(shared_data / "models" / name / "hf")
    spelled = spellings(tokenizer)
    text = "Once upon a time, a cat sat."
    ids = tokenizer.encode_text(text)
    assert b"".join(spelled[id] or b"?" for id in ids).decode().strip() == text


def test_without_a_stop_token_nothing_could_end(tokenizer):
    with pytest.raises(ConfigError, match="G124"):
        json_constraint(None, tokenizer, [])
    with pytest.raises(ConfigError, match="G124"):
        json_constraint(None, None, [1])


def test_a_constraint_that_nothing_satisfies_ends_in_an_error(tokenizer):
    from tests.generation.test_torch import FAMILIES, build

    class Nothing:
        def mask(self, ids):
            return torch.tensor([], dtype=torch.long)

    generator = TorchGenerator(build(FAMILIES["llama"]), tokenizer)
    events = generator.generate([Request("a", (5,), constraint=Nothing())])["a"]
    assert [event.finish_reason for event in events] == ["error"]
