"""`tunesmith runs`: lists, shows, compares and removes run directories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.errors import ConfigError, RunError

if TYPE_CHECKING:
    from tunesmith.rundir import RunDir

app = output.app(
    help="List, show, compare and remove runs.",
    examples=[
        "tunesmith runs",
        "tunesmith runs ls --json",
        "tunesmith runs show last",
        "tunesmith runs compare last 20261121-0655-sft-tiny-k7f3 --json",
        "tunesmith runs rm 20261121-0655-sft-tiny-k7f3 --yes",
    ],
)

COLUMNS = ["id", "state", "stage", "tuner", "model", "step", "loss", "eval_loss"]
ROOT = typer.Option("--dir", help="Folder of runs.")
RUN = typer.Argument(help="Run id, prefix, path or `last`.", show_default=False)


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context,
    json: Annotated[bool, output.JSON] = False,
    root: Annotated[str, ROOT] = "runs/",
) -> None:
    """List, show, compare and remove runs."""
    if context.invoked_subcommand is None:
        _list(root, json)


@app.command("ls")
def ls(json: Annotated[bool, output.JSON] = False, root: Annotated[str, ROOT] = "runs/") -> None:
    """List runs, the newest last."""
    _list(root, json)


def _list(root: str, json: bool) -> None:
    from tunesmith.rundir import RunDir

    rows = [_row(run) for run in RunDir.all(root)]
    if not rows and not json:
        output.log(f"no runs in {root}, nor in the index")
        return
    output.table(rows, COLUMNS, json=json)


def _row(run: RunDir) -> dict[str, Any]:
    """One line of the list; a damaged run.json is shown, not raised."""
    try:
        info = run.info()
    except RunError:
        return {"id": run.id, "state": "damaged", "path": str(run.path)}
    metrics = run.metrics()
    model = str(info.get("model") or "").rstrip("/").rpartition("/")[2]
    return {
        "id": run.id,
        "state": info.get("state"),
        "stage": info.get("stage"),
        "tuner": info.get("tuner"),
        "model": model,
        "step": _last(metrics, "step"),
        "loss": _last(metrics, "loss"),
        "eval_loss": _last(metrics, "eval_loss"),
        "created": info.get("created"),
        "path": str(run.path),
    }


def _last(metrics: list[dict[str, Any]], name: str) -> Any:
    return next((line[name] for line in reversed(metrics) if line.get(name) is not None), None)


@app.command("show")
def show(
    run: Annotated[str, RUN],
    json: Annotated[bool, output.JSON] = False,
    root: Annotated[str, ROOT] = "runs/",
) -> None:
    """Show what is known about one run."""
    from tunesmith.rundir import RunDir

    directory, _ = RunDir.find(run, root)
    info, metrics = directory.info(), directory.metrics()
    last = {
        name: _last(metrics, name)
        for name in ("step", "epoch", "loss", "eval_loss", "learning_rate", "tokens_per_second")
    }
    try:
        model = str(directory.model_path())
    except RunError:
        model = None
    value = {
        **info,
        "path": str(directory.path),
        "model_path": model,
        "checkpoints": directory.steps(),
        "last": last,
    }
    if json:
        output.result(value, json=True)
        return
    flat = {key: child for key, child in value.items() if not isinstance(child, dict)}
    flat |= {f"last {name}": child for name, child in last.items() if child is not None}
    output.result(flat)


@app.command("compare")
def compare(
    runs: Annotated[list[str], RUN],
    json: Annotated[bool, output.JSON] = False,
    root: Annotated[str, ROOT] = "runs/",
) -> None:
    """Compare runs: last numbers, and the recipe values in which they differ."""
    from tunesmith.rundir import RunDir

    found = [RunDir.find(run, root)[0] for run in runs]
    if len(found) < 2:
        raise ConfigError(
            "C204", "comparing takes two runs or more", fix="tunesmith runs compare A B"
        )
    rows = [_row(run) for run in found]
    differing = _differing(found)
    if json:
        output.result({"runs": rows, "differences": differing}, json=True)
        return
    output.table(rows, COLUMNS)
    print()
    table = [{"key": key, **values} for key, values in differing.items()]
    output.table(table, ["key", *(run.id for run in found)])


def _differing(runs: list[RunDir]) -> dict[str, dict[str, Any]]:
    """Dotted key → run id → value, for the keys of the recipes that are not the same in all."""
    from tunesmith import recipe as recipes

    flat = {}
    for run in runs:
        loaded = recipes.load(run.path / "resolved.yaml", environ={})
        flat[run.id] = recipes.flatten(recipes.to_dict(loaded))
    keys = sorted({key for values in flat.values() for key in values})
    table = {key: {run: values.get(key) for run, values in flat.items()} for key in keys}
    return {
        key: values
        for key, values in table.items()
        if any(value != next(iter(values.values())) for value in values.values())
    }


@app.command("rm")
def rm(
    runs: Annotated[list[str], RUN],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    json: Annotated[bool, output.JSON] = False,
    root: Annotated[str, ROOT] = "runs/",
) -> None:
    """Remove runs with all their checkpoints; a running one is refused."""
    from tunesmith.rundir import RunDir

    found = [RunDir.find(run, root)[0] for run in runs]
    for run in found:
        if not yes and not typer.confirm(f"remove {run.path} with all its checkpoints?", err=True):
            raise typer.Exit(1)
        run.remove()
    removed = [run.id for run in found]
    output.result({"removed": removed}, json=json, text=f"removed {', '.join(removed)}")
