"""What is wrong with a body, in words: from pydantic's list of errors to one that names the field.

A field that may be several things (`prompt`: text, ids, lists of either) has an error for each; the
one that is told is that of the branch which the value was meant for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from tunesmith.serving.faults import Refusal

Place = tuple[str | int, ...]
KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "none_required": "null",
}
"""pydantic's types of error that only say: something else belongs here."""
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
SHOWN = 40
"""Characters of a value that are told back."""


def of_validation(error: ValidationError, body: Any) -> Refusal:
    """The one thing that is told about a body.

    Returns:
        S124 for a field that is not known, S111 for a value that can't be.
    """
    found = [(_place(one["loc"], one["type"], body), one) for one in error.errors()]
    field = found[0][0][:1]
    mine = [(place, one) for place, one in found if place[:1] == field]
    told = [(place, one) for place, one in mine if one["type"] not in KINDS]
    if told:
        place, one = max(told, key=lambda pair: len(pair[0]))
    else:  # the branch that went along furthest; all that it could have been there
        place = max((place for place, _ in mine), key=lambda place: (len(place), _last(place)))
        kinds = [KINDS[one["type"]] for where, one in mine if where == place]
        one = {"type": "kind", "kinds": list(dict.fromkeys(kinds))}
    path = _path(place)
    if one["type"] == "extra_forbidden":
        return Refusal("S124", f"`{path}` is not supported", path, fix="leave it out")
    return Refusal("S111", _said(path, one, _value(body, place)), path)


def _said(path: str, one: Any, value: Any) -> str:
    kind, context = one["type"], one.get("ctx", {})
    if kind == "kind":
        wanted = " or ".join(filter(None, [", ".join(one["kinds"][:-1]), one["kinds"][-1]]))
        return f"`{path}` is {_shown(value)}; it must be {wanted}"
    if kind == "missing":
        return f"`{path}` is missing"
    if kind in ("too_short", "string_too_short"):
        return f"`{path}` is empty" if not value else f"`{path}` is too short"
    if kind in ("too_long", "string_too_long"):
        most, what = context["max_length"], "characters" if isinstance(value, str) else "entries"
        return f"`{path}` has {len(value):,} {what}; at most {most:,} are possible"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"`{path}` is {_shown(value)}; it must be {words} {context[name]:g}"
    if kind == "literal_error":
        return f"`{path}` is {_shown(value)}; it must be {context['expected']}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = value.get("type") if isinstance(value, dict) else None
        wanted = context.get("expected_tags", "'text', 'json_object', 'json_schema'")
        return f"`{path}.type` is {_shown(tag)}; it must be one of {wanted}"
    if one["loc"][-1] == "[key]":
        return f"`{path}` has the key {_shown(one['input'])}; keys are token ids"
    said = str(one["msg"]).removeprefix("Value error, ")[:300]
    return f"`{path}`: {said}" if path else said


def _shown(value: Any) -> str:
    """A value in a word: small ones as they are."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= SHOWN:
        return text
    return "text" if isinstance(value, str) else "a long number"


def _place(parts: Sequence[str | int], kind: str, body: Any) -> Place:
    """The field of an error: pydantic's path without the names of branches."""
    found: list[str | int] = []
    value = body
    if parts[-1] == "[key]":  # a wrong name in an object is the object's matter
        parts = parts[:-2]
    for at, part in enumerate(parts):
        fields = value if isinstance(value, dict) else range(len(value) if _is_list(value) else 0)
        if part in fields:
            found.append(part)
            value = value[part]
        elif at == len(parts) - 1 and kind == "missing":
            found.append(part)
    return tuple(found)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _value(body: Any, place: Place) -> Any:
    for part in place:
        if isinstance(body, dict) and part not in body:
            return None
        body = body[part]
    return body


def _last(place: Place) -> int:
    return next((part for part in reversed(place) if isinstance(part, int)), -1)


def _path(place: Place) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text[:200]
