"""Builds what turns rows into batches: template, stage, datasets, loaders."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import platform
from tunesmith.compose import model, samples_of, streaming
from tunesmith.data import blend, catalogue, encode, hub, loader, read, split, stream_head
from tunesmith.errors import ConfigError
from tunesmith.recipe.sections import DataConfig, Holdout, Recipe, Source
from tunesmith.stages import base as stages
from tunesmith.templates import base as templates
from tunesmith.training import schedule
from tunesmith.types import Document, Parts, Stage

if TYPE_CHECKING:
    from tunesmith.data.store import Dataset

FORWARD_TOKENS = 1024
"""Tokens of one forward pass on a CPU; see `max_forward_tokens`."""


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


def named(recipe: Recipe, say: Any = None) -> Recipe:
    """The recipe with addresses in the place of names of data sets, its origins kept.

    Raises:
        DataError: D124, D127, D132, D133.
    """
    recipe = _unblended(recipe, say or _silent)
    return _with_sources(recipe, lambda one: catalogue.named(one, recipe.data, say or _silent))


def _unblended(recipe: Recipe, say: Any) -> Recipe:
    """The recipe with sources and chances in the place of `0.3 PREFIX 0.7 PREFIX`.

    Raises:
        DataError: D217, such a text that can't be used.
    """
    data = recipe.data
    found = blend.parts(data.train[0].path) if len(data.train) == 1 else []
    if not found:
        return recipe
    blocks = data.packing == "blocks"
    probs = blend.chances(found, data.max_length, whole_documents=blocks)
    strategy = "interleave_over" if data.mix_strategy == "concat" else data.mix_strategy
    sources = tuple(dataclasses.replace(data.train[0], path=part.prefix) for part in found)
    total = sum(part.weight for part in found)
    shares = ", ".join(f"{part.weight / total:.1%} {part.prefix}" for part in found)
    say(
        "data",
        f"blend by tokens: {shares}; {strategy}, drawn {', '.join(f'{p:.3f}' for p in probs)}",
    )
    made = dataclasses.replace(
        data, train=sources, mix_strategy=strategy, interleave_probs=tuple(probs)
    )
    return changed(recipe, made)


def local(recipe: Recipe, say: Any = None) -> Recipe:
    """The recipe with files on this machine in the place of names and addresses.

    Raises:
        ConfigError: C105, a split, subset or revision of what has none.
        DataError: D124, D127, D130 to D134.
    """
    recipe, home = named(recipe, say), platform.home()
    fetch = lambda one: catalogue.local(one, recipe.data, home, say or _silent)
    if not recipe.data.streaming:
        return _with_sources(recipe, fetch)
    kept = [id(one) for one in recipe.data.train if hub.is_set(one.path)]
    return _with_sources(recipe, lambda one: one if id(one) in kept else fetch(one))


def pinned(recipe: Recipe) -> Recipe:
    """The recipe with the commits of its hub sets, so that a resumed run reads the same rows."""
    home, cache = platform.home(), recipe.data.cache_dir
    of_hub = lambda one: one.path.startswith(hub.PREFIX)
    return _with_sources(recipe, lambda one: hub.pinned(one, cache, home) if of_hub(one) else one)


def _silent(topic: str, text: str) -> None:
    """Says nothing."""


def _with_sources(recipe: Recipe, change: Callable[[Source], Source]) -> Recipe:
    data = recipe.data
    train = tuple(change(one) for one in data.train)
    made = dataclasses.replace(data, train=train)
    if isinstance(data.eval, tuple):
        made = dataclasses.replace(made, eval=tuple(change(one) for one in data.eval))
    return recipe if made == data else changed(recipe, made)


def changed(recipe: Recipe, data: DataConfig) -> Recipe:
    """The recipe with other data, its origins kept."""
    changed = dataclasses.replace(recipe, data=data)
    if "_origins" in vars(recipe):
        object.__setattr__(changed, "_origins", vars(recipe)["_origins"])
    return changed


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
    for source in recipe.data.train:
        if not source.weight > 0:
            raise ConfigError(
                "C187",
                f"the weight of {source.path} is {source.weight}: nothing of it would be trained",
                where="data.train[].weight",
                fix="leave the source out, or give it a weight above 0",
            )
    if not recipe.data.eval and recipe.eval.load_best_model_at_end:
        raise ConfigError(
            "C189",
            "eval.load_best_model_at_end needs evaluations, and data.eval names no data",
            where="eval.load_best_model_at_end",
            fix="set data.eval to a file, {count: N} or {fraction: F}",
        )
    named = [*recipe.data.train]
    if isinstance(recipe.data.eval, tuple):
        named += recipe.data.eval
    for source in named:
        if not (recipe.data.streaming and hub.is_set(source.path)):
            read.locate(source.path)


def notes(recipe: Recipe, dataset: Dataset, stage: Stage) -> list[str]:
    """Settings of the schedule that will not do what they seem to."""
    plan = stage.arrange(train_loader(recipe, dataset, rank=0, world=1, padded=False))
    total = plan.total_steps(recipe.train.num_train_epochs, recipe.train.max_steps)
    optim, found = recipe.optim, []
    warmup = schedule.length(optim.warmup_steps, total)
    if warmup >= total:
        said = f"the warm-up of {warmup:,} steps is as long as the run of {total:,}"
        found.append(f"{said}: the learning rate never reaches {optim.learning_rate:g}")
    if (
        optim.lr_scheduler_type == "wsd"
        and warmup + schedule.length(optim.decay_steps, total) > total
    ):
        found.append("optim.warmup_steps and decay_steps together are longer than the run")
    return found


def check_packing(recipe: Recipe, stage: Stage) -> None:
    """Refuses blocks where answers would be cut.

    Raises:
        ConfigError: C191.
    """
    if recipe.data.packing == "blocks" and Document not in stage.sample:
        raise ConfigError(
            "C191",
            "packing: blocks cuts text anywhere, and this stage trains on whole conversations",
            where="data.packing",
            fix="data.packing=pack",
        )


def datasets(
    recipe: Recipe, factory: EncoderFactory, stage: Stage, progress: Any = None
) -> tuple[Dataset, Dataset | None]:
    """Training and evaluation data as token stores.

    Raises:
        ConfigError: C191, blocks of what are no documents.
        DataError: D1xx and D2xx, files or rows that can't be trained on.
    """
    data = recipe.data
    check_packing(recipe, stage)
    if data.streaming:
        evaluation = streaming.eval_sources(recipe)
        head = streaming.head(recipe, factory, stage, _checks(factory, stage), progress)
        return head, _build(recipe, evaluation, factory, stage, progress) if evaluation else None
    train = _build(recipe, data.train, factory, stage, progress)
    if isinstance(data.eval, Holdout):
        sides = split.of_dataset(
            train,
            data.eval,
            recipe.train.seed,
            without=samples_of.measured(stage),
            say=lambda text: (progress or _silent)("data", text),
        )
        return train.select(sides[0]), train.select(sides[1])
    if data.eval:
        return train, _build(recipe, data.eval, factory, stage, progress)
    return train, None


def key_parts(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """What decides the tokens of a row, beside the row."""
    return {
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


def _build(recipe: Recipe, sources: Any, factory: EncoderFactory, stage: Stage, progress: Any):
    return encode.build(
        sources,
        recipe.data,
        factory,
        key_parts(recipe, stage),
        num_proc=recipe.data.num_proc,
        home=platform.home(),
        progress=progress,
        checks=_checks(factory, stage),
    )


def _checks(factory: EncoderFactory, stage: Stage) -> encode.Checks:
    tokenizer = stage.template.tokenizer
    return encode.Checks(factory.accepts(stage), _unk_id(tokenizer), tokenizer.vocab_size)


def _unk_id(tokenizer: Any) -> int | None:
    """The unknown token, unless the same token means something else too (gpt2: also EOS)."""
    used = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
    return None if tokenizer.unk_id in used else tokenizer.unk_id


def fit_context(recipe: Recipe, origin: model.Origin, say: Any = None) -> Recipe:
    """The recipe with data.max_length no longer than the model's context, said aloud."""
    context, length = model.context_length(origin, recipe.model), recipe.data.max_length
    virtual = vars(recipe.tuner).get("tokens", 0)
    context = context - virtual if context else None
    if context is None or length <= context:
        return recipe
    whose = "the model's context" + (" less the virtual tokens" if virtual else "")
    (say or _silent)("note", f"data.max_length {length} → {context}, {whose}")
    return changed(recipe, dataclasses.replace(recipe.data, max_length=context))


