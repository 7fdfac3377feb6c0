"""Data that is token ids already: our own store in a folder, Megatron's corpora, `save_to_disk`.

Nothing is encoded; what was decided when the tokens were made (tokenizer, template, lengths) must
be what the recipe asks for, or it is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tunesmith.data import arrow, corpus, report as reports, store
from tunesmith.errors import ConfigError, DataError
from tunesmith.recipe.sections import DataConfig, Source

CARD = "tokens.json"
VERSION = 1
SHARD_ITEMS = 8192
DECIDED = ("stage", "template", "tokenizer", "system")
"""Parts of a store's key that decide its tokens, beside the rows and lengths."""
LIMITS = ("truncation", "on_overlength", "max_length", "max_prompt_length", "max_answer_length")
"""Parts that decide only what is cut or left out."""
CHUNK = 1 << 24


@dataclass(frozen=True)
class Wanted:
    """What the tokens must fit."""

    key_parts: Mapping[str, Any]
    vocab_size: int | None
    documents: bool
    """The stage trains on documents."""
    home: Path


def kind_of(path: str | Path) -> Literal["tokens", "corpus", "arrow"] | None:
    """What kind of token ids lies at a path; None for rows of text."""
    found = Path(path).expanduser()
    if (found / CARD).is_file():
        return "tokens"
    if arrow.is_saved(found):
        return "arrow"
    return "corpus" if corpus.prefixes(found) else None


def stage_of(path: str | Path) -> str:
    """The stage that trains on token ids."""
    kind = kind_of(path)
    if kind == "tokens":
        return str(_card(Path(path).expanduser())["made_for"]["stage"]["kind"])
    return "pretrain" if kind == "corpus" else "sft"


def open_source(source: Source, config: DataConfig, wanted: Wanted) -> store.Dataset:
    """The items of a source of token ids.

    Args:
        source: Its `weight` and `max_samples` count; what would change tokens is refused.
        config: Lengths and their policy.
        wanted: What the tokens must fit.

    Raises:
        DataError: D212, damaged files; D214, tokens made for another recipe.
        MissingExtra: a `save_to_disk` folder without pyarrow.
    """
    path = Path(source.path).expanduser()
    for name in ("format", "columns", "fill"):
        if vars(source)[name] is not None:
            raise _unfit(f"`{name}` has no meaning for data that is token ids", source.path)
    if source.system is not None:
        raise _unfit("a system prompt can't be put into data that is token ids", source.path)
    kind = kind_of(path)
    if kind == "tokens":
        data = _open_tokens(path, config, wanted)
    elif kind == "arrow":
        if wanted.documents:
            raise _unfit("prompts with answers, where this stage trains on documents", source.path)
        data = arrow.dataset(path, config, wanted.home, wanted.vocab_size)
    else:
        if not wanted.documents:
            raise _unfit("a corpus of documents, where this stage trains on answers", source.path)
        data = _open_corpora(path, config.max_length, wanted)
    data.report["path"] = source.path
    if source.max_samples is not None:
        data = _first_rows(data, source.max_samples)
    if source.weight != 1.0:
        shards = [shard.weighted(source.weight) for shard in data.shards]
        data = store.replaced(data, tuple(shards), data.trained * source.weight)
    return data


def _unfit(what: str, where: str, fix: str = "") -> DataError:
    return DataError("D214", what, where=where, fix=fix or "remove it, or start from the text")


def _first_rows(data: store.Dataset, count: int) -> store.Dataset:
    """The items of the first so many rows."""
    changes = (np.diff(data.file_N) != 0) | (np.diff(data.line_N) != 0)
    row_N = np.concatenate([[0], np.cumsum(changes)])
    chosen = data.select(np.flatnonzero(row_N < count))
    chosen.report["rows"] = min(count, int(row_N[-1]) + 1)
    return chosen


# ---------------------------------------------------------------- our own store in a folder


