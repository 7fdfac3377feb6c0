"""What the answers to a chat must look like: `response_format`, `tools`, `tool_choice`.

As OpenAI has it: tools and a form go together, the answer is then a call or of that form; a call
that is forced is no text; a strict tool's arguments keep to its schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tunesmith.compose.answering import Forms, Wanted
from tunesmith.generation.thinking import AfterThoughts, ThinkingSplit, begun_by, hidden_marks
from tunesmith.serving.answers import Answer
from tunesmith.serving.faults import Refusal
from tunesmith.serving.schema import (
    ChatBody,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedTool,
    Tool,
)
from tunesmith.serving.service import Model, Service
from tunesmith.serving.tool_calls import CallFormat

LONGEST_SCHEMA = 32_768
"""Characters of all schemas of a request that its answer is held to."""


def check(body: ChatBody) -> None:
    """Refuses what contradicts itself.

    Raises:
        Refusal: S111.
    """
    choice = body.tool_choice
    if choice not in (None, "none") and not body.tools:
        raise Refusal("S111", "`tool_choice` without `tools`", "tool_choice")
    names = [tool.function.name for tool in body.tools or ()]
    if len(set(names)) < len(names):
        raise Refusal("S111", "`tools` has two functions of one name", "tools")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        what = f"`tool_choice` names `{choice.function.name}`, which is none of `tools`"
        raise Refusal("S111", what, "tool_choice", fix=f"there is {', '.join(names)}")


def tools_told(body: ChatBody) -> list[Tool] | None:
    """The tools that the model is told of."""
    return body.tools if body.tool_choice != "none" else None


def reader(body: ChatBody, model: Model) -> Callable[[Sequence[int]], Answer]:
    """Makes empty answers to a prompt, that know how this model writes thoughts and calls.

    Raises:
        Refusal: S121, the template can't tell the model of tools.
    """
    offer = model.offer
    calls = _calls(model) if tools_told(body) else None
    names = tuple(tool.function.name for tool in _callable(body))
    stop_ids = frozenset((*offer.defaults.stop_ids, *(body.stop_token_ids or ())))
    several, forced = _several(body), _forced(body)
    marks = hidden_marks(offer.tokenizer)

    def empty(ids: Sequence[int]) -> Answer:
        split = ThinkingSplit(begun=begun_by(offer.tokenizer, ids))
        return Answer(
            offer.template.answer_prefix, calls, names, stop_ids, several, forced, split, marks
        )

    return empty


async def rule(
    service: Service, body: ChatBody, model: Model
) -> Callable[[Sequence[int]], Any] | None:
    """Makes what the engine must keep to after a prompt, one for each choice; None: nothing.

    Where the prompt has opened thoughts, the form begins after them.

    Raises:
        Refusal: S111, schemas are too long; S124, the engine can't keep to them.
    """
    form = _form(body)
    strict = any(tool.function.strict for tool in _callable(body))
    forced = _forced(body)
    held = tools_told(body) and (forced or form or strict or not _several(body))
    if not held and not form:
        return None
    param = "response_format" if form else "tool_choice" if forced else "tools"
    forms = model.offer.forms
    if forms is None:
        raise Refusal("S124", f"this engine can't keep to `{param}`", param)
    wanted = None
    if held:
        functions = tuple(t.function.model_dump(exclude_none=True) for t in _callable(body))
        wanted = Wanted(functions, _several(body), forced, form)
    size = sum(len(json.dumps(schema)) for schema in (*form, *(wanted.functions if wanted else ())))
    if size > LONGEST_SCHEMA:
        what = f"the schemas have more than {LONGEST_SCHEMA:,} characters"
        raise Refusal("S111", what, param)
    # Off the engine's thread; a schema that can't be is refused by name.
    make = await service.formed(lambda: _made(forms, model, form, wanted), param)
    tokenizer = model.offer.tokenizer

    def held_to(ids: Sequence[int]) -> Any:
        if not begun_by(tokenizer, ids):
            return make()
        return AfterThoughts(make(), tokenizer, forms.spelled()[0], forms.stops)

    return held_to


def _made(forms: Forms, model: Model, form: tuple[Any, ...], wanted: Wanted | None) -> Any:
    return forms.json(form[0]) if wanted is None else forms.calls(_calls(model).shape, wanted)


def _calls(model: Model) -> CallFormat:
    if model.calls is None:
        raise Refusal(
            "S121",
            f"the chat template of `{model.name}` has no way to call tools",
            "tools",
            fix="leave them out, or serve a model that was trained to call tools",
        )
    return model.calls


def _form(body: ChatBody) -> tuple[Any, ...]:
    """The schema of text answers, in a tuple."""
    wanted = body.response_format
    if isinstance(wanted, JsonSchemaFormat):
        return (wanted.json_schema.schema_,)
    return (None,) if isinstance(wanted, JsonObjectFormat) else ()


def _callable(body: ChatBody) -> list[Tool]:
    """The tools that may be called."""
    choice = body.tool_choice
    found = tools_told(body) or []
    if isinstance(choice, NamedTool):
        return [tool for tool in found if tool.function.name == choice.function.name]
    return found


def _forced(body: ChatBody) -> bool:
    """Whether an answer must be a call."""
    return body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool)


def _several(body: ChatBody) -> bool:
    """Whether an answer may make more than one call: a function that is named is called once."""
    return body.parallel_tool_calls is not False and not isinstance(body.tool_choice, NamedTool)
