"""The package's own source as parsed trees: what the house rules are tested on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "tunesmith"


class Module(NamedTuple):
    """One Python file of the package."""

    path: Path
    name: str
    """Dotted name, e.g. `tunesmith.data.read`."""
    tree: ast.Module
    lines: int

    @property
    def unit(self) -> str:
        """Folder or file right below the package: `data`; `__init__` for the package itself."""
        return self.name.split(".")[1] if "." in self.name else "__init__"

    @property
    def here(self) -> str:
        return self.path.relative_to(PACKAGE).as_posix()


@cache
def modules() -> tuple[Module, ...]:
    """Every Python file below src/tunesmith, parsed."""
    return tuple(_read(path) for path in sorted(PACKAGE.rglob("*.py")))


def _read(path: Path) -> Module:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = path.read_text(encoding="utf-8")
    return Module(path, name, ast.parse(text, str(path)), len(text.splitlines()))


def imports(module: Module, node: ast.AST | None = None) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of every import anywhere in the file, lazy and type-only ones too.

    `from tunesmith import registry` gives `tunesmith.registry`: the imported name is a module or an
    attribute, and both are below the part that is imported from.
    """
    for child in ast.walk(node or module.tree):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _base(module, child)
            yield from ((f"{base}.{alias.name}", child.lineno) for alias in child.names)


def _base(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".")
    if module.path.name != "__init__.py":
        package = package[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, node.module] if node.module else package)


def calls(module: Module) -> Iterator[tuple[str, ast.Call]]:
    """(dotted callee, node) of every call whose callee is a plain dotted name."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node
