"""A format of strings as Jinja: the same text in any engine that renders chat templates."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tunesmith.templates.formats import ToolStrings, split

if TYPE_CHECKING:
    from tunesmith.templates.strings import StringTemplate

_STOPS = re.compile(r"\{#- tunesmith stops: (\[.*\]) -#\}\n")


def jinja(template: StringTemplate, default_system: str) -> str:
    """Source of a chat template that renders what `template` does.

    Its first line, a comment, keeps the stop strings, which a chat template has no other place for.

    Args:
        template: The format, bound to a tokenizer.
        default_system: System prompt of conversations that have none.
    """
    format = template.format
    head = _head(template, default_system)
    in_user = format.system_in_user
    lines = [
        _kept_stops(template),
        *head,
        f"{{{{- {'bos_token + ' if template.bos else ''}{_q(format.prefix)} }}}}",
        "{%- set told = namespace(round=" + str(format.first_round) + ", head=head) %}",
        "" if in_user else "{{- told.head }}{%- set told.head = '' %}",
        "{%- for message in rest %}",
        "{%- if not loop.first and loop.previtem['role'] == 'assistant' %}",
        f"{{{{- {_between(template)} }}}}",
        "{%- endif %}",
        "{%- if message['role'] == 'user' %}",
        *_user(template),
        "{%- elif told.head %}",
        _refused("an answer before the first question"),
        "{%- elif message['role'] == 'assistant' %}",
        *_answer(template),
    ]
    if format.tools:
        lines += ["{%- elif message['role'] == 'tool' %}", *_result(format.tools)]
    lines += [
        "{%- else %}",
        "{{- raise_exception('this chat format has no place for a message of the role ' "
        "+ message['role'] + ' here') }}",
        "{%- endif %}",
        "{%- endfor %}",
        "{%- if add_generation_prompt %}",
        "{%- if rest and rest[-1]['role'] == 'assistant' %}",
        f"{{{{- {_between(template)} }}}}",
        "{%- endif %}",
        f"{{{{- {_q(format.assistant)} }}}}",
        "{%- endif %}",
    ]
    return "\n".join(line for line in lines if line) + "\n"


def stops(source: str) -> tuple[str, ...]:
    """The stop strings that the first line of an exported template keeps."""
    found = _STOPS.match(source)
    if not found:
        return ()
    try:
        texts = json.loads(found.group(1))
    except ValueError:
        return ()
    return tuple(text for text in texts if isinstance(text, str) and text)


def _kept_stops(template: StringTemplate) -> str:
    format = template.format
    texts = [
        *format.stop_strings,
        *([format.tools.end] if format.tools and format.tools.end else []),
    ]
    # A text must not end the comment.
    kept = json.dumps(texts, ensure_ascii=False).replace("#", "\\u0023")
    return f"{{#- tunesmith stops: {kept} -#}}" if texts else ""


def _q(text: str) -> str:
    """A string literal of Jinja."""
    return json.dumps(text, ensure_ascii=False)


def _refused(what: str) -> str:
    said = _q(f"this chat format has no place for {what}")
    return f"{{{{- raise_exception({said}) }}}}"


def _between(template: StringTemplate) -> str:
    text = _q(template.format.separator)
    return text + (" + bos_token" if template.between != template.format.separator else "")


def _head(template: StringTemplate, default_system: str) -> list[str]:
    """Sets `head`, the system prompt in its markup, and `rest`, the messages after it."""
    format = template.format
    before, after = split(format.system)
    lines = [
        "{%- if messages and messages[0]['role'] == 'system' %}",
        "{%- set system = messages[0]['content'] or '' %}{%- set rest = messages[1:] %}",
        "{%- else %}",
        f"{{%- set system = {_q(default_system)} %}}{{%- set rest = messages %}}",
        "{%- endif %}",
    ]
    if not format.history:
        lines += [
            "{%- set last = namespace(start=0) %}",
            "{%- for message in rest %}",
            "{%- if message['role'] == 'user' and not loop.first"
            " and loop.previtem['role'] != 'user' %}",
            "{%- set last.start = loop.index0 %}",
            "{%- endif %}",
            "{%- endfor %}",
            "{%- set rest = rest[last.start:] %}",
        ]
    if not format.system:
        lines.append("{%- if system %}" + _refused("a system prompt") + "{%- endif %}")
    whether = "" if format.empty_system else " if system else ''"
    plain = f"{_q(before)} + system + {_q(after)}{whether}"
    if format.tools is None:
        lines.append("{%- if tools %}" + _refused("tools") + "{%- endif %}")
        return [*lines, f"{{%- set head = {plain} %}}"]
    text = _q(format.tools.system).replace("{system}", '" + system + "')
    text = text.replace("{tools}", '" + listed.text + "')
    one = split(format.tools.tool, "tool")
    indent = f"(indent={format.tools.indent})" if format.tools.indent else ""
    written = f"{_q(one[0])} + (tool | tojson{indent}) + {_q(one[1])}"
    return [
        *lines,
        "{%- set listed = namespace(text='') %}",
        "{%- for tool in tools or [] %}",
        f"{{%- set listed.text = listed.text + {written} %}}",
        "{%- endfor %}",
        "{%- if tools %}",
        f"{{%- set head = {_q(before)} + {text} + {_q(after)} %}}",
        "{%- else %}",
        f"{{%- set head = {plain} %}}",
        "{%- endif %}",
    ]


def _user(template: StringTemplate) -> list[str]:
    before, after = split(template.format.user)
    number = '" ~ told.round ~ "'

    def opening(text: str) -> str:
        return f"{{{{- {_q(text).replace('{round}', number)} }}}}"

    whole = opening(before)
    if template.opened:
        rest = opening(before.removeprefix(template.opened))
        followed = "not loop.first and loop.previtem['role'] == 'assistant'"
        whole = f"{{%- if {followed} %}}{rest}{{%- else %}}{whole}{{%- endif %}}"
    return [
        whole,
        f"{{{{- told.head + message['content'] + {_q(after)} }}}}",
        "{%- set told.head = '' %}{%- set told.round = told.round + 1 %}",
    ]


def _answer(template: StringTemplate) -> list[str]:
    format = template.format
    before, after = split(format.answer)
    thinking = split(format.thinking)
    lines = [
        f"{{{{- {_q(format.assistant + before)} }}}}",
        "{%- if message['reasoning_content'] is string %}",
        f"{{{{- {_q(thinking[0])} + message['reasoning_content'] + {_q(thinking[1])} }}}}",
        "{%- endif %}",
        "{{- message['content'] or '' }}",
    ]
    if format.tools is None:
        lines.append("{%- if message['tool_calls'] %}" + _refused("tool calls") + "{%- endif %}")
        return [*lines, f"{{{{- {_q(after + template.end)} }}}}"]
    return [*lines, *_calls(format.tools), *_ends(template, after)]


def _ends(template: StringTemplate, after: str) -> list[str]:
    if template.call_end == template.end:
        return [f"{{{{- {_q(after + template.end)} }}}}"]
    called = _q(after + template.call_end)
    return [f"{{{{- {called} if message['tool_calls'] else {_q(after + template.end)} }}}}"]


def _calls(strings: ToolStrings) -> list[str]:
    before, after = split(strings.call, "call")
    key = _q(f', "{strings.arguments}": ')
    lines = ["{%- for call in message['tool_calls'] or [] %}"]
    if strings.single:
        refused = _refused("more than one tool call in an answer")
        lines.append(f"{{%- if not loop.first %}}{refused}{{%- endif %}}")
    if strings.between:
        said = f"{{{{- {_q(strings.between)} }}}}"
        lines.append(f"{{%- if message['content'] or not loop.first %}}{said}{{%- endif %}}")
    return [
        *lines,
        "{%- set call = call['function'] if call['function'] is defined else call %}",
        "{%- set given = call['arguments'] %}",
        "{%- set given = given if given is string else given | tojson %}",
        f"{{{{- {_q(before)} + '{{\"name\": ' + (call['name'] | tojson) + {key}"
        f" + given + '}}' + {_q(after)} }}}}",
        "{%- endfor %}",
    ]


def _result(strings: ToolStrings) -> list[str]:
    begin, end = split(strings.results, "results")
    before, after = split(strings.result)
    lines = []
    if begin:
        said = f"{{{{- {_q(begin)} }}}}"
        lines.append(f"{{%- if loop.first or loop.previtem['role'] != 'tool' %}}{said}")
        lines.append("{%- endif %}")
    lines.append(f"{{{{- {_q(before)} + (message['content'] or '') + {_q(after)} }}}}")
    if end:
        said = f"{{{{- {_q(end)} }}}}"
        lines.append(f"{{%- if loop.last or loop.nextitem['role'] != 'tool' %}}{said}")
        lines.append("{%- endif %}")
    return lines
