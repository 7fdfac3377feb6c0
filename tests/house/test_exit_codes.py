"""docs/exit-codes.md says what errors.py says, and nothing leaves with another code."""

from __future__ import annotations

import ast
import re

from tests.house.source import ROOT, modules
from tunesmith import errors
from tunesmith.compose.stopping import EXIT_OF_SIGNAL

PAGE = (ROOT / "docs" / "exit-codes.md").read_text("utf-8")


def kinds() -> list[type]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type)]


def test_the_page_is_the_table_of_errors_py():
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", PAGE, flags=re.MULTILINE)
    assert {int(code): when for code, when in rows} == errors.EXIT_CODES


def test_every_error_leaves_with_a_code_of_the_table():
    codes = {kind.exit_code for kind in kinds() if "exit_code" in vars(kind)}
    assert codes | set(EXIT_OF_SIGNAL.values()) | {0} == set(errors.EXIT_CODES)


def test_the_families_of_the_page_are_those_of_the_tree():
    drawn = re.findall(r"(\w+) +(?:([A-Z])…|(E401)) .*? +(\d)   ", errors.__doc__ or "")
    of_page = dict(re.findall(r"^\| (\d+) \| .+? \| (.*?) \|$", PAGE, flags=re.MULTILINE))
    assert len(drawn) == 9
    for _, letter, code, exit_code in drawn:
        assert (letter or code) in of_page[exit_code].split(", ")


def test_commands_leave_with_codes_of_the_table():
    given = {
        node.args[0].value
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "Exit"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert given
    assert given <= set(errors.EXIT_CODES)
