"""vLLM in this process, where it is installed: requests in, events out, nothing else.

Thin on purpose: vLLM brings its own torch and CUDA, so it usually lives in an environment of its
own and is asked by HTTP (`generation.remote`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ConfigError
from tunesmith.generation import base
from tunesmith.types import Event, Request

if TYPE_CHECKING:
    from tunesmith.templates.tokenizer import Tokenizer

_REASONS = {"stop": "stop", "length": "length", "abort": "cancelled"}
"""vLLM's reasons as ours; `error` and those that are new to us end a request as `error`."""


class VllmGenerator:
    """See `TorchGenerator`; vLLM's own sampling and noise.

    Args:
        model: Folder of a model as vLLM reads it.
        tokenizer: Unused: vLLM decodes by the folder's own; prompts are ids.
        max_rows: How many requests are answered at once.

    Raises:
        ConfigError: G171, vLLM is not installed, or can't load the model.
    """

    def __init__(self, model: str, tokenizer: Tokenizer | None = None, *, max_rows: int = 32):
        try:
            import vllm  # type: ignore[import-not-found]
        except ImportError as error:
            fix = "pip install vllm here, or `vllm serve MODEL` elsewhere and the remote engine"
            what = "vLLM can't be imported"
            raise ConfigError("G171", what, where=model, why=str(error), fix=fix) from None
        lib: Any = vllm
        self._vllm = lib
        try:
            options = lib.EngineArgs(model=model, max_num_seqs=max_rows, trust_remote_code=False)
            self._engine = lib.LLMEngine.from_engine_args(options)
        except (RuntimeError, ValueError, OSError) as error:
            what, fix = "vLLM can't load this model", "use the engine `torch`"
            raise ConfigError("G171", what, where=model, why=str(error)[:500], fix=fix) from None
        self._told: dict[str, int] = {}
        """Likeliest tokens wanted, by request in work."""
        self._cancelled: list[str] = []
        self.context: int | None = int(self._engine.model_config.max_model_len)
        self.vocabulary = int(self._engine.model_config.get_vocab_size())
        self.notes = [f"vLLM {lib.__version__}: {max_rows} at once"]

    def check(self, request: Request) -> None:
        """Raises what `submit` would raise.

        Raises:
            ConfigError: C210, a value out of range, or what is not said to vLLM here.
            DataError: D401, D402: see `base.check_request`.
        """
        refused = {
            "constraint": request.constraint is not None,
            "adapter": request.adapter is not None,
            "typical_p": request.sampling.typical_p < 1,
        }
        for what in (what for what, wrong in refused.items() if wrong):
            raise ConfigError("C210", f"vLLM can't honour `{what}` here", fix="leave it out")
        base.check_request(request, context=self.context, vocabulary=self.vocabulary)

    def submit(self, request: Request) -> None:
        """Takes a request on; see `TorchGenerator.submit`."""
        self.check(request)
        if request.id in self._told:
            raise ConfigError("C210", f"a request `{request.id}` is being answered already")
        s = request.sampling
        chosen = self._vllm.SamplingParams(
            max_tokens=s.max_tokens,
            temperature=s.temperature,
            top_k=s.top_k or -1,  # 0 means all only to newer ones
            top_p=s.top_p,
            min_p=s.min_p,
            repetition_penalty=s.repetition_penalty,
            presence_penalty=s.presence_penalty,
            frequency_penalty=s.frequency_penalty,
            logit_bias=dict(s.logit_bias) or None,
            seed=s.seed % 2**63,
            stop=list(s.stop),
            stop_token_ids=list(s.stop_ids),
            logprobs=max(s.top_logprobs, 1),
            output_kind=self._vllm.sampling_params.RequestOutputKind.DELTA,
        )
        self._engine.add_request(request.id, {"prompt_token_ids": list(request.ids)}, chosen)
        self._told[request.id] = s.top_logprobs

    def cancel(self, id: str) -> None:
        """Ends a request: its last event comes with the next step; unknown ids are let be."""
        if self._told.pop(id, None) is not None:
            self._engine.abort_request([id])
            self._cancelled.append(id)

    def step(self) -> list[Event]:
        """One step of vLLM; see `TorchGenerator.step`."""
        events = [Event(id, -1, 0.0, "", "cancelled") for id in self._cancelled]
        self._cancelled = []
        if self._engine.has_unfinished_requests():
            for answer in self._engine.step():
                if answer.request_id in self._told:
                    events += self._events(answer.request_id, answer.outputs[0])
        return events

    def generate(self, requests: Iterable[Request]) -> dict[str, list[Event]]:
        """All events of all requests, by id in the order of the requests."""
        return base.drain(self, requests)

    def _events(self, id: str, new: Any) -> list[Event]:
        """One event a new token; the text comes with the last of them."""
        tokens, count = list(new.token_ids), self._told[id]
        reason = _REASONS.get(new.finish_reason, "error") if new.finish_reason else None
        if reason is not None:
            del self._told[id]
        if not tokens:
            return [Event(id, -1, None, new.text, reason)] if reason or new.text else []
        told: Sequence[Any] = new.logprobs or [{} for _ in tokens]
        events = []
        for at, (token, likely) in enumerate(zip(tokens, told, strict=True)):
            last = at == len(tokens) - 1
            value = likely[token].logprob if token in likely else None
            best = sorted(likely.items(), key=lambda pair: -pair[1].logprob)[:count]
            top = tuple((other, found.logprob) for other, found in best)
            text, end = (new.text, reason) if last else ("", None)
            events.append(Event(id, token, value, text, end, top))
        return events
