"""Folders that `datasets.save_to_disk` wrote with token ids: {input_ids, seq_len} or {input_ids,
labels}.

`seq_len` is the number of the prompt's tokens, which are not trained; labels of −100 aren't either.
Source: ChatGLM-Tuning's tokenize_dataset_rows.py, whose masks began one token early.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data import key, report as reports, store
from tunesmith.errors import DataError, MissingExtra
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Example

ROWS = 4096
"""Rows of a shard."""
IGNORED = -100


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder, and its rows are token ids as far as is known."""
    if not ((path / "state.json").is_file() and (path / "dataset_info.json").is_file()):
        return False
    try:
        columns = json.loads((path / "dataset_info.json").read_text("utf-8")).get("features")
    except (OSError, ValueError, AttributeError):
        columns = None
    return not columns or "input_ids" in columns


def dataset(path: Path, config: DataConfig, home: Path, vocab_size: int | None) -> store.Dataset:
    """Its items, from the token store under `home`, which is made of it once.

    Args:
        path: The folder.
        config: max_length and what happens to longer rows.
        home: Stores are kept in `home/store`.
        vocab_size: Ids must be below; None: any.

    Raises:
        DataError: D212, it can't be read, or has no such columns; D214, ids of another tokenizer.
        MissingExtra: no pyarrow.
    """
    files = _files(path)
    digest = hashlib.sha256(key.code_hash().encode())
    digest.update(f"{config.max_length} {config.on_overlength} {vocab_size}".encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    name = digest.hexdigest()
    folder = home / "store" / name[:2] / name
    if not (folder / "report.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _make(path, files, folder, config, vocab_size)
    report = json.loads((folder / "report.json").read_text("utf-8"))
    shards = [folder / shard for shard, _ in report["shards"]]
    found = reports.for_source(report, str(path), "arrow", [str(path)], name)
    return store.open_dataset(shards, [str(path)], found)


def _files(path: Path) -> list[Path]:
    try:
        state = json.loads((path / "state.json").read_text("utf-8"))
        names = [Path(one["filename"]).name for one in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path / "state.json", error) from None
    return [path / name for name in names]


def _unreadable(path: Path, error: object) -> DataError:
    what = f"not a data set of token ids: {error}"
    return DataError("D212", what, where=str(path), fix="save it again, or start from the text")


def _make(
    path: Path, files: list[Path], folder: Path, config: DataConfig, vocab_size: int | None
) -> None:
    results: list[dict[str, Any]] = []
    items: list[store.Item] = []
    counts = {"rows": 0, "cut_answers": 0, "truncated": 0}
    problems: list[reports.Problem] = []

    def flush() -> None:
        shard = folder / f"shard-{len(results):06d}"
        size = store.write_shard(shard, items)
        examples = [example for item in items for example in item.examples]
        results.append(
            {
                "shard": shard.name,
                "bytes": size,
                **counts,
                "items": len(items),
                "examples": len(examples),
                "tokens": sum(len(e.ids_T) for e in examples),
                "trained": float(sum(np.count_nonzero(e.weights_T) for e in examples)),
                "unknown": 0,
                "problems": list(problems),
            }
        )
        items.clear()
        problems.clear()
        counts.update(rows=0, truncated=0)

    for line, (ids, weights) in enumerate(_rows(path, files), 1):
        counts["rows"] += 1
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= (vocab_size or 1 << 31)):
            what = f"id {int(ids.max()):,}, where the tokenizer has {vocab_size:,} tokens"
            fix = "choose the model whose tokenizer made the data"
            raise DataError("D214", what, where=f"{path}:{line}", fix=fix)
        problem, cut = _fitted(ids, weights, config)
        if problem:
            problems.append(reports.Problem(0, line, "D204", *problem))
        else:
            counts["truncated"] += len(ids) - cut
            items.append(store.Item((Example(ids[:cut], weights[:cut]),), 0, line))
        if counts["rows"] == ROWS:
            flush()
    flush()
    report = reports.of_store(results, [])
    aside = folder / f"report.json.tmp-{os.getpid()}"
    aside.write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")
    aside.replace(folder / "report.json")


def _fitted(
    ids: np.ndarray, weights: np.ndarray, config: DataConfig
) -> tuple[tuple[str, str] | None, int]:
    """((reason, policy), 0) of a row that can't be trained, or (None, tokens that are kept)."""
    cut = len(ids)
    if cut > config.max_length:
        if config.on_overlength != "truncate":
            return (f"{cut:,} tokens", config.on_overlength), 0
        cut = config.max_length
    if not np.count_nonzero(weights[:cut]):
        return ("nothing to train", "row"), 0
    return None, cut


def _rows(path: Path, files: list[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """ids (int32) and weights (float32) of each row, both (T,)."""
    try:
        import pyarrow as arrow
    except ImportError:
        raise MissingExtra("pyarrow", "hub", "reading a save_to_disk folder") from None
    for file in files:
        try:
            with arrow.memory_map(str(file)) as source, arrow.ipc.open_stream(source) as reader:
                for batch in reader:
                    yield from _of_batch(batch)
        except (OSError, arrow.ArrowInvalid, KeyError, ValueError, TypeError) as error:
            raise _unreadable(file, error) from None


def _of_batch(batch: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    columns = batch.schema.names
    marks = next((name for name in ("labels", "seq_len") if name in columns), None)
    if "input_ids" not in columns or marks is None:
        found = ", ".join(columns)
        raise ValueError(f"columns input_ids and seq_len (or labels) are wanted, found {found}")
    ids_column, marked = batch.column("input_ids"), batch.column(marks)
    for row in range(batch.num_rows):
        ids = np.asarray(ids_column[row].as_py(), np.int32)
        if marks == "labels":
            weights = (np.asarray(marked[row].as_py()) != IGNORED).astype(np.float32)
            if len(weights) != len(ids):
                raise ValueError("a row has as many labels as ids, or it is none")
        else:
            weights = (np.arange(len(ids)) >= int(marked[row].as_py())).astype(np.float32)
        weights[:1] = 0.0  # the first token has no predecessor
        yield ids, weights
