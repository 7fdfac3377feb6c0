"""Merges a run, a checkpoint or an adapter directory, wherever its base is."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import platform
from tunesmith.compose import model, source
from tunesmith.compose.source import Source
from tunesmith.errors import ExportError

if TYPE_CHECKING:
    from tunesmith.exporting.merge import MergeReport


@dataclass(frozen=True)
class Choices:
    """How to write the merged model; see `exporting.merge.merge`."""

    dtype: str | None = None
    max_shard_size: str = "5GB"
    replace: bool = False
    verify: bool = True


def merge(
    spec: str, out: Path, choices: Choices, *, base: str | None = None, root: str = "runs/"
) -> MergeReport:
    """Bakes all adapters of a model into its full weights.

    Args:
        spec: Run (with `@step-N` or `@best`), or directory of an adapter.
        out: Directory to make.
        choices: How.
        base: Overrides the base that an adapter directory names.
        root: Folder of runs.

    Raises:
        EnvironmentFault: E201, no such model; E202, its base is gone.
        ExportError: X1xx, see `exporting.merge.merge`; X101 too if there is nothing to merge.
    """
    platform.prepare()
    from tunesmith.exporting import merge as merging

    path = Path(spec).expanduser()
    if base is not None and (path / "adapter_config.json").is_file():
        below = source.locate(base, root)
        found = Source(spec, below.base, (*below.adapters, path))
    else:
        found = source.language_model(spec, root)
    with tempfile.TemporaryDirectory() as folder:
        adapters = list(found.adapters)
        if found.checkpoint is not None:
            adapters.append(adapter_of(found.checkpoint, found.base, Path(folder) / "adapter"))
        if not adapters:
            raise ExportError(
                "X101",
                f"{spec} has no adapter to merge: it is a full model",
                where=found.base,
                fix=f"use it as it is: tunesmith chat {spec}",
            )
        report = merging.merge(
            found.base,
            adapters,
            out,
            dtype=choices.dtype,
            max_shard_size=choices.max_shard_size,
            replace=choices.replace,
            verify=choices.verify,
        )
    named = [str(path) for path in (*found.adapters, found.checkpoint) if path is not None]
    return dataclasses.replace(report, adapters=named)


def adapter_of(checkpoint: Path, base: str, target: Path) -> Path:
    """Writes a checkpoint's adapter as a directory, with the run's tokenizer and template.

    The base is only needed for its shapes: no weights of it are read.

    Raises:
        ExportError: X101, the run trained full weights.
    """
    from tunesmith.models import load
    from tunesmith.recipe.sections import ModelConfig
    from tunesmith.templates import base as templates
    from tunesmith.training.checkpoint import Checkpoint
    from tunesmith.tuners import base as tuners

    recipe = model.run_recipe(checkpoint)
    tuner = tuners.build(recipe.tuner)
    if not base or not tuner.mergeable:
        raise ExportError(
            "X101",
            "this checkpoint has no adapter to merge: its run trained the weights themselves",
            where=str(checkpoint),
            fix="use it as it is, or `tunesmith resume` the run to its end for a directory",
        )
    shapes = load.skeleton(ModelConfig(path=base))
    tuner.apply(shapes)
    shapes.load_state_dict(Checkpoint(checkpoint).weights(), strict=False, assign=True)
    target.mkdir(parents=True)
    tuner.save(shapes, target)
    template = templates.load(recipe.data.template, model.origin(recipe).tokenizer_dir)
    template.tokenizer.save(target, chat_template=template.jinja)
    run = checkpoint.parents[1].name
    card = {"run": f"{run}@{checkpoint.name}", "system": recipe.data.system}
    (target / source.CARD).write_text(json.dumps(card), encoding="utf-8")
    return target
