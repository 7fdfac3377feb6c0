"""Builds what turns rows into batches: template, stage, datasets, loaders."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import platform
from tunesmith.data import encode, loader, read, split
from tunesmith.errors import ConfigError
from tunesmith.recipe.sections import DataConfig, Holdout, Recipe
from tunesmith.stages import base as stages
from tunesmith.templates import base as templates
from tunesmith.types import Parts, Stage

if TYPE_CHECKING:
    from tunesmith.data.store import Dataset


@dataclass(frozen=True)
class EncoderFactory:
    """Builds a stage's encoder, once a process (a forked one inherits it); small and picklable."""

    stage: Any
    template: str
    tokenizer_dir: str
    data: DataConfig
    seed: int

    def build(self) -> Stage:
        return self._built

    @functools.cached_property
    def _built(self) -> Stage:
        template = templates.load(self.template, Path(self.tokenizer_dir))
        data = self.data
        parts = Parts(
            template,
            data.max_length,
            data.on_overlength,
            data.system,
            self.seed,
            data.max_prompt_length,
            data.max_answer_length,
            data.truncation,
        )
        return stages.build(self.stage, parts)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_built"}

    def __call__(self) -> Callable:
        return self.build().encode

    def accepts(self, stage: Stage) -> tuple[type, ...]:
        """Sample types that can be encoded."""
        return stage.sample


def encoder_factory(recipe: Recipe, tokenizer_dir: Path) -> EncoderFactory:
    data = dataclasses.replace(recipe.data, train=(), eval=None)  # rows need no word of the files
    return EncoderFactory(recipe.stage, data.template, str(tokenizer_dir), data, recipe.train.seed)


def check_sources(recipe: Recipe) -> None:
    """Refuses a recipe without data, or with files that are not there.

    Raises:
        ConfigError: C184, no training data is named.
        DataError: D101, a named file does not exist.
    """
    if not recipe.data.train:
        raise ConfigError(
            "C184",
            "no training data is named",
            where="data.train",
            fix="set data.train=FILE (json, jsonl, csv, txt or a folder)",
        )
    named = [*recipe.data.train]
    if isinstance(recipe.data.eval, tuple):
        named += recipe.data.eval
    for source in named:
        read.locate(source.path)


def datasets(
    recipe: Recipe, factory: EncoderFactory, stage: Stage, progress: Any = None
) -> tuple[Dataset, Dataset | None]:
    """Training and evaluation data as token stores.

    Raises:
        DataError: D1xx and D2xx, files or rows that can't be trained on.
    """
    data = recipe.data
    train = _build(recipe, data.train, factory, stage, progress)
    if isinstance(data.eval, Holdout):
        train_rows, eval_rows = split.holdout(len(train), data.eval, recipe.train.seed)
        return train.select(train_rows), train.select(eval_rows)
    if data.eval:
        return train, _build(recipe, data.eval, factory, stage, progress)
    return train, None


def _build(recipe: Recipe, sources: Any, factory: EncoderFactory, stage: Stage, progress: Any):
    key = {
        "stage": dataclasses.asdict(recipe.stage),
        "template": stage.template.source_hash,
        "tokenizer": stage.template.tokenizer.hash,
        "max_length": recipe.data.max_length,
        "on_overlength": recipe.data.on_overlength,
        "max_prompt_length": recipe.data.max_prompt_length,
        "max_answer_length": recipe.data.max_answer_length,
        "truncation": recipe.data.truncation,
        "system": recipe.data.system,
    }
    return encode.build(
        sources,
        recipe.data,
        factory,
        key,
        num_proc=recipe.data.num_proc,
        home=platform.home(),
        progress=progress,
        checks=encode.Checks(factory.accepts(stage), _unk_id(stage.template.tokenizer)),
    )


def _unk_id(tokenizer: Any) -> int | None:
    """The unknown token, unless the same token means something else too (gpt2: also EOS)."""
    used = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
    return None if tokenizer.unk_id in used else tokenizer.unk_id


def train_loader(recipe: Recipe, dataset: Dataset, *, rank: int, world: int, padded: bool):
    train = recipe.train
    return loader.Loader(
        dataset=dataset,
        seed=train.seed,
        batch_size=train.per_device_train_batch_size,
        accumulation=train.gradient_accumulation_steps,
        max_length=recipe.data.max_length,
        packing=recipe.data.packing,
        shuffle=recipe.data.shuffle,
        rank=rank,
        world=world,
        padded=padded,
    )


def eval_loader(recipe: Recipe, dataset: Dataset | None, *, rank: int, world: int, padded: bool):
    if dataset is None or recipe.eval.steps == "no":
        return None
    size = recipe.eval.per_device_eval_batch_size or recipe.train.per_device_train_batch_size
    return loader.Loader(
        dataset=dataset,
        seed=recipe.train.seed,
        batch_size=size,
        accumulation=1,
        max_length=recipe.data.max_length,
        packing="none",
        shuffle=False,
        rank=rank,
        world=world,
        padded=padded,
    )
