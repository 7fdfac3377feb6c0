"""`tunesmith model convert-head`: reward models of older systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import output


def convert_head(
    source: Annotated[Path, typer.Argument(help="value_head.bin, or the folder it lies in.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Make safetensors of an old reward model's value_head.bin (and adapter_model.bin)."""
    from tunesmith.models import legacy_head

    output.result(legacy_head.convert(source, out), json=json)
