"""`tunesmith data convert|split|mix|dedup`, and `check --fix`: files of rows into other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tunesmith.cli import output
from tunesmith.errors import ConfigError

if TYPE_CHECKING:
    from tunesmith.recipe.sections import Source

FILE = typer.Argument(help="A file, folder, hf:ORG/NAME or the name of a data set.")
OUT = typer.Option("--output", "-o", help="What to write; its name says the kind of file.")
OUT_IF_ANY = typer.Option("--output", "-o", help="Where --fix writes.", dir_okay=False)
YES = typer.Option("--yes", "-y", help="Replace what is there.")
FORMAT = typer.Option(help="Row format of the input; default: detected.")
COLUMNS = typer.Option(help="Columns by role, e.g. prompt=frage,completion=antwort.")
TO = typer.Option("--to", help="Row format of the output; default: columns as they are.")
SKIP = typer.Option("--skip-bad", help="Leave bad rows out and list them; default: stop.")
LOSSY = typer.Option(
    "--lossy", help="Drop what the format has no place for (ids of calls, weights…), and count it."
)
SEED = typer.Option(help="Of the draws.")
MAX = typer.Option(help="Use only the first so many rows of each source.")
Strategy = Literal["concat", "interleave_under", "interleave_over"]


def convert(
    file: Annotated[str, FILE],
    out: Annotated[Path, OUT],
    to: Annotated[str | None, TO] = None,
    format: Annotated[str | None, FORMAT] = None,
    columns: Annotated[str | None, COLUMNS] = None,
    skip_bad: Annotated[bool, SKIP] = False,
    lossy: Annotated[bool, LOSSY] = False,
    yes: Annotated[bool, YES] = False,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Write rows as another kind of file (by -o) or in another format (by --to)."""
    from tunesmith.data import rewrite

    source = source_of(file, format, columns)
    _ready(out, [source], yes)
    found = rewrite.to_format(source, out, _target(to), rewrite.LeftOut(skip_bad, lossy=lossy))
    text = f"{found['rows']:,} rows of {found['format']} → {found['written']:,} of {found['to']}"
    lines = [f"{text} in {out}", found["note"]]
    lines += [f"lost: {what} in {count:,} rows" for what, count in found["lost"].items()]
    _report({"output": str(out), **found}, lines, json=json)


