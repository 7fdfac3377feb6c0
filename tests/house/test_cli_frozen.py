"""The verbs are frozen: a new one is a decision, written down here and in docs/."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys

import pytest

from tests.house.source import calls, modules

VERBS = (
    "train",
    "resume",
    "stop",
    "runs",
    "data",
    "estimate",
    "doctor",
    "merge",
    "export",
    "chat",
    "generate",
    "serve",
    "score",
    "eval",
    "config",
    "model",
    "demo",
)


HELP = """
import contextlib, io, json, sys
from tunesmith.cli.main import main
told = {}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        code = main([*words, "--help"])
    told[" ".join(words)] = shown.getvalue() if code == 0 else f"exit code {code}"
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """Verb, or verb and subcommand → what its `--help` shows on a plain terminal."""
    lines = [*((verb,) for verb in VERBS), *subcommands()]
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(lines)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_verbs_are_exactly_these():
    from tunesmith.cli import main

    assert set(main.VERBS) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_three_runnable_examples(verb, helps):
    examples = re.findall(rf"tunesmith {verb}\b.*", helps[verb])
    assert len([line for line in examples if not line.startswith("Usage")]) >= 3


def subcommands() -> list[tuple[str, str]]:
    from typer.main import get_command

    found = []
    for verb in VERBS:
        command = get_command(importlib.import_module(f"tunesmith.cli.{verb}").app)
        found += [(verb, word) for word in vars(command).get("commands", {})]
    return found


@pytest.mark.parametrize(("verb", "word"), subcommands())
def test_help_of_a_subcommand_shows_an_example(verb, word, helps):
    assert re.search(rf"^\s*tunesmith {verb} {word}\b", helps[f"{verb} {word}"], re.M)


def test_advice_names_verbs_that_exist():
    """A `fix:` that tells a command no one can type is worse than none."""
    told = {
        (verb, module.here)
        for module in modules()
        for _, call in calls(module)
        for keyword in call.keywords
        if keyword.arg == "fix"
        for verb in re.findall(
            r"(?:^f?['\"]|[:;,] |`)tunesmith ([a-z]+)", ast.unparse(keyword.value)
        )
    }
    assert told
    assert {(verb, where) for verb, where in told if verb not in VERBS} == set()
