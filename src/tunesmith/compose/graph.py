"""An exported folder (`export --to graph`) as a model to talk to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith import platform
from tunesmith.compose.gguf import Opened
from tunesmith.errors import ConfigError

MANIFEST = "graph.json"
REFUSED = {
    "engine": "its own programs compute",
    "window": "its cache has a fixed size",
    "sinks": "its cache has a fixed size",
    "lookup": "it makes one token at a time",
    "draft": "it makes one token at a time",
    "beams": "it is of one row",
    "quantize": "its arithmetic is fixed",
    "dtype": "its arithmetic is fixed (export it with --dtype)",
}
"""Options of `chat`, `generate` and `serve` that such a folder can't honour, and why."""


def named(spec: str) -> bool:
    """Whether a model's name is that of an exported folder."""
    return (Path(spec).expanduser() / MANIFEST).is_file()


def refuse(spec: str, given: Mapping[str, Any]) -> None:
    """Refuses options that an exported folder can't honour.

    Raises:
        ConfigError: G172.
    """
    for name, why in REFUSED.items():
        if given.get(name) not in (None, "auto"):
            option = f"--{name}"
            what = f"{option} is not possible: {spec} is an exported graph"
            raise ConfigError("G172", what, where=option, why=why, fix=f"leave out {option}")


def load(spec: str) -> Opened:
    """Opens an exported folder.

    Raises:
        ExportError: X324, it can't be read.
        EnvironmentFault: E221 to E223, its tokenizer.
    """
    from tunesmith.compose import source
    from tunesmith.generation import base
    from tunesmith.templates import base as templates

    platform.prepare()
    folder = Path(spec).expanduser()
    template = templates.load("auto", folder)
    generator = base.build("graph", folder, template.tokenizer)
    system = source.locate(str(folder)).card().get("system")
    described = f"{spec} (exported graph)"
    return Opened(template.tokenizer, template, generator, described, system, folder)
