"""llama.cpp over a GGUF file, in this process (extra `gguf`).

It gets token ids and gives token ids: prompts are rendered and cut into tokens by the template and
tokenizer that the file carries, in our sandbox, as in training (ADR 0019). Each request has a
thread of its own that waits for llama.cpp's continuous batching.
"""

from __future__ import annotations

import atexit
import logging
import queue
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ConfigError, MissingExtra
from tunesmith.generation import base
from tunesmith.generation.threads_impl import Threaded
from tunesmith.types import Event, Request

if TYPE_CHECKING:
    from tunesmith.templates.tokenizer import Tokenizer

_log = logging.getLogger("tunesmith.generation")
JOIN_S = 5.0
"""Longest wait for a thread at the end of the process."""
CACHE_BYTES = 2**30
"""Memory for keys and values."""
LONGEST = 32_768
"""Context of a file that says none."""
SHORTEST = 2048
"""Context that is given whatever it costs, if the model has it."""
ORDER = ("penalties", "temperature", "top_k", "top_p", "min_p", "typ_p")
"""The order in which our own engine applies them."""


class LlamacppGenerator(Threaded):
    """See `TorchGenerator`; what llama.cpp can't do as we mean it is refused.

    Args:
        model: The GGUF file.
        tokenizer: The one made of that file; its EOS is told where llama.cpp ends an answer.
        max_rows: How many requests are answered at once, as far as `CACHE_BYTES` goes.

    Raises:
        MissingExtra: E401, `xllamacpp` is not installed.
        ConfigError: G170, llama.cpp can't load the file.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None = None,
        *,
        max_rows: int = 32,
    ):
        super().__init__()
        self.tokenizer = tokenizer
        self.path = Path(model)
        facts = _facts(self.path)
        room = CACHE_BYTES // facts.token_bytes
        context = min(facts.context, max(room, SHORTEST))
        self.context: int | None = context
        self.rows = max(1, min(max_rows, room // context))
        self.vocabulary = facts.vocabulary
        self._server = _load(self.path, self.rows, context)
        atexit.register(_settle, self._stopped, self._threads)
        less = f" (the file says {facts.context:,})" if context < facts.context else ""
        self.notes = [f"llama.cpp: {self.rows} at once, {context:,} tokens of context each{less}"]

    def check(self, request: Request) -> None:
        """Raises what `submit` would raise.

        Raises:
            ConfigError: C210, a value out of range, or what llama.cpp means otherwise.
            DataError: D401, D402: see `base.check_request`.
        """
        s = request.sampling
        refused = {
            # its grammars let go of an answer, unsaid, where they can't read a token
            "constraint": request.constraint is not None,
            "adapter": request.adapter is not None,
            # it counts the prompt's tokens too
            "presence_penalty": s.presence_penalty != 0,
            "frequency_penalty": s.frequency_penalty != 0,
        }
        for what in (what for what, wrong in refused.items() if wrong):
            raise _refused(what)
        base.check_request(request, context=self.context, vocabulary=self.vocabulary)

    def _answer(self, request: Request, stop: threading.Event) -> None:
        """One request from beginning to end, in its thread."""
        eos = self.tokenizer.eos_id if self.tokenizer is not None else None
        body = body_of(request, self.context)
        last = (body["n_predict"], -1 if eos is None else eos)
        answer = _Answer(request, stop, self._events, *last)
        try:
            self._server.handle_completions(body, answer.take)
        except Exception as error:  # of the library: one request must not end the others
            _log.warning("llama.cpp failed on a request: %s", error)
        answer.end("cancelled" if stop.is_set() else "error")


class _Answer:
    """One answer as llama.cpp tells it; its last event is told once."""

    def __init__(
        self,
        request: Request,
        stop: threading.Event,
        events: queue.Queue[Event],
        most: int,
        eos: int,
    ):
        self.id, self.stop_ids = request.id, frozenset({*request.sampling.stop_ids, eos})
        self.top = request.sampling.top_logprobs
        self.stop, self.events, self.most, self.eos = stop, events, most, eos
        self.count, self.ended = 0, False

    def take(self, chunk: dict[str, Any]) -> bool:
        """A chunk of the stream; True: no more is wanted."""
        if self.stop.is_set() or self.ended:
            return True
        if not chunk.get("choices"):
            _log.warning("llama.cpp refused a request: %s", chunk.get("error", "it says nothing"))
            self.end("error")
            return True
        choice = chunk["choices"][0]
        told = (choice.get("logprobs") or {}).get("content") or []
        for at, entry in enumerate(told):
            token = entry["id"]
            if token in self.stop_ids:
                self._tell(token, entry["logprob"], "", "stop", ())
                return True
            top = tuple((o["id"], o["logprob"]) for o in entry["top_logprobs"][: self.top])
            text = choice["text"] if at == len(told) - 1 else ""
            reason = "length" if self.count + 1 >= self.most else None
            self._tell(token, entry["logprob"], text, reason, top)
        if choice["finish_reason"] is not None and not self.ended:
            # A stop string, EOS or half a character at the end come without their token.
            text = "" if told else choice["text"]
            self._tell(self.eos, 0.0, text, choice["finish_reason"], ())
        return self.ended

    def end(self, reason: str) -> None:
        """The last event, if there was none."""
        if not self.ended:
            self._tell(-1, 0.0, "", reason, ())

    def _tell(
        self, token: int, logprob: float, text: str, reason: str | None, top: Sequence[Any]
    ) -> None:
        self.count += 1
        self.ended = reason is not None
        self.events.put(Event(self.id, token, logprob, text, reason, tuple(top)))


def body_of(request: Request, context: int | None) -> dict[str, Any]:
    """The request as llama.cpp takes it."""
    s = request.sampling
    return {
        "prompt": list(request.ids),
        "n_predict": min(s.max_tokens, (context or LONGEST) - len(request.ids)),
        "stream": True, "cache_prompt": True, "samplers": list(ORDER),
        "temperature": s.temperature, "top_k": s.top_k, "top_p": s.top_p, "min_p": s.min_p,
        "typical_p": s.typical_p, "repeat_penalty": s.repetition_penalty,
        "repeat_last_n": context or LONGEST,
        "seed": s.seed % (2**32 - 1), "n_probs": max(s.top_logprobs, 1), "min_keep": 1,
        "stop": list(s.stop), "logit_bias": [list(pair) for pair in s.logit_bias],
    }  # fmt: skip


def _refused(what: str) -> ConfigError:
    return ConfigError(
        "C210", f"llama.cpp can't honour `{what}` of a request", fix="leave it, or use the weights"
    )


@dataclass(frozen=True)
class _Facts:
    context: int
    vocabulary: int
    token_bytes: int
    """Of keys and values of one token in float16."""


def _facts(path: Path) -> _Facts:
    """What the file says of itself.

    Raises:
        EnvironmentFault: E221, it is no GGUF file.
        ConfigError: G170, it holds no model.
    """
    from tunesmith.templates.tokenizers.gguf import metadata

    found = metadata(path)
    kind = found.get("general.architecture")
    told = {k.removeprefix(f"{kind}."): v for k, v in found.items() if k.startswith(f"{kind}.")}
    try:
        heads, width = told["attention.head_count"], told["embedding_length"]
        heads = max(heads) if isinstance(heads, list) else heads
        shared = told.get("attention.head_count_kv", heads)
        shared = max(shared) if isinstance(shared, list) else shared
        size = told.get("attention.key_length", width // heads)
        context = int(told.get("context_length", LONGEST))
        bytes_each = told["block_count"] * 2 * shared * size * 2
        return _Facts(context, len(found["tokenizer.ggml.tokens"]), max(bytes_each, 1))
    except (KeyError, TypeError, ZeroDivisionError, ValueError) as error:
        raise _unusable(path, f"its metadata lacks {error}") from None


def _load(path: Path, rows: int, context: int) -> Any:
    try:
        import xllamacpp  # type: ignore[import-not-found]
    except ImportError:
        raise MissingExtra("xllamacpp", "gguf", "a GGUF model") from None
    library: Any = xllamacpp  # compiled, without types
    params = library.CommonParams()
    params.model.path = str(path)
    params.n_parallel, params.n_ctx = rows, rows * context
    params.warmup, params.verbosity = False, -1
    # Its own HTTP server can't be left out: on loopback, closed by a key that nobody has.
    params.api_keys, params.ui, params.endpoint_slots = [secrets.token_urlsafe(32)], False, False
    try:
        server = library.Server(params)
        # One that is taken down before its loop runs never ends; and a file may load and not work.
        said = server.handle_completions({"prompt": [0], "n_predict": 1, "cache_prompt": False})
    except RuntimeError as error:
        raise _unusable(path, str(error)) from None
    if "error" in said:
        raise _unusable(path, str(said["error"].get("message")))
    return server


def _settle(stopped: dict[str, threading.Event], threads: set[threading.Thread]) -> None:
    """Ends what is being answered before the interpreter does: its threads are in C++."""
    for event in list(stopped.values()):
        event.set()
    for thread in list(threads):
        thread.join(JOIN_S)


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        "G170",
        "llama.cpp can't load this file",
        where=str(path),
        why=why,
        fix="a GGUF file with weights, of an architecture that llama.cpp knows",
    )
