"""`tunesmith model convert-tokenizer` and `expand-vocab`: the commands that write tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import output


def convert_tokenizer(
    source: Annotated[Path, typer.Argument(help="Folder of a model, or a tokenizer's file.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write to; default: beside it.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="How text is split, e.g. qwen2; default: what the files say.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace a tokenizer.json.")] = False,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Make tokenizer.json of tokenizer.model, *.tiktoken, vocab.json + merges.txt or a GGUF file."""
    from tunesmith.errors import ConfigError
    from tunesmith.templates.tokenizers import convert, patterns

    if pattern is not None and patterns.named(pattern) is None:
        raise ConfigError("C221", f"no rule is called `{pattern}`", where="--pattern",
                          fix=f"known: {patterns.known()}")  # fmt: skip
    folder = out or (source.parent if source.is_file() else source)
    if (folder / convert.TARGET).exists() and not yes:
        raise ConfigError(
            "C212",
            f"{folder} has a {convert.TARGET} already",
            where="-o",
            fix="choose another folder, or add --yes",
        )
    made = convert.convert(source, pattern)
    folder.mkdir(parents=True, exist_ok=True)
    made.save(folder)
    size = made.rust.get_vocab_size(with_added_tokens=True)
    for note in made.notes:
        output.log(f"note    {note}")
    found = {
        "source": str(made.source),
        "kind": made.kind,
        "tokens": size,
        "output": str(folder / convert.TARGET),
        "notes": list(made.notes),
    }
    text = f"read    {made.source} ({made.kind})\nwrote   {folder / convert.TARGET} · {size:,} tokens"
    output.result(found, json=json, text=text)
