"""`tunesmith train`: runs a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.errors import ConfigError

if TYPE_CHECKING:
    from tunesmith.rundir import RunDir

app = output.app(
    examples=[
        "tunesmith train recipe.yaml",
        "tunesmith train recipe.yaml optim.learning_rate=1e-4 train.max_steps=200",
        "tunesmith train model=builtin:tiny stage=sft data.train=chats.jsonl --json",
        "tunesmith train chain/1-pretrain chain/2-sft train.dtype=float32",
    ],
)


@app.command()
def command(
    recipe: Annotated[
        list[str],
        typer.Argument(help="Recipes (.yaml or module.py:make) and key=value changes."),
    ],
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; default: the best there is.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same as train.seed=N.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, train nothing.")] = False,
    resume: Annotated[
        str | None, typer.Option(help="Go on with this run instead (as `tunesmith resume`).")
    ] = None,
    quiet: Annotated[bool, output.QUIET] = False,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Run a recipe: check, encode, train, save. Several are run one after another, each as if it
    were alone; the changes are for all of them."""
    from tunesmith import compose, platform
    from tunesmith.cli.progress import JsonLines, Terminal
    from tunesmith.compose import reading

    output.quiet(quiet or json)
    paths, overrides = output.split_recipes(recipe)
    if seed is not None:
        overrides = [*overrides, f"train.seed={seed}"]
    if device is not None:
        platform.use_device(device)
    display = JsonLines() if json else Terminal()
    if len(paths) > 1:
        _refuse_alone(resume=resume is not None, dry_run=dry_run)
        for path in paths:  # what is wrong with the last one is told before the first is trained
            reading.read(path, overrides, model=False)
    if resume is not None:
        given = reading.read(paths[0], overrides) if paths[0] else None
        run = compose.resume(resume, overrides=tuple(overrides), display=display, given=given)
        return finish(run, tell=quiet and not json)
    for number, path in enumerate(paths):
        loaded = reading.read(path, overrides)
        if dry_run:
            found = compose.check(loaded, display=display)
            output.result(found, json=json, text=checked(found))
            return
        if number:
            compose.forget_peak_memory()
            display = JsonLines() if json else Terminal()
        run = compose.train(loaded, display=display, text=written(path))
        finish(run, tell=quiet and not json)


def _refuse_alone(**options: bool) -> None:
    """Refuses options that are for one recipe.

    Raises:
        ConfigError: C238.
    """
    for name, given in options.items():
        if given:
            raise ConfigError(
                "C238",
                f"--{name.replace('_', '-')} is for one recipe, and several are given",
                where="command line",
                fix="give one",
            )


def checked(found: dict[str, Any]) -> str:
    """What a dry run found, as lines; of the rows left out the first three."""
    from tunesmith.data.report import place

    rows = [f"{place(row)}  {row['reason']}" for row in found["left_out"]]
    more = [f"… and {len(rows) - 3:,} more (--json lists them)"] if len(rows) > 3 else []
    lines = [f"{name:<13} {output.shown(v)}" for name, v in found.items() if name != "left_out"]
    return "\n".join([*lines, *(f"left out      {row}" for row in [*rows[:3], *more])])


def finish(run: RunDir, *, tell: bool) -> None:
    """Leaves with the run's exit code; with `tell` its directory goes to stdout, for scripts."""
    if tell:
        output.result(str(run.path))
    code = run.info().get("exit_code") or 0
    if code:
        raise typer.Exit(code)


def written(path: str | None) -> str | None:
    """The recipe as its author wrote it, comments and all; None if it is no YAML file."""
    file = Path(path) if path else None
    is_text = file is not None and file.suffix in (".yaml", ".yml", ".json") and file.is_file()
    return file.read_text(encoding="utf-8") if file is not None and is_text else None