def split(
    file: Annotated[str, FILE],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for train and eval files.")],
    eval: Annotated[float, typer.Option(help="Share of the rows if below 1, else a count.")] = 0.1,
    format: Annotated[str | None, FORMAT] = None,
    columns: Annotated[str | None, COLUMNS] = None,
    seed: Annotated[int, SEED] = 42,
    yes: Annotated[bool, YES] = False,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Split rows into training and evaluation; equal rows stay on one side."""
    from tunesmith.data import rewrite, write
    from tunesmith.recipe.sections import Holdout

    source = source_of(file, format, columns)
    path = source.path
    suffix = "".join(Path(path).suffixes[-2 if path.endswith(".gz") else -1 :])
    if not write.can_write(Path(f"train{suffix}")):  # a folder, or a kind that is only read
        suffix = ".jsonl"
    train, evaluation = out / f"train{suffix}", out / f"eval{suffix}"
    for target in (train, evaluation):
        _ready(target, [source], yes)
    whole = eval >= 1 and float(eval).is_integer()
    if not whole and not 0 < eval < 1:
        fix = "--eval 0.05 for a share, --eval 100 for so many rows"
        what = f"--eval {eval:g} is neither a share nor a number of rows"
        raise ConfigError("C202", what, where="command line", fix=fix)
    holdout = Holdout(count=int(eval)) if whole else Holdout(fraction=eval)
    found = rewrite.into_two(source, train, evaluation, holdout, seed)
    lines = [f"{found['train']:,} rows in {train} · {found['eval']:,} in {evaluation}"]
    if found["eval"] != found["asked"]:
        lines.append(
            f"{found['asked']:,} rows were asked for evaluation; {found['eval']:,} is the nearest"
            " number that keeps equal rows on one side"
        )
    if found["copies"]:
        lines.append(f"{found['copies']:,} rows equal another one; they stand on its side")
    value = {"train_file": str(train), "eval_file": str(evaluation), "seed": seed, **found}
    _report(value, lines, json=json)


def mix(
    files: Annotated[list[str], typer.Argument(help="Files, folders or names of data sets.")],
    out: Annotated[Path, OUT],
    mix_strategy: Annotated[
        Strategy,
        typer.Option(help="One after the other; or in turn, until the first or last ends."),
    ] = "concat",
    interleave_probs: Annotated[
        str | None, typer.Option(help="Chances, e.g. 0.7,0.3; makes interleave_under of concat.")
    ] = None,
    max_samples: Annotated[int | None, MAX] = None,
    seed: Annotated[int, SEED] = 42,
    yes: Annotated[bool, YES] = False,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Mix rows of several files into one."""
    from tunesmith.data import rewrite

    sources = [source_of(file, max_samples=max_samples) for file in files]
    _ready(out, sources, yes)
    chances = _numbers(interleave_probs) if interleave_probs is not None else None
    if chances is not None and mix_strategy == "concat":
        mix_strategy = "interleave_under"
        output.log("mix     interleave_under, since probabilities were given")
    found = rewrite.together(sources, out, mix_strategy, chances, seed)
    lines = [f"{found['written']:,} rows in {out} · {mix_strategy} · {found['to']}"]
    lines += [
        f"  {one['path']} · {one['format']} · {one['written']:,} of {one['rows']:,} rows"
        for one in found["sources"]
    ]
    _report({"output": str(out), **found}, lines, json=json)


def dedup(
    file: Annotated[str, FILE],
    out: Annotated[Path, OUT],
    near: Annotated[
        float | None,
        typer.Option(min=0.1, max=1, help="Also rows this similar, e.g. 0.8; default: equal ones."),
    ] = None,
    on: Annotated[
        Literal["all", "prompt"], typer.Option(help="Compare all, or what precedes the answer.")
    ] = "all",
    format: Annotated[str | None, FORMAT] = None,
    skip_bad: Annotated[bool, SKIP] = False,
    yes: Annotated[bool, YES] = False,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Leave out rows that equal an earlier one, or nearly do (MinHash)."""
    from tunesmith.data import rewrite

    source = source_of(file, format)
    _ready(out, [source], yes)
    left_out = rewrite.LeftOut(skip_bad)
    found = rewrite.without_duplicates(source, out, near=near, on=on, left_out=left_out)
    lines = [
        f"{found['rows']:,} rows → {found['written']:,} in {out} · {found['equal']:,} equal"
        f" · {found['near']:,} nearly equal"
    ]
    lines += [
        f"  {Path(one['where']).name} is {Path(one['of']).name} ({one['similarity']:.2f})"
        for one in found["removed"][:5]
    ]
    _report({"output": str(out), **found}, lines, json=json)


def repair(file: str, out: Path | None, *, fix: bool, replace: bool, json: bool) -> dict[str, Any]:
    """`data check --fix -o OUT`: writes the mended file and says what was done.

    Raises:
        ConfigError: C202, one of --fix and -o without the other.
    """
    from tunesmith.data import repair as repairs

    if out is None or not fix:
        what = "--fix needs -o FILE" if fix else "-o FILE is for --fix"
        fix_text = "tunesmith data check FILE --fix -o MENDED.jsonl"
        raise ConfigError("C202", what, where="command line", fix=fix_text)
    source = source_of(file)
    _ready(out, [source], replace)
    found = repairs.repair(source, out)
    lines = [f"mended  {found['written']:,} of {found['rows']:,} rows in {out}"]
    lines += [f"  {count:,} × {kind}" for kind, count in found["repairs"].items()]
    if found["rejected"]:
        lines.append(f"  {found['rejected']:,} rows can't be mended: {found['rejects']}")
        lines += [f"    {Path(p['where']).name}  {p['reason']}" for p in found["problems"][:5]]
    for line in lines:
        output.log(line)
    return found


# ---------------------------------------------------------------- shared


def roles(columns: str) -> dict[str, str]:
    """Columns by role.

    Raises:
        ConfigError: C202, not ROLE=NAME,ROLE=NAME.
    """
    pairs = [word.partition("=") for word in columns.split(",")]
    if any(not equals or not role for role, equals, _ in pairs):
        fix = "write --columns prompt=frage,completion=antwort"
        raise ConfigError("C202", f"`{columns}` maps no columns", where="command line", fix=fix)
    return {role: name for role, _, name in pairs}


def source_of(
    file: str,
    format: str | None = None,
    columns: str | None = None,
    max_samples: int | None = None,
) -> Source:
    """A file, folder, set of the hub, name of a data set or function, as files on this machine."""
    from tunesmith import platform
    from tunesmith.data import catalogue, read
    from tunesmith.recipe.sections import DataConfig, Source

    mapped = roles(columns) if columns else None
    source = Source(file, format=format, columns=mapped, max_samples=max_samples)
    config = DataConfig()
    say = lambda topic, text: output.log(f"{topic:<8}{text}")
    found = catalogue.local(catalogue.named(source, config, say), config, platform.home(), say)
    for text in read.notes(found.path):
        say("note", text)
    return found


def _ready(out: Path, sources: list[Source], replace: bool) -> None:
    from tunesmith.data import read, write

    write.check_target(
        out, replace=replace, sources=tuple(read.locate(source.path) for source in sources)
    )


def _target(name: str | None) -> str | None:
    from tunesmith.data import convert as formats
    from tunesmith.registry import did_you_mean

    known = formats.targets()
    if name is not None and name not in known:
        fix = f"{did_you_mean(name, known)}  known: {', '.join(known)}".strip()
        raise ConfigError("C110", f"no format to write called `{name}`", where="--to", fix=fix)
    return name


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        fix = "write numbers with commas between: 0.7,0.3"
        raise ConfigError(
            "C202", f"`{text}` are no numbers", where="command line", fix=fix
        ) from None


def _report(value: Mapping[str, Any], lines: list[str], *, json: bool) -> None:
    if value["left_out"]:
        lines = [*lines, f"left out {value['left_out']:,} rows that can't be used"]
        lines += [f"  {Path(p['where']).name}  {p['reason']}" for p in value["problems"][:5]]
    output.result(dict(value), json=json, text="\n".join(line for line in lines if line))
