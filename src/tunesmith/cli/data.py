"""`tunesmith data`: looks at data as a run would see it, and makes other files of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import data_files, data_tokens, output
from tunesmith.errors import ConfigError

app = output.app(
    examples=[
        "tunesmith data inspect chats.jsonl --model builtin:tiny",
        "tunesmith data check recipe.yaml data.max_length=512",
        "tunesmith data check damaged.json --fix -o mended.jsonl",
        "tunesmith data convert chats.json -o chats.jsonl --to openai",
        "tunesmith data split chats.jsonl -o parts --eval 0.05",
        "tunesmith data mix a.jsonl b.jsonl -o both.jsonl --interleave-probs 0.7,0.3",
        "tunesmith data dedup chats.jsonl -o fewer.jsonl --near 0.8",
        "tunesmith data tokenize book.txt -o corpus/book --to megatron",
    ],
    help="Inspect, check, repair, convert, split, mix and tokenize data.",
)
app.command("convert")(data_files.convert)
app.command("split")(data_files.split)
app.command("mix")(data_files.mix)
app.command("dedup")(data_files.dedup)
app.command("tokenize")(data_tokens.tokenize)

DATA = typer.Argument(help="File, folder or recipe; key=value changes.")
MODEL = typer.Option(help="Whose tokenizer and template.")
EVERY = typer.Option("--all", "-a", help="List every row that is left out, not only the first.")
SHOWN = 5
"""Rows that are left out and listed without being asked for."""


@app.callback()
def verb() -> None:
    """Inspect, check, repair, convert, split, mix and tokenize data."""


@app.command("inspect")
def inspect(
    data: Annotated[list[str], DATA],
    rows: Annotated[int, typer.Option(min=0, help="Rows to show with their tokens.")] = 3,
    model: Annotated[str, MODEL] = "builtin:tiny",
    format: Annotated[str | None, data_files.FORMAT] = None,
    columns: Annotated[str | None, data_files.COLUMNS] = None,
    every: Annotated[bool, EVERY] = False,
    html: Annotated[Path | None, typer.Option(help="Write one HTML file.", dir_okay=False)] = None,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Format, counts, lengths, findings, and rows with their trained tokens marked."""
    from tunesmith.compose import inspection
    from tunesmith.data import show, show_page

    found = inspection.inspect(recipe_of(data, model, format, columns), say)
    train = found["train"]
    shown = show.rows(train, range(min(rows, len(train))), found["look"])
    lines = describe(found["summary"], None if every else SHOWN)
    if html is not None:
        page = show_page.page(f"Data of {data[0]}", lines, found["findings"], shown)
        html.write_text(page, encoding="utf-8")
        output.log(f"wrote {html}")
    value = {**found["summary"], "findings": found["findings"], "rows_shown": len(shown)}
    text = "\n".join([*lines, *_findings(found["findings"]), *_rows(shown)])
    output.result({"summary": value, "rows": shown}, json=json, text=text)


