"""Rows whose ids are other ones where a chat is tokenised as one text, as other servers do.

Prompt and answer are tokenised apart here, as at inference. Where a merge of the tokenizer crosses
that border, or content spells a token of the template, `apply_chat_template` gives other ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tunesmith.compose.samples_of import conversations
from tunesmith.data import hub, rewrite, row_items, tokenised
from tunesmith.data.finding import Finding
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Recipe
from tunesmith.templates.base import Template
from tunesmith.templates.pieces import EncodedTurn, Piece, Turn, join
from tunesmith.types import Conversation, Document, Stage

ROWS = 10_000
"""Rows looked at: they are tokenised a second time."""
BATCH = 256


def check(recipe: Recipe, stage: Stage, formats: Sequence[str]) -> list[Finding]:
    """A finding on the rows of conversations; none where there are none. `formats`: of each
    training source."""
    if Document in stage.sample:
        return []
    rows = itertools.islice(_rows(recipe, formats), ROWS)
    crossed, spelled, stopped, count = [], [], [], 0
    while batch := list(itertools.islice(rows, BATCH)):
        count += len(batch)
        stopped += _stopped(batch, stage.template.stop_strings)
        for where, kind in _other_ids(batch, stage.template, recipe.data.system):
            (spelled if kind == "spelled" else crossed).append(where)
    if not count:
        return []
    found = [
        (crossed, "where prompt and answer are tokenised as one text: merges cross the border"),
        (spelled, "since their content spells tokens of the template, kept as text here"),
    ]
    made = [
        Finding(
            "MINOR",
            "borders",
            f"{len(where):,} of {count:,} rows have other ids in servers {why}",
            tuple(where[:5]),
        )
        for where, why in found
        if where
    ]
    text = f"servers that tokenise a chat as one text have the same ids ({count:,} rows)"
    made = made or [Finding("OK", "borders", text)]
    if stopped:
        named = ", ".join(repr(text) for text in stage.template.stop_strings)
        text = f"{len(stopped):,} of {count:,} rows have an answer that holds {named}"
        text += ": generate and chat stop there"
        made.append(Finding("MINOR", "stop strings", text, tuple(stopped[:5])))
    return made


def _stopped(
    batch: Sequence[tuple[str, list[Conversation]]], stops: Sequence[str]
) -> Iterator[str]:
    """Places of rows with an answer that inference would cut."""
    for where, found in batch:
        said = (m.text for one in found for m in one.messages if m.role == "assistant")
        if any(stop in text for text in said for stop in stops):
            yield where


def _rows(recipe: Recipe, formats: Sequence[str]) -> Iterator[tuple[str, list[Conversation]]]:
    """Each row's place and conversations; bad rows are told elsewhere."""
    for source, format in zip(recipe.data.train, formats, strict=True):
        if tokenised.kind_of(source.path) or hub.is_set(source.path):
            continue
        for row, samples in rewrite.Reading(
            replace(source, format=format), rewrite.LeftOut(skip=True), recipe.data
        ):
            whole = (row_items.with_system(sample, source.system) for sample in samples)
            yield row.where, [one for sample in whole for one in conversations(sample)]


def _other_ids(
    batch: list[tuple[str, list[Conversation]]], template: Template, system: str | None
) -> Iterator[tuple[str, str]]:
    """(place, crossed or spelled) of each row whose ids depend on where its text is cut."""
    places: list[str] = []
    sequences: list[tuple[Turn, ...]] = []
    for where, found in batch:
        for conversation in found:
            try:
                made = template.render(conversation, system=system)
                if _spelled(made, template):
                    template.encode_batch(made)
            except DataError:  # a row that is left out
                continue
            sequences += made
            places += [where] * len(made)
    ours = [_laid(turns) for turns in template.encode_batch(sequences)]
    texts = [join(tuple(_pieces(turns))) for turns in sequences]
    theirs = template.tokenizer.encode_batch(texts, "start")
    other: dict[str, bool] = {}
    for where, turns, left, right in zip(places, sequences, ours, theirs, strict=True):
        if left != right:
            other[where] = other.get(where, False) or _spelled([turns], template)
    yield from ((where, "spelled" if by_word else "crossed") for where, by_word in other.items())


def _pieces(turns: Sequence[Turn]) -> Iterator[Piece]:
    return (piece for turn in turns for piece in (*turn.prompt, *turn.completion))


def _spelled(sequences: Sequence[Sequence[Turn]], template: Template) -> bool:
    """Whether content spells a token of the template; only then can encoding fail."""
    words = (p.text for turns in sequences for p in _pieces(turns) if not p.markup)
    return any(map(template.encoder.spells_control, words))


def _laid(turns: Sequence[EncodedTurn]) -> list[int]:
    return [id for turn in turns for id in (*turn.prompt_ids, *turn.completion_ids)]
