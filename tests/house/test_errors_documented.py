"""Every error code raised has an entry in docs/errors.md, every entry is raised somewhere."""

from __future__ import annotations

import ast
import re

from tests.house.source import ROOT, calls, modules

PAGE = ROOT / "docs" / "errors.md"
CODE = re.compile(r"[CDMERGSX]\d{3}")


def raised() -> dict[str, str]:
    """Code → the first place in src that writes it down as a literal argument."""
    found: dict[str, str] = {}
    for module in modules():
        for _, node in calls(module):
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            for text in (v.value for v in values if isinstance(v, ast.Constant)):
                if isinstance(text, str) and CODE.fullmatch(text):
                    found.setdefault(text, f"{module.here}:{node.lineno}")
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