def save(data: store.Dataset, out: Path, made_for: Mapping[str, Any], *, replace: bool) -> int:
    """Writes encoded items as a folder that can be trained on without their rows.

    Args:
        data: Items.
        out: The folder; it appears whole.
        made_for: What decided the tokens, as in a store's key, and `max_length`.
        replace: A folder that was written by this function may be replaced.

    Returns:
        Bytes written.

    Raises:
        ConfigError: C212, something is there already.
    """
    if out.exists() and not (replace and (out / CARD).is_file()):
        fix = "choose another name, or --yes to replace a folder of tokens"
        raise ConfigError("C212", "the output is there already", where=str(out), fix=fix)
    aside = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        shards = [_save_shard(data, start, aside) for start in range(0, len(data), SHARD_ITEMS)]
        card = {
            "format": "tunesmith-tokens",
            "version": VERSION,
            "made_for": dict(made_for),
            "files": list(data.files),
            "shards": shards,
            "report": {**data.report, "items": len(data)},
        }
        text = json.dumps(card, ensure_ascii=False, indent=1)
        (aside / CARD).write_text(text + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        aside.replace(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return sum(size for _, size, _ in shards)


def _save_shard(data: store.Dataset, start: int, folder: Path) -> list[Any]:
    items = [
        store.Item(data[i], int(data.file_N[i]), int(data.line_N[i]))
        for i in range(start, min(start + SHARD_ITEMS, len(data)))
    ]
    path = folder / f"shard-{start // SHARD_ITEMS:06d}"
    size = store.write_shard(path, items)
    with path.open("rb") as stream:
        return [path.name, size, hashlib.file_digest(stream, "sha256").hexdigest()]


def _card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads((path / CARD).read_text("utf-8"))
        if card["format"] != "tunesmith-tokens" or card["version"] != VERSION:
            raise ValueError("another version")
        card["made_for"]["stage"]["kind"]
        return card
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path / CARD, error) from None


def _damaged(path: Path, error: object) -> DataError:
    fix = "make it again: tunesmith data tokenize TEXT -o FOLDER"
    return DataError("D212", f"not a folder of tokens: {error}", where=str(path), fix=fix)


def _open_tokens(path: Path, config: DataConfig, wanted: Wanted) -> store.Dataset:
    card = _card(path)
    made = card["made_for"]
    for name in DECIDED:
        if made.get(name) != _plain(wanted.key_parts.get(name)):
            fix = "use the model and settings it was made with, or make it again from its text"
            raise _unfit(f"the tokens were made with another {name}", str(path), fix)
    _check_limits(card, config, path)
    try:
        for name, size, _ in card["shards"]:
            if Path(name).name != name or (path / name).stat().st_size != size:
                raise ValueError(f"{name} has another size")
        shards = [store.Shard.open(path / name) for name, _, _ in card["shards"]]
        digest = hashlib.sha256(json.dumps(card["shards"]).encode()).hexdigest()
        found = {"path": str(path), "format": "tokens", "key": digest}
        report = {**found, **{name: card["report"].get(name, 0) for name in reports.NUMBERS}}
        report |= {"reasons": card["report"]["reasons"], "skipped": card["report"]["skipped"]}
        report["overlooked"] = card["report"].get("overlooked", [])
        data = store.of_shards(shards, card["files"], report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    longest = int(data.lengths.max(initial=0))
    if longest > config.max_length:
        what = f"examples of up to {longest:,} tokens, data.max_length is {config.max_length:,}"
        raise _unfit(what, str(path), f"data.max_length={longest}, or make it again")
    return data


def _check_limits(card: Mapping[str, Any], config: DataConfig, path: Path) -> None:
    """Refuses tokens that other limits cut, or other policies left out; where nothing was cut or
    left out, limits decided nothing.

    Raises:
        DataError: D214.
    """
    made, report = card["made_for"], card["report"]
    if not (report.get("truncated") or report.get("left_out") or report.get("refused")):
        return
    for name in LIMITS:
        wanted = vars(config)[name]
        if name in made and made[name] != wanted:
            what = f"rows were cut or left out with data.{name}={made[name]}, not {wanted}"
            raise _unfit(what, str(path), f"data.{name}={made[name]}, or make it again")


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value))


# ---------------------------------------------------------------- corpora


