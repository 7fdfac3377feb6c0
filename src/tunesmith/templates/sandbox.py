"""Runs a model's chat template, a program by a stranger, within limits of size, steps and time.

Configured as transformers does, so that the text comes out the same. The sandbox of jinja2 keeps
templates from Python's internals but not from endless loops and huge strings; so each loop body and
macro counts a step, and every operation that can make a value larger is charged for its result.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_SOURCE = 64 * 1024
"""Longest template, in characters."""
MAX_STEPS = 500_000
"""Loop iterations and macro calls of one rendering."""
MAX_SECONDS = 0.5
"""Processor time of one rendering (not the clock's: a busy machine must not refuse data)."""
SPARE_SIZE = 16 * 2**20
"""Characters and elements that the values of a rendering may add up to, whatever it was given;
far more than is written in the end, which may be four times what was given and 64 KiB."""
MAX_NUMBER = 100_000
"""Largest width, count or range that a template may ask for."""
DATE = datetime(2024, 7, 26)
"""What `strftime_now` tells: a fixed day, so that the same data gives the same tokens."""

# Filters that can hang (quadratic), draw at random, or build HTML that no chat template needs.
_REMOVED = ("random", "urlize", "wordwrap", "pprint", "xmlattr", "forceescape")
# Filters of ours, under names that no template can write.
_STEP, JOINED, _ADDED, _PART = "a step", "joined texts", "a sum", "a slice"
_SIZED = (str, bytes, list, tuple, dict)
_WIDE = re.compile(r"\d{6,}|\*")


class TemplateRefused(Exception):
    """A template breaks a limit, or refuses the conversation."""


class _Budget:
    """What one rendering may still use."""

    def __init__(self, given: Any):
        self.steps = MAX_STEPS
        self.size = SPARE_SIZE
        self.given = given
        """The variables, weighed only when more than the spare size is asked for."""
        self.deadline = time.thread_time() + MAX_SECONDS

    def step(self, written: int = 0) -> None:
        self.steps -= 1
        if self.steps < 0 or (self.steps % 16 == 0 and time.thread_time() > self.deadline):
            raise TemplateRefused("it runs too long")
        self.charge(written)

    def charge(self, size: int) -> None:
        self.size -= size
        if self.size < 0 and self.given is not None:
            self.size += 64 * _weight(self.given)
            self.given = None
        if self.size < 0:
            raise TemplateRefused("it makes too much text")


_BUDGET: ContextVar[_Budget] = ContextVar("budget")


def compile_template(
    source: str, make_environment: Callable[[], Sandbox] | None = None
) -> Callable[..., str]:
    """A function that renders the template with the variables given as keywords.

    Args:
        source: The template.
        make_environment: What it is rendered in; default: `Sandbox`.

    Raises:
        TemplateRefused: The source is too long or is no template. The function raises it when a
            rendering breaks a limit or the template calls `raise_exception`.
    """
    if len(source) > MAX_SOURCE:
        raise TemplateRefused(f"it is longer than {MAX_SOURCE // 1024} KiB")
    environment = (make_environment or Sandbox)()
    try:
        template = environment.from_string(source)
    except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError, TypeError) as error:
        raise TemplateRefused(f"it is no valid template: {_short(error)}") from None
    template.globals = dict(template.globals)  # a ChainMap, slow to copy at every rendering

    def render(**variables: Any) -> str:
        token = _BUDGET.set(_Budget(variables))
        try:
            return _joined_within(
                template.root_render_func(template.new_context(variables)), variables
            )
        except TemplateRefused:
            raise
        except Exception as error:  # a template can raise whatever its operations raise
            raise TemplateRefused(_short(error)) from None
        finally:
            _BUDGET.reset(token)

    return render


def variables(source: str) -> frozenset[str]:
    """Names that a template or a part of one wants to be given; nothing of it is run.

    Raises:
        TemplateRefused: It is no template.
    """
    environment = Sandbox()
    try:
        found = meta.find_undeclared_variables(environment.parse(source))
    except (jinja2.TemplateError, RecursionError) as error:
        raise TemplateRefused(_short(error)) from None
    return frozenset(found) - frozenset(environment.globals)


