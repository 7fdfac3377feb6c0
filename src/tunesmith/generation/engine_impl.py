"""Continuous batching: requests come and go at every step, decoding beside chunks of prompts.

Each step is one forward pass over one row: a token of every request that is decoding, and up to
`CHUNK` tokens of prompts. Keys and values lie in lanes (`lanes_impl`), beginnings that were
computed before are copied (`prefix_impl`), and a request that finds no room goes back to the
queue with its tokens and is computed anew later; its answer does not change, for noise is keyed by
position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor

from tunesmith.errors import ConfigError
from tunesmith.generation.draft_impl import Draft
from tunesmith.generation.lanes_impl import Lanes
from tunesmith.generation.model_impl import (
    Forward,
    context_length,
    evaluating,
    forget_lengths,
    token_bytes,
    turns_by_length,
)
from tunesmith.generation.prefix_impl import BLOCK, Prefixes
from tunesmith.generation.rows_impl import Row, check, drafts, events_of, plain, row_of
from tunesmith.generation.sampling_impl import choose, likeliest
from tunesmith.generation.sinks_impl import FIRST, Sinks, no_window
from tunesmith.generation.step_impl import Piece, StepPlan
from tunesmith.models.language_model import LanguageModel
from tunesmith.types import Event, Request

CHUNK = 256
"""Prompt tokens that go through the model in one step: bounds how long decoding waits."""
CACHE_BYTES = 2**30
"""Memory for keys and values if no number of tokens is given."""
LOOK_AHEAD = 16
"""So many waiting requests are looked at, if the first waits for a prompt that is in work."""


BY_LENGTH = (
    "its rotations depend on the length of what is computed together: requests are answered one at "
    "a time, without shared beginnings or guesses"
)


class Engine:
    """See `TorchGenerator`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        max_rows: int,
        *,
        cache_tokens: int | None = None,
        deterministic: bool = False,
        speculate: int = 0,
        draft: Any = None,
        window: int | tuple[int, int] | None = None,
    ):
        self.hf: Any = model.hf if isinstance(model, LanguageModel) else model
        self.computing = model.computing if isinstance(model, LanguageModel) else nullcontext
        self.forward = Forward(model)
        self.by_length = turns_by_length(self.hf)
        if self.by_length:
            max_rows, speculate, draft = 1, 0, None
        self.tokenizer, self.max_rows = tokenizer, max_rows
        self.deterministic, self.speculate = deterministic, 0 if deterministic else speculate
        self.context = context_length(self.hf.config)
        bytes_each = token_bytes(self.hf)
        self.cache_tokens = cache_tokens or max(CACHE_BYTES // bytes_each, self.context or 4096)
        self.sinks: Sinks | None = None
        if window is not None:
            if speculate or draft is not None:
                raise no_window()
            pair = window if isinstance(window, tuple) else (FIRST, window)
            sizes = {"context": self.context, "cache_tokens": self.cache_tokens}
            self.sinks = Sinks(self.hf, *pair, **sizes)
        self.lanes = Lanes(self.cache_tokens)
        self.prefixes = Prefixes(self.cache_tokens // 4)
        self.draft: Draft | None = None
        if draft is not None:
            vocabulary = self.hf.get_input_embeddings().weight.shape[0]
            self.draft = Draft(draft, vocabulary, self.cache_tokens)
        self.waiting: list[Row] = []
        self.rows: list[Row] = []
        self.cancelled: list[str] = []
        self._live = False
        """Within a step of a model in training: its weights will change."""
        self.notes = [
            f"cache: {self.cache_tokens:,} tokens of {bytes_each:,} bytes at most, "
            f"and {self.prefixes.budget:,} of shared beginnings"
        ]
        self.notes += [self.sinks.note] if self.sinks else []
        self.notes += [BY_LENGTH] if self.by_length else []

    # ------------------------------------------------------------ requests

    def check(self, request: Request) -> None:
        check(request, self)

    def submit(self, request: Request) -> None:
        self.check(request)
        if request.id in self._ids():
            raise ConfigError("C210", f"a request `{request.id}` is being answered already")
        self.waiting.append(row_of(request, self))

    def cancel(self, id: str) -> None:
        if id not in self._ids():
            return
        self.cancelled.append(id)
        self.waiting = [row for row in self.waiting if row.request.id != id]
        for row in [row for row in self.rows if row.request.id == id]:
            self._drop(row)

    def _ids(self) -> set[str]:
        return {row.request.id for row in (*self.waiting, *self.rows)}

    # ------------------------------------------------------------ a step

    def step(self) -> list[Event]:
        events = [Event(id, -1, 0.0, "", "cancelled") for id in self.cancelled]
        self.cancelled = []
        with self.evaluating():
            if not self.rows and self.waiting:
                if self.forward.refresh(self._live):
                    self.prefixes.forget()
                if self.draft is not None:
                    self.draft.refresh(self._live)
            self._admit()
            pieces = self._pieces()
            if pieces:
                events += self._advance(pieces)
        return events

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradients, no dropout; afterwards every module is in the mode it was in."""
        self._live = self._live or self.hf.training
        was_training = self.hf.training
        try:
            with evaluating(self.hf), self.computing():
                yield
        finally:
            self._live = self._live and not was_training

    def _admit(self) -> None:
        """Gives waiting requests a place, in order, while there is room."""
        computed = {name for row in self.rows if row.prefilling for name in row.names}
        at = 0
        while at < min(len(self.waiting), LOOK_AHEAD) and len(self.rows) < self.max_rows:
            row = self.waiting[at]
            reach = min(self.prefixes.reach(row.names), (len(row.ids) - 1) // BLOCK)
            if reach < len(row.names) and row.names[reach] in computed:
                at += 1  # its beginning will be there to copy in a step or two
                continue
            virtual = self.forward.beginning(row.request.adapter)
            tokens = len(row.ids) + 1 + (virtual.tokens if virtual else 0)
            place = self.lanes.take(min(tokens, self.sinks.size) if self.sinks else tokens)
            if place is None:
                return
            if self.by_length:
                reach = 0
                forget_lengths(self.hf)
            if self.deterministic:
                reach -= reach % (CHUNK // BLOCK)
            if virtual is not None:
                virtual.fill(place)
                row.forgotten = -virtual.tokens
            else:
                self.prefixes.restore(row.names[:reach], place)
            row.place, row.reused = place, row.forgotten + place.length
            self.rows.append(self.waiting.pop(at))
            computed.update(row.names[reach:])

    def _pieces(self) -> list[tuple[Row, list[int], list[int]]]:
        """(row, its new tokens, what is guessed to follow them) for each row that goes on."""
        found = []
        # as many tokens in all at every step of a burst: oneDNN prepares itself for each number
        room = self.cache_tokens if self.by_length else max(CHUNK - self._decoding(), CHUNK // 2)
        guesses = self._guesses()
        for row in list(self.rows):
            if row not in self.rows:
                continue  # sent back for another one's sake
            assert row.place is not None
            if self.sinks is not None and row.place.length == self.sinks.size:
                self._forget(row, self.sinks)
            new = row.ids[row.computed :]
            guessed: list[int] = []
            if len(new) > 1:
                apart = self.deterministic and not self.by_length
                new = new[: CHUNK - row.place.length % CHUNK if apart else room]
                if self.sinks is not None:
                    new = new[: self.sinks.size - row.place.length]
                room -= 0 if self.deterministic else len(new)
            else:
                guessed = guesses.get(row.request.id, [])
            if new and self._make_room(row, row.place.length + len(new) + len(guessed)):
                found.append((row, new, guessed))
        return [entry for entry in found if entry[0].place is not None]

    def _decoding(self) -> int:
        """Rows that have one token a step."""
        return sum(row.computed == len(row.ids) - 1 for row in self.rows)

    def _forget(self, row: Row, sinks: Sinks) -> None:
        """Room in a full place; its beginning is kept for others as long as it is one."""
        assert row.place is not None
        if not row.forgotten:
            self.prefixes.keep(row.names, row.place)
        sinks.forget(row.place)
        row.forgotten += sinks.dropped

    def _guesses(self) -> dict[str, list[int]]:
        """What may follow each row that is decoding: of the draft model, or of what was said."""
        if not self.speculate:
            return {}
        rows = [row for row in self.rows if row.place and row.place.length == len(row.ids) - 1]
        if self.draft is not None:
            return self.draft.guess(rows, self.speculate)
        return {row.request.id: drafts(row, self.speculate) for row in rows}

    def _make_room(self, row: Row, tokens: int) -> bool:
        """Room in the cache for one row, at the price of the youngest ones; False: of its own."""
        while row.place is not None and not self.lanes.ensure(row.place, tokens):
            youngest = self.rows[-1]
            self._drop(youngest)
            self.waiting.insert(0, youngest)
        return row.place is not None

    def _advance(self, found: list[tuple[Row, list[int], list[int]]]) -> list[Event]:
        """One forward pass (one a row if deterministic), and the tokens that follow."""
        groups = [[entry] for entry in found] if self.deterministic else [found]
        events: list[Event] = []
        for group in groups:
            events += self._pass(group)
        return events

    def _pass(self, found: list[tuple[Row, list[int], list[int]]]) -> list[Event]:
        pieces = [Piece(row.place, new + guessed) for row, new, guessed in found]  # type: ignore[arg-type]
        plan = StepPlan(pieces, self.hf.device)
        ends = [row.computed + len(new) == len(row.ids) for row, new, _ in found]
        asked = [at for at in plan.order if ends[at]]
        wanted: list[int] = []
        for at in asked:
            last = plan.begins[at] + len(pieces[at].ids)
            wanted += range(last - len(found[at][2]) - 1, last)
        adapters = [(plan.begins[at], len(pieces[at].ids), found[at][0].request.adapter)
                    for at in plan.order]  # fmt: skip
        greedy = all(plain(found[at][0]) for at in asked)
        logits_SV = self.forward(plan, wanted, adapters, greedy)
        plan.advance(pieces)
        if not asked:
            return []
        return self._answers([(found[at][0], found[at][2]) for at in asked], logits_SV)

    def _answers(self, asked: Sequence[tuple[Row, list[int]]], logits_SV: Tensor) -> list[Event]:
        """Tokens after each row, and after what was guessed of it as far as that was right."""
        each = [(row, guessed[:n]) for row, guessed in asked for n in range(len(guessed) + 1)]
        samplings = [row.request.sampling for row, _ in each]
        histories = [row.ids + before if before else row.ids for row, before in each]
        begins = [row.begin for row, _ in each]
        allowed = [row.allowed(before) for row, before in each]
        tokens, logprobs = choose(logits_SV, samplings, histories, begins, allowed)
        tops = likeliest(logits_SV, [s.top_logprobs for s in samplings])
        events: list[Event] = []
        at = 0
        for row, guessed in asked:
            count = len(guessed) + 1
            some = slice(at, at + count)
            at += count
            self._remember(row)
            events += events_of(row, guessed, tokens[some], logprobs[some], tops[some])
            self._settle(row, events[-1])
        return events

    def _remember(self, row: Row) -> None:
        """Keeps the blocks of a prompt when it is whole."""
        if row.prefilling:
            row.prefilling = False
            row.fresh = True

    def _settle(self, row: Row, last: Event) -> None:
        """After an event: forgets wrong guesses, keeps new beginnings, lets a finished row go."""
        assert row.place is not None
        row.place.length = min(row.place.length, len(row.ids) - 1 - row.forgotten)
        broken = last.finish_reason == "error"
        whole = not broken and not row.forgotten
        if row.fresh and whole:
            self.prefixes.keep(row.names, row.place)
        row.fresh = False
        if last.finish_reason is not None:
            if whole:
                ids = row.ids[: row.place.length]
                self.prefixes.keep(self.prefixes.names(ids, row.request.adapter), row.place)
            self._drop(row, wipe=broken)

    def _drop(self, row: Row, *, wipe: bool = False) -> None:
        self.rows.remove(row)
        if row.place is not None:
            self.lanes.release(row.place, wipe=wipe)
        row.place, row.prefilling, row.forgotten = None, True, 0
        if self.draft is not None:
            self.draft.drop(row.request.id)
