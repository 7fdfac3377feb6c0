"""Rows to tokens, once: read, parse, let the stage encode, and keep the result in the token store.

A store is found by a key over everything the tokens depend on, so a second start maps what is
there. An interrupted encoding goes on where it was: shards that are on disk are not made again.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data import (
    blend,
    fill,
    read,
    report as reports,
    row_items,
    store,
    tokenised,
    workers,
)
from tunesmith.data.formats import base as formats
from tunesmith.data.json_rows import Row, place_of
from tunesmith.data.key import store_key
from tunesmith.data.row_items import StageEncode
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig, Source
from tunesmith.types import Document

Progress = Callable[[str, str], None]

BATCH_ROWS = 1024
BATCH_CHARACTERS = 2_000_000
"""A batch ends at so many rows or characters: few enough that two cores share 10 MB evenly."""
_LINES = ": each line is a document; for one a file, format: document"
LOOK_AT = 20
"""Rows a format is detected from."""
SAY_EVERY = 5.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True)
class Checks:
    """What is known about the stage before a row is encoded."""

    accepts: tuple[type, ...] = ()
    """Sample types the stage trains on; empty: any."""
    unk_id: int | None = None
    """Id of the unknown token; None where it means something else (EOS, padding)."""
    vocab_size: int | None = None
    """Ids of data that is encoded already must be below; None: any."""


def build(
    sources: Sequence[Source],
    config: DataConfig,
    make_encoder: Callable[[], StageEncode],
    key_parts: Mapping[str, Any],
    *,
    num_proc: int | None,
    home: Path,
    progress: Progress | None = None,
    checks: Checks | None = None,
) -> store.Dataset:
    """The token store of some sources, made or found.

    Args:
        sources: What to read, in this order.
        config: Lengths, joiner, and what happens to bad rows.
        make_encoder: Builds the stage's encoder in each process; must pickle.
        key_parts: What the encoder depends on: stage, template and tokenizer hashes, lengths.
        num_proc: Processes; default: all cores this process may use.
        home: Stores are kept in `home/store`.
        progress: Is told (topic, text) what was detected, and how far it is.
        checks: What the stage accepts.

    Raises:
        DataError: D1xx, files and rows; D202 to D207, rows that can't be trained on.
        RunError: R220, an encoding process died; R221, no room for the store.
    """
    if not sources:
        fix = "name a file: data.train=FILE"
        raise DataError("D203", "no training data is named", where="data.train", fix=fix)
    checks = checks or Checks()
    say = progress or (lambda topic, text: None)
    sets = []
    wanted = tokenised.Wanted(
        key_parts, checks.vocab_size, not checks.accepts or Document in checks.accepts, home
    )
    for source in sources:
        if kind := tokenised.kind_of(source.path):
            say("data", f"{source.path}: token ids ({kind})")
            if kind == "corpus" and (found := blend.caches(Path(source.path).expanduser())):
                say("note", f"{found[0].name} and other orders drawn by Megatron are not read")
            if kind == "corpus" and (bare := tokenised.unrecorded(Path(source.path).expanduser())):
                said = "nothing beside it says which tokenizer made it: it must be this model's"
                say("note", f"{bare[0]}: {said}")
            sets.append(tokenised.open_source(source, config, wanted))
            continue
        job = _job(source, config, make_encoder, key_parts, checks)
        detected = "" if source.format else f" (detected){said_of(job.format, job.files)}"
        say("data", f"{source.path}: {job.format}{detected}")
        for text in read.notes(source.path):
            say("note", text)
        if open_places := fill.unfilled(source, job.format):
            say("note", open_places)
        sets.append(_found_or_made(job, num_proc or workers.cores(), home / "store", say))
    dataset = store.concat(sets, reports.joined([one.report for one in sets]))
    reports.judge(dataset.report, config, unk=checks.unk_id is not None)
    return dataset


# ---------------------------------------------------------------- one source


@dataclass(frozen=True)
class Job:
    """One source and how to encode it; small and picklable."""

    source: Source
    format: str
    config: DataConfig
    make_encoder: Callable[[], StageEncode]
    unk_id: int | None
    files: tuple[str, ...]
    key: str

    def __call__(self) -> Callable[[Task], dict[str, Any]]:
        encode = self.make_encoder()
        return lambda task: encode_batch(self, encode, task)


@dataclass(frozen=True)
class Task:
    """A batch of rows and the shard they become."""

    path: Path
    rows: tuple[Row, ...]


def _job(
    source: Source,
    config: DataConfig,
    make_encoder: Callable[[], StageEncode],
    key_parts: Mapping[str, Any],
    checks: Checks,
) -> Job:
    name = source.format or detect(source, checks.accepts)
    check_format(name, source, checks)
    parts = {**key_parts, "unk_id": checks.unk_id, "batch": [BATCH_ROWS, BATCH_CHARACTERS]}
    key = store_key(source, name, config, parts)
    files = tuple(str(path) for path in read.data_files(source.path))
    return Job(source, name, config, make_encoder, checks.unk_id, files, key)


def check_format(name: str, source: Source, checks: Checks) -> None:
    """Refuses a format that the stage can't train on, or that has no such columns.

    Raises:
        DataError: D125, D205.
    """
    formats.check_columns(name, source.columns or {}, source.path)
    made = formats.load(name).SAMPLE
    if checks.accepts and not issubclass(made, checks.accepts):
        wanted = " or ".join(kind.__name__.lower() + "s" for kind in checks.accepts)
        raise DataError(
            "D205",
            f"the format {name} gives {made.__name__.lower()}s, this stage trains on {wanted}",
            where=source.path,
            fix="choose another stage, or say the format and columns of the file",
        )


def said_of(format: str, files: Sequence[str]) -> str:
    """What to add to a detected format: in plain text lines are taken for documents."""
    plain = format == "text" and all(read.kind_of(Path(name)) == "text" for name in files)
    return _LINES if plain else ""


def detect(source: Source, accepts: Sequence[type] = ()) -> str:
    """The format of a source, from its first rows and, where they can be read in several ways, from
    the sample types that are accepted.

    Raises:
        DataError: D1xx, it can't be read, or no format fits.
    """
    bad: list[DataError] = []
    found = list(itertools.islice(read.rows(source.path, on_bad=bad.append), LOOK_AT))
    if not found:
        raise bad[0]
    return formats.detect(found, source.columns, accepts)


# ---------------------------------------------------------------- find or make


def _found_or_made(job: Job, processes: int, stores: Path, say: Progress) -> store.Dataset:
    path = stores / job.key[:2] / job.key
    if (found := _open(path, job)) is not None:
        return found
    try:
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if (found := _open(path, job)) is not None:  # another process made it meanwhile
                return found
            _make(job, path, processes, say)
    except OSError as error:
        raise reports.no_room(path, error) from None
    found = _open(path, job)
    if found is None:
        raise RuntimeError(f"the store {path} can't be read back")
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process makes a store; others wait, then find it made."""
    with (path / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _open(path: Path, job: Job) -> store.Dataset | None:
    """The store, if it is complete and its files are what the report says."""
    try:
        report = json.loads((path / "report.json").read_text("utf-8"))
        shards = [path / name for name, _ in report["shards"]]
        if any((path / name).stat().st_size != size for name, size in report["shards"]):
            return None
        # Names are those of this run: the same bytes may lie elsewhere by now.
        found = reports.for_source(report, job.source.path, job.format, job.files, job.key)
        return store.open_dataset(shards, job.files, found)
    except (OSError, ValueError, KeyError):
        return None


def _make(job: Job, path: Path, processes: int, say: Progress) -> None:
    """Writes the shards that are missing, then the report: with it the store is complete."""
    done = _manifest(path)
    unreadable: list[reports.Problem] = []
    rows = _rows(job, unreadable)
    tasks = _tasks(rows, path, skip=done)
    results = dict(done)
    said, count = time.monotonic(), sum(result["rows"] for result in done.values())
    with (path / "manifest.jsonl").open("a", encoding="utf-8") as manifest:
        for result in _results(job, tasks, processes):
            results[result["shard"]] = result
            manifest.write(json.dumps(result, ensure_ascii=False) + "\n")
            manifest.flush()
            count += result["rows"]
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                say("data", f"{job.source.path}: {count:,} rows encoded")
    report = reports.of_store([results[name] for name in sorted(results)], unreadable)
    aside = path / f"report.json.tmp-{os.getpid()}"
    aside.write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")
    aside.replace(path / "report.json")
    (path / "manifest.jsonl").unlink()


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Shards that an interrupted encoding left whole. A torn last line is a shard not yet made."""
    done = {}
    if (path / "manifest.jsonl").is_file():
        text = (path / "manifest.jsonl").read_text("utf-8", errors="replace")
        for line in text.splitlines():
            try:
                result = json.loads(line)
                if (path / result["shard"]).stat().st_size == result["bytes"]:
                    done[result["shard"]] = result
            except (ValueError, KeyError, OSError):
                continue
        with (path / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
            manifest.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in done.values())
    for leftover in path.glob("*.tmp-*"):
        leftover.unlink(missing_ok=True)
    return done


def _rows(job: Job, unreadable: list[reports.Problem]) -> Iterator[Row]:
    """Rows with their file's number in the place of its name."""
    number = {name: str(index) for index, name in enumerate(job.files)}

    def note(error: DataError) -> None:
        file = next(name for name in job.files if error.where.startswith(f"{name}:"))
        at = place_of(error.where, file)
        unreadable.append(reports.Problem(int(number[file]), at, error.code, error.what))

    found = read.rows(
        job.source.path,
        max_samples=job.source.max_samples,
        whole=formats.load(job.format).WHOLE_FILES,
        on_bad=note,
    )
    filled = (fill.filled(row, job.source.fill or {}) for row in found)
    return (row._replace(file=number[row.file]) for row in filled)


def _tasks(rows: Iterator[Row], path: Path, skip: Mapping[str, Any]) -> Iterator[Task]:
    """Batches of rows, the same at every start, without those that are done."""
    for number, batch in enumerate(row_items.batches(rows, BATCH_ROWS, BATCH_CHARACTERS)):
        name = f"shard-{number:06d}"
        if name not in skip:
            yield Task(path / name, batch)


def _results(job: Job, tasks: Iterator[Task], processes: int) -> Iterator[dict[str, Any]]:
    """Here if there is one batch only, or one process; else in several."""
    first = list(itertools.islice(tasks, 2))
    tasks = itertools.chain(first, tasks)
    if processes > 1 and len(first) > 1:
        return workers.run(job, tasks, processes)
    if not first:
        return iter(())
    function = job()
    return (function(task) for task in tasks)


# ---------------------------------------------------------------- in a worker


def encode_batch(job: Job, encode: StageEncode, task: Task) -> dict[str, Any]:
    """Parses and encodes rows, writes their shard, and returns what to report about it."""
    items, problems, truncated, cut_answers, unused = row_items.encode_rows(
        task.rows, job.format, job.source, job.config, encode
    )
    size = store.write_shard(task.path, items)
    examples = [example for item in items for example in item.examples]
    ids = np.concatenate([e.ids_T for e in examples] or [np.empty(0, np.int32)])
    weights = np.concatenate([e.weights_T for e in examples] or [np.empty(0, np.float32)])
    return {
        "shard": task.path.name,
        "bytes": size,
        "rows": len(task.rows),
        "items": len(items),
        "examples": len(examples),
        "tokens": len(ids),
        "trained": float(np.count_nonzero(weights)),
        "truncated": truncated,
        "cut_answers": cut_answers,
        "unknown": 0 if job.unk_id is None else int(np.count_nonzero(ids == job.unk_id)),
        "problems": problems,
        "overlooked": unused,
    }
