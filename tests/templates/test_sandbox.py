"""Templates by strangers: rendered as transformers does, stopped at limits of steps and size."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith.templates.sandbox import MAX_SOURCE, TemplateRefused, compile_template

TALK = [{"role": "user", "content": "x" * 200}, {"role": "assistant", "content": "y" * 200}]
ABUSES = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "huge range": "{% for a in range(10**9) %}{% endfor %}",
    "range as list": "{{ range(99999999999)|list|length }}",
    "text times number": "{{ 'a' * 9999999999 }}",
    "list times number": "{{ ([1] * 9999999999)|length }}",
    "power tower": "{{ 9**(9**9) }}",
    "powers in a loop": "{% set n = namespace(i=9) %}{% for a in range(99) %}"
    "{% set n.i = n.i * n.i %}{% endfor %}{{ n.i }}",
    "doubling with ~": "{% set n = namespace(s='ab') %}{% for a in range(60) %}"
    "{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling with +": "{% set n = namespace(s='ab') %}{% for a in range(60) %}"
    "{% set n.s = n.s + n.s %}{% endfor %}",
    "doubling of lists": "{% set n = namespace(s=[1]) %}{% for a in range(60) %}"
    "{% set n.s = n.s + n.s %}{% endfor %}",
    "doubling with set blocks": "{% set x %}abcdefgh{% endset %}"
    + "{% set x %}{{ x }}{{ x }}{% endset %}" * 50,
    "macros that call twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "text in a macro's loop": "{% macro f() %}{% for a in range(90000) %}"
    + "z" * 50_000
    + "{% endfor %}{% endmacro %}{{ f()|length }}",
    "text in a loop": "{% for a in range(90000) %}" + "z" * 50_000 + "{% endfor %}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "format width": "{{ '{:>1000000000}'.format(1) }}",
    "nested format width": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "center filter": "{{ 'a'|center(1000000000) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "replace": "{% set s = 'a' * 60000 %}{{ s.replace('', s)|length }}",
    "replace filter": "{% set s = 'a' * 60000 %}{{ s|replace('', s)|length }}",
    "join": "{{ ('a' * 60000).join(range(99999)|map('string'))|length }}",
    "join filter": "{{ range(99999)|join('a' * 60000)|length }}",
    "translate": "{{ ('a' * 60000).translate({97: 'b' * 60000})|length }}",
    "indent": "{{ TALK|tojson(indent=1000000000) }}".replace("TALK", "messages"),
    "batch": "{{ [1]|batch(1000000000, 'x')|list|length }}",
    "letters of letters": "{% set s = 'a' * 9999 %}{% for a in s %}{% for b in s %}{% for c in s %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for a in [[1, 2, 3]] recursive %}{{ loop([a, a, a]) }}{% endfor %}",
    "slices kept": "{% set s = 'a' * 900000 %}{% set n = namespace(l=[]) %}"
    "{% for a in range(9999) %}{% set n.l = n.l + [s[1:]] %}{% endfor %}",
    "class hierarchy": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "globals by attr": "{{ (''|attr('__class__')).__mro__ }}",
    "format to attribute": "{{ '{0.__class__.__mro__[1].__subclasses__}'.format(messages) }}",
    "import of a file": "{% include '/etc/passwd' %}",
    "lorem ipsum": "{{ lipsum(n=100000) }}",
    "changes its input": "{{ messages.append(1) }}",
    "deep nesting": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "too long a source": "a" * (MAX_SOURCE + 1),
    "no template": "{% if %}",
    "divides by zero": "{{ 1 / 0 }}",
}  # fmt: skip


def attempt(source: str) -> str:
    return compile_template(source)(messages=TALK, add_generation_prompt=False)


@pytest.mark.parametrize("name", ABUSES)
def test_abuse_is_refused_at_once(name):
    start = time.thread_time()
    with pytest.raises(TemplateRefused):
        attempt(ABUSES[name])
    assert time.thread_time() - start < 1.0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_abuse_takes_little_memory():
    """Peak memory of a process in which every abuse was tried."""
    script = (
        "import json, sys\n"
        "from tunesmith.templates.sandbox import TemplateRefused, compile_template\n"
        "for source in json.load(sys.stdin):\n"
        "    try:\n"
        "        compile_template(source)(messages=[{'role': 'user', 'content': 'x' * 200}])\n"
        "    except TemplateRefused:\n"
        "        pass\n"
        # Not ru_maxrss: that counts the parent's memory before exec.
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(next(line.split()[1] for line in lines if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(list(ABUSES.values())),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 256 * 1024  # KiB


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages -%}\n{{ m.role }},{% endfor %}", "user,assistant,"),
        ("  {% if true %}\na\n  {% endif %}\nb", "a\nb"),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}.{% endfor %}", "."),
        ("{{ {'a': '<é>', 'b': [1, none]}|tojson }}", '{"a": "<é>", "b": [1, null]}'),
        ("{{ {'b': 1, 'a': 2}|tojson(indent=2, sort_keys=true) }}", '{\n  "a": 2,\n  "b": 1\n}'),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{% set n = namespace(x=1) %}{% set n.x = n.x + 1 %}{{ n.x }}", "2"),
        ("{{ messages[1:]|length }}{{ 'abc'[::-1] }}{{ 'abc'[:2] }}", "1cbaab"),
        ("{{ 'a' ~ 1 ~ none }}", "a1None"),
        ("{{ '%s-%05d' % ('a', 3) }}{{ '{:>4}'.format(1) }}", "a-00003   1"),
        ("{{ ['b', 'a']|sort|join(', ') }}{{ 'x,y'.split(',')|last }}", "a, by"),
        ("{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, b=3) }}", "1213"),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "user"),
        ("{{ missing }}{{ missing is defined }}", "False"),
        ("{{ messages[0].items()|list|length }}{{ dict(a=1).a }}", "21"),
        ("{{ 1234567|string }}{{ 5|default(1234567) }}", "12345675"),
    ],
)
def test_renders_as_transformers_does(source, text):
    from datetime import datetime

    from transformers.utils.chat_template_utils import render_jinja_template

    assert attempt(source) == text
    if "strftime" not in source:
        theirs = render_jinja_template([TALK], chat_template=source)[0][0]
        assert theirs == text
    assert datetime.now().year >= 2024


def test_raise_exception_reaches_the_user():
    with pytest.raises(TemplateRefused, match="roles must alternate"):
        attempt("{{ raise_exception('roles must alternate') }}")


def test_output_is_bounded_by_input():
    source = "{% for i in range(n) %}{{ text }}{% endfor %}"
    render = compile_template(source)
    assert len(render(n=4, text="x" * 300_000)) == 1_200_000
    with pytest.raises(TemplateRefused, match="too much text"):
        render(n=6, text="x" * 300_000)


def test_long_conversations_are_no_abuse():
    unused = "text " * 1000
    source = "{% for m in messages %}{% if m.role == 'u' %}" + unused + "{% endif %}.{% endfor %}"
    talk = [{"role": "a", "content": "b"}] * 2000
    assert compile_template(source)(messages=talk) == "." * 2000


def test_shadowing_names_does_not_stop_the_count():
    source = (
        "{% set range = cycler %}{% set step = 0 %}{% set environment = 0 %}"
        "{% for a in 'a' * 9999 %}{% for b in 'a' * 9999 %}{% endfor %}{% endfor %}"
    )
    with pytest.raises(TemplateRefused, match="too long"):
        attempt(source)
