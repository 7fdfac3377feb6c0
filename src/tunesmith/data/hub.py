"""Data sets of the Hugging Face Hub: `hf:ORG/NAME` is a set, `hf:ORG/NAME/FILE` one of its files.

A set is copied once into JSON Lines under TUNESMITH_HOME and read like any other file: rows have
numbers, a second start needs no network, and what is trained on stays the same until another
revision is asked for. Code that a set brings along never runs. A token is taken from the
environment (HF_TOKEN), as the hub's own tools do.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.data import read, report as reports
from tunesmith.data.json_rows import Row
from tunesmith.errors import DataError, MissingExtra, TunesmithError
from tunesmith.recipe.sections import Source

PREFIX = "hf:"
UNKNOWN = "unknown"
_END = object()
Say = Callable[[str, str], None]


class Address(NamedTuple):
    """Where a set lies: repository, and a folder or file in it."""

    repo: str
    inside: str

    @property
    def is_file(self) -> bool:
        return bool(self.inside) and read.kind_of(Path(self.inside)) is not None


def address(path: str) -> Address:
    """The parts of `hf:ORG/NAME[/FOLDER or FILE]`; `hf:NAME` is one of the hub's oldest sets."""
    org, _, rest = path.removeprefix(PREFIX).partition("/")
    name, _, inside = rest.partition("/")
    return Address(f"{org}/{name}" if name else org, inside.strip("/"))


def is_set(path: str) -> bool:
    """Whether a path names a whole set of the hub, not one of its files."""
    return path.startswith(PREFIX) and not address(path).is_file


def fetched(source: Source, cache_dir: str | None, home: Path, say: Say) -> Source:
    """The source with a local file in the place of its address.

    Args:
        source: Its path is `hf:…`.
        cache_dir: The hub's cache; default: its own.
        home: Copies are kept in `home/data`.
        say: Is told what is read, of which commit.

    Raises:
        DataError: D130, the hub can't be reached; D131, it has no such set, file, split or
            revision, or wants a licence accepted.
        MissingExtra: a whole set, without the package `datasets`.
    """
    at = address(source.path)
    if at.is_file:
        local = _file(source, at, cache_dir)
        say("data", f"{source.path} → {local}")
    else:
        local = _copy(source, at, cache_dir, home, say)
    # What is in the copy was chosen by these; they mean nothing to a file.
    return dataclasses.replace(source, path=str(local), subset=None, split=None, revision=None)


# ---------------------------------------------------------------- one file


def _file(source: Source, at: Address, cache_dir: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    def download() -> str:
        return hf_hub_download(
            at.repo, at.inside, repo_type="dataset", revision=source.revision, cache_dir=cache_dir
        )

    return Path(_asked(source, at, download))


# ---------------------------------------------------------------- a whole set


def _copy(source: Source, at: Address, cache_dir: str | None, home: Path, say: Say) -> Path:
    """The set as JSON Lines: found, or fetched now."""
    split = source.split or "train"
    shown = f"{source.path}[{split}]"
    target = _target(source, at, home)
    try:
        known = json.loads(_about(target).read_text("utf-8"))
        there = target.with_name(known.get("file", target.name))
        if there.stat().st_size == known["bytes"]:
            say("data", f"{shown}: the copy of {known['fetched']}, commit {known['commit'][:12]}")
            return there
    except (OSError, ValueError, KeyError, TypeError):
        pass
    say("data", f"{shown}: fetching from the hub")
    commit, rows = _asked(source, at, lambda: _load(source, at, split, cache_dir))
    aside = target.with_suffix(f".tmp-{os.getpid()}")
    try:
        count = _asked(source, at, lambda: write_rows(aside, rows))
        facts = {
            "repo": at.repo,
            "commit": commit,
            "rows": count,
            "bytes": aside.stat().st_size,
            "fetched": datetime.date.today().isoformat(),
            "file": target.name,
        }
        aside.replace(target)
    finally:
        with suppress(OSError):
            aside.unlink()
    # A run notes the commit, and asks for that when it is resumed.
    exact = source if commit == UNKNOWN else dataclasses.replace(source, revision=commit)
    for name in (target, _target(exact, at, home)):
        _about(name).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    say("data", f"{shown}: {count:,} rows of commit {commit[:12]} → {target}")
    return target


def _target(source: Source, at: Address, home: Path) -> Path:
    folder = home / "data" / "hub" / at.repo.replace("/", "--")
    return folder / f"{_name(source, at, source.split or 'train')}.jsonl"


def _about(target: Path) -> Path:
    return target.with_suffix(".about.json")


def streamed(source: Source, cache_dir: str | None) -> Iterator[Row]:
    """Rows of a whole set as they come over the network; nothing is copied.

    Raises:
        DataError: D130, D131, also in the middle.
        MissingExtra: without the package `datasets`.
    """
    at, split = address(source.path), source.split or "train"
    load = lambda: _load(source, at, split, cache_dir, streaming=True)
    _, found = _asked(source, at, load)
    iterator = iter(found)
    for number in itertools.count(1):
        row = _asked(source, at, lambda: next(iterator, _END))
        if row is _END:
            return
        value = {"text": row} if isinstance(row, str) else row
        yield Row(json.loads(_line(value)), f"{source.path}[{split}]", number)


def pinned(source: Source, cache_dir: str | None, home: Path) -> Source:
    """The source with the commit that is read, where the hub or the copy tells it."""
    at = address(source.path)
    if at.is_file:
        commit = _asked(source, at, lambda: _commit(source, at))
        return source if commit == UNKNOWN else dataclasses.replace(source, revision=commit)
    try:
        commit = json.loads(_about(_target(source, at, home)).read_text("utf-8"))["commit"]
    except (OSError, ValueError, KeyError, TypeError):
        commit = _asked(source, at, lambda: _commit(source, at))
    return source if commit == UNKNOWN else dataclasses.replace(source, revision=commit)


def _name(source: Source, at: Address, split: str) -> str:
    """A file name that tells what is in the copy; its end keeps apart what reads the same."""
    parts = [at.inside, source.subset, split, source.revision]
    if source.max_samples is not None:
        parts.append(f"first{source.max_samples}")
    exact = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
    plain = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in parts if part)
    return f"{plain[:80]}-{exact}"