@app.command("check")
def check(
    data: Annotated[list[str], DATA],
    model: Annotated[str, MODEL] = "builtin:tiny",
    format: Annotated[str | None, data_files.FORMAT] = None,
    columns: Annotated[str | None, data_files.COLUMNS] = None,
    every: Annotated[bool, EVERY] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended, into -o.")] = False,
    out: Annotated[Path | None, data_files.OUT_IF_ANY] = None,
    yes: Annotated[bool, data_files.YES] = False,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """What would train badly: OK, MINOR and MAJOR findings. A MAJOR one ends with exit code 6."""
    from tunesmith.compose import inspection

    repaired = None
    if fix or out is not None:
        repaired = data_files.repair(data[0], out, fix=fix, replace=yes, json=json)
        data = [str(out), *data[1:]]
    made = inspection.check(recipe_of(data, model, format, columns), say)
    found = made["findings"]
    value = {**made, "worst": inspection.worst(found), "repair": repaired}
    listed = left_out(made["problems"], None) if every else []
    output.result(value, json=json, text="\n".join([*_findings(found), *listed]))
    inspection.stop_if_major(found, data[0])


def recipe_of(
    words: list[str], model: str, format: str | None = None, columns: str | None = None
) -> Any:
    """The recipe itself, or one made for a data file, with the user's changes.

    Raises:
        ConfigError: C202, --format or --columns of a recipe, which names its own; C220, a second
            file.
    """
    import json

    from tunesmith import recipe as recipes
    from tunesmith.compose import inspection
    from tunesmith.data import rows_function

    path, overrides = output.split_recipe(words)
    if path is not None and (more := [word for word in overrides if "=" not in word]):
        raise ConfigError(
            "C220",
            f"one file, folder or recipe is looked at at a time, and `{more[0]}` is another",
            where="command line",
            fix="tunesmith data mix A B -o BOTH, or a recipe whose data.train lists them",
        )
    kind: dict[str, Any] = {"format": format} if format else {}
    if columns:
        kind["columns"] = data_files.roles(columns)
    if path is not None and rows_function.is_one(path):
        made = None if kind else _python_recipe(path, overrides)
        if made is not None:
            return made
        path = data_files.source_of(path).path  # run once, here, and told
    if path is None or path.endswith(inspection.RECIPES):
        if kind:
            what = "--format and --columns are for a data file; a recipe says them itself"
            fix = "write format: and columns: beside path: in data.train"
            raise ConfigError("C202", what, where="command line", fix=fix)
        return recipes.load(path, overrides)
    # A mapping, so that data.train.split=… and others can be added to it.
    source = json.dumps({"path": path, **kind}, ensure_ascii=False)
    base = [f"model={model}", f"data.train={source}"]
    if not any(text.startswith(("stage=", "stage.kind=")) for text in overrides):
        base.append(f"stage={inspection.stage_for([*base, *overrides], say)}")
    return recipes.load(None, [*base, *overrides])


def _python_recipe(path: str, overrides: list[str]) -> Any:
    """The recipe that a Python function returns; None if it returns something else: rows."""
    from tunesmith import recipe as recipes

    try:
        return recipes.load(path, overrides)
    except ConfigError as error:
        if error.code != "C113" or not error.what.endswith("not a Recipe"):
            raise
        return None


def say(topic: str, text: str) -> None:
    output.log(f"{topic:<8}{text}")


def describe(summary: dict[str, Any], most: int | None = SHOWN) -> list[str]:
    """The summary as lines for a terminal, with at most so many of the rows left out."""
    from tunesmith.data import show

    lengths = summary["lengths"]
    roles = " · ".join(f"{role} {count:,}" for role, count in summary["roles"].items())
    measured = summary["measured_tokens"] / max(summary["tokens"], 1)
    reference = f" · {measured:.0%} measured only, for KTO's reference point" if measured else ""
    lines = [
        f"file    {one['path']} · {one['format']} · {one['rows']:,} rows"
        for one in summary["sources"]
    ]
    return [
        *lines,
        f"rows    {summary['items']:,} to train · {summary['left_out']:,} left out",
        *([f"roles   {roles}"] if roles else []),
        f"tokens  {summary['tokens']:,} · {summary['trained_share']:.0%} trained{reference}"
        f" · {summary['truncated_tokens']:,} cut away",
        f"length  min {lengths['min']:,} · median {lengths['median']:,} · 90% {lengths['p90']:,}"
        f" · 99% {lengths['p99']:,} · max {lengths['max']:,}",
        *show.bars(summary["histogram"]),
        *left_out(summary["problems"], most),
    ]


def left_out(problems: list[dict[str, Any]], most: int | None) -> list[str]:
    """Rows that are left out as lines; None: all that a report lists."""
    from tunesmith.data.report import place

    lines = [f"left out  {Path(place(p)).name}  {p['reason']}" for p in problems[:most]]
    rest = len(problems) - len(lines)
    return [*lines, f"left out  … {rest:,} more (--all lists them)"] if rest else lines


def _findings(findings: list[dict[str, Any]]) -> list[str]:
    colours = {"OK": "32", "MINOR": "33", "MAJOR": "31"}
    lines = ["checks"]
    for one in findings:
        level = f"{one['level']:<6}"
        if output.colour():
            level = f"\x1b[{colours[one['level']]}m{level}\x1b[0m"
        places = ", ".join(Path(place).name for place in one["where"][:3])
        where = f"  ({places})" if places else ""
        lines.append(f"  {level} {one['text']}{where}")
    return lines


def _rows(shown: list[dict[str, Any]]) -> list[str]:
    from tunesmith.data import show, show_pairs

    lines = []
    for block in show_pairs.blocks(shown):
        first, *others = block.parts
        single = [first.title, first.note] if not others else [block.note]
        head = "  ".join(["\n" + block.where, *(text for text in single if text)])
        lines.append(show.printable(head))
        for part in block.parts:
            if others:
                lines.append(f"── {part.title}{'  ' if part.note else ''}{part.note}")
            lines.append(show.marked(part.spans, colour=output.colour()))
    if said := show.notes(shown):
        lines += ["", *said]
    return lines
