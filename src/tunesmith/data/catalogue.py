"""Data sets by name: those of a dataset_info.json, then those this package knows.

A name is looked up where nothing of that name lies on the disk: in `data.dataset_info`, beside the
file it would be (`DIR/NAME` with `DIR/dataset_info.json`), and in `catalogue.json`, which is itself
such a file, with licence and gating added.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tunesmith.data import catalogue_entry, corpus, hub, local_set, read, rows_function
from tunesmith.errors import ConfigError, DataError
from tunesmith.recipe.sections import DataConfig, Source
from tunesmith.registry import did_you_mean

INFO = "dataset_info.json"
OURS = Path(__file__).with_suffix(".json")
Say = Callable[[str, str], None]


@cache
def known() -> Mapping[str, Mapping[str, Any]]:
    """The data sets this package knows, by name."""
    return json.loads(OURS.read_text("utf-8"))


def named(source: Source, config: DataConfig, say: Say) -> Source:
    """The source with an address (a file or `hf:…`) in the place of a name.

    Raises:
        DataError: D132, a name that is not known; D124, D127, D133, its entry can't be used; D220,
            its file is not the one described.
    """
    path = source.path
    if path.startswith((hub.PREFIX, "builtin:")) or rows_function.is_one(path):
        return source
    if Path(path).expanduser().exists():
        if Path(path).name == INFO:
            raise _names_of(Path(path).expanduser())
        return source
    if corpus.prefixes(Path(path).expanduser()):
        return source
    told = _info_files(path, config)
    warn = config.on_finding == "warn"
    for file in told:
        entries = _read(file)
        name = path if path in entries else Path(path).name
        if name in entries:
            made = catalogue_entry.source(name, entries[name], source, file.parent, say, warn=warn)
            say("data", f"{name}: {made.path} ({file})")
            return made
    name = Path(path).name if told else path
    if name in known():
        entry = known()[name]  # its hash is ours, not the user's: another version is just said
        made = catalogue_entry.source(name, entry, source, _home(config), say, warn=True)
        say("data", f"{name}: {made.path} ({about(entry)})")
        return made
    if told or _looks_like_a_name(path):
        raise _unknown(path, told)
    return source


def about(entry: Mapping[str, Any]) -> str:
    """Licence and gating of a known set, in a few words."""
    licence = entry.get("licence") or "not stated"
    return f"licence: {licence}" + (", gated" if entry.get("gated") else "")


def _home(config: DataConfig) -> Path:
    """Where files of known sets are looked for: the folder of data.dataset_info, or this one."""
    place = Path(config.dataset_info or ".").expanduser()
    return place if place.is_dir() else place.parent


def _looks_like_a_name(path: str) -> bool:
    return not {"/", "\\", "~"} & set(path) and read.kind_of(Path(path)) is None


def _info_files(path: str, config: DataConfig) -> list[Path]:
    """The dataset_info.json files that may know a name, the nearest first."""
    found = []
    if config.dataset_info is not None:
        file = Path(config.dataset_info).expanduser()
        file = file / INFO if file.is_dir() else file
        if not file.is_file():
            what = "no such dataset_info.json"
            raise DataError("D133", what, where=str(file), fix="check data.dataset_info")
        found.append(file)
    beside = Path(path).expanduser().parent / INFO
    if beside.is_file() and beside not in found:
        found.append(beside)
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        entries = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        what = f"not a dataset_info.json: {error}"
        raise DataError("D133", what, where=str(file), fix="mend the file") from None
    if not isinstance(entries, dict):
        what = "not a dataset_info.json: it holds no object of names"
        raise DataError("D133", what, where=str(file), fix="mend the file")
    return entries


def _names_of(file: Path) -> DataError:
    """What to write instead of the file that only describes data sets."""
    names = list(_read(file))
    what = "this file describes data sets and holds no rows itself"
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    fix = f"name one of its sets in its place: {file.parent}/NAME  names: {shown}"
    return DataError("D133", what, where=str(file), fix=fix)


def _unknown(path: str, told: list[Path]) -> DataError:
    names = [name for file in told for name in _read(file)] + list(known())
    hint = did_you_mean(Path(path).name, names)
    shown = ", ".join(names[:40]) + (", …" if len(names) > 40 else "")
    return DataError(
        "D132",
        f"no file, folder or data set is called `{path}`",
        where=path,
        fix=f"{hint}  known: {shown}".strip(),
    )


def local(source: Source, config: DataConfig, home: Path, say: Say) -> Source:
    """The source as files on this machine: fetched from the hub, or made by a function.

    Raises:
        ConfigError: C105, a split, subset or revision of what has none.
        DataError: D130, D131, the hub; D134, the function; D231, D232, splits of a folder.
    """
    _check_hub_keys(source)
    if source.path.startswith(hub.PREFIX):
        return hub.fetched(source, config.cache_dir, home, say)
    if rows_function.is_one(source.path):
        return rows_function.made(source, home, say)
    return local_set.chosen(source, home, say)


def _check_hub_keys(source: Source) -> None:
    """Refuses keys that would be ignored: a file has no splits."""
    of_hub = source.path.startswith(hub.PREFIX)
    whole = of_hub and not hub.address(source.path).is_file
    whole = whole or Path(source.path).expanduser().is_dir()
    meant = {"subset": whole, "split": whole, "revision": of_hub}
    for key, allowed in meant.items():
        if vars(source)[key] is not None and not allowed:
            what = f"`{key}` means nothing for the file {source.path}"
            fix = f"remove `{key}`, or name a set: hf:ORG/NAME, or a folder"
            raise ConfigError("C105", what, where="data.train", fix=fix)