def _open_corpora(path: Path, max_length: int, wanted: Wanted) -> store.Dataset:
    """Blocks of at most `max_length` tokens of each document, mapped; as the stage cuts them."""
    shards, files, counts = [], [], {"rows": 0, "left_out": 0}
    digests: list[str] = []
    for number, prefix in enumerate(corpus.prefixes(path)):
        found = corpus.open_corpus(prefix)
        _check_record(prefix, corpus.record(prefix), wanted)
        digest, highest = _scanned(found, wanted.home)
        if wanted.vocab_size is not None and highest >= wanted.vocab_size:
            what = f"id {highest:,}, where the tokenizer has {wanted.vocab_size:,} tokens"
            raise _unfit(what, str(prefix), "choose the model whose tokenizer made the corpus")
        shards.append(_blocks(found, max_length, number))
        files.append(str(prefix))
        digests.append(digest)
        counts["rows"] += len(found.length_D)
        counts["left_out"] += int(np.count_nonzero(found.length_D < 2))
    key = hashlib.sha256(json.dumps([digests, max_length]).encode()).hexdigest()
    report: dict[str, Any] = {name: 0 for name in reports.NUMBERS} | counts
    report |= {"path": str(path), "format": "corpus", "key": key, "skipped": []}
    short = counts["left_out"]
    report["reasons"] = {"the document has no token to predict": short} if short else {}
    data = store.of_shards(shards, files, report)
    report |= {"items": len(data), "examples": len(data), "tokens": int(data.lengths.sum())}
    report["trained"] = float(data.trained.sum())
    return data


def unrecorded(path: Path) -> list[Path]:
    """Corpora at a path of which nothing says which tokenizer made them."""
    return [prefix for prefix in corpus.prefixes(path) if corpus.record(prefix) is None]


def _check_record(prefix: Path, made: corpus.Record | None, wanted: Wanted) -> None:
    """Refuses a corpus of another tokenizer: its ids mean other words.

    Raises:
        DataError: D310.
    """
    if made is None or "tokenizer" not in wanted.key_parts:
        return
    if made.tokenizer != wanted.key_parts["tokenizer"]:
        size = wanted.vocab_size
        raise DataError(
            "D310",
            f"the corpus was made with the tokenizer of {made.model}, not with this model's",
            where=str(prefix),
            why=f"Its ids are of {made.vocab_size:,} tokens, and this model has {size or 0:,}: the"
            " same numbers are other words.",
            fix=f"model={made.model} (data verbs: --model {made.model}), or make it again:"
            f" tunesmith data tokenize TEXT -o {prefix} --to megatron --model MODEL;"
            f" if it is one tokenizer saved twice, delete"
            f" {prefix.name}{corpus.RECORD}",
        )


def _blocks(found: corpus.Corpus, max_length: int, number: int) -> store.Shard:
    stride = max_length - 1
    length_D = np.where(found.length_D < 2, 1, found.length_D)
    count_D = -(-(length_D - 1) // stride)
    document = np.repeat(np.arange(len(count_D)), count_D)
    block = np.arange(len(document)) - np.repeat(np.cumsum(count_D) - count_D, count_D)
    length = np.minimum(max_length, length_D[document] - block * stride).astype(np.int32)
    return store.Shard(
        line_I=document.astype(np.int64) + 1,
        trained_I=(length - 1).astype(np.float64),
        file_I=np.full(len(document), number, np.int32),
        examples_I=np.ones(len(document), np.int32),
        length_E=length,
        ids_T=found.ids_T,
        weights_T=None,
        start_E=found.start_D[document] + block * stride,
    )


def _scanned(found: corpus.Corpus, home: Path) -> tuple[str, int]:
    """(sha256 of both files, largest id), read once for each size and time of change.

    The time an inode changed counts too: a tool may set back the other one, but never this.
    """
    stats = [file.stat() for file in found.files]
    names = [
        f"{f.resolve()}:{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}:{s.st_ino}"
        for f, s in zip(found.files, stats, strict=True)
    ]
    memo, key = home / "corpora.json", "|".join(names)
    try:
        known = json.loads(memo.read_text("utf-8"))
    except (OSError, ValueError):
        known = {}  # a cache: absent or torn, it is made anew
    if key in known:
        return known[key][0], known[key][1]
    digest = hashlib.sha256()
    for file in found.files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    highest = -1
    for start in range(0, len(found.ids_T), CHUNK):
        part = found.ids_T[start : start + CHUNK]
        if int(part.min()) < 0:
            where = str(found.files[0])
            raise DataError("D212", "an id is negative", where=where, fix="make it again")
        highest = max(highest, int(part.max()))
    home.mkdir(parents=True, exist_ok=True)
    aside = memo.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(json.dumps({**known, key: [digest.hexdigest(), highest]}), encoding="utf-8")
    aside.replace(memo)
    return digest.hexdigest(), highest
