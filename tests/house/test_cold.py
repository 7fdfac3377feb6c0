"""What only reads must not wait for torch: asserted on sys.modules, not on a clock."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.house.source import PACKAGE

RECIPES = sorted((PACKAGE / "recipes").rglob("*.yaml"))
SCRIPT = """
import json, sys
from tunesmith.cli.main import main
code = main(json.loads(sys.argv[1]))
heavy = [name for name in ("torch", "transformers", "peft", "datasets") if name in sys.modules]
print("HEAVY", json.dumps({"code": code, "loaded": heavy}))
"""


def run_cold(*arguments: str) -> dict:
    """Runs the command line in a fresh process; tells its exit code and heavy modules loaded."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("HEAVY ")]
    assert lines, done.stderr[-2000:]
    return json.loads(lines[-1].removeprefix("HEAVY "))


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("train", "--help"), ("config", "schema"), ("runs",)],
    ids=lambda arguments: " ".join(arguments),
)
def test_reading_commands_load_no_torch(arguments):
    assert run_cold(*arguments) == {"code": 0, "loaded": []}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_config_check_loads_no_torch(recipe):
    assert run_cold("config", "check", str(recipe)) == {"code": 0, "loaded": []}


def test_there_are_shipped_recipes():
    assert RECIPES