def _joined_within(chunks: Iterable[str], variables: dict[str, Any]) -> str:
    """The chunks as one text, at most four times what was given and 64 KiB."""
    text = "".join(chunks)  # what is written on the way was charged: it can't outgrow the budget
    if len(text) > 64 * 1024 and len(text) > 64 * 1024 + 4 * _weight(variables):
        raise TemplateRefused("it makes too much text")
    return text


def _weight(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(str(key)) + _weight(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_weight, value))
    return len(value) if isinstance(value, str) else 1


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:300]


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with limits on time, steps and size."""

    intercepted_binops = frozenset(["*", "%", "**"])  # "+" is routed by _CountSteps

    def __init__(self):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,
            finalize=written,
        )
        self.globals = {
            "range": _range,
            "dict": dict,
            "namespace": jinja2.utils.Namespace,
            "joiner": jinja2.utils.Joiner,
            "cycler": jinja2.utils.Cycler,
            "raise_exception": _raise,
            "strftime_now": DATE.strftime,
        }
        self.filters = {
            name: _charged(_tojson if name == "tojson" else function, name)
            for name, function in self.filters.items()
            if name not in _REMOVED
        }
        self.filters |= {_STEP: _step, JOINED: _joined, _ADDED: _added, _PART: _part}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _CountSteps().visit(super()._parse(source, name, filename))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_binop(operator, left, right)
        return paid(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # Parameter names as in jinja2: a template may pass a keyword `self` or `context`.
        owner = __obj.__self__ if hasattr(__obj, "__self__") else None
        if isinstance(owner, str | bytes):
            _check_text_method(__obj.__name__, owner, args, kwargs)
        return paid(super().call(__context, __obj, *args, **kwargs))

    def handle_exception(self, source: str | None = None) -> NoReturn:
        """Raises what was raised; jinja2 would rewrite tracebacks that nobody sees, at length."""
        raise

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """jinja2's guarded `format` of a string, for widths of at most five digits."""
        guarded = super().wrap_str_format(value)
        if guarded is None:
            return None

        def run(*args: Any, **kwargs: Any) -> str:
            _check_text_method("format", value.__self__, args, kwargs)
            return guarded(*args, **kwargs)

        return run


class _CountSteps(NodeTransformer):
    """Puts a step into every loop body, macro and block, and routes `~` and slices through us."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._counted(node)

    visit_Macro = visit_CallBlock = visit_FilterBlock = visit_AssignBlock = visit_For

    def _counted(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        written = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        step = _own(_STEP, [nodes.Const(written)], node.lineno)
        node.body = [nodes.ExprStmt(step, lineno=node.lineno), *node.body]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _own(JOINED, list(node.nodes), node.lineno)

    def visit_Add(self, node: nodes.Add) -> nodes.Node:
        """Sums are what templates are made of: one call for a whole chain."""
        self.generic_visit(node)
        left: Any = node.left
        chained = isinstance(left, nodes.Filter) and left.name == _ADDED
        parts = [left.node, *left.args] if chained else [left]
        return _own(_ADDED, [*parts, node.right], node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = [node.arg.start, node.arg.stop, node.arg.step]
        empty = nodes.Const(None)
        return _own(_PART, [node.node, *(bound or empty for bound in bounds)], node.lineno)


def _own(name: str, arguments: list[nodes.Expr], line: int) -> nodes.Filter:
    """A call of one of our functions; filters are called without the sandbox's ceremony."""
    return nodes.Filter(arguments[0], name, arguments[1:], [], None, None, lineno=line)


def _step(written: int) -> None:
    _BUDGET.get().step(written)


def _joined(*parts: Any) -> str:
    return paid("".join(map(str, parts)))


def _added(first: Any, *rest: Any) -> Any:
    budget, made = _BUDGET.get(), first
    for one in rest:
        made = made + one
        if type(made) is str:
            budget.size -= len(made)
            if budget.size < 0:
                budget.charge(0)
        else:
            paid(made)
    return made


