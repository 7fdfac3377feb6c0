"""What only reads must not wait for torch: asserted on sys.modules, not on a clock."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.house.source import PACKAGE

RECIPES = sorted((PACKAGE / "recipes").rglob("*.yaml"))
READING = (("--help",), ("train", "--help"), ("config", "schema"), ("runs",))
SCRIPT = """
import json, sys
from tunesmith.cli.main import main
told = {}
for words in json.loads(sys.argv[1]):
    code = main(words)
    heavy = [name for name in ("torch", "transformers", "peft", "datasets") if name in sys.modules]
    told[" ".join(words)] = {"code": code, "loaded": heavy}
print("HEAVY", json.dumps(told))
"""


@pytest.fixture(scope="module")
def cold() -> dict[str, dict]:
    """Command line → its exit code, and the heavy modules loaded by it or by one before it.

    One fresh process for all of them: nothing may be loaded by any.
    """
    lines = [*READING, *(("config", "check", str(recipe)) for recipe in RECIPES)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(lines)],
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("HEAVY ")]
    assert told, done.stderr[-2000:]
    return json.loads(told[-1].removeprefix("HEAVY "))


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_reading_commands_load_no_torch(arguments, cold):
    assert cold[" ".join(arguments)] == {"code": 0, "loaded": []}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_config_check_loads_no_torch(recipe, cold):
    assert cold[f"config check {recipe}"] == {"code": 0, "loaded": []}


def test_there_are_shipped_recipes():
    assert RECIPES
