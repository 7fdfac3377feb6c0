"""An exported folder (`export --to graph`) as an engine: its programs, one request at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ConfigError
from tunesmith.generation import base
from tunesmith.types import Event, Request

if TYPE_CHECKING:
    from tunesmith.templates.tokenizer import Tokenizer


@dataclass(eq=False)
class _Answer:
    """A request that waits or is being answered."""

    request: Request
    ids: list[int]
    begin: int
    text: base.TextStream
    limit: int
    state: Any = field(default=None)
    read: int = 0
    """Of `ids`, what the programs have seen."""


class GraphGenerator:
    """See `TorchGenerator`. Requests are answered in turn: the programs are of one row.

    Args:
        model: The folder.
        tokenizer: Decodes answers; None: there is no text.

    Raises:
        ExportError: X324, the folder can't be read.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer | None = None):
        import torch

        from tunesmith.generation import graph_impl

        self.tokenizer = tokenizer
        self._folder = graph_impl.open_folder(Path(model))
        manifest = self._folder.manifest
        self.context: int | None = manifest["context"]
        self.vocabulary: int = manifest["vocabulary"]
        made, here = manifest["torch"].split("+")[0], torch.__version__.split("+")[0]
        other = "" if made == here else f" (made by torch {made}, this is {here})"
        self.notes = [
            f"graph: {manifest['context']:,} tokens of context in {manifest['dtype']} on the CPU, "
            f"one request at a time{other}"
        ]
        self._waiting: list[_Answer] = []
        self._cancelled: list[str] = []

    def check(self, request: Request) -> None:
        """Raises what `submit` would raise.

        Raises:
            ConfigError: C210, a value out of range, stop strings without a tokenizer; G120, an
                adapter; G122, an object that is no constraint.
            DataError: D401, D402: see `base.check_request`.
        """
        if request.adapter is not None:
            fix = "export the adapter merged into its model"
            raise ConfigError("G120", "a graph has no adapters beside it", fix=fix)
        if self.tokenizer is None and request.sampling.stop:
            what, fix = "stop strings need a tokenizer", "stop_ids need none"
            raise ConfigError("C210", what, where="sampling.stop", fix=fix)
        if request.constraint is not None and not hasattr(request.constraint, "mask"):
            what = f"{type(request.constraint).__name__} is no constraint"
            raise ConfigError("G122", what, why="it has no mask(ids)", fix="see docs/generation.md")
        base.check_request(request, context=self.context, vocabulary=self.vocabulary)

    def submit(self, request: Request) -> None:
        """Takes a request on; see `TorchGenerator.submit`."""
        self.check(request)
        if any(one.request.id == request.id for one in self._waiting):
            raise ConfigError("C210", f"a request `{request.id}` is being answered already")
        ids = list(request.ids)
        limit = min(len(ids) + request.sampling.max_tokens, self.context or len(ids) + 1)
        text = base.TextStream(self.tokenizer, ids, request.sampling.stop)
        self._waiting.append(_Answer(request, ids, len(ids), text, limit))

    def cancel(self, id: str) -> None:
        """Ends a request: its last event comes with the next step; unknown ids are let be."""
        kept = [one for one in self._waiting if one.request.id != id]
        if len(kept) < len(self._waiting):
            self._cancelled.append(id)
        self._waiting = kept

    def step(self) -> list[Event]:
        """A chunk of the first request's prompt, or its next token."""
        events = [Event(id, -1, 0.0, "", "cancelled") for id in self._cancelled]
        self._cancelled = []
        if self._waiting:
            events += self._advance(self._waiting[0])
        return events

    def _advance(self, answer: _Answer) -> list[Event]:
        import torch

        from tunesmith.generation import graph_impl, rows_impl, sampling_impl

        if answer.state is None:
            answer.state = graph_impl.State(self._folder)
        new = answer.ids[answer.read :][: self._folder.manifest["chunk"]]
        with torch.no_grad():
            logits_1V = answer.state.read(new)[None]
        answer.read += len(new)
        if answer.read < len(answer.ids):
            return []
        sampling, said = answer.request.sampling, answer.ids[answer.begin :]
        rule = answer.request.constraint
        allowed = None if rule is None else rule.mask(said)
        tokens, logprobs = sampling_impl.choose(
            logits_1V, [sampling], [answer.ids], [answer.begin], [allowed]
        )
        tops = sampling_impl.likeliest(logits_1V, [sampling.top_logprobs])
        event = rows_impl.event_of(answer, tokens[0], logprobs[0], tops[0])
        if event.finish_reason is not None:
            self._waiting.remove(answer)
        return [event]

    def generate(self, requests: Iterable[Request]) -> dict[str, list[Event]]:
        """All events of all requests, by id in the order of the requests."""
        return base.drain(self, requests)
