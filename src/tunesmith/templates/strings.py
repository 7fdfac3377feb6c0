"""Templates that a few strings say whole: a .toml file becomes one Jinja template.

bos = true                       begin with the tokenizer's BOS, if it adds one
default_system = "…"             system prompt of conversations without one; may be empty
system = "…{content}…"           the system part
user = "…{content}…"             a user turn, up to where the assistant begins
user_with_system = "…{system}…{content}…"   first user turn, when the system part is folded in
tool = "…{content}…"             a tool's answer; default: like a user turn
assistant = "…{content}…"        an answer without its end marker; default "{content}"
end = "<|im_end|>"               end marker; "{eos}" or a token the tokenizer lacks: its EOS
separator = "\\n"                 between an answer and the next turn
turn_bos = true                  every user turn begins with BOS (llama2)
"""

from __future__ import annotations

import tomllib
from typing import Any

from tunesmith.errors import DataError
from tunesmith.templates.tokenizer import Tokenizer

KEYS = {
    "bos",
    "default_system",
    "system",
    "user",
    "user_with_system",
    "tool",
    "assistant",
    "end",
    "separator",
    "turn_bos",
}


def jinja(source: str, name: str, tokenizer: Tokenizer, notes: list[str]) -> tuple[str, Tokenizer]:
    """Jinja text of a .toml template for a tokenizer.

    Args:
        source: TOML text with the keys above.
        name: What to call it in errors.
        tokenizer: Decides about BOS and the end marker.
        notes: Receives what was replaced.

    Raises:
        DataError: D301, it is no TOML, misses `user`, or has unknown keys.
    """
    try:
        parts = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise _broken(name, str(error)) from None
    unknown = sorted(set(parts) - KEYS)
    if unknown or "user" not in parts:
        what = f"unknown keys {', '.join(unknown)}" if unknown else "`user` is missing"
        raise _broken(name, what)
    bos = "{{ bos_token }}" if tokenizer.adds_bos and tokenizer.token("bos_token") else ""
    return _compose(parts, bos, _end(parts.get("end", "{eos}"), name, tokenizer, notes)), tokenizer


def _end(end: str, name: str, tokenizer: Tokenizer, notes: list[str]) -> str:
    """The end marker in Jinja; EOS where the tokenizer lacks the template's own."""
    if end != "{eos}" and tokenizer.special_id(end) is not None:
        return literal(end)
    if end != "{eos}":
        notes.append(f"template {name}: the tokenizer has no {end}; answers end with its EOS")
    return "{{ eos_token }}"


def _compose(parts: dict[str, Any], bos: str, end: str) -> str:
    turn_bos = bos if parts.get("turn_bos") else ""
    begin = bos if parts.get("bos") and not turn_bos else ""
    separator = literal(parts.get("separator", ""))
    user = turn_bos + fill(parts["user"], content="message['content']")
    tool = fill(parts.get("tool", parts["user"]), content="message['content']")
    answer = fill(parts.get("assistant", "{content}"), content="message['content']")
    folded = parts.get("user_with_system")
    if folded:
        first = turn_bos + fill(folded, content="message['content']", system="ns.system")
        user = f"{{%- if ns.system and not ns.begun -%}}{first}{{%- else -%}}{user}{{%- endif -%}}"
        system = ""
    else:
        system = (
            "{%- if ns.system -%}" + fill(parts["system"], content="ns.system") + "{%- endif -%}"
        )
    default = literal(parts.get("default_system", "")) or "{{ '' }}"
    return "".join(
        [
            "{%- set ns = namespace(system=" + default[3:-3] + ", begun=false, answered=false) -%}",
            "{%- if messages and messages[0]['role'] == 'system' -%}",
            "{%- set ns.system = messages[0]['content'] -%}{%- endif -%}",
            begin,
            system,
            "{%- for message in messages -%}",
            "{%- if message['role'] == 'system' -%}",
            "{%- if not loop.first -%}{{ raise_exception('a system message must come first') }}",
            "{%- endif -%}",
            "{%- elif message['role'] == 'assistant' -%}",
            answer,
            end,
            "{%- set ns.answered = true -%}",
            "{%- else -%}",
            "{%- if ns.answered -%}" + separator + "{%- set ns.answered = false -%}{%- endif -%}",
            "{%- if message['role'] == 'tool' -%}" + tool + "{%- else -%}" + user + "{%- endif -%}",
            "{%- set ns.begun = true -%}",
            "{%- endif -%}",
            "{%- endfor -%}",
        ]
    )


def literal(text: str) -> str:
    """A Jinja expression that prints exactly this text; empty for an empty one."""
    if not text:
        return ""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return "{{ '" + escaped + "' }}"


def fill(pattern: str, **expressions: str) -> str:
    """Jinja that prints a pattern with `{content}` and the like filled in by expressions."""
    made, rest = "", pattern
    while rest:
        found = [(rest.find("{" + n + "}"), n) for n in expressions if "{" + n + "}" in rest]
        if not found:
            return made + literal(rest)
        at, name = min(found)
        made += literal(rest[:at]) + "{{ " + expressions[name] + " }}"
        rest = rest[at + len(name) + 2 :]
    return made


def _broken(name: str, why: str) -> DataError:
    return DataError(
        "D301",
        f"the chat template {name} can't be read: {why}",
        where="data.template",
        fix="see docs: a template needs `user` and may have system, assistant, end, separator …",
    )
