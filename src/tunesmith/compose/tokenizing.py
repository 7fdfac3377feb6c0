"""Text to token ids on disk: the folder a run can train on, or Megatron's corpora."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.compose import data, model
from tunesmith.data import corpus, documents, encode, tokenised
from tunesmith.errors import ConfigError, DataError
from tunesmith.recipe.sections import Recipe
from tunesmith.templates.tokenizer import Tokenizer


class Documents(NamedTuple):
    """Which documents a corpus takes, and how they end."""

    min_chars: int = 10
    append_eos: bool = True
    divided: documents.Divided = "auto"


def to_store(recipe: Recipe, out: Path, *, replace: bool, progress: Any = None) -> dict[str, Any]:
    """Encodes the training data of a recipe into a folder that `data.train` takes.

    Raises:
        ConfigError: C212, something is there already.
        DataError: D1xx, D2xx, rows that can't be trained on.
    """
    if out.exists() and not replace:
        raise _taken(out)
    if recipe.data.streaming:  # to store is to read all of it
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, streaming=False))
    recipe = data.local(recipe, progress)
    data.check_sources(recipe)
    origin = model.origin(recipe)
    recipe = data.fit_context(recipe, origin, progress)
    factory = data.encoder_factory(recipe, origin.tokenizer_dir)
    stage = factory.build()
    train, _ = data.datasets(
        dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, eval=None)),
        factory,
        stage,
        progress,
    )
    made_for = {**data.key_parts(recipe, stage), "max_length": recipe.data.max_length}
    size = tokenised.save(train, out, made_for, replace=replace)
    report = train.report
    left_out = report["bad_rows"] + report["left_out"] + report["refused"]
    counts = {"rows": report["rows"], "items": len(train), "tokens": int(train.lengths.sum())}
    return {**counts, "left_out": left_out, "bytes": size, "stage": recipe.stage.kind}


def to_corpus(
    recipe: Recipe,
    prefix: Path,
    kind: corpus.Kind,
    limits: Documents,
    *,
    replace: bool,
    progress: Any = None,
) -> dict[str, Any]:
    """Encodes documents into a corpus of token ids, in bounded memory.

    Documents of a text file are its lines or its paragraphs; other files hold one a row.

    Raises:
        ConfigError: C180, no EOS to append; C212, something is there already.
        DataError: D1xx; D205, rows that are no documents; D230, a document of enormous length.
    """
    if not replace and corpus.kind_of(prefix) is not None:
        raise _taken(prefix)
    recipe = data.local(recipe, progress)
    data.check_sources(recipe)
    tokenizer = Tokenizer.load(model.origin(recipe).tokenizer_dir)
    if limits.append_eos and tokenizer.eos_id is None:
        what = "this tokenizer has no EOS token to end a document with"
        fix = "--no-append-eos, or set `eos_token` in its tokenizer_config.json"
        raise ConfigError("C180", what, where="model.tokenizer", fix=fix)
    end = [tokenizer.eos_id] if limits.append_eos and tokenizer.eos_id is not None else []
    counts = {"rows": 0, "tokens": 0, "left_out": 0}
    made_by = corpus.Record(
        tokenizer.hash,
        tokenizer.vocab_size,
        tokenizer.eos_id if end else None,
        recipe.model.path or "",
    )
    said, say = time.monotonic(), progress or (lambda topic, text: None)
    with corpus.writer(prefix, kind, tokenizer.vocab_size, made_by) as add:
        for texts in documents.batches(recipe.data.train, limits.divided, say):
            long_enough = [text for text in texts if len(text.strip()) >= limits.min_chars]
            counts["left_out"] += len(texts) - len(long_enough)
            for ids in tokenizer.encode_documents(long_enough):
                add([*ids, *end])
                counts["rows"] += 1
                counts["tokens"] += len(ids) + len(end)
            if time.monotonic() - said > encode.SAY_EVERY:
                said = time.monotonic()
                say("data", f"{counts['rows']:,} documents, {counts['tokens']:,} tokens")
        if not counts["rows"]:
            what = f"no document has {limits.min_chars} characters"
            raise DataError("D203", what, where=recipe.data.train[0].path, fix="--min-chars 0")
    return counts


def _taken(path: Path) -> ConfigError:
    fix = "choose another name, or --yes to replace it"
    return ConfigError("C212", "the output is there already", where=str(path), fix=fix)
