"""`tunesmith merge`: bakes an adapter into its base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import output

app = output.app(
    examples=[
        "tunesmith merge last -o merged/",
        "tunesmith merge last@best -o merged/ --dtype float32 --json",
        "tunesmith merge adapter/ --base models/gpt2 -o merged/ --max-shard-size 2GB",
    ],
)


@app.command()
def command(
    run: Annotated[str, typer.Argument(help="Run, or directory of an adapter.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="Directory to make.")],
    base: Annotated[str | None, typer.Option(help="The base, if it can't be found.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: the base's.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest weights file.")] = "5GB",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace what is there.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare with the live adapter.")] = True,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Bake an adapter into its base: an ordinary model directory that computes the same."""
    from tunesmith.compose import merging

    choices = merging.Choices(dtype, max_shard_size, replace=yes, verify=verify)
    report = merging.merge(run, out, choices, base=base)
    for note in report.notes:
        output.log(f"note    {note}")
    proof = "not compared with the live adapter"
    if report.kl is not None:
        proof = f"max|Δlogit| {report.max_abs_diff:.1e} · KL {report.kl:.1e} nats"
    text = (
        f"merged  {report.base} + {', '.join(report.adapters)}\n"
        f"weights {report.changed} changed ({report.dtype}) · {report.bytes / 1e6:,.1f} MB in "
        f"{len(report.files)} file(s)\n"
        f"proof   {proof}\n"
        f"next    tunesmith chat {report.path}"
    )
    output.result(report.as_dict(), json=json, text=text)
