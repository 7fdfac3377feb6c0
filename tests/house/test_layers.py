"""The one-directional rule: a module imports from its own folder or from rows below it.

Lazy imports inside functions and imports under TYPE_CHECKING count too: what a module knows about
is what it depends on.
"""

from __future__ import annotations

import ast

import pytest

from tests.house.source import Module, calls, imports, modules

# Top row first. `__init__` is the public API: it may import anything, nothing may import it but
# for `__version__`. Parts of one row don't know each other.
ROWS = (
    ("__init__", "__main__"),
    ("cli",),
    ("serving",),
    ("compose",),
    ("evaluation", "exporting"),
    ("training",),
    ("stages",),
    # Rewards judge what was generated and are asked by stages, so they stand below these; they know
    # texts and numbers, no model: a reward model reaches them through compose.
    ("generation", "rewards"),
    ("parallel", "tuners"),
    ("models",),
    ("quant",),
    ("data",),
    ("templates",),
    ("losses",),
    ("recipe", "rundir"),
    ("threads",),
    ("platform",),
    ("assets", "recipes"),
    ("registry",),
    ("types", "errors"),
)
ROW = {unit: row for row, units in enumerate(ROWS) for unit in units}

# Heavy or foreign packages, and the only parts that may import them.
ONLY_IN = {
    "transformers": {"models", "templates", "tuners", "generation", "exporting", "quant"},
    "peft": {"tuners", "exporting"},
    "datasets": {"data/hub.py"},
    "accelerate": set(),
    "trl": set(),
}
# Parts whose files must be importable without torch: torch and models only inside functions, or
# in a sibling called `<name>_impl.py`.
COLD = {
    "stages",
    "rewards",
    "tuners",
    "parallel",
    "generation",
    "quant",
    "recipe",
    "templates",
    "data",
    "cli",
}
COLD |= {"rundir", "platform", "registry", "types", "errors", "__init__"}
HEAVY = {"torch", "transformers", "peft", "safetensors.torch", "tunesmith.models"}


def test_every_part_has_a_row():
    assert {m.unit for m in modules()} - set(ROW) == set()


def test_imports_go_downwards():
    broken = [
        f"{module.here}:{line}: {module.unit} imports {target}"
        for module in modules()
        for target, line in imports(module)
        if target.startswith("tunesmith") and not _may(module, target)
    ]
    assert broken == []


def _may(module: Module, target: str) -> bool:
    if target == "tunesmith.__version__":
        return True
    unit = target.split(".")[1] if "." in target else "__init__"
    return unit == module.unit or ROW[unit] > ROW[module.unit]


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_foreign_packages_stay_in_their_place(package):
    broken = [
        f"{module.here}:{line}"
        for module in modules()
        for target, line in imports(module)
        if target.split(".")[0] == package and not {module.unit, module.here} & ONLY_IN[package]
    ]
    assert broken == []


def test_registry_is_loaded_only_by_compose_recipe_and_base():
    broken = [
        f"{module.here}:{node.lineno}"
        for module in modules()
        for callee, node in calls(module)
        if callee in {"registry.load", "importlib.import_module", "__import__"}
        and not _may_load(module, callee)
    ]
    assert broken == []


def _may_load(module: Module, callee: str) -> bool:
    if module.unit == "registry":
        return True
    if callee != "registry.load":  # the verb that was asked for; the public name that was used
        return module.here in {"cli/main.py", "__init__.py"}
    return module.unit in {"compose", "recipe"} or module.path.name == "base.py"


def test_configs_are_importable_cold():
    """No module-level import of torch & co. in files that `config check` needs."""
    broken = [
        f"{module.here}:{line}: {target}"
        for module in modules()
        if module.unit in COLD and not module.path.stem.endswith("_impl")
        for target, line in _at_import_time(module)
        if any(target == heavy or target.startswith(f"{heavy}.") for heavy in HEAVY)
    ]
    assert broken == []


def _at_import_time(module: Module):
    for node in module.tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(module, node)
