"""`expand-vocab`: new words in a model's vocabulary, as an ordinary model directory.

Old rows of embedding and head stay as they are, so the old tokens keep ids and logits. The row of a
new word is the mean of the rows that spelled it before; padding is the mean of all old rows, after
Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models". Legend: `V`
vocabulary, `D` model width.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tunesmith import __version__
from tunesmith.errors import ConfigError, ExportError
from tunesmith.exporting import files_impl, plan_impl, shards_impl, tokens_impl
from tunesmith.exporting.shards_impl import Planned, Stored
from tunesmith.models import load
from tunesmith.templates.tokenizer import Tokenizer

Init = Literal["mean", "random"]


@dataclass(frozen=True)
class ExpandReport:
    """What was written."""

    path: str
    base: str
    added: int
    first_id: int
    tokens: int
    """Of the new tokenizer."""
    rows_before: int
    rows: int
    """Of embedding and head."""
    tied: bool
    init: str
    pieces_before: float
    """Tokens a new word took before, on average."""
    skipped: dict[str, int]
    files: list[str]
    bytes: int
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rows:
    """How the rows of a vocabulary change."""

    pieces: dict[int, list[int]]
    """New id → old ids that spelled it."""
    old: int
    """Tokens there were; rows beyond were padding."""
    count: int
    """Rows there will be."""
    init: Init
    std: float
    seed: int

    def grown(self, name: str, source: Stored) -> Tensor:
        """A weight of shape (V, D), or a bias of shape (V,), with the new rows."""
        rows_VD = source.read()
        known = rows_VD[: self.old].float()
        grown_VD = rows_VD.new_empty((self.count, *rows_VD.shape[1:]))
        grown_VD[: len(rows_VD)] = rows_VD
        grown_VD[len(rows_VD) :] = known.mean(0).to(rows_VD.dtype)
        if self.init == "random":
            generator = torch.Generator().manual_seed(self.seed + zlib.crc32(name.encode()))
            shape = (len(self.pieces), *rows_VD.shape[1:])
            drawn = torch.randn(shape, generator=generator) * self.std
            if rows_VD.dim() == 1:
                drawn.zero_()
            grown_VD[list(self.pieces)] = drawn.to(rows_VD.dtype)
            return grown_VD
        for id, spelled in self.pieces.items():
            grown_VD[id] = known[spelled].mean(0).to(rows_VD.dtype)
        return grown_VD


def expand(
    base: str | Path,
    out: Path,
    words: Sequence[str],
    *,
    init: Init = "mean",
    multiple: int = 64,
    seed: int = 42,
    max_shard_size: str = "5GB",
    replace: bool = False,
) -> ExpandReport:
    """Writes a model whose tokenizer knows more words.

    Args:
        base: Directory, `builtin:NAME` or hub id of full weights.
        out: Directory to make. It appears whole or not at all.
        words: New words; those that are one token already are passed over.
        init: New rows: the mean of the old pieces' rows, or draws from N(0, initializer_range).
        multiple: The number of rows is rounded up to one of it, for matrix kernels.
        seed: For `random`.
        max_shard_size: Largest weights file, e.g. `5GB`.
        replace: Whether a directory that is there may be replaced.

    Raises:
        ConfigError: C211, not a size; C212, `out` is there; C223, `init` or `multiple` is wrong.
        EnvironmentFault: E201–E207, E221–E225, the base or its tokenizer can't be used.
        ExportError: X103, a file is torn; X301, there is nothing to add; X302, the model can't
            grow; X303, tokenizer and model don't fit.
    """
    _check_choices(init, multiple)
    limit = shards_impl.parse_size(max_shard_size)
    directory, _ = load.resolve(str(base))
    based = _read_base(directory)
    tokenizer = Tokenizer.load(directory)
    _check(based, tokenizer)
    extended = tokens_impl.extend(tokenizer, words)
    _check_words(extended)
    rows = _rows(based, tokenizer, extended, init, multiple, seed)
    with _fresh(out, [directory], replace) as aside:
        files = shards_impl.write(aside, _plan(based, rows), limit)
        files_impl.write_config(directory, aside, {"vocab_size": rows.count})
        _write_tokenizer(tokenizer, extended.rust, aside)
        _copy_rest(directory, aside, len(extended.pieces))
        written = sum((aside / name).stat().st_size for name in files)
    return ExpandReport(
        path=str(out),
        base=str(base),
        added=len(extended.pieces),
        first_id=rows.old,
        tokens=rows.old + len(extended.pieces),
        rows_before=based.files[based.embedding].shape[0],
        rows=rows.count,
        tied=based.tied,
        init=init,
        pieces_before=mean(map(len, extended.pieces.values())),
        skipped={why: len(found) for why, found in extended.skipped.items()},
        files=files,
        bytes=written,
        notes=[*tokenizer.notes, *extended.notes],
    )


def _check_choices(init: str, multiple: int) -> None:
    if init not in ("mean", "random") or multiple < 1:
        what = f"--init {init}" if multiple > 0 else f"--multiple {multiple}"
        raise ConfigError("C223", f"{what} means nothing", fix="--init mean|random, --multiple 64")


def _check_words(extended: tokens_impl.Extended) -> None:
    if not extended.pieces:
        reasons = ", ".join(f"{len(found)} {why}" for why, found in extended.skipped.items())
        raise ExportError(
            "X301",
            f"there is no new word to add: {reasons or 'none given'}",
            fix="give words that take several tokens today",
        )


def _read_base(directory: Path) -> plan_impl.Base:
    if "quantization_config" in load.read_config(directory).to_dict():
        raise ExportError(
            "X302",
            "a quantised model can't get new words",
            where=str(directory),
            fix="expand the model it was quantised from, then quantise the result",
        )
    return plan_impl.read_base(directory)


def _rows(
    based: plan_impl.Base,
    tokenizer: Tokenizer,
    extended: tokens_impl.Extended,
    init: Init,
    multiple: int,
    seed: int,
) -> Rows:
    size = tokenizer.vocab_size + len(extended.pieces)
    count = max(based.files[based.embedding].shape[0], -(-size // multiple) * multiple)
    fields = based.skeleton.config.get_text_config().to_dict()
    std = float(fields.get("initializer_range") or 0.02)
    return Rows(extended.pieces, tokenizer.vocab_size, count, init, std, seed)


def _check(based: plan_impl.Base, tokenizer: Tokenizer) -> None:
    rows = based.files[based.embedding].shape[0]
    if tokenizer.vocab_size > rows:
        raise ExportError(
            "X303",
            f"the tokenizer has {tokenizer.vocab_size} ids, the model only {rows} rows",
            where=str(based.directory),
            fix="the tokenizer is another model's",
        )
    tables = [
        name
        for name, module in based.skeleton.named_modules()
        if isinstance(module, nn.Embedding)
        and module.num_embeddings == rows
        and f"{name}.weight" != based.embedding
    ]
    if tables:
        raise ExportError(
            "X302",
            f"the model has more tables by token than embedding and head: {', '.join(tables)}",
            where=str(based.directory),
            fix="models of this family can't get new words yet",
        )


def _plan(based: plan_impl.Base, rows: Rows) -> list[Planned]:
    """All weights; those with a row a token get more rows. A tied head is not stored apart."""
    by_token = {based.embedding, based.head, f"{based.head.rpartition('.')[0]}.bias"}
    planned = []
    for name, source in based.files.items():
        if based.tied and name == based.head != based.embedding:
            continue
        if name in by_token:
            shape = (rows.count, *source.shape[1:])
            make = _maker(rows, name, source)
            planned.append(Planned(name, shape, source.dtype, make))
        else:
            planned.append(Planned(name, source.shape, source.dtype, source.read))
    return planned


def _maker(rows: Rows, name: str, source: Stored):
    return lambda: rows.grown(name, source)


def _write_tokenizer(tokenizer: Tokenizer, rust: Any, out: Path) -> None:
    rust.save(str(out / "tokenizer.json"))
    dropped = ("auto_map", "added_tokens_decoder", "chat_template")
    config = {key: value for key, value in tokenizer.config.items() if key not in dropped}
    # Classes of one model would build their own tokenizer, without the new words' rules.
    config |= {**tokenizer.named, "tokenizer_class": "PreTrainedTokenizerFast"}
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    (out / "tokenizer_config.json").write_text(text, encoding="utf-8")
    if tokenizer.chat_template is not None:
        (out / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def _copy_rest(base: Path, out: Path, added: int) -> None:
    if (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", out / "generation_config.json")
    card: dict[str, Any] = {}
    if (base / files_impl.CARD).is_file():
        card = json.loads((base / files_impl.CARD).read_text(encoding="utf-8"))
    card = {key: value for key, value in card.items() if key != "base"}
    card |= {"tunesmith": __version__, "expanded": {"from": base.name, "words": added}}
    (out / files_impl.CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _fresh(out: Path, inputs: Sequence[Path], replace: bool) -> Iterator[Path]:
    """A folder to write to that gets its name when all is written."""
    real = out.resolve()
    if any(real == path.resolve() or real in path.resolve().parents for path in inputs):
        raise ConfigError("C212", f"{out} holds what is being expanded", where="-o",
                          fix="choose another folder")  # fmt: skip
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and not (replace and out.is_dir()):
        raise ConfigError(
            "C212", f"{out} is there already", where="-o", fix="choose another, or add --yes"
        )
    aside = out.parent / f".{out.name}-{os.getpid()}.tmp"
    try:
        aside.mkdir(parents=True)
        yield aside
        files_impl.install(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