def _part(value: Any, start: Any, stop: Any, step: Any) -> Any:
    return paid(value[start:stop:step])


class _Generation(Extension):
    """`{% generation %}` marks trained text in some templates; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def paid(value: Any) -> Any:
    """The value, charged for its size."""
    if isinstance(value, _SIZED):
        # A character takes one to four bytes, an element a pointer.
        _BUDGET.get().charge(str.__len__(value) if isinstance(value, str) else 8 * len(value))
    return value


def written(value: Any) -> Any:
    """What `{{ … }}` writes: also text caught in macros and `{% set %}` blocks counts."""
    text = value if isinstance(value, str) else str(value)
    budget = _BUDGET.get(None)
    if budget is not None:
        budget.size -= len(text)
        if budget.size < 0:
            budget.charge(0)
    return text


def _check_binop(operator: str, left: Any, right: Any) -> None:
    budget = _BUDGET.get()
    if operator == "**" or (operator == "*" and isinstance(left, int) and isinstance(right, int)):
        if not all(isinstance(side, float) or abs(side) <= 2**64 for side in (left, right)):
            raise TemplateRefused("it computes too large a number")
        if operator == "**" and abs(right) > 64:
            raise TemplateRefused("it computes too large a number")
    elif operator == "*":
        value: Any
        value, count = (left, right) if hasattr(left, "__len__") else (right, left)
        if hasattr(value, "__len__") and isinstance(count, int):
            budget.charge(len(value) * max(count, 0))
    elif operator == "%" and isinstance(left, str) and _WIDE.search(left):
        raise TemplateRefused("it formats to too large a width")


def _check_text_method(name: str, owner: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """Refuses methods of strings that make much out of little, before they do."""
    if name == "replace" and len(args) >= 2:
        _BUDGET.get().charge(owner.count(args[0]) * len(args[1]))
    elif name == "join" and args and hasattr(args[0], "__len__"):
        _BUDGET.get().charge(len(owner) * len(args[0]))
    elif name == "join" and len(owner) > 64:
        raise TemplateRefused("it joins with too long a text")
    elif name == "format" and _WIDE.search(owner):
        raise TemplateRefused("it formats to too large a width")
    elif name in ("translate", "expandtabs", "encode", "decode"):
        raise TemplateRefused(f"it calls `{name}`")
    _check_numbers((*args, *kwargs.values()))


def _check_numbers(values: tuple) -> None:
    if any(isinstance(value, int) and abs(value) > MAX_NUMBER for value in values):
        raise TemplateRefused(f"it uses a number above {MAX_NUMBER:,} as a width or count")


def _charged(function: Callable, name: str) -> Callable:
    """A filter that pays for its result, refuses large numbers and keeps how jinja calls it."""

    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    def run(*args: Any, **kwargs: Any) -> Any:
        budget, rest = _BUDGET.get(), args[first + 1 :]
        if name != "default":
            _check_numbers((*rest, *kwargs.values()))
        if name == "join":
            parts = list(args[first])
            between = str(rest[0] if rest else kwargs.get("d", ""))
            budget.charge(len(between) * len(parts))
            args = (*args[:first], parts, *rest)
        elif name == "replace" and len(rest) >= 2:
            budget.charge(str(args[first]).count(str(rest[0])) * len(str(rest[1])))
        elif name == "format" and _WIDE.search(str(args[first])):
            raise TemplateRefused("it formats to too large a width")
        return paid(function(*args, **kwargs))

    run.__name__ = name
    # Says whether jinja passes its context, evaluation context or environment first.
    if hasattr(function, "jinja_pass_arg"):
        run.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return run


def _range(*bounds: int) -> range:
    made = range(*bounds)
    if len(made) > MAX_NUMBER:
        raise TemplateRefused(f"it counts to more than {MAX_NUMBER:,}")
    return made


def _raise(message: str) -> None:
    raise TemplateRefused(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
