"""`tunesmith export`: a model in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tunesmith.cli import output

app = output.app(
    examples=[
        "tunesmith export last --to graph -o graph/",
        "tunesmith export builtin:tiny --to graph -o graph/ --context 256",
        "tunesmith export models/qwen3 --to graph -o graph/ --dtype bfloat16 --json",
    ],
)


@app.command()
def command(
    model: Annotated[str, typer.Argument(help="Run, adapter, directory, builtin: or hub id.")],
    to: Annotated[
        Literal["graph"], typer.Option(help="graph: torch programs of prefill and one step.")
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="Directory to make.")],
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: as it is stored.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(help="Prompt and answer together; default: the model's, at most 4096."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace what is there.")] = False,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Write a model in another form; adapters are merged first."""
    from tunesmith.compose import exporting

    choices = exporting.Choices(dtype, context, replace=yes)
    report = exporting.graph(model, out, choices)
    for note in report.notes:
        output.log(f"note    {note}")
    text = (
        f"graph   {report.family} in {report.dtype} · {report.context:,} tokens of context · "
        f"prompts in chunks of {report.chunk} · {report.bytes / 1e6:,.1f} MB\n"
        f"proof   max|Δlogit| {report.max_abs_diff:.1e} from the model, "
        f"whose largest is {report.max_logit:.1f}\n"
        f"next    tunesmith chat {report.path}"
    )
    output.result(report.as_dict(), json=json, text=text)
