"""Names of runs: made when a run begins, and found again by id, prefix, path or `last`."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from tunesmith import platform
from tunesmith.errors import RunError
from tunesmith.registry import did_you_mean
from tunesmith.rundir.files import append_line, read_lines, write_text

INFO = "run.json"
_SELECTOR = re.compile(r"step-\d+|best|final")
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # no letter that looks like a digit


def make_id(stage: str, model: str) -> str:
    """`20261121-0655-sft-tiny-k7f3`: sorts by time, says what it is, never meets another."""
    time = datetime.now().strftime("%Y%m%d-%H%M")
    tail = "".join(secrets.choice(_LETTERS) for _ in range(4))
    return "-".join([time, *filter(None, [slug(stage), slug(model)]), tail])


def slug(text: str) -> str:
    """The last part of a name or path, in letters, digits and dots, at most 24 of them."""
    last = re.split(r"[/\\:]", text.rstrip("/\\"))[-1]
    return re.sub(r"[^A-Za-z0-9.]+", "_", last).strip("_.").lower()[:24]


def split(spec: str) -> tuple[str, str | None]:
    """`run@step-100` → (`run`, `step-100`); without a selector (`run`, None)."""
    name, at, selector = spec.removeprefix("run:").rpartition("@")
    if at and _SELECTOR.fullmatch(selector):
        return name, selector
    return spec.removeprefix("run:"), None


def locate(name: str, root: Path) -> Path:
    """The directory of a run.

    Args:
        name: Id, unique prefix of one, path, or `last`.
        root: Folder looked in first; then the index of all runs.

    Raises:
        RunError: R105, no such run; R106, several begin so.
    """
    path = Path(name).expanduser()
    if name != "last" and (path / INFO).is_file():
        return path.resolve()
    known = all_runs(root)
    if name == "last":
        if not known:
            raise RunError("R105", "there is no run yet", where=str(root), fix="tunesmith train …")
        return _last(root) or known[-1]
    begun = [run for run in known if run.name.startswith(name)]
    exact = [run for run in begun if run.name == name]
    if exact or len(begun) == 1:
        return (exact or begun)[0]
    if begun:
        names = "\n".join(run.name for run in begun[-4:])
        raise RunError("R106", f"{len(begun)} runs begin with `{name}`", why=names, fix="say more")
    raise _unknown(name, root, [run.name for run in known])


def _last(root: Path) -> Path | None:
    link = root / "last"
    return link.resolve() if (link / INFO).is_file() else None


def _unknown(name: str, root: Path, known: list[str]) -> RunError:
    fix = f"{did_you_mean(name, known)}  all runs: tunesmith runs".strip()
    if Path(name).is_dir():
        return RunError("R105", f"{name} is not a run: it has no {INFO}", where=name, fix=fix)
    return RunError("R105", f"no run is called `{name}`", where=str(root), fix=fix)


def all_runs(root: Path) -> list[Path]:
    """Run directories of `root`, or of the index if it has none, the oldest first."""
    here = [path for path in _folders(root) if (path / INFO).is_file()]
    return sorted(here or indexed(), key=_begun)


def _folders(root: Path) -> Iterable[Path]:
    if not root.is_dir():
        return []
    found = (path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    return [path.resolve() for path in found if not path.name.startswith(".")]


def _begun(run: Path) -> tuple[str, str]:
    """When a run began, by its own record: neither names nor mtimes tell."""
    try:
        info = json.loads((run / INFO).read_text(encoding="utf-8"))
        return str(info.get("created", "")), run.name
    except (OSError, ValueError, AttributeError):
        return "", run.name


# ---------------------------------------------------------------- the index of all runs


def _index() -> Path:
    return platform.home() / "runs.jsonl"


def remember(run: Path) -> None:
    """Adds a run to the index; not being able to is no failure of the run."""
    try:
        _index().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        append_line(_index(), {"path": str(run)})
    except OSError:
        return


def forget(run: Path) -> None:
    """Takes a run, and those that are gone, out of the index."""
    kept = [path for path in indexed() if path != run]
    try:
        write_text(_index(), "".join(json.dumps({"path": str(path)}) + "\n" for path in kept))
    except OSError:
        return


def indexed() -> list[Path]:
    """Runs of the index that are still there."""
    paths = dict.fromkeys(str(line.get("path", "")) for line in read_lines(_index()))
    return [Path(path) for path in paths if path and os.path.isfile(os.path.join(path, INFO))]
