"""`tunesmith doctor`: what this machine and installation can do, and how to mend the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import output

app = output.app(
    examples=[
        "tunesmith doctor",
        "tunesmith doctor --quick --json",
        "tunesmith doctor --report doctor.json",
    ],
)

MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


@app.command()
def command(
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out loading and training the embedded model.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write a bundle for bug reports, without secrets.")
    ] = None,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Check versions, devices, number types, the embedded model, and optional packages."""
    from tunesmith import platform
    from tunesmith.cli import checkup
    from tunesmith.rundir import write_json

    platform.prepare()
    found = []
    for finding in checkup.findings(quick=quick):
        found.append(finding)
        if not json:
            print(f"{MARKS[finding.status]}  {finding.name:<26} {finding.detail}", flush=True)
            if finding.fix:
                print(f"{'':<32} {finding.fix}")
    failed = [finding.name for finding in found if finding.status == "fail"]
    if json:
        value = {"ok": not failed, "findings": [vars(finding) for finding in found]}
        output.result(value, json=True)
    if report is not None:
        write_json(report.expanduser().resolve(), checkup.bundle(found))
        output.log(f"report: {report} (read it before you send it)")
    if failed:
        output.log(f"{len(failed)} of {len(found)} checks failed: {', '.join(failed)}")
        raise typer.Exit(6)
