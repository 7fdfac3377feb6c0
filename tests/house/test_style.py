"""Rules of CONTRIBUTING.md that a machine can check."""

from __future__ import annotations

import ast
import re

from tests.house.source import ROOT, calls, imports, modules

VAGUE = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)", re.IGNORECASE)
# Parts that adapt foreign objects may ask what those have; the core knows its own types.
CORE = {"types", "errors", "registry", "recipe", "rundir", "compose", "losses", "data", "stages"}
CORE |= {"training", "templates", "evaluation"}


def test_no_vague_names():
    files = [module.here for module in modules() if VAGUE.search(module.path.stem)]
    classes = [
        f"{module.here}:{node.lineno} {node.name}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and re.search(r"(Utils?|Helper|Manager)$", node.name)
    ]
    assert files + classes == []


def test_no_getattr_with_a_literal_default_in_the_core():
    found = [
        f"{module.here}:{node.lineno}"
        for module in modules()
        if module.unit in CORE
        for callee, node in calls(module)
        if callee == "getattr" and len(node.args) == 3 and isinstance(node.args[1], ast.Constant)
    ]
    assert found == []


def test_every_file_says_its_idea():
    assert [m.here for m in modules() if m.lines and not ast.get_docstring(m.tree)] == []


def test_no_mutable_defaults():
    found = [
        f"{module.here}:{node.lineno} {node.name}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for default in [*node.args.defaults, *node.args.kw_defaults]
        if isinstance(default, ast.List | ast.Dict | ast.Set)
    ]
    assert found == []


def test_todo_names_an_issue():
    found = [
        f"{module.here}:{number}"
        for module in modules()
        for number, line in enumerate(module.path.read_text("utf-8").splitlines(), 1)
        if re.search(r"\b(TODO|FIXME|XXX)\b(?!\(#\d+\))", line)
    ]
    assert found == []


def test_the_house_does_not_import_its_tests_or_benchmarks():
    found = [
        f"{module.here}:{line}"
        for module in modules()
        for target, line in imports(module)
        if target.split(".")[0] in {"tests", "bench", "experiments", "pytest"}
    ]
    assert found == []


def test_documentation_has_no_dead_links():
    """Relative links of README and docs lead to files of the repository."""
    dead = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
            if "://" not in link and not (page.parent / link).exists():
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert dead == []
