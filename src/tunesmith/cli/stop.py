"""`tunesmith stop`: asks a run to finish its step, save and stop."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from tunesmith.cli import output
from tunesmith.errors import RunError

app = output.app(
    examples=[
        "tunesmith stop last",
        "tunesmith stop 20261121-0655-sft-tiny-k7f3 --wait 60",
        "tunesmith stop runs/my-run --json",
    ],
)


@app.command()
def command(
    run: Annotated[str, typer.Argument(help="Run id, prefix, path or `last`.", show_default=False)],
    wait: Annotated[float, typer.Option(help="Wait so many seconds for it to end.")] = 0.0,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Signal the process that holds a run; it finishes its step and saves first."""
    from tunesmith.rundir import RunDir

    directory, _ = RunDir.find(run)
    pid = directory.request_stop()
    deadline = time.monotonic() + wait
    while directory.is_locked() and time.monotonic() < deadline:
        time.sleep(0.1)
    ended = not directory.is_locked()
    if wait and not ended:
        raise RunError(
            "R120",
            f"{directory.id} (process {pid}) is still running after {wait:g} s",
            where=str(directory.path),
            fix="its step may be long: wait, or stop it a second time to end it at once",
        )
    value = {"run": directory.id, "pid": pid, "ended": ended}
    text = "has stopped" if ended else "will save after this step and stop"
    output.result(value, json=json, text=f"{directory.id} (process {pid}) {text}")
