"""The beginning of streamed data, encoded before a run: what of it is checked, counted, shown."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.data import (
    encode,
    hub,
    mix,
    read,
    report as reports,
    store,
    stream,
    tokenised,
    trees,
)
from tunesmith.data.formats import base as formats
from tunesmith.data.json_rows import Row, place_of
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig, Source

ROWS = 1024
"""Rows of each source that are encoded before the run."""
BUFFER = 10_000
"""Items in the shuffle buffer, where the recipe doesn't say."""


@dataclass(frozen=True)
class Head(store.Dataset):
    """The first items of each source, and the way to all of them."""

    items: stream.Mixed | None = field(default=None, repr=False)


def open_streams(
    sources: Sequence[Source],
    config: DataConfig,
    make_encoder: Callable[[], encode.StageEncode],
    checks: encode.Checks,
    say: stream.Say,
    seed: int,
) -> Head:
    """Looks at the beginning of each source; reads no further.

    Args:
        sources: Files, folders or sets of the hub.
        config: What happens to bad rows, lengths, mixing.
        make_encoder: Builds the stage's encoder.
        checks: What the stage accepts.
        say: Is told what was detected and how much was looked at.
        seed: Of the draws of a mixture.

    Raises:
        DataError: D1xx, D2xx, a source or its first rows can't be used; D216, token ids.
    """
    heads, streams = [], []
    mix.check(len(sources), config.mix_strategy, config.interleave_probs)
    for source in sources:
        if kind := tokenised.kind_of(source.path):
            what = f"{source.path} is token ids already ({kind}), mapped and never read whole"
            raise cannot(what, "data.streaming=false")
        first, bad = _first_rows(source, config, whole=False)
        if not first:
            if bad:
                raise bad[0]
            what = "the source holds no rows"
            raise DataError("D102", what, where=source.path, fix="check data.train[].path")
        if trees.is_message(first[0].value):
            what = f"{source.path} holds one message a row; trees are made of all of them at once"
            raise cannot(what, "data.streaming=false, or a file with whole trees")
        name = source.format or formats.detect(first, source.columns, checks.accepts)
        encode.check_format(name, source, checks)
        detected = "" if source.format else " (detected)"
        heads.append(_head(source, name, config, make_encoder, checks))
        rows = heads[-1].report["rows"]
        looked_at = f"streamed; looked at its first {rows:,} rows"
        say("data", f"{source.path}: {name}{detected}, {looked_at}")
        for text in [] if hub.is_set(source.path) else read.notes(source.path):
            say("note", text)
        streams.append(stream.SourceStream(source, name, config, make_encoder, say))
    joined = store.concat(heads, reports.joined([one.report for one in heads]))
    reports.judge(joined.report, config, unk=checks.unk_id is not None)
    items = stream.Mixed(streams, config.mix_strategy, config.interleave_probs, seed)
    return Head(**{**vars(joined), "items": items})


def cannot(what: str, fix: str) -> DataError:
    """D216: data that can't be streamed."""
    return DataError("D216", what, where="data.streaming", fix=fix)


def _first_rows(
    source: Source, config: DataConfig, *, whole: bool
) -> tuple[list[Row], list[DataError]]:
    bad: list[DataError] = []
    found = stream.rows(source, config, whole=whole, on_bad=bad.append)
    return list(itertools.islice(found, min(ROWS, source.max_samples or ROWS))), bad


def _head(
    source: Source,
    format: str,
    config: DataConfig,
    make_encoder: Callable[[], encode.StageEncode],
    checks: encode.Checks,
) -> store.Dataset:
    """The items of the first rows. Their file is removed once it is mapped."""
    rows, bad = _first_rows(source, config, whole=formats.load(format).WHOLE_FILES)
    files = list(dict.fromkeys(row.file for row in rows))
    numbered = tuple(row._replace(file=str(files.index(row.file))) for row in rows)
    unreadable = []
    for error in bad:
        file = error.where.partition(":")[0]
        known = next((name for name in files if error.where.startswith(f"{name}:")), None)
        if known is None:
            files.append(file)
            known = file
        at = place_of(error.where, known)
        unreadable.append(reports.Problem(files.index(known), at, error.code, error.what))
    job = encode.Job(source, format, config, make_encoder, checks.unk_id, tuple(files), "streamed")
    handle, name = tempfile.mkstemp(prefix="tunesmith-head-")
    os.close(handle)
    try:
        result = encode.encode_batch(job, make_encoder(), encode.Task(Path(name), numbered))
        report = reports.of_store([result], unreadable)
        found = reports.for_source(report, source.path, format, files, _key(source))
        return store.open_dataset([Path(name)], files, found)
    finally:
        Path(name).unlink(missing_ok=True)


def _key(source: Source) -> str:
    """What tells these rows from others without reading them: sizes and times of change of files,
    the revision of a set."""
    if source.path.startswith(hub.PREFIX):
        return f"streamed {source.path} {source.subset} {source.split} {source.revision}"
    states = [(file.name, file.stat()) for file in read.data_files(source.path)]
    return "streamed " + " ".join(f"{n}:{s.st_size}:{s.st_mtime_ns}" for n, s in states)
