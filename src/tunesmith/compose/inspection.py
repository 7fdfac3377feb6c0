"""Encodes data as a run would, for people to look at, without a model's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith import recipe as recipes
from tunesmith.compose import borders, data, findings, model, samples_of
from tunesmith.data import encode, hub, row_items, show, texts, tokenised
from tunesmith.data.finding import Finding
from tunesmith.data.store import Dataset
from tunesmith.recipe.sections import Recipe
from tunesmith.types import Conversation, Document, Encoded, Feedback, Preference, Sample, Stage

RECIPES = (".yaml", ".yml")
STAGES: dict[type, str] = {
    Conversation: "sft",
    Document: "pretrain",
    Preference: "dpo",
    Feedback: "kto",
}
"""The stage that a file of such samples is looked at for, where no recipe names one."""


SIDES: dict[tuple[type, ...], tuple[str, str]] = {
    (Feedback,): ("the answer", "another row's answer, for KTO's reference point"),
}
"""What the two examples of an item are, where they are not chosen and rejected."""


@dataclass(frozen=True)
class AsConversations:
    """Lets a stage of conversations show pairs and verdicts, whichever stage trains on them."""

    factory: Callable[[], Callable[[Sequence[Conversation]], list[Encoded]]]

    def __call__(self) -> Callable[[Sequence[Sample]], list[Encoded]]:
        encode = self.factory()

        def sides(samples: Sequence[Sample]) -> list[Encoded]:
            parts = [samples_of.conversations(sample) for sample in samples]
            encoded = iter(encode([one for part in parts for one in part]))
            return [_joined([next(encoded) for _ in part]) for part in parts]

        return sides

    def accepts(self, stage: Stage) -> tuple[type, ...]:
        """Sample types that can be encoded."""
        return Conversation, Preference, Feedback


def _joined(encoded: list[Encoded]) -> Encoded:
    """One result of a row's parts; that of a single part is left as it is, for a run that trains on
    such rows finds it in the same store."""
    problem = next((one for one in encoded if one.problem), None)
    if problem is not None:
        return problem
    examples = tuple(example for one in encoded for example in one.examples)
    cut = any(one.cut_answer for one in encoded)
    none = lambda one: [{} for _ in one.examples]
    return Encoded(
        examples,
        sum(one.truncated for one in encoded),
        cut_answer=cut,
        gaps=lambda: [gap for one in encoded for gap in (one.gaps() if one.gaps else none(one))],
    )


def stage_for(overrides: Sequence[str], say: Any = None) -> str:
    """The stage that trains on what `data.train=…` names, by what its rows become; `say` is told
    what is fetched for it."""
    from tunesmith.data.formats import base as formats

    kept = [text for text in overrides if text.startswith("data.")]
    recipe = data.named(recipes.load(None, kept))
    (source,) = data.local(recipe, say).data.train[:1]
    if tokenised.kind_of(source.path):
        return tokenised.stage_of(source.path)
    name = source.format or encode.detect(source, (Conversation, Preference, Feedback))
    return STAGES[formats.load(name).SAMPLE]


def inspect(recipe: Recipe, progress: Any = None) -> dict[str, Any]:
    """Everything `data inspect` shows, and the means to show more.

    Args:
        recipe: What would be trained; bad rows are listed instead of raised.
        progress: Is told what was detected and how far encoding is.

    Returns:
        summary, roles, findings as plain data; `train` (Dataset), `decode` and `sides`.

    Raises:
        DataError: D1xx, D2xx: a file that can't be read, or no row that can be trained on.
    """
    recipe, stage, train, evaluation = _encoded(recipe, progress)
    counts: dict[str, int] = {}
    for source, found in zip(recipe.data.train, train.report["sources"], strict=True):
        if tokenised.kind_of(source.path) or hub.is_set(source.path):  # streamed: not read whole
            continue
        for role, count in show.roles(source, found["format"], recipe.data).items():
            counts[role] = counts.get(role, 0) + count
    found = findings.findings(recipe, stage, train, evaluation)
    tokenizer = stage.template.tokenizer
    sides = SIDES.get(stage.sample, show.SIDES)
    measured = samples_of.measured(stage)
    return {
        "summary": {**show.summary(train, measured), "roles": counts},
        "findings": [one.as_dict() for one in found],
        "train": train,
        "look": show.Look(
            tokenizer.decode,
            {id: token for token, id in tokenizer.added.items()},
            sides,
            frozenset(sides[number] for number in measured),
            cut=_again(recipe, stage, train),
            margin=_margins(recipe, train),
            blocks=stage.sample == (Document,),
        ),
    }


def check(recipe: Recipe, progress: Any = None) -> dict[str, Any]:
    """All findings about the data of a recipe: its text, and what becomes of it.

    Returns:
        findings, and problems: the rows that are left out.

    Raises:
        DataError: D1xx, D2xx: a file that can't be read, or no row that can be trained on.
    """
    recipe, stage, train, evaluation = _encoded(recipe, progress)
    formats = [one["format"] for one in train.report["sources"]]
    found = [
        *findings.findings(recipe, stage, train, evaluation),
        *borders.check(recipe, stage, formats),
    ]
    for source in recipe.data.train:
        if not tokenised.kind_of(source.path) and not hub.is_set(source.path):
            found += texts.check(source)
    return {"findings": [one.as_dict() for one in found], "problems": train.report["skipped"]}


def _again(recipe: Recipe, stage: Stage, train: Dataset) -> Callable[[int], Encoded | None] | None:
    """Encodes the sample of an item once more, which tells where it was cut; where rows were."""
    if not train.report["truncated"]:
        return None
    factory = data.encoder_factory(recipe, stage.template.tokenizer.path)
    maker: Any = AsConversations(factory) if stage.sample == (Conversation,) else factory

    def encoded(item: int) -> Encoded | None:
        sample = _sample(recipe, train, item)
        return None if sample is None else maker()([sample])[0]

    return encoded


def _margins(recipe: Recipe, train: Dataset) -> Callable[[int], float]:
    """The margin that the row of an item gives its pair; 0: none."""

    def margin(item: int) -> float:
        sample = _sample(recipe, train, item) if int(train.count_N[item]) > 1 else None
        return sample.margin if isinstance(sample, Preference) else 0.0

    return margin


def _sample(recipe: Recipe, train: Dataset, item: int) -> Sample | None:
    """What an item was made of; None if that can't be told: token ids, rows that are streamed,
    documents in blocks, and rows some of whose samples are left out."""
    source = recipe.data.train[int(train.source_N[item])]
    if tokenised.kind_of(source.path) or hub.is_set(source.path):
        return None
    name = train.report["sources"][int(train.source_N[item])]["format"]
    samples = row_items.samples_at(train.where(item), name, source, recipe.data)
    place = lambda n: (train.source_N[n], train.file_N[n], train.line_N[n])
    first = last = item
    while first and place(first - 1) == place(item):
        first -= 1
    while last + 1 < len(train) and place(last + 1) == place(item):
        last += 1
    return samples[item - first] if len(samples) == last + 1 - first else None


def worst(found: Sequence[dict[str, Any]]) -> str:
    """The most severe level."""
    levels = {one["level"] for one in found}
    return next(level for level in ("MAJOR", "MINOR", "OK") if level in levels)


def stop_if_major(found: Sequence[dict[str, Any]], where: str) -> None:
    """Makes a MAJOR finding an exit code.

    Raises:
        GateFailed: G110.
    """
    if major := [Finding(**one) for one in found if one["level"] == "MAJOR"]:
        raise findings.major_finding(major, where)


def _encoded(recipe: Recipe, progress: Any) -> tuple[Recipe, Stage, Dataset, Dataset | None]:
    recipe = data.local(recipe, progress)
    data.check_sources(recipe)
    asked = recipe
    recipe = data.changed(recipe, replace(recipe.data, on_bad_row="skip"))
    origin = model.origin(recipe)
    recipe = data.fit_context(recipe, origin, progress)
    directory = origin.tokenizer_dir
    factory = data.encoder_factory(recipe, directory)
    stage = factory.build()
    if progress is not None:
        for note in stage.template.notes:  # as a training says them
            progress("note", note)
    maker: Any = AsConversations(factory) if stage.sample == (Conversation,) else factory
    sets = data.datasets(recipe, maker, stage, progress)
    # Rows are listed instead of raised; what is found is judged by what the recipe says of them.
    policy = asked.data.on_bad_row
    return data.changed(recipe, replace(recipe.data, on_bad_row=policy)), stage, *sets
