"""Calls that turn data into code are banned from the package, tests of refusals excepted.

Source: the pickle, template, shell and archive CVEs of this field's tools; half of them come from
one deserialising call on a file that travelled.
"""

from __future__ import annotations

import ast

import pytest

from tests.house.source import Module, calls, imports, modules

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
CALLS = {
    "eval", "exec", "compile", "os.system", "os.popen", "torch.load", "torch.jit.load",
    "yaml.load", "yaml.full_load", "yaml.unsafe_load", "jinja2.Environment", "Environment",
    "tempfile.mktemp",
}  # fmt: skip
METHODS = {"extractall"}
KEYWORDS = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "weights_only": False}
# Parts that read what strangers wrote.
UNTRUSTED = {"serving", "cli", "recipe", "rundir", "templates", "data"}
# "file:what" -> why it is safe there.
ALLOWED: dict[str, str] = {}


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.here)
def test_no_data_becomes_code(module):
    found = [
        f"{module.here}:{line}: {what}"
        for what, line in _banned(module)
        if f"{module.here}:{what}" not in ALLOWED
    ]
    assert found == []


def test_the_ban_list_sees_what_it_bans():
    """The checker itself, on a file that does everything wrong."""
    text = (
        "import pickle\nfrom marshal import loads\neval('1')\ntorch.load(p)\nyaml.load(s)\n"
        "run(c, shell=True)\nnp.load(p, allow_pickle=True)\nt.extractall()\nassert ok\n"
        "load(p, trust_remote_code=True)\nre.compile('x')\nyaml.safe_load(s)\n"
    )
    bad = Module(modules()[0].path, "tunesmith.serving.bad", ast.parse(text), 12)
    assert [line for _, line in _banned(bad)] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


def _banned(module: Module) -> list[tuple[str, int]]:
    found = [(name, line) for name, line in imports(module) if name.split(".")[0] in MODULES]
    for callee, node in calls(module):
        if callee in CALLS or callee.split(".")[-1] in METHODS:
            found.append((callee, node.lineno))
        found += [(f"{k.arg}={k.value.value}", node.lineno) for k in node.keywords if _bad(k)]
    # `python -O` removes asserts: where input from outside is checked there may be none.
    if module.unit in UNTRUSTED:
        found += [("assert", n.lineno) for n in ast.walk(module.tree) if isinstance(n, ast.Assert)]
    return sorted(found, key=lambda pair: pair[1])


def _bad(keyword: ast.keyword) -> bool:
    return (
        keyword.arg in KEYWORDS
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value is KEYWORDS[keyword.arg]
    )
