"""Streamed training data: what a recipe must say for it, its beginning, its loader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.data import encode, stream_head, stream_loader
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Holdout, Recipe, Source
from tunesmith.types import Conversation, Document, Stage

if TYPE_CHECKING:
    from tunesmith.compose.data import EncoderFactory


def eval_sources(recipe: Recipe) -> tuple[Source, ...] | None:
    """The sources of evaluation rows.

    Raises:
        DataError: D216, they would have to be taken from the streamed rows.
    """
    wanted = recipe.data.eval
    if isinstance(wanted, Holdout):
        what = "data.eval takes rows of the training data, and streamed rows are not counted"
        raise stream_head.cannot(what, "name a file of evaluation rows in data.eval")
    return wanted


def head(
    recipe: Recipe, factory: EncoderFactory, stage: Stage, checks: encode.Checks, progress: Any
) -> stream_head.Head:
    """The first items of the streamed sources.

    Raises:
        DataError: D215, no max_steps; D216, the stage can't train on streamed rows; D1xx, D2xx.
    """
    if recipe.train.max_steps is None:
        what = "streamed data has no known length, so the run has no end"
        fix = "set train.max_steps=N"
        raise DataError("D215", what, where="data.streaming", fix=fix)
    if not set(stage.sample) <= {Conversation, Document}:
        what = f"{recipe.stage.kind} trains on pairs or verdicts, whose rows are stored"
        raise stream_head.cannot(what, "data.streaming=false")
    say = progress or (lambda topic, text: None)
    data = recipe.data
    found = stream_head.open_streams(data.train, data, factory, checks, say, recipe.train.seed)
    if data.shuffle:
        size = buffer_size(recipe)
        said = "" if data.buffer_size else " (set data.buffer_size for another size)"
        say("data", f"shuffled in a buffer of {size:,} rows{said}")
    return found


def buffer_size(recipe: Recipe) -> int | None:
    """Items of the shuffle buffer; None: no shuffling."""
    if not recipe.data.shuffle:
        return None
    return recipe.data.buffer_size or stream_head.BUFFER


def train_loader(
    recipe: Recipe, found: stream_head.Head, **layout: Any
) -> stream_loader.StreamLoader:
    """The loader of streamed steps; `layout`: rank, world, padded, share_prompts."""
    train = recipe.train
    return stream_loader.StreamLoader(
        items=found.items or (),
        seed=train.seed,
        batch_size=train.per_device_train_batch_size,
        accumulation=train.gradient_accumulation_steps,
        max_length=recipe.data.max_length,
        packing=recipe.data.packing,
        buffer_size=buffer_size(recipe),
        max_steps=train.max_steps or 0,
        **layout,
    )
