"""A small model that guesses what a large one will say (arXiv:2211.17192, greedy guesses)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.generation.lanes_impl import Lanes, Place
from tunesmith.generation.model_impl import Forward, context_length
from tunesmith.generation.rows_impl import Row
from tunesmith.generation.step_impl import Piece, StepPlan


class Draft:
    """Guesses of a model that shares the tokenizer of the one that answers.

    Args:
        model: A LanguageModel or a transformers model with the attention interface.
        vocabulary: Rows of the answering model's embedding.
        budget: Tokens it may hold keys and values of.

    Raises:
        ConfigError: G127, its vocabulary is another.
    """

    def __init__(self, model: Any, vocabulary: int, budget: int):
        self.forward = Forward(model)
        own = self.forward.hf.get_input_embeddings().weight.shape[0]
        if own != vocabulary:
            raise ConfigError(
                "G127",
                f"the draft model knows {own:,} tokens, the model {vocabulary:,}",
                why="Guesses are token ids, so both must have one tokenizer.",
                fix="use a draft of the same family",
            )
        self.context = context_length(self.forward.hf.config)
        self.lanes = Lanes(budget)
        self._places: dict[str, Place] = {}

    def refresh(self, live: bool) -> None:
        """Takes its weights as they are now, and forgets what was computed with others."""
        if self.forward.refresh(live):
            for id in list(self._places):
                self.drop(id)

    def drop(self, id: str) -> None:
        """A request is finished or sent back."""
        place = self._places.pop(id, None)
        if place is not None:
            self.lanes.release(place)

    def guess(self, rows: Sequence[Row], count: int) -> dict[str, list[int]]:
        """Up to so many likeliest tokens after each row, by request id.

        Rows that find no room, or whose context would end, are not guessed.
        """
        alive = [row for row in rows if self._ready(row, count)]
        guesses: dict[str, list[int]] = {row.request.id: [] for row in alive}
        for _ in range(count):
            alive = [row for row in alive if len(guesses[row.request.id]) < self._room(row, count)]
            if not alive:
                break
            pieces = []
            for row in alive:
                place = self._places[row.request.id]
                pieces.append(Piece(place, [*row.ids, *guesses[row.request.id]][place.length :]))
            plan = StepPlan(pieces, self.forward.hf.device)
            wanted = [plan.begins[at] + len(pieces[at].ids) - 1 for at in plan.order]
            tokens = self.forward(plan, wanted, []).argmax(-1).tolist()
            plan.advance(pieces)
            for at, token in zip(plan.order, tokens, strict=True):
                guesses[alive[at].request.id].append(token)
        return guesses

    def _room(self, row: Row, count: int) -> int:
        return min(count, row.limit - len(row.ids) - 1)

    def _ready(self, row: Row, count: int) -> bool:
        """Makes room for a row, and drops what was guessed wrong the last time."""
        tokens = len(row.ids) + count
        if self.context is not None and tokens > self.context:
            return False
        place = self._places.get(row.request.id)
        if place is None:
            place = self.lanes.take(tokens)
            if place is None:
                return False
            self._places[row.request.id] = place
        place.length = min(place.length, len(row.ids) - 1)
        return self.lanes.ensure(place, tokens)
