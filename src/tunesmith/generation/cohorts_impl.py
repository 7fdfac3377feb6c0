"""How the torch engine works: cohorts of requests, each with one key/value cache.

Requests that begin together are padded on the left and form a cohort; every step gives each row of
each cohort one token. Rows leave the cache when they are finished. Families whose layers carry
state that padding would spoil are answered a row at a time.

Legend: `B` rows of a cohort, `T` tokens so far, `V` vocabulary.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from tunesmith.errors import ConfigError
from tunesmith.generation.base import TextStream, check_request
from tunesmith.generation.model_impl import context_length, evaluating
from tunesmith.generation.rows_impl import event_of
from tunesmith.generation.sampling_impl import choose, likeliest
from tunesmith.models.language_model import LanguageModel
from tunesmith.models.load import packable
from tunesmith.types import Event, Request

PREFILL_TOKENS = 16384
"""Prompt tokens, padding included, that go through the model at once: bounds the memory."""


@dataclass
class Row:
    """A request that is being answered."""

    request: Request
    ids: list[int]
    """Prompt and answer so far."""
    text: TextStream
    limit: int
    """Longest `ids` may become."""


@dataclass
class Cohort:
    """Rows that are in step."""

    rows: list[Row]
    cache: DynamicCache | None
    """None for families that can't use it: their rows are computed anew each time."""
    mask_BT: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))
    """Which places of the cache hold tokens rather than padding."""


