"""Runs a model's Jinja template without trusting it: immutable sandbox, bounded work and output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from tunesmith.errors import DataError

MAX_TEMPLATE = 64 * 1024
"""Characters of a template."""
MAX_RANGE = 20_000
"""Iterations of all range() loops of one rendering together."""
MAX_TEXT = 1 << 20
"""Characters a single `*` may make."""
DATE = "26 Jul 2024"
"""What strftime_now yields: a fixed day, or the tokens trained would change every midnight."""


class _Environment(ImmutableSandboxedEnvironment):
    """No `**`, bounded `*`, and a budget for range()."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self.budget = MAX_RANGE
        self.filters["tojson"] = _tojson
        self.globals = {
            "range": self._range,
            "namespace": jinja2.utils.Namespace,
            "dict": dict,
            "raise_exception": _raise,
            "strftime_now": lambda form: DATE,
        }

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("`**` is not allowed in a chat template")
        sized = [x for x in (left, right) if isinstance(x, (str, list, tuple))]
        number = [x for x in (left, right) if isinstance(x, int)]
        if sized and number and len(sized[0]) * number[0] > MAX_TEXT:
            raise SecurityError("a chat template repeats a text too often")
        return left * right

    def _range(self, *bounds: int) -> range:
        made = range(*bounds)
        self.budget -= len(made)
        if self.budget < 0:
            raise SecurityError(f"a chat template loops more than {MAX_RANGE} times")
        return made


class Sandbox:
    """A compiled template.

    Args:
        source: Jinja text, in the dialect of transformers' chat templates.
        tokens: bos_token, eos_token … as the template may name them.

    Raises:
        DataError: D301, it can't be compiled.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]):
        if len(source) > MAX_TEMPLATE:
            raise _broken(f"it has {len(source):,} characters, the limit is {MAX_TEMPLATE:,}")
        self._environment = _Environment()
        self._tokens = dict(tokens)
        try:
            self._template = self._environment.from_string(_without_generation(source))
        except jinja2.TemplateError as error:
            raise _broken(str(error)) from None

    def __call__(self, messages: list[dict[str, Any]], *, prompt: bool, tools: Any = None) -> str:
        """Renders messages.

        Args:
            messages: As transformers takes them: role, content, tool_calls …
            prompt: Whether the text ends where the assistant begins (add_generation_prompt).
            tools: JSON schemas of tools, or None.

        Raises:
            DataError: D302, the template refuses these messages or goes beyond its bounds.
        """
        self._environment.budget = MAX_RANGE
        limit = 4 * sum(len(str(m.get("content"))) for m in messages) + MAX_TEMPLATE
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate(
                messages=messages, add_generation_prompt=prompt, tools=tools, **self._tokens
            ):
                length += len(part)
                if length > limit + 4 * len(json.dumps(tools or [])):
                    raise SecurityError("a chat template writes too much")
                parts.append(part)
        except (jinja2.TemplateError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise DataError(
                "D302",
                f"the chat template refuses this conversation: {error}",
                fix="choose another template: data.template=chatml",
            ) from None
        return "".join(parts)


def _without_generation(source: str) -> str:
    """transformers' `{% generation %}` marks spans for its own masks; ours are found by rendering."""
    for word in ("generation", "endgeneration"):
        for dash in ("{%-", "{%"):
            for end in ("-%}", "%}"):
                source = source.replace(f"{dash} {word} {end}", "")
    return source


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any):
    separators, sort_keys = options.get("separators"), bool(options.get("sort_keys"))
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _broken(why: str) -> DataError:
    return DataError(
        "D301",
        f"the chat template can't be compiled: {why}",
        where="data.template",
        fix="mend it, or choose another: data.template=chatml",
    )