def _load(
    source: Source, at: Address, split: str, cache_dir: str | None, *, streaming: bool = False
) -> tuple[str, Iterable[Any]]:
    """(commit, rows) of a set; rows come as they are read where only the first are wanted."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "hub", f"reading {source.path}") from None
    commit = _commit(source, at)
    rows: Any = datasets.load_dataset(
        at.repo,
        name=source.subset,
        data_dir=at.inside or None,
        split=split,
        revision=commit if commit != UNKNOWN else source.revision,
        cache_dir=cache_dir,
        streaming=streaming or source.max_samples is not None,
    )
    return commit, itertools.islice(rows, source.max_samples)


def of_folder(source: Source, folder: Path, split: str) -> Iterable[Any]:
    """Rows of a split of a folder that is laid out as a set of the hub, as they are read.

    Raises:
        MissingExtra: without the package `datasets`.
        Exception: whatever that package says of the folder.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "hub", f"a split of {source.path}") from None
    return datasets.load_dataset(str(folder), name=source.subset, split=split, streaming=True)


def _commit(source: Source, at: Address) -> str:
    """The commit of a set's revision; in offline mode, where `datasets` may still find the set in
    its own cache, it is not known."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        return HfApi().dataset_info(at.repo, revision=source.revision).sha or UNKNOWN
    except OfflineModeIsEnabled:
        return UNKNOWN


def write_rows(path: Path, rows: Iterable[Any]) -> int:
    """Writes rows as JSON Lines; what JSON can't hold (images, bytes) is named by its type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("wb") as stream:
        for row in rows:
            value = {"text": row} if isinstance(row, str) else row
            stream.write(_line(value) + b"\n")
            count += 1
    return count


def _line(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, default=_stand_in).encode()
    except UnicodeEncodeError:  # half a character: escaped, so that reading it tells the row
        return json.dumps(value, default=_stand_in).encode()


def _stand_in(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return f"<{type(value).__name__}>"


# ---------------------------------------------------------------- what can go wrong


def _asked(source: Source, at: Address, ask: Callable[[], Any]) -> Any:
    """What the hub answers; its errors as ours.

    Raises:
        DataError: D130, D131.
        RunError: R221, the disk is full.
    """
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{at.repo}"
    try:
        return ask()
    except TunesmithError:
        raise
    except errors.GatedRepoError:
        what = f"{source.path} is gated: its licence has to be accepted first"
        fix = f"accept it on {page}, then set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        what = f"the hub has no data set `{at.repo}`, or it is private"
        fix = f"check {page}; a private set needs HF_TOKEN"
    except errors.RevisionNotFoundError:
        what, fix = f"{at.repo} has no revision `{source.revision}`", f"see {page}/commits/main"
    except errors.LocalEntryNotFoundError as error:  # is an EntryNotFoundError too
        raise _offline(source, at) from error
    except errors.EntryNotFoundError:
        what, fix = f"{at.repo} has no file `{at.inside}`", f"see {page}/tree/main"
    except Exception as error:
        if _is_offline(error):
            raise _offline(source, at) from error
        if isinstance(error, OSError) and error.errno is not None:  # no answer of the hub
            place = Path(error.filename or source.path)
            raise reports.no_room(place, error, "the copy of a data set") from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"{source.path} can't be read: {first}"
        fix = f"see {page}; name split:, subset:, revision:, or one file: {PREFIX}{at.repo}/FILE"
    raise DataError("D131", what, fix=fix)


def _is_offline(error: BaseException | None) -> bool:
    """Whether the cause is that there is no network, whichever library says so."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if error is None:
        return False
    # The base of the hub's errors that is no OSError is its HTTP library's: without an answer of
    # the hub, such an error is one of the line (no host, no route, a timeout).
    of_line = tuple(base for base in HfHubHTTPError.__bases__ if base is not OSError)
    if isinstance(error, of_line) and not isinstance(error, HfHubHTTPError):
        return True
    missing = isinstance(error, ConnectionError | LocalEntryNotFoundError)
    return missing or _is_offline(error.__cause__)


def _offline(source: Source, at: Address) -> DataError:
    """D130, in one line what to do on a machine with a network."""
    mode = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    file = f" {at.inside}" if at.is_file else ""
    found = f"DIR/{at.inside}"
    if not at.is_file:
        folder = f"DIR/{at.inside}" if at.inside else "DIR"
        subset = f", subset: {source.subset}" if source.subset else ""
        found = f'"{{path: {folder}, split: {source.split or "train"}{subset}}}"'
    return DataError(
        "D130",
        f"{source.path} is not here and the hub can't be reached{mode}",
        fix=f"where there is a network: hf download {at.repo}{file} --repo-type dataset"
        f" --local-dir DIR, then data.train={found}",
    )
