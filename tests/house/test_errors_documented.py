"""Every error code raised has an entry in docs/errors.md, every entry is raised somewhere."""

from __future__ import annotations

import ast
import re

from tests.house.source import ROOT, modules

PAGE = ROOT / "docs" / "errors.md"
CODE = re.compile(r"[CDMERGSX]\d{3}")


def raised() -> dict[str, str]:
    """Code → the first place in src that writes it down: an argument, or `error[…]` in a text."""
    found: dict[str, str] = {}
    for module in modules():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            codes = CODE.findall(node.value) if "error[" in node.value else [node.value]
            for code in filter(CODE.fullmatch, codes):
                found.setdefault(code, f"{module.here}:{node.lineno}")
    return found


def documented() -> list[str]:
    return re.findall(r"^## (\S+)", PAGE.read_text("utf-8"), flags=re.MULTILINE)


def test_every_code_has_an_entry():
    assert {code: at for code, at in raised().items() if code not in documented()} == {}


def test_every_entry_is_raised():
    assert set(documented()) - set(raised()) == set()


def test_entries_are_sorted_and_single():
    assert documented() == sorted(set(documented()))


def test_every_code_is_provoked_by_a_test():
    text = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert sorted(code for code in raised() if code not in text) == []
