"""Outlines give what rendering gives, and there is none where a template looks at contents."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from tunesmith.templates.opaque import Looked, Opaque, plain
from tunesmith.templates.outline import Outlines, WatchedSandbox, can_be_watched
from tunesmith.templates.sandbox import TemplateRefused, compile_template

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM_FIRST = (
    "{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'].strip() %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if loop.first and said is defined %}{{ '<<' ~ said ~ '>>' }}{% endif %}"
    "{% if m['role'] in ['user', 'assistant'] and 'tool_calls' not in m %}"
    "[{{ m.content.rstrip() }}]{% endif %}{{ m['role'] | upper }}{% endfor %}"
)
MEMORY = (
    "{% set ns = namespace(text='', last=messages[-1].content) %}"
    "{% for m in messages %}{% set ns.text = ns.text + m.content %}{% endfor %}"
    "{{ ns.text }}|{{ ns.last | trim | trim }}|{{ messages | length }}"
    "{{ messages[0].content | default('none') if messages[0].content is string else '' }}"
)
LOOKS = [
    "{% if x %}a{% endif %}",
    "{% if not x %}a{% endif %}",
    "{{ x or 'a' }}",
    "{% if x == 'a' %}b{% endif %}",
    "{% if 'a' == x %}b{% endif %}",
    "{% if x < 'b' %}b{% endif %}",
    "{% if 'a' in x %}b{% endif %}",
    "{% if ('<' + x) != '<' %}b{% endif %}",
    "{% if (x ~ '<') != '<' %}b{% endif %}",
    "{% if x | trim %}b{% endif %}",
    "{% if x.strip() == '' %}b{% endif %}",
    "{% if x in ['a', 'b'] %}b{% endif %}",
    "{% if {'a': 1}[x] is defined %}b{% endif %}",
    "{% if x is in ['a'] %}b{% endif %}",
    "{% set y = ['a'] %}{% if x in y %}b{% endif %}",
    "{% if x in 'abc' %}b{% endif %}",
    "{% if x.startswith('a') %}b{% endif %}",
    "{% if 'abc'.startswith(x) %}b{% endif %}",
    "{% if 'a' is lt x %}b{% endif %}",
    "{% if x is sequence and x | length > 3 %}b{% endif %}",
    "{{ x | length }}",
    "{{ x | upper }}",
    "{{ x | tojson }}",
    "{{ x | replace('a', 'b') }}",
    "{{ x | first }}{{ x | last }}",
    "{{ x | list }}",
    "{{ 'a' | replace('a', x) }}",
    "{{ x[1:] }}",
    "{{ x[0] }}",
    "{{ x.split('a')[-1] }}",
    "{{ x.strip('a') }}",
    "{{ x | trim('a') }}",
    "{{ ('a' + x) | trim }}",
    "{{ x.lstrip().rstrip() }}",
    "{{ '%s' % x }}",
    "{{ '%s' % (x,) }}",
    "{{ '{}'.format(x) }}",
    "{{ x * 2 }}",
    "{{ [x] }}",
    "{{ {'a': x} }}",
    "{{ [x] | join }}",
    "{{ '-'.join([x, 'b']) }}",
    "{{ messages | map(attribute='content') | join }}",
    "{{ messages | tojson }}",
    "{% for c in x %}{{ c }}{% endfor %}",
    "{% macro f(y) %}{{ y }}{% endmacro %}{% if f(x) == 'a' %}b{% endif %}",
    "{% set y %}{{ x }}{% endset %}{% if y == 'a' %}b{% endif %}",
    "{% block y %}{{ x }}{% endblock %}{{ self.y() | length }}",
    "{% filter upper %}{{ x }}{% endfilter %}",
    "{% for m in messages %}{% if loop.changed(m.content) %}b{% endif %}{% endfor %}",
    "{{ x.format_map({}) }}",
    "{{ x | string | length }}",
    "{{ dict(a=x).a | length }}",
    "{{ namespace(a=x).a[0] }}",
    "{{ range(x | length) | list }}",
]


def outlines(source: str) -> tuple[Outlines, object]:
    def bound(compiled):
        return lambda chat, generate: compiled(messages=chat, add_generation_prompt=generate)

    render = bound(compile_template(source))
    return Outlines(render, bound(compile_template(source, WatchedSandbox))), render


def chat(*contents: str, roles=("system", "user", "assistant")) -> list[dict[str, str]]:
    return [{"role": roles[i % len(roles)], "content": text} for i, text in enumerate(contents)]


TEXTS = st.text(st.sampled_from("ab \n\t\u3000{}%<|>\ue0f4\ue0f5\ue0f00'\\𝄞"), max_size=12)


@pytest.mark.parametrize("source", [CHATML, SYSTEM_FIRST, MEMORY])
@settings(max_examples=60, deadline=None)
@given(
    contents=st.lists(TEXTS, min_size=1, max_size=4), generate=st.booleans(), shift=st.booleans()
)
def test_as_rendered(source, contents, generate, shift):
    known, render = outlines(source)
    roles = ("user", "assistant") if shift else ("system", "user", "assistant")
    messages = chat(*contents, roles=roles)
    assert known.write(messages, generate) == render(messages, generate)


@pytest.mark.parametrize("snippet", LOOKS)
def test_a_template_that_looks_has_no_outline(snippet):
    source = "{% set x = messages[0].content %}" + snippet
    assert not can_be_watched(source) or outlines(source)[0].write(chat("abc"), True) is None


def test_only_chats_of_roles_and_contents_have_one():
    known, _ = outlines(CHATML)
    assert known.write([{"role": "user", "content": "a", "name": "b"}], True) is None
    assert known.write([{"role": "user", "content": ["a"]}], True) is None
    assert known.write([{"role": "user", "name": "a"}], True) is None


def test_what_the_limits_may_refuse_is_rendered():
    source = "{% for _ in range(40) %}{{ messages[0].content }}{% endfor %}"
    known, render = outlines(source)
    assert known.write(chat("a" * 100), True) == "a" * 4000
    assert known.write(chat("a" * 20_000), True) is None
    with pytest.raises(TemplateRefused):
        render(chat("a" * 20_000), True)


def test_a_refused_shape_has_none():
    known, _ = outlines("{{ raise_exception('no system') if messages[0].role == 'system' }}b")
    assert known.write(chat("a"), True) is None
    assert known.write(chat("a", roles=("user",)), True) == "b"


def test_shapes_are_learnt_once_and_not_without_end(monkeypatch):
    rendered = []

    def render(messages, generate):
        rendered.append(messages)
        return "".join(plain(message["content"]) for message in messages)

    monkeypatch.setattr("tunesmith.templates.outline.MAX_SHAPES", 2)
    known = Outlines(render, render)
    for _ in range(3):
        assert known.write(chat("a"), True) == "a"
        assert known.write(chat("a", "b"), True) == "ab"
    assert len(rendered) == 4
    assert known.write(chat("a", "b", "c"), True) is None


def test_an_opaque_text_is_a_text():
    looked = Looked()
    text = Opaque("a", looked)
    assert isinstance("<" + text + ">", Opaque)
    assert Opaque.of(["<", text, 1]) == "<a1"
    assert looked.yes
