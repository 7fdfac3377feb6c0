"""Any engine that speaks OpenAI's completions over HTTP (vLLM, SGLang)."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ConfigError
from tunesmith.generation import base
from tunesmith.generation.threads_impl import Threaded
from tunesmith.types import Event, Request, Sampling

if TYPE_CHECKING:
    from tunesmith.templates.tokenizer import Tokenizer

_log = logging.getLogger("tunesmith.generation")

RETRIES = 4
"""Tries of a request that has said nothing yet."""
FIRST_WAIT_S = 0.25
# Extensions that vLLM, SGLang and our own server share. What they are not told they take from the
# model's generation config, so they are told all; other servers only what says something.
_MORE = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
_ALL = {"vllm": -1, "sglang": -1, "tunesmith": 0}
"""Who owns the models of a server that has them -> its `top_k` for all tokens."""
_REASONS = {"stop": "stop", "length": "length", "abort": "cancelled"}


class RemoteGenerator(Threaded):
    """Answers requests over HTTP, each in a thread of its own; prompts are sent as token ids.

    A server tells texts, and token ids only if it is vLLM, which knows `return_token_ids`:
    elsewhere an event's token is −1.

    Args:
        model: Address of the server, with or without `/v1`.
        tokenizer: Unused; engines are built alike.
        name: The model's name there; None: the first that the server lists.
        key: API key, sent as a bearer token.
        max_rows: Requests that are sent at once; others wait in order.
        timeout_s: Longest silence of the server.

    Raises:
        ConfigError: G128, the server doesn't answer, or lists no such model.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer | None = None,
        *,
        name: str | None = None,
        key: str | None = None,
        max_rows: int = 16,
        timeout_s: float = 60.0,
    ):
        import httpx2 as httpx

        super().__init__()
        self.url = model.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s)
        self._faults = (httpx.HTTPError, ValueError, KeyError, IndexError)
        listed = self._health()
        names = list(listed)
        if name is not None and name not in names:
            raise ConfigError(
                "G128", f"{self.url} has no model `{name}`", fix=f"it has {', '.join(names)}"
            )
        self.name = name or names[0]
        self.names = names
        self.owner = listed[self.name]
        self._room = threading.Semaphore(max_rows)
        self.notes = [f"remote: {self.url}, {self.name}"]

    def _health(self) -> dict[str, str]:
        """Names of the models there, and who owns each: `vllm`, `sglang` …"""
        why = ""
        for attempt in range(RETRIES):
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1) if attempt else 0)
            try:
                answer = self._http.get("/v1/models")
                if answer.status_code in (401, 403):
                    raise ConfigError("G128", f"{self.url} wants another API key", fix="give `key`")
                listed = answer.raise_for_status().json()["data"]
                if found := {entry["id"]: entry.get("owned_by", "") for entry in listed}:
                    return found
                why = "it lists no models"
            except self._faults as error:
                why = f"{type(error).__name__}: {error}"
        fix = "start it, and give the address before /v1"
        raise ConfigError("G128", f"no engine answers at {self.url}", why=why, fix=fix)

    def check(self, request: Request) -> None:
        """Raises what `submit` would raise.

        Raises:
            ConfigError: C210, a value out of range, or what can't be said to a server.
        """
        base.check_sampling(request.sampling)
        refused = {
            "constraint": request.constraint is not None,
            "typical_p": request.sampling.typical_p < 1,
            "adapter": request.adapter is not None and request.adapter not in self.names,
        }
        for what in (what for what, wrong in refused.items() if wrong):
            raise ConfigError("C210", f"a remote engine can't honour `{what}`", fix="leave it")

    def _answer(self, request: Request, stop: threading.Event) -> None:
        """One request from beginning to end, in its thread."""
        with self._room:
            for attempt in range(RETRIES):
                if stop.wait(FIRST_WAIT_S * 2 ** (attempt - 1) if attempt else 0):
                    break
                try:
                    if self._stream(request, stop):
                        return
                except self._faults:
                    pass  # tried again: it has said nothing yet
            reason = "cancelled" if stop.is_set() else "error"
            self._events.put(Event(request.id, -1, 0.0, "", reason))

    def _stream(self, request: Request, stop: threading.Event) -> bool:
        """Whether the request came to an end; False: it may be tried again."""
        begun = ended = False
        body = body_of(request, self.name, self.owner)
        try:
            with self._http.stream("POST", "/v1/completions", json=body) as answer:
                if answer.status_code == 429 or answer.status_code >= 500:
                    return False
                if answer.status_code >= 400:  # it won't like the same request better later
                    said = answer.read().decode(errors="replace")[:500]
                    _log.warning("%s refused a request: %s %s", self.url, answer.status_code, said)
                    ended = True
                    self._events.put(Event(request.id, -1, 0.0, "", "error"))
                    return True
                for line in _lines(answer.iter_bytes()):
                    if stop.is_set():
                        break
                    if not line.startswith("data:") or line.endswith("[DONE]"):
                        continue
                    events = list(_events(request.id, json.loads(line[5:])))
                    for event in events:
                        begun = True
                        self._events.put(event)
                    if events and events[-1].finish_reason is not None:
                        ended = True
                        return True
        except self._faults:
            if not begun or ended:
                raise
        reason = "cancelled" if stop.is_set() else "error"
        self._events.put(Event(request.id, -1, 0.0, "", reason))
        return True


def _lines(parts: Iterable[bytes]) -> Iterable[str]:
    """Lines that end in a line feed: of those Unicode knows more, and JSON may hold them."""
    rest = b""
    for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode(errors="replace")
    yield rest.decode(errors="replace")


def body_of(request: Request, name: str, owner: str = "") -> dict[str, Any]:
    """The request as `/v1/completions` of such a server takes it."""
    s, plain = request.sampling, Sampling()
    body: dict[str, Any] = {
        "model": request.adapter or name, "prompt": list(request.ids), "stream": True,
        "max_tokens": s.max_tokens, "temperature": s.temperature, "top_p": s.top_p,
        "seed": s.seed % 2**63, "logprobs": s.top_logprobs or 1,
    }  # fmt: skip
    if owner in _ALL:
        body |= {"min_p": s.min_p, "repetition_penalty": s.repetition_penalty}
        body["top_k"] = s.top_k or _ALL[owner]
    if owner == "vllm":
        body["return_token_ids"] = True
    for field in ("presence_penalty", "frequency_penalty", *_MORE):
        if field not in body and getattr(s, field) != getattr(plain, field):
            body[field] = getattr(s, field)
    if s.stop:
        body["stop"] = list(s.stop)
    if s.stop_ids:
        body["stop_token_ids"] = list(s.stop_ids)
    if s.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in s.logit_bias}
    return body


def _events(id: str, chunk: dict[str, Any]) -> Iterable[Event]:
    """Events of one chunk of a stream: one a token where the server tells tokens."""
    if not chunk.get("choices"):
        return
    choice = chunk["choices"][0]
    told = choice.get("logprobs") or {}
    logprobs = told.get("token_logprobs") or [None]
    tokens = choice.get("token_ids") or [-1] * len(logprobs)
    last = max(len(tokens), 1) - 1
    ended = choice.get("finish_reason")
    reason = _REASONS.get(ended, "error") if ended else None
    for at in range(last + 1):
        yield Event(
            id,
            tokens[at] if at < len(tokens) else -1,
            logprobs[at] if at < len(logprobs) else None,
            choice.get("text") or "" if at == last else "",
            reason if at == last else None,
        )
