"""`tunesmith data tokenize`: text to token ids on disk, to train on later or elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tunesmith.cli import data_files, output

FILE = typer.Argument(help="File, folder or recipe; key=value changes.")


def tokenize(
    file: Annotated[list[str], FILE],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder, or prefix of a corpus.")],
    model: Annotated[str, typer.Option(help="Whose tokenizer and template.")] = "builtin:tiny",
    to: Annotated[
        Literal["store", "megatron", "bin"],
        typer.Option(help="Folder for data.train; PREFIX_ids.npy + _idx.npz; PREFIX.bin + .idx."),
    ] = "store",
    format: Annotated[str | None, data_files.FORMAT] = None,
    columns: Annotated[str | None, data_files.COLUMNS] = None,
    min_chars: Annotated[
        int, typer.Option(min=0, help="Corpora only: leave out shorter documents.")
    ] = 10,
    append_eos: Annotated[
        bool, typer.Option(help="Corpora only: end each document with the tokenizer's EOS.")
    ] = True,
    documents: Annotated[
        Literal["auto", "lines", "paragraphs"],
        typer.Option(help="Corpora only: what is a document in a text file; auto looks, and says."),
    ] = "auto",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace what is there.")] = False,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Encode once; `data.train` takes the result in the place of the text."""
    from tunesmith.cli.data import recipe_of, say
    from tunesmith.compose import tokenizing

    recipe = recipe_of(file, model, format, columns)
    if to == "store":
        found = tokenizing.to_store(recipe, out, replace=yes, progress=say)
    else:
        limits = tokenizing.Documents(min_chars, append_eos, documents)
        found = tokenizing.to_corpus(recipe, out, to, limits, replace=yes, progress=say)
    lines = [f"{found['rows']:,} rows → {found['tokens']:,} tokens in {out} ({to})"]
    if found["left_out"]:
        lines.append(f"left out {found['left_out']:,} rows")
    output.result({"output": str(out), "to": to, **found}, json=json, text="\n".join(lines))
