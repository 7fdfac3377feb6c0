"""From the fields of a request to the engine's Sampling."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any

from tunesmith.serving.faults import Refusal
from tunesmith.serving.schema import ChatBody, CompletionBody, SamplingFields
from tunesmith.serving.service import Limits, Model
from tunesmith.types import Sampling

COMPLETION_TOKENS = 16
"""OpenAI's default of /v1/completions; a chat goes on to the end of its answer."""
_SAME = (
    "temperature",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def samplings(
    body: SamplingFields, model: Model, limits: Limits, top: int | None, *, prompt: int
) -> list[Sampling]:
    """One Sampling a choice: the same but for the seed, which counts on from the one given.

    Args:
        body: The request.
        model: Says what holds where the request is silent.
        limits: The server's own bounds.
        top: How many likeliest tokens were asked for with each token; None: not even its own
            log-probability.
        prompt: Tokens of the prompt, of the longest if there are several.

    Raises:
        Refusal: S111, a value this model can't have; S123, more tokens than there is room for.
    """
    plain = model.offer.defaults
    given: dict[str, Any] = {
        name: value for name in _SAME if (value := getattr(body, name)) is not None
    }
    if body.top_p is not None:
        # 0 leaves the likeliest token alone, as OpenAI's API means it
        given["top_p"] = max(body.top_p, 1e-9)
    if body.logit_bias:
        given["logit_bias"] = _bias(body.logit_bias, model)
    given["max_tokens"] = longest(body, model, limits, prompt)
    if body.stop is not None:
        texts = [body.stop] if isinstance(body.stop, str) else body.stop
        given["stop"] = tuple(dict.fromkeys([*texts, *plain.stop]))
    if body.stop_token_ids:
        given["stop_ids"] = tuple(sorted({*plain.stop_ids, *body.stop_token_ids}))
    given |= {"logprob": top is not None, "top_logprobs": top or 0}
    seed = secrets.randbits(48) if body.seed is None else body.seed % 2**64
    chosen = dataclasses.replace(plain, **given)
    return [dataclasses.replace(chosen, seed=(seed + at) % 2**64) for at in range(body.n or 1)]


def longest(body: SamplingFields, model: Model, limits: Limits, prompt: int) -> int:
    """How many tokens an answer may have behind a prompt of so many.

    Raises:
        Refusal: S111, two fields differ; S123, more than the prompt leaves of the context, or than
            the server allows.
    """
    name, asked = "max_tokens", body.max_tokens
    if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        if asked is not None and asked != body.max_completion_tokens:
            what = "`max_tokens` and `max_completion_tokens` differ"
            raise Refusal("S111", what, "max_tokens", fix="give one of them")
        name, asked = "max_completion_tokens", body.max_completion_tokens
    room = model.room(prompt)
    bound = min(room, limits.max_tokens or room)
    if asked is None:
        return min(COMPLETION_TOKENS, bound) if isinstance(body, CompletionBody) else bound
    if asked > bound:
        why = f"this server allows at most {bound:,}"
        if bound == room:
            why = f"at most {bound:,} are possible: {model.told_room(prompt)}"
        raise Refusal("S123", f"`{name}` is {asked:,}; {why}", name)
    if asked == 0 and not (isinstance(body, CompletionBody) and body.echo):
        raise Refusal("S111", f"`{name}` is 0: nothing would be answered", name)
    return asked


def _bias(given: dict[str, float], model: Model) -> tuple[tuple[int, float], ...]:
    for key in given:
        if int(key) >= model.texts.size:
            what = f"`logit_bias` names token {key}; the model knows {model.texts.size}"
            raise Refusal("S111", what, "logit_bias")
    return tuple((int(key), value) for key, value in given.items())
