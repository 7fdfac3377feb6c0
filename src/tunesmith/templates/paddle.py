"""PaddleNLP's chat_template.json: three fragments of Jinja, put together as one chat template.

The fragments are `system`, `conversation` (the user's part and the bot's) and `query` (the question
to answer). Rules, from PaddleNLP's `ChatTemplate`: text is system + every conversation + query;
`index` counts rounds from 0; a round that is not the last needs its answer; nothing is added.
"""

from __future__ import annotations

import json
from typing import Any

from tunesmith.errors import DataError
from tunesmith.templates import sandbox
from tunesmith.templates.jinja import JinjaTemplate
from tunesmith.templates.tokenizer import Tokenizer

FILE = "chat_template.json"
_KEYS = ("system", "conversation", "query")
_GIVEN = {"user", "bot", "query", "index", "system", "is_first", "is_last", "length"}
_GIVEN |= {"is_training"}


def load(name: str, text: str, tokenizer: Tokenizer) -> JinjaTemplate:
    """The template of a chat_template.json; one of transformers (`chat_template`) is read too.

    Raises:
        DataError: D301, it is no JSON, has other keys, or a fragment is no Jinja.
    """
    found = _parsed(name, text)
    if set(found) == {"chat_template"} and isinstance(found["chat_template"], str):
        return JinjaTemplate(name, found["chat_template"], tokenizer)
    system, conversation, query = _fragments(name, found)
    free = sorted(set().union(*(_variables(name, f) for f in (system, *conversation, query))))
    filled = "system" in _variables(name, system)
    source = _source(system, conversation, query, filled)
    template = JinjaTemplate(name, source, tokenizer)
    said = []
    if missing := [f"`{variable}`" for variable in free if variable not in _GIVEN]:
        said.append(f"{', '.join(missing)} of the template: no row says what, so left empty")
    if query.replace("query", "user") != conversation[0]:
        said.append("a question to answer looks otherwise than one that has been answered")
    template.notes = (*said, *template.notes)
    return template


def _parsed(name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        at, what = _comma(text, error.pos), "a comma with nothing after it"
        if at < 0:
            at, what = error.pos, error.msg
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        raise _bad(name, f"is no JSON: {what} at line {line}, column {column}") from None
    except RecursionError:
        raise _bad(name, "is no JSON object but very deep nesting") from None
    if not isinstance(found, dict):
        raise _bad(name, "is no JSON object")
    return found


def _comma(text: str, at: int) -> int:
    """Where a comma too many stands, if that is what is wrong at this place; else -1."""
    comma = at if text[at : at + 1] == "," else len(text[:at].rstrip()) - 1
    after = text[comma + 1 :].lstrip()
    return comma if text[comma : comma + 1] == "," and after[:1] in ("}", "]") else -1


def _fragments(name: str, found: dict[str, Any]) -> tuple[str, list[str], str]:
    for key in found:
        if key not in _KEYS:
            raise _bad(name, f"has the unknown key `{key}`; known: {', '.join(_KEYS)}")
    conversation = found.get("conversation")
    if not isinstance(conversation, list) or len(conversation) not in (1, 2):
        raise _bad(name, "needs `conversation`: a list of the user's part and the bot's")
    system, query = found.get("system") or "", found.get("query") or "{{query}}"
    if not all(isinstance(part, str) for part in (system, query, *conversation)):
        raise _bad(name, "has a part that is no text")
    if "bot" not in _variables(name, conversation[-1]):
        raise _bad(name, "needs `{{bot}}` in the bot's part of `conversation`")
    if "query" not in _variables(name, query):
        raise _bad(name, "needs `{{query}}` in `query`")
    return system, ["", *conversation][-2:], query


def _variables(name: str, fragment: str) -> frozenset[str]:
    """Variables that a fragment uses; it is parsed, not run."""
    try:
        return sandbox.variables(fragment)
    except sandbox.TemplateRefused as error:
        raise _bad(name, f"has a part that is no Jinja: {error}") from None


def _source(system: str, conversation: list[str], query: str, filled: bool) -> str:
    """The fragments as one chat template for transformers; `filled`: the first uses `system`."""
    user, bot = conversation
    said = "{{- raise_exception('%s') }}"
    fixed = said % "the system prompt of this chat format is fixed: it has no place for another"
    refused = "" if filled else f"{{%- if system %}}{fixed}{{%- endif %}}"
    lines = [
        "{%- if messages and messages[0]['role'] == 'system' %}",
        "{%- set system = messages[0]['content'] %}{%- set rest = messages[1:] %}",
        "{%- else %}{%- set system = '' %}{%- set rest = messages %}{%- endif %}",
        refused,
        "{%- set length = (rest | selectattr('role', 'equalto', 'user') | list) | length %}",
        "{%- set is_training = not add_generation_prompt %}",
        _verbatim(system),
        "{%- set round = namespace(index=-1, user='', open=false) %}",
        "{%- for message in rest %}",
        "{%- if message['role'] == 'user' %}",
        "{%- if round.open %}",
        said % "a round that is not the last one has no answer",
        "{%- endif %}",
        "{%- set round.index = round.index + 1 %}{%- set round.open = true %}",
        "{%- set round.user = message['content'] %}",
        "{%- elif message['role'] != 'assistant' or not round.open %}",
        said % "this chat format has questions and answers only, by turns",
        "{%- else %}{%- set round.open = false %}",
        "{%- endif %}",
        "{%- set user = round.user %}{%- set query = round.user %}{%- set index = round.index %}",
        "{%- set is_first = index == 0 %}{%- set is_last = index + 1 == length %}",
        "{%- if not round.open %}{%- set bot = message['content'] %}",
        _verbatim(bot),
        "{%- elif loop.last and add_generation_prompt %}",
        _verbatim(query),
        "{%- else %}",
        _verbatim(user),
        "{%- endif %}",
        "{%- endfor %}",
    ]
    return "\n".join(filter(None, lines)) + "\n"


def _verbatim(fragment: str) -> str:
    """A fragment between tags that leave its line breaks and spaces alone."""
    return f"{{{{- '' }}}}{fragment}{{{{ '' }}}}" if fragment else ""


def _bad(name: str, what: str) -> DataError:
    return DataError("D301", f"the template `{name}` {what}", where=name)
