"""JSON schemas as grammars: the part of the language that says what a text may look like.

Supported: `type` (one or several), `properties`, `required`, `additionalProperties` (true, false
or a schema), `items`, `minItems`, `maxItems`, `minLength`, `maxLength`, `pattern` (of the whole
string), `format`, `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf`,
`enum`, `const`, `anyOf`, `oneOf` (as anyOf), `$ref` within the schema, and `true`.
Properties come in the schema's order, those not required may be left out; others are written only
where `additionalProperties` is a schema or true, after the named ones. Annotations are skipped;
every other keyword is refused by name, for ignoring it would break what was asked for.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from tunesmith.generation import endings_impl, pattern_impl
from tunesmith.generation.grammar_impl import (
    EMPTY,
    Automaton,
    Bytes,
    Choice,
    Repeat,
    Rule,
    Series,
    characters,
    maybe,
    text,
)  # fmt: skip
from tunesmith.generation.schema_formats_impl import FORMATS
from tunesmith.generation.schema_numbers_impl import NUMBER, RANGE, number, wrong

_NOTES = {
    "title", "description", "default", "examples", "example", "$schema", "$id", "$comment",
    "$defs", "definitions", "deprecated", "readOnly", "writeOnly", "strict",
}  # fmt: skip
_KNOWN = {
    "type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems",
    "minLength", "maxLength", "pattern", "enum", "const", "anyOf", "oneOf", "$ref", "format",
    *RANGE,
}  # fmt: skip
INDENT = 32
"""Most spaces after a line break: without a bound a model may write white space for ever."""


def _byte(*allowed: int) -> Bytes:
    return Bytes(frozenset(allowed))


SPACE = Choice((EMPTY, text(" "), Series((text("\n"), Repeat(_byte(32), 0, INDENT)))))
_HEX = _byte(*b"0123456789abcdefABCDEF")
_ESCAPE = Series(
    (text("\\"), Choice((_byte(*b'"\\/bfnrt'), Series((text("u"), Repeat(_HEX, 4, 4))))))
)
_ESCAPES = {code: json.dumps(chr(code))[1:-1] for code in (*range(0x20), 0x22, 0x5C)}
"""How characters are written that can't stand in a string as they are."""
LETTER = Choice((characters([(0x20, 0x21), (0x23, 0x5B), (0x5D, 0x10FFFF)]), _ESCAPE))
STRING = Series((text('"'), Repeat(LETTER), text('"')))


def grammar(schema: Any) -> Any:
    """The grammar of the JSON texts that a schema allows; None: any object.

    Raises:
        ConfigError: G126, a keyword that is not supported, or a schema that is none.
    """
    reader = _Reader(schema)
    node = reader.node({"type": "object"} if schema is None else schema, "$")
    reader.refuse_circles()
    node = reader.ended(node)
    return Series((SPACE, node))  # some tokenizers begin every answer with a space


