"""The engine over the transformers model itself: batches with a key/value cache, every family."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import ConfigError
from tunesmith.generation import base
from tunesmith.generation.beam_events import Ahead
from tunesmith.types import Event, Request

if TYPE_CHECKING:
    from tunesmith.templates.tokenizer import Tokenizer


class TorchGenerator:
    """Answers requests with a model in memory, with its adapters as they are now.

    Args:
        model: A LanguageModel or a transformers model; in training or not. It is put into
            evaluation mode for each step and back after it.
        tokenizer: For text and stop strings; None: events have no text.
        max_rows: How many requests are answered at once; others wait in order.
        cache_tokens: Tokens whose keys and values may be held; None: as many as fit 1 GiB, and
            at least one request as long as the model's context.
        deterministic: Each request is computed by itself in pieces that depend on nothing else,
            so a seed gives the same bits whatever it runs beside; slower in company.
        speculate: Tokens guessed from what was said before and checked in one pass; a few make
            answers that quote their prompt faster. The answer is the same.
        draft: A small model with the same tokenizer that guesses instead.
        window: Of each request the first four tokens and the last so many are kept, or of a pair
            (first, last) so many, so that prompt and answer may be longer than the model's
            context. None: all are kept.

    Raises:
        ConfigError: G127, the draft has another vocabulary; G160, sinks and window make no cache;
            G161, the family's keys can't be moved to other positions.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None = None,
        *,
        max_rows: int = 32,
        cache_tokens: int | None = None,
        deterministic: bool = False,
        speculate: int = 0,
        draft: Any = None,
        window: int | tuple[int, int] | None = None,
    ):
        from tunesmith.generation import cohorts_impl, engine_impl, sinks_impl
        from tunesmith.models.load import packable

        hf = cohorts_impl.model_of(model)
        if packable(hf.config):
            self._engine: Any = engine_impl.Engine(
                model,
                tokenizer,
                max_rows,
                cache_tokens=cache_tokens,
                deterministic=deterministic,
                speculate=speculate,
                draft=draft,
                window=window,
            )
        else:
            sinks_impl.refuse(hf, window)
            self._engine = cohorts_impl.Engine(model, tokenizer, max_rows)

        self._context = self._engine.context if window is None else None
        self.ahead: Ahead | None = Ahead() if speculate or draft is not None else None
        """How often guesses were right; None: nobody guesses."""

    @property
    def notes(self) -> list[str]:
        """What there is to say about how it computes."""
        return self._engine.notes

    @property
    def context(self) -> int | None:
        """Tokens the model's positions reach, prompt and answer together; None: no limit."""
        return self._context

    def add_adapter(self, name: str, adapter: Any) -> None:
        """Holds an adapter beside the model, for requests that name it; several serve one batch.

        Args:
            name: What requests call it.
            adapter: A folder in PEFT's format (LoRA, prompt or prefix tuning), or deltas
                (`models.decoding.Delta`) by module name.

        Raises:
            ConfigError: G123, it does not fit the model.
        """
        from tunesmith.generation.adapters_impl import deltas_of
        from tunesmith.generation.engine_impl import Engine
        from tunesmith.generation.soft_impl import virtual_of

        if not isinstance(self._engine, Engine):
            raise ConfigError(
                "G123", f"adapter `{name}` can't be loaded beside the model", why=self.notes[0]
            )
        virtual = virtual_of(adapter, self._engine.hf)
        if virtual is not None:
            self._engine.forward.add_virtual(name, virtual)
        else:
            self._engine.forward.add_adapter(name, deltas_of(adapter))

    def beams(
        self,
        request: Request,
        count: int,
        *,
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] = False,
    ) -> list[Any]:
        """The best answers to one request by beam search, best first, as (tokens, score).

        Args:
            request: `max_tokens` and `stop_ids` of its sampling hold; nothing is drawn.
            count: Beams, and answers.
            length_penalty: Scores are divided by length^penalty.
            early_stopping: As in transformers: when a search is over.

        Raises:
            ConfigError: C210, a value out of range, or a family without the attention interface;
                G121, the beams don't fit the cache; G160, the engine has a window.
        """
        search = self.searching(
            request, count, length_penalty=length_penalty, early_stopping=early_stopping
        )
        while True:
            try:
                next(search)
            except StopIteration as end:
                return end.value

    def searching(
        self,
        request: Request,
        count: int,
        *,
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] = False,
    ) -> Generator[None, None, list[Any]]:
        """`beams` a pass at a time: between two of them the engine may `step`."""
        from tunesmith.generation import beams_impl, engine_impl

        engine = self._engine
        if not isinstance(engine, engine_impl.Engine):
            raise ConfigError("C210", "beams need the attention interface", why=self.notes[0])
        if engine.sinks is not None:
            what = "beams forget nothing, so they have no window"
            raise ConfigError("G160", what, where="window", fix="make an engine without one")
        if engine.by_length and engine.rows:
            what = "beams of this model are searched alone, and others are being answered"
            raise ConfigError("C210", what, why=engine_impl.BY_LENGTH, fix="try again later")
        passes = beams_impl.search(engine, request, count, length_penalty, early_stopping)
        while True:
            with engine.evaluating():
                try:
                    next(passes)
                except StopIteration as end:
                    return end.value
            if not engine.by_length:
                yield

    def constraint(self, *, schema: Any = None, pattern: str | None = None, stops: Any = ()) -> Any:
        """What keeps an answer within a JSON schema (None: any object), or a regular expression.

        Args:
            schema: The supported part of JSON Schema is listed in docs/generation.md.
            pattern: A regular expression for the whole answer, instead of a schema.
            stops: Tokens that end an answer; there must be one.

        Returns:
            A `Request.constraint`, for one request at a time.

        Raises:
            ConfigError: G124, this tokenizer's answers can't be constrained; G125, the pattern;
                G126, the schema.
        """
        from tunesmith.generation import constraints_impl

        if pattern is not None:
            return constraints_impl.pattern_constraint(pattern, self._engine.tokenizer, stops)
        return constraints_impl.json_constraint(schema, self._engine.tokenizer, stops)

    def check(self, request: Request) -> None:
        """Raises what `submit` would raise, and takes nothing on."""
        self._engine.check(request)

    def submit(self, request: Request) -> None:
        """Takes a request on.

        An answer ends at `max_tokens` or at the model's context, whichever comes first, with the
        reason `length`.

        Raises:
            ConfigError: C210, a sampling value out of range, or a field this engine can't honour.
            DataError: D401, the prompt leaves no room for an answer; D402, it is empty or has ids
                that the model doesn't know.
        """
        self._engine.submit(request)

    def cancel(self, id: str) -> None:
        """Ends a request: its last event comes with the next step; unknown ids are let be."""
        self._engine.cancel(id)

    def step(self) -> list[Event]:
        """One token for each request that is being answered.

        The last event of a request has a `finish_reason`: stop, length, cancelled (its token is
        −1), or error (the model's output was not finite).
        """
        events = self._engine.step()
        if self.ahead is not None:
            self.ahead.add(events)
        return events

    def generate(self, requests: Iterable[Request]) -> dict[str, list[Event]]:
        """All events of all requests, by id in the order of the requests."""
        with self._engine.evaluating():
            return base.drain(self, requests)
