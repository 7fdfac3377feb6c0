"""`tunesmith model convert-tokenizer` and `expand-vocab`: the commands that write tokenizers."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.errors import ConfigError, ExportError


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
    """Make a tokenizer.json of tokenizer.model, *.tiktoken, vocab.json + merges.txt or GGUF."""
    from tunesmith.templates.tokenizers import convert, patterns

    if pattern is not None and patterns.named(pattern) is None:
        raise ConfigError("C221", f"no rule is called `{pattern}`", where="--pattern",
                          fix=f"known: {patterns.known()}")  # fmt: skip
    if (source / convert.TARGET).is_file() and convert.find(source) is None:
        raise ConfigError(
            "C212",
            f"{source} has a {convert.TARGET} already, and nothing to convert",
            where=str(source),
            fix=f"use the folder as it is: model.tokenizer={source}",
        )
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
    text = (
        f"read    {made.source} ({made.kind})\nwrote   {folder / convert.TARGET} · {size:,} tokens"
    )
    output.result(found, json=json, text=text)


CHOICES: dict[str, tuple[Any, Any]] = {
    "vocab_size": (Annotated[int, typer.Option(help="Pieces to look for in the corpus.")], 8000),
    "script": (
        Annotated[str, typer.Option(help="… in cjk, japanese, khmer, lao, myanmar or thai.")],
        "cjk",
    ),
    "init": (
        Annotated[str, typer.Option(help="New rows: mean of the old pieces' rows, or random.")],
        "mean",
    ),
    "multiple": (Annotated[int, typer.Option(help="Round the rows up to a multiple.")], 64),
    "seed": (Annotated[int, typer.Option(help="For --init random.")], 42),
}
"""Options of `expand-vocab` by name: type, default."""


def _with_choices(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command these options; it takes them as one dict, `choices`."""
    hints = typing.get_type_hints(command, include_extras=True)
    own = [
        p.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, p in inspect.signature(command).parameters.items()
        if name != "choices"
    ]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in CHOICES.items()
    ]

    @functools.wraps(command)
    def wrapper(**words: Any) -> None:
        command(choices={name: words.pop(name) for name in CHOICES}, **words)

    parameters = sorted([*own, *added], key=lambda p: p.default is not inspect.Parameter.empty)
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


@_with_choices
def expand_vocab(
    model: Annotated[str, typer.Argument(help="Run, directory, builtin: or hub id.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="Directory to make.")],
    choices: dict[str, Any],
    words: Annotated[Path | None, typer.Option(help="File with one word a line.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Data to find words in, by BPE, instead of a list.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace what is there.")] = False,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Add words to a model's vocabulary; old tokens keep their ids and logits."""
    if (words is None) == (corpus is None):
        raise ConfigError(
            "C222",
            "new words come from a list or from a corpus: one of the two",
            where="command line",
            fix="--words FILE, or --corpus PATH --vocab-size 8000",
        )
    from tunesmith.exporting import vocabulary, words_impl

    base = _full_weights(model)
    if words is not None:
        found = words_impl.read_words(words)
    else:
        script = choices["script"]
        found = words_impl.train(Path(str(corpus)), choices["vocab_size"], script)
        output.log(f"corpus  {len(found):,} pieces found in {corpus} ({script})")
    rows = {name: choices[name] for name in ("init", "multiple", "seed")}
    report = vocabulary.expand(base, out, found, replace=yes, **rows)
    for note in report.notes:
        output.log(f"note    {note}")
    for why, count in report.skipped.items():
        output.log(f"skipped {count:,} words: {why}")
    tied = "tied" if report.tied else "not tied"
    text = (
        f"added   {report.added:,} words, ids {report.first_id:,} to {report.tokens - 1:,}; "
        f"they took {report.pieces_before:.1f} tokens each\n"
        f"rows    {report.rows_before:,} → {report.rows:,} (embedding and head {tied}), new ones "
        f"by {report.init}\n"
        f"wrote   {report.path} · {report.bytes / 1e6:,.1f} MB in {len(report.files)} file(s)\n"
        f"next    tunesmith train model={report.path} stage=pretrain tuner=full data.train=TEXT"
    )
    output.result(report.as_dict(), json=json, text=text)


def _full_weights(spec: str) -> str:
    """Where a model's full weights are.

    Raises:
        ExportError: X302, it is an adapter, or a checkpoint.
    """
    from tunesmith.compose import source

    place = source.locate(spec)
    if place.adapters or place.checkpoint:
        raise ExportError(
            "X302",
            f"{spec} is an adapter or a checkpoint: it has no vocabulary of its own",
            fix=f"merge it first: tunesmith merge {spec} -o merged",
        )
    return place.base