class _Reader:
    """Reads one schema; references become rules, so they may be recursive."""

    def __init__(self, root: Any):
        self.root = root
        self.rules: dict[str, Rule] = {}
        self.any = Rule("any")
        self.any.node = Choice((
            STRING, NUMBER, text("true"), text("false"), text("null"),
            self._members([], Series((STRING, text(":"), SPACE, self.any))),
            self._listed(self.any, 0, None),
        ))  # fmt: skip

    def refuse_circles(self) -> None:
        """Refuses references that lead back to themselves with no text between.

        No text is ever of such a schema, or what is has another way to be written.

        Raises:
            ConfigError: G126.
        """
        for start in self.rules.values():
            seen: set[int] = set()
            stack = [start.node]
            while stack:
                node = stack.pop()
                if node is start:
                    what = "`$ref` leads back to itself, and says nothing of the text between"
                    raise wrong(start.name, what)
                if id(node) in seen:
                    continue
                seen.add(id(node))
                # Lists and objects begin with a bracket: only these two say nothing themselves.
                stack += node.options if isinstance(node, Choice) else ()
                stack += [node.node] if isinstance(node, Rule) else ()

    def ended(self, root: Any) -> Any:
        """The grammar without parts that could be begun and never ended.

        Raises:
            ConfigError: G126, no text is of the schema, for it demands another of itself without
                end.
        """
        can_end = endings_impl.ending(root)
        if id(root) in can_end:
            return endings_impl.without_dead_ends(root, can_end)
        rule = next((rule for rule in self.rules.values() if id(rule) not in can_end), None)
        if rule is None:
            raise wrong("$", "no text can be of it")
        what = f"`$ref` {rule.name!r} can never end: what it requires leads back to itself"
        raise wrong(rule.name, what)

    def node(self, schema: Any, where: str) -> Any:
        """The grammar of one schema."""
        if schema is True or schema == {}:
            return self.any
        if not isinstance(schema, dict):
            raise wrong(where, f"{json.dumps(schema)} is no schema")
        odd = sorted(schema.keys() - _KNOWN - _NOTES)
        if odd:
            raise wrong(where, f"`{odd[0]}` is not supported")
        for name in ("$ref", "anyOf", "oneOf"):
            beside = sorted((schema.keys() & _KNOWN) - {name, "type"})
            if name in schema and beside:
                raise wrong(where, f"`{beside[0]}` beside `{name}` is not supported")
        if "$ref" in schema:
            if "type" in schema:
                raise wrong(where, "`type` beside `$ref` is not supported")
            return self._referred(schema["$ref"], where)
        for name in ("anyOf", "oneOf"):
            if name in schema:
                options = _checked(schema[name], list, f"{where}.{name}")
                if "type" in schema:
                    options = _narrowed(options, schema["type"], f"{where}.{name}")
                pairs = enumerate(options)
                return Choice(tuple(self.node(o, f"{where}.{name}[{at}]") for at, o in pairs))
        if "const" in schema or "enum" in schema:
            return self._listed_values(schema, where)
        return self._typed(schema, where)

    def _listed_values(self, schema: dict[str, Any], where: str) -> Any:
        """Those of the values that the other keywords allow, too."""
        values = _checked(schema.get("enum", [schema.get("const")]), list, f"{where}.enum")
        if "const" in schema:
            values = [v for v in values if _json(v) == _json(schema["const"])]
        rest = {name: value for name, value in schema.items() if name not in ("enum", "const")}
        if rest.keys() & _KNOWN:
            allowed = Automaton(self._typed(rest, where))
            # How an object or a list is written may differ from the grammar's way.
            plain = lambda value: not isinstance(value, dict | list)
            values = [v for v in values if not plain(v) or allowed.accepts(_json(v).encode())]
        if not values:
            raise wrong(where, "none of the values is allowed by the other keywords")
        return Choice(tuple(text(_json(value)) for value in values))

    def _typed(self, schema: dict[str, Any], where: str) -> Any:
        kinds = schema.get("type")
        if kinds is None:
            kinds = "object" if "properties" in schema else "array" if "items" in schema else None
        if kinds is None and {"pattern", "minLength", "maxLength", "format"} & set(schema):
            kinds = "string"
        if kinds is None and {"minItems", "maxItems"} & set(schema):
            kinds = "array"
        if kinds is None and set(RANGE) & set(schema):
            kinds = "number"
        if kinds is None:
            return self.any
        if isinstance(kinds, list):
            return Choice(tuple(self._typed({**schema, "type": kind}, where) for kind in kinds))
        if kinds == "null":
            return text("null")
        if kinds == "boolean":
            return Choice((text("true"), text("false")))
        if kinds in ("integer", "number"):
            return number(schema, kinds == "integer", where)
        if kinds == "string":
            return self._string(schema, where)
        if kinds == "array":
            least, most = _bounds(schema, "minItems", "maxItems", where)
            return self._listed(self.node(schema.get("items", True), f"{where}.items"), least, most)
        if kinds == "object":
            return self._object(schema, where)
        raise wrong(where, f"`{kinds}` is no type")

    def _string(self, schema: dict[str, Any], where: str) -> Any:
        least, most = _bounds(schema, "minLength", "maxLength", where)
        given = [name for name in ("pattern", "format") if name in schema]
        if not given:
            return Series((text('"'), Repeat(LETTER, least, most), text('"')))
        if len(given) > 1 or least or most is not None:
            other = "a length" if len(given) == 1 else "`format`"
            raise wrong(where, f"`{given[0]}` beside {other} is not supported")
        if "format" in schema:
            name = _checked(schema["format"], str, f"{where}.format")
            if name not in FORMATS:
                known = ", ".join(FORMATS)
                raise wrong(f"{where}.format", f"`{name}` is not supported; there is {known}")
            pattern = FORMATS[name]
        else:
            pattern = _checked(schema["pattern"], str, f"{where}.pattern")
        return Series((text('"'), pattern_impl.grammar(pattern, _in_string), text('"')))

    def _object(self, schema: dict[str, Any], where: str) -> Any:
        named = _checked(schema.get("properties", {}), dict, f"{where}.properties")
        required = _checked(schema.get("required", []), list, f"{where}.required")
        unknown = [name for name in required if name not in named]
        if unknown:
            raise wrong(where, f"`{unknown[0]}` is required and no property")
        members = []
        for name, value in named.items():
            key = text(json.dumps(name, ensure_ascii=False))
            node = self.node(value, f"{where}.{name}")
            members.append((Series((key, text(":"), SPACE, node)), name in required))
        extra = schema.get("additionalProperties", not named)
        other = None
        if extra is not False:
            value = self.node(extra, f"{where}.additionalProperties")
            key = Series((text('"'), _unlike(list(named)), text('"'))) if named else STRING
            other = Series((key, text(":"), SPACE, value))
        return self._members(members, other)

    def _members(self, members: list[tuple[Any, bool]], other: Any) -> Any:
        """`{` members `}`: in order, the optional ones may be left out."""
        between = Series((text(","), SPACE))
        more = EMPTY if other is None else Repeat(Series((between, other)))
        first = EMPTY if other is None else maybe(Series((other, more)))
        for node, needed in reversed(members):
            begins, follows = Series((node, more)), Series((between, node, more))
            first, more = (
                begins if needed else Choice((begins, first)),
                follows if needed else Choice((follows, more)),
            )
        return Series((text("{"), SPACE, first, SPACE, text("}")))

    def _listed(self, item: Any, least: int, most: int | None) -> Any:
        begin, end = Series((text("["), SPACE)), Series((SPACE, text("]")))
        if most == 0:
            return Series((begin, end))
        rest = Repeat(
            Series((text(","), SPACE, item)),
            max(least - 1, 0),
            None if most is None else most - 1,
        )
        whole = Series((item, rest))
        return Series((begin, whole if least else maybe(whole), end))

    def _referred(self, reference: Any, where: str) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise wrong(where, f"`$ref` {reference!r} is not within the schema")
        if reference not in self.rules:
            target = self.root
            for part in reference.lstrip("#").strip("/").split("/") if reference != "#" else []:
                part = part.replace("~1", "/").replace("~0", "~")
                if not isinstance(target, dict) or part not in target:
                    raise wrong(where, f"`$ref` {reference!r} leads nowhere")
                target = target[part]
            rule = self.rules[reference] = Rule(reference)
            rule.node = self.node(target, reference)
        return self.rules[reference]