class Engine:
    """See `TorchGenerator`."""

    def __init__(self, model: Any, tokenizer: Any, max_rows: int):
        self.hf: Any = model_of(model)
        self.computing = model.computing if isinstance(model, LanguageModel) else nullcontext
        self.tokenizer = tokenizer
        self.context = context_length(self.hf.config)
        self.max_rows = max_rows if packable(self.hf.config) else 1
        self.accepts = inspect.signature(self.hf.forward).parameters.keys()
        names = ("past_key_values", "cache_params")
        self.cache_name = next((name for name in names if name in self.accepts), None)
        self.caches = self.cache_name is not None and self.hf._supports_default_dynamic_cache()
        self.waiting: list[Request] = []
        self.cohorts: list[Cohort] = []
        self.cancelled: list[str] = []
        self.notes = [
            f"{self.hf.config.model_type} has no attention interface: its requests are answered "
            "one at a time, without shared beginnings"
        ]

    def check(self, request: Request) -> None:
        refused = {"adapter": request.adapter, "constraint": request.constraint}
        if self.tokenizer is None:
            refused["stop"] = request.sampling.stop or None
        for name, value in refused.items():
            if value is not None:
                raise ConfigError(
                    "C210", f"the torch engine can't honour `{name}` of a request", fix="leave it"
                )
        vocabulary = self.hf.get_input_embeddings().weight.shape[0]
        check_request(request, context=self.context, vocabulary=vocabulary)

    def submit(self, request: Request) -> None:
        self.check(request)
        if request.id in self._ids():
            raise ConfigError("C210", f"a request `{request.id}` is being answered already")
        self.waiting.append(request)

    def cancel(self, id: str) -> None:
        if id not in self._ids():
            return
        self.cancelled.append(id)
        self.waiting = [request for request in self.waiting if request.id != id]
        for cohort in self.cohorts:
            self._keep(cohort, [row.request.id != id for row in cohort.rows])
        self.cohorts = [cohort for cohort in self.cohorts if cohort.rows]

    def step(self) -> list[Event]:
        events = [Event(id, -1, 0.0, "", "cancelled") for id in self.cancelled]
        self.cancelled = []
        with self.evaluating():
            self._admit()
            for cohort in self.cohorts:
                events += self._advance(cohort)
        self.cohorts = [cohort for cohort in self.cohorts if cohort.rows]
        return events

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradients, no dropout; afterwards every module is in the mode it was in."""
        with evaluating(self.hf), self.computing():
            yield

    def _ids(self) -> set[str]:
        rows = [row.request.id for cohort in self.cohorts for row in cohort.rows]
        return {request.id for request in self.waiting} | set(rows)

    def _admit(self) -> None:
        """Begins waiting requests where there is room; few at a time only if few are waiting."""
        free = self.max_rows - sum(len(cohort.rows) for cohort in self.cohorts)
        if not self.waiting or free < min(len(self.waiting), math.ceil(self.max_rows / 2)):
            return
        count = longest = 0
        for request in self.waiting[:free]:
            longest = max(longest, len(request.ids))
            if count and longest * (count + 1) > PREFILL_TOKENS:
                break
            count += 1
        begun, self.waiting = self.waiting[:count], self.waiting[count:]
        cache = DynamicCache(config=self.hf.config) if self.caches else None
        self.cohorts.append(Cohort([self._row(request) for request in begun], cache))

    def _row(self, request: Request) -> Row:
        ids = list(request.ids)
        limit = min(len(ids) + request.sampling.max_tokens, self.context or math.inf)
        return Row(request, ids, TextStream(self.tokenizer, ids, request.sampling.stop), int(limit))

    def _advance(self, cohort: Cohort) -> list[Event]:
        """One token more for each row."""
        logits_BV = self._logits(cohort)
        samplings = [row.request.sampling for row in cohort.rows]
        begins = [len(row.request.ids) for row in cohort.rows]
        tokens, logprobs = choose(logits_BV, samplings, [row.ids for row in cohort.rows], begins)
        tops = likeliest(logits_BV, [sampling.top_logprobs for sampling in samplings])
        told = zip(cohort.rows, tokens, logprobs, tops, strict=True)
        events = [event_of(*found) for found in told]
        self._keep(cohort, [event.finish_reason is None for event in events])
        return events

    def _logits(self, cohort: Cohort) -> Tensor:
        """Logits of what follows each row, shape (B, V)."""
        begins = cohort.cache is None or not cohort.mask_BT.numel()
        if begins:
            ids_BT, cohort.mask_BT = _padded([row.ids for row in cohort.rows])
            forget(self.hf)
        else:
            ids_BT = torch.tensor([row.ids[-1:] for row in cohort.rows])
            cohort.mask_BT = torch.nn.functional.pad(cohort.mask_BT, (0, 1), value=1)
        positions_BT = (cohort.mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        device = self.hf.device
        inputs: dict[str, Any] = {
            "input_ids": ids_BT.to(device),
            # layers with a state read a mask as long as the cache amiss, and need none unpadded
            "attention_mask": None if cohort.mask_BT.all() else cohort.mask_BT.to(device),
            "position_ids": positions_BT.to(device),
            str(self.cache_name): cohort.cache,
            "use_cache": cohort.cache is not None,
            "logits_to_keep": 1,
        }
        accepted = {name: value for name, value in inputs.items() if name in self.accepts}
        return self.hf(**accepted).logits[:, -1]

    def _keep(self, cohort: Cohort, kept: list[bool]) -> None:
        """Drops rows from a cohort and its cache."""
        if all(kept):
            return
        index = torch.tensor([at for at, keep in enumerate(kept) if keep], dtype=torch.long)
        cohort.rows = [cohort.rows[at] for at in index.tolist()]
        if cohort.cache is not None and cohort.rows and cohort.mask_BT.numel():
            cohort.mask_BT = cohort.mask_BT[index]
            cohort.cache.batch_select_indices(index.to(self.hf.device))


def model_of(model: Any) -> Any:
    """The transformers model."""
    return model.hf if isinstance(model, LanguageModel) else model


def forget(hf: Any) -> None:
    """Empties the states that modules keep themselves rather than in a cache.

    RecurrentGemma's blocks do, and begin anew by themselves only where a prompt has two tokens or
    more (transformers 5.23): without this an answer would depend on the one before it. Such a
    state is a plain attribute, neither parameter nor buffer, and None until it is first used.
    """
    for module in hf.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and name.endswith(("_state", "_states")):
                setattr(module, name, None)


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids padded on the left with 0, and the mask of what is no padding."""
    longest = max(map(len, rows))
    ids_BT = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask_BT = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids_BT, mask_BT
