"""`tunesmith estimate`: memory, time and disk before any work."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.rundir.files import size_text

app = output.app(
    examples=[
        "tunesmith estimate recipe.yaml",
        "tunesmith estimate recipe.yaml data.max_length=2048 --no-probe",
        "tunesmith estimate model=builtin:tiny data.train=chats.jsonl --json",
    ],
)


@app.command()
def command(
    recipe: Annotated[list[str], typer.Argument(help="Recipe and key=value changes.")],
    probe: Annotated[bool, typer.Option(help="Measure time on a few real steps.")] = True,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Say what a recipe needs: memory, time, disk, and what would make it fit."""
    from tunesmith import compose
    from tunesmith.compose import reading

    path, overrides = output.split_recipe(recipe)
    found = compose.estimate(reading.read(path, overrides), probe=probe)
    output.result(found, json=json, text=describe(found))
    if not found["fits"]:
        raise typer.Exit(5)


def describe(found: dict[str, Any]) -> str:
    """The estimate as lines for a terminal."""
    parts = " · ".join(f"{name} {value:.2f}" for name, value in found["memory_gb"].items())
    verdict = "fits" if found["fits"] else "DOES NOT FIT"
    lines = [
        f"memory  {found['total_gb']:.2f} GB peak on {found['device']} ({found['dtype']}), "
        f"{found['available_gb']:.1f} GB free: {verdict}",
        f"        {parts}",
        f"plan    {found['steps']:,} steps · {found['tokens_per_epoch']:,} tokens an epoch",
        f"disk    {size_text(found['disk_gb'] * 1e9)} for checkpoints and final/",
    ]
    if found["seconds"] is not None:
        rate = output.count(found["tokens_per_second"])
        lines.append(f"time    {output.duration(found['seconds'])} at {rate} tokens/s")
    cheaper = [v for v in found["variants"] if v["total_gb"] < found["total_gb"] - 0.005]
    lines += [f"cheaper {v['change']} → {v['total_gb']:.2f} GB" for v in cheaper]
    fits = [f"{size} GB {'yes' if ok else 'no'}" for size, ok in found["devices_gb"].items()]
    lines.append(f"fits on {' · '.join(fits)}")
    return "\n".join(lines)