def _unlike(names: list[str]) -> Any:
    """What a string holds that is none of these: letter by letter as they, until it differs."""
    rests: dict[int, list[str]] = {}
    for name in filter(None, names):
        rests.setdefault(ord(name[0]), []).append(name[1:])
    ends = [-1, *sorted(rests), 0x110000]
    gaps = [(low + 1, high - 1) for low, high in itertools.pairwise(ends) if low + 1 < high]
    ways: list[Any] = [] if "" in names else [EMPTY]
    ways.append(Series((_in_string(gaps), Repeat(LETTER))))
    for letter, rest in rests.items():
        ways.append(Series((_in_string([(letter, letter)]), _unlike(rest))))
    return Choice(tuple(ways))


def _narrowed(options: list, kinds: str | list, where: str) -> list[dict[str, Any]]:
    """Options as far as the `type` beside them allows; those it leaves nothing of fall away."""
    allowed = kinds if isinstance(kinds, list) else [kinds]
    found = []
    for option in options:
        option = {} if option is True else option
        if not isinstance(option, dict) or "$ref" in option:
            raise wrong(where, "`type` beside options that are no plain schemas is not supported")
        own = option.get("type", allowed)
        own = own if isinstance(own, list) else [own]
        wider = {"integer"} if "number" in allowed else set()  # an integer is a number
        left = [kind for kind in own if kind in {*allowed, *wider}]
        if "number" in own and "integer" in allowed and "number" not in allowed:
            left.append("integer")
        if left:
            found.append({**option, "type": left if len(left) > 1 else left[0]})
    if not found:
        raise wrong(where, "the `type` beside it leaves none of the options")
    return found


def _in_string(ranges: pattern_impl.Ranges) -> Any:
    """One character of these ranges as it stands within a JSON string: some must be escaped."""
    options: list[Any] = []
    for first, last in ranges:
        for low, high in ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x10FFFF)):
            if max(first, low) <= min(last, high):
                options.append(characters([(max(first, low), min(last, high))]))
        options += [text(sign) for code, sign in _ESCAPES.items() if first <= code <= last]
    return Choice(tuple(options))


def _bounds(schema: dict, low: str, high: str, where: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    for value in (least, 0 if most is None else most):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise wrong(where, f"`{low}` and `{high}` are whole numbers")
    if max(least, most or 0) > pattern_impl.MOST or (most is not None and most < least):
        raise wrong(where, f"`{low}` to `{high}` goes to {pattern_impl.MOST:,} at most")
    return least, most


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _checked(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind) or (kind is list and not value and "required" not in where):
        raise wrong(where, f"{json.dumps(value)} is not what belongs here")
    return value