def train_loader(recipe: Recipe, dataset: Dataset, **layout: Any):
    """The loader of training steps; `layout`: rank, world, padded, share_prompts.

    Raises:
        DataError: D210, probabilities that don't fit the sources.
    """
    train, wanted = recipe.train, recipe.data
    layout["max_forward_tokens"] = max_forward_tokens(recipe)
    if isinstance(dataset, stream_head.Head):
        return streaming.train_loader(recipe, dataset, **layout)
    return loader.Loader(
        dataset=dataset,
        seed=train.seed,
        batch_size=train.per_device_train_batch_size,
        accumulation=train.gradient_accumulation_steps,
        max_length=wanted.max_length,
        packing=wanted.packing,
        shuffle=wanted.shuffle,
        buffer_size=wanted.buffer_size,
        mixture=loader.Mixture(wanted.mix_strategy, wanted.interleave_probs),
        **layout,
    )


def max_forward_tokens(recipe: Recipe) -> int | None:
    """Tokens of one forward pass. On a CPU products are as fast on a thousand rows as on more, and
    activations then stay small and in the cache (docs/adr/0016)."""
    wanted = recipe.train.max_forward_tokens
    if wanted != "auto":
        return wanted
    return FORWARD_TOKENS if platform.device() == "cpu" else None


def eval_loader(recipe: Recipe, dataset: Dataset | None, **layout: Any):
    """The loader of evaluation, row by row in order; None: no evaluation is asked for."""
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
        max_forward_tokens=max_forward_tokens(recipe),
        **layout,
    )
