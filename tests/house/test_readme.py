"""What README.md and docs/ tell people to type is there, parses, and (slow) works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source import ROOT

README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Commands of README that are not run here: the suite itself, and what only a person can do.
NOT_RUN = ("make ", "git ", "cd ", "tunesmith chat")


def blocks(kind: str) -> list[str]:
    """Fenced blocks of README of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Command lines of README's sh blocks, comments taken off."""
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_make_targets_exist():
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    told = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z-]+)",
            page.read_text("utf-8"), re.MULTILINE)}  # fmt: skip
    assert told
    assert told - made == set()


def test_verbs_exist():
    from tunesmith.cli.main import VERBS

    told = {
        verb
        for page in PAGES
        if "adr" not in page.parts
        for verb in re.findall(r"`tunesmith ([a-z]+)", page.read_text("utf-8"))
    }
    told |= {line.split()[1] for line in commands() if line.startswith("tunesmith ")}
    assert "train" in told
    assert told - set(VERBS) == set()


def test_readme_shows_a_whole_first_run():
    shown = {Path(name).suffix for name, _ in files()}
    assert shown == {".yaml", ".jsonl"}
    assert [line for line in commands() if line.startswith("tunesmith train")]


def files() -> list[tuple[str, str]]:
    """(name, text) of the blocks whose first line is `# name` or that follow "`name`:"."""
    found = re.findall(
        r"`([\w.-]+\.(?:yaml|jsonl))`:?\n+```\w+\n(.*?)^```", README, re.MULTILINE | re.DOTALL
    )
    return [(name, text) for name, text in found]


@pytest.mark.slow
def test_readme_commands_run(tmp_path):
    """All commands of README in their order, in an empty folder with the files it shows."""
    for name, text in files():
        (tmp_path / name).write_text(text, encoding="utf-8")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in commands():
        if line.startswith(NOT_RUN):
            continue
        done = subprocess.run(
            shlex.split(line),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
