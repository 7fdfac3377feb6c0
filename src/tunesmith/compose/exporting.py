"""Exports a run, a checkpoint, an adapter or a model; adapters are merged first."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import platform
from tunesmith.compose import merging, model, source
from tunesmith.compose.source import Source

if TYPE_CHECKING:
    from tunesmith.exporting.graph import GraphReport


@dataclasses.dataclass(frozen=True)
class Choices:
    """How to write graphs; see `exporting.graph.export`."""

    dtype: str | None = None
    context: int | None = None
    replace: bool = False


def graph(spec: str, out: Path, choices: Choices, *, root: str = "runs/") -> GraphReport:
    """Writes a model's graphs of prefill and decoding.

    Args:
        spec: Run (with `@step-N` or `@best`), adapter, directory, `builtin:` or hub id.
        out: Directory to make.
        choices: How.
        root: Folder of runs.

    Raises:
        ConfigError: C211, C212: see `exporting.graph.export`.
        EnvironmentFault: E2xx, the model is not there or can't be used.
        ExportError: X320, virtual tokens or a kind of model that has no graph; X321–X323: see
            `exporting.graph.export`; X1xx, the adapter can't be merged.
    """
    platform.prepare()
    from tunesmith.exporting import graph as graphs
    from tunesmith.models import load

    found = source.language_model(spec, root)
    kind = _virtual(found)
    if kind:
        raise graphs.refused(
            f"{spec} is tuned by virtual tokens ({kind} tuning), which can't be merged",
            "They stand before the text, and a graph begins with it.",
            "serve it: tunesmith chat, generate and serve take virtual tokens as they are",
        )
    if not found.adapters and found.checkpoint is None:
        directory = load.resolve(found.base)[0]
        return _export(directory, out, choices, {"model": _called(spec)})
    graphs.check_out(found.top or Path(), out, choices.replace)
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder) / "merged"
        report = merging.merge(spec, merged, merging.Choices(choices.dtype), root=root)
        made_of = {"model": _called(report.base), "merged": [_called(a) for a in report.adapters]}
        written = _export(merged, out, choices, made_of)
    proof = "not compared with the live adapter"
    if report.max_abs_diff is not None:
        proof = f"max|Δlogit| {report.max_abs_diff:.1e} from the live adapter"
    said = f"{len(report.adapters)} adapter(s) merged into {report.base} first: {proof}"
    return dataclasses.replace(written, notes=[said, *report.notes, *written.notes])


def _export(directory: Path, out: Path, choices: Choices, made_of: dict) -> GraphReport:
    from tunesmith.exporting import graph as graphs

    return graphs.export(
        directory,
        out,
        dtype=choices.dtype,
        context=choices.context,
        replace=choices.replace,
        made_of=made_of,
    )


def _called(name: str) -> str:
    """A model's name without the folders it lies in: they are of one machine."""
    return Path(name).resolve().name if Path(name).exists() else name


def _virtual(found: Source) -> str:
    """`prompt` or `prefix` if such an adapter is among a model's parts."""
    if found.checkpoint is not None:
        kind = model.run_recipe(found.checkpoint).tuner.kind
        if kind in source.VIRTUAL.values():
            return kind
    for adapter in found.adapters:
        config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
        if config.get("peft_type") in source.VIRTUAL:
            return source.VIRTUAL[config["peft_type"]]
    return ""
