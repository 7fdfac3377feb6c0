"""`tunesmith eval`: a run's own evaluation, on its held-out data or on other data."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith.cli import output

app = output.app(
    examples=[
        "tunesmith eval last",
        "tunesmith eval last --data pairs.jsonl --min accuracy=0.6",
        "tunesmith eval sft-run@step-100 --max perplexity=12 --json",
    ],
)


@app.command()
def command(
    run: Annotated[str, typer.Argument(help="Run id, prefix, path or `last`; RUN@step-100.")],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Measure on this file instead; can be given several times."),
    ] = None,
    least: Annotated[
        list[str] | None,
        typer.Option("--min", help="metric=value: leave with 6 where it is lower."),
    ] = None,
    most: Annotated[
        list[str] | None,
        typer.Option("--max", help="metric=value: leave with 6 where it is higher."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Folder under RUN/eval; default: data and step.")
    ] = None,
    root: Annotated[str, typer.Option("--dir", help="Folder of runs.")] = "runs/",
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Measure a run as its training did: loss and what else its stage tells, on the data it held
    out or on yours."""
    from tunesmith.compose import evaluating, results, subject as subjects

    gates = results.gates(least or (), most or ())
    subject = subjects.find(run, root)
    called = results.name_of(subject, data or (), name)
    path = results.folder(subject, called)
    again = (path / "results.json").is_file()
    say = lambda topic, text: output.log(f"{topic:<7} {text}")
    found = evaluating.measure(subject, data or (), say)
    result = results.written(found, called, gates)
    if found.facts.get("left_out"):
        output.log(
            f"note    {found.facts['left_out']:,} rows could not be encoded and are left out"
        )
    output.log(f"written {path}{' (replaced)' if again else ''}")
    output.result(result, json=json, text=results.lines(result))
    results.refuse(gates, found.metrics, path)
