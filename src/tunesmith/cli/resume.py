"""`tunesmith resume`: goes on with a stopped or killed run."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith.cli import output

app = output.app(
    examples=[
        "tunesmith resume last",
        "tunesmith resume 20261121-0655-sft-tiny-k7f3",
        "tunesmith resume runs/my-run train.save_steps=50 log.report_to=tensorboard",
    ],
)


@app.command()
def command(
    run: Annotated[str, typer.Argument(help="Run id, prefix, path or `last`.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value: intervals, log, output; lengths if the rate is constant."),
    ] = None,
    quiet: Annotated[bool, output.QUIET] = False,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Go on from the newest valid checkpoint, as if nothing had happened."""
    from tunesmith import compose
    from tunesmith.cli.progress import JsonLines, Terminal
    from tunesmith.cli.train import finish

    output.quiet(quiet or json)
    display = JsonLines() if json else Terminal()
    done = compose.resume(run, overrides=tuple(overrides or ()), display=display)
    finish(done, tell=quiet and not json)
