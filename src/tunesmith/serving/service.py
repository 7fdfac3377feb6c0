"""What all routes share: the models on offer, the engine, limits, and how prompts become ids."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from tunesmith.compose.serving import Offer
from tunesmith.errors import TunesmithError
from tunesmith.serving import faults, prompts, tool_calls
from tunesmith.serving.engine import Engine
from tunesmith.serving.faults import Refusal
from tunesmith.serving.metrics import Metrics
from tunesmith.serving.schema import ChatMessage, Tool
from tunesmith.serving.token_texts import TokenTexts

if TYPE_CHECKING:
    from tunesmith.models.reading import Reader

T = TypeVar("T")
UNBOUNDED = 8192
"""Longest prompt and answer of a model whose positions have no end."""


@dataclass(frozen=True)
class Limits:
    """What one client may cost."""

    body_bytes: int = 2 * 2**20
    body_seconds: float = 30.0
    """For a body to arrive."""
    answer_seconds: float = 600.0
    """From a request to the end of its answer."""
    max_tokens: int | None = None
    """Longest answer; None: as the context allows."""


@dataclass(frozen=True, eq=False)
class Model:
    """An offer with what serving learns about it once."""

    offer: Offer
    created: int

    @property
    def name(self) -> str:
        return self.offer.name

    @property
    def context(self) -> int:
        return self.offer.context or UNBOUNDED

    def room(self, prompt: int) -> int:
        """Tokens that an answer may have behind a prompt of so many."""
        return self.context if self.offer.context is None else self.context - prompt

    def told_room(self, prompt: int) -> str:
        """What bounds an answer, in words."""
        if self.offer.context is None:
            return f"no answer is longer than {self.context:,} tokens"
        return f"the context is {self.context:,} tokens, and the prompt takes {prompt:,} of them"

    @cached_property
    def texts(self) -> TokenTexts:
        return TokenTexts(self.offer.tokenizer)

    @cached_property
    def calls(self) -> tool_calls.CallFormat | None:
        return tool_calls.learn(self.offer.template)

    @property
    def reader(self) -> Reader:
        """What reads given text.

        Raises:
            Refusal: S121, its engine writes and does nothing else.
        """
        if self.offer.reader is None:
            what = f"the engine of `{self.name}` writes, and tells nothing of text that is given"
            raise Refusal("S121", what, "model", fix="serve the weights that its file was made of")
        return self.offer.reader


@dataclass(eq=False)
class Service:
    """The state of a server."""

    models: dict[str, Model]
    engine: Engine
    metrics: Metrics
    limits: Limits = field(default_factory=Limits)
    # Grammars of schemas, beside it: one that takes long must not hold up every prompt.
    _former: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "tunesmith-schemas")
    )
    # One thread: templates and tokenizers keep tables that two threads would fill at once.
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "tunesmith-tokenizer")
    )

    @classmethod
    def of(cls, offers: Sequence[Offer], *, queue: int, limits: Limits) -> Service:
        """A service over offers; `queue`: requests in hand at most."""
        metrics, now = Metrics(), int(time.time())
        models = {offer.name: Model(offer, now) for offer in offers}
        lanes = list(
            {id(o.generator): o.generator for o in offers if o.generator is not None}.values()
        )
        return cls(models, Engine(lanes, limit=queue, metrics=metrics), metrics, limits)

    def model(self, name: str | None, *, writes: bool = True) -> Model:
        """The model a request names; the first where it names none.

        Raises:
            Refusal: S112, no such model; S121, it is a reward model and was asked to write, or the
                other way round.
        """
        if name is None:
            found = next(iter(self.models.values()))
        elif name in self.models:
            found = self.models[name]
        else:
            fix = f"there is {', '.join(self.models)}"
            raise Refusal("S112", f"no model called {name!r}", "model", fix=fix)
        if writes and found.offer.generator is None:
            raise Refusal(
                "S121",
                f"`{found.name}` is a reward model and can't write",
                "model",
                fix="use /v1/score",
            )
        return found

    async def threaded(self, work: Callable[[], T], param: str) -> T:
        """Runs templates and tokenizers without holding other clients up.

        Raises:
            Refusal: What they say, about the field `param`.
        """
        return await self._run(self._thread, work, param)

    async def formed(self, work: Callable[[], T], param: str) -> T:
        """Makes what an answer is held to, likewise."""
        return await self._run(self._former, work, param)

    async def _run(self, thread: ThreadPoolExecutor, work: Callable[[], T], param: str) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except TunesmithError as error:
            raise faults.of_error(error, param) from None
        except UnicodeEncodeError:
            raise Refusal("S111", f"`{param}` has broken characters", param) from None

    async def chat_ids(
        self,
        model: Model,
        messages: Sequence[ChatMessage],
        tools: Sequence[Tool] | None,
        param: str = "messages",
    ) -> tuple[int, ...]:
        """What is sent for a conversation: the very ids the model was trained to continue."""
        talk = prompts.conversation(messages, tools, param=param)
        self.refuse_long(model, prompts.size(messages, tools), param)
        offer = model.offer
        return tuple(
            await self.threaded(
                lambda: prompts.prompt_ids(offer.template, talk, offer.system), param
            )
        )

    async def text_ids(self, model: Model, text: str, param: str) -> tuple[int, ...]:
        """Ids of a text to be continued: strings of special tokens are those tokens, one BOS."""
        self.refuse_long(model, len(text), param)
        tokenizer = model.offer.tokenizer

        def encode() -> tuple[int, ...]:
            ids = tokenizer.encode_text(text)
            begins = tokenizer.adds_bos and ids[:1] != [tokenizer.bos_id]
            return tuple([tokenizer.bos_id, *ids] if begins else ids)

        return await self.threaded(encode, param)

    async def rows(self, model: Model, given: Any, param: str) -> list[tuple[int, ...]]:
        """Prompts given as text, ids, or a list of either.

        Raises:
            Refusal: S111, an id that the model doesn't know.
        """
        if isinstance(given, str):
            return [await self.text_ids(model, given, param)]
        if isinstance(given[0], int):
            given = [given]
        found: list[tuple[int, ...]] = []
        for at, row in enumerate(given):
            place = f"{param}[{at}]"
            if isinstance(row, str):
                found.append(await self.text_ids(model, row, place))
            elif max(row) >= model.offer.tokenizer.vocab_size:
                what = f"`{place}` has token {max(row)}; the model knows {model.texts.size}"
                raise Refusal("S111", what, place)
            else:
                found.append(tuple(row))
        return found

    def refuse_long(self, model: Model, characters: int, param: str) -> None:
        """Refuses a text that can't fit, however it is cut, before it costs anything."""
        least = characters // max(model.texts.longest, 1)
        if least >= model.context:
            raise too_long(f"at least {least:,}", model, param)

    def fits(self, model: Model, ids: Sequence[int], param: str, *, room: int = 1) -> None:
        """Refuses ids that leave no room for an answer.

        Raises:
            Refusal: S111, there are none; S123, too many.
        """
        if not ids:
            raise Refusal("S111", f"`{param}` has no tokens", param, fix="write something")
        if len(ids) + room > model.context:
            raise too_long(f"{len(ids):,}", model, param)


def too_long(tokens: str, model: Model, param: str) -> Refusal:
    return Refusal(
        "S123",
        f"this model's context is {model.context:,} tokens, and `{param}` has {tokens}",
        param,
        fix="shorten it",
    )


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(12)}"


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a reply as one object, in order."""
    return {key: value for part in parts for key, value in part.items()}
