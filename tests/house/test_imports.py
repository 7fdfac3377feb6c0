"""Every module can be imported, and after that the public API still is what it says."""

from __future__ import annotations

import tomllib

import pytest

from tests.forked import Forked
from tests.house.source import ROOT, modules

# In one process of its own, with no module of ours loaded: importing every submodule must not
# shadow a public function of the package (`import tunesmith.train` would replace
# `tunesmith.train`), so the API is looked at afterwards.
SCRIPT = """
import importlib, inspect, sys
for name in [name for name in sys.modules if name.split(".")[0] == "tunesmith"]:
    del sys.modules[name]
failed = []
for name in names:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed.append(f"{name}: {type(error).__name__}: {error}")
assert not failed, failed
import tunesmith
assert tunesmith.__all__, "no public API"
for name in tunesmith.__all__:
    value = getattr(tunesmith, name)
    assert not inspect.ismodule(value), f"tunesmith.{name} is shadowed by a module"
recipe = tunesmith.Recipe()
print(tunesmith.__version__, recipe.train.seed)
"""


def test_every_module_imports_then_the_public_api_is_there(tmp_path):
    names = [module.name for module in modules() if not module.name.endswith("__main__")]
    assert len(names) > 100
    done = Forked(lambda: exec(SCRIPT, {"names": names}), tmp_path / "said.txt")
    assert done.wait(120) == 0, done.said()[-4000:]
    assert done.said().split()[-1] == "42"


def test_public_names_have_docstrings():
    import tunesmith

    bare = [
        name
        for name in tunesmith.__all__
        if callable(getattr(tunesmith, name)) and not getattr(tunesmith, name).__doc__
    ]
    assert bare == []


def test_at_most_twenty_direct_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert len(project["dependencies"]) <= 20


@pytest.mark.parametrize("forbidden", ["trl", "gradio", "accelerate", "vllm"])
def test_run_time_does_not_depend_on(forbidden):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert not [line for line in project["dependencies"] if line.startswith(forbidden)]
