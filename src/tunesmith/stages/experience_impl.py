"""Sampling answers with the model in training, and forward passes over them.

What is drawn is a function of (seed, round, place in the round, number of the answer), so answers
need no random state: the same weights give the same answers.

Legend: `P` prompts, `G` answers to each, `A` tokens of the longest answer, `S` supervised
positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tunesmith.errors import RunError
from tunesmith.rewards.base import Answer
from tunesmith.stages.columns_impl import example_of, place_in
from tunesmith.stages.rollout_impl import Round
from tunesmith.types import Batch, Event, Example, Request, Sampling


class Asking(NamedTuple):
    """How answers are sampled."""

    generator: Any
    template: Any
    max_tokens: int
    temperature: float
    seed: int


class Sampled(NamedTuple):
    example: Example
    """Prompt and answer; the answer's tokens carry the row's weight."""
    answer: Answer


def sample(
    asking: Asking, examples: Sequence[Example], keys: Sequence[str], count: int
) -> list[list[Sampled]]:
    """`count` answers to the prompt of each example.

    Args:
        asking: Generator, template, lengths and seed.
        examples: Rows of the data: a prompt, then the reference as its trained tokens.
        keys: What tells the draws of each apart.
        count: Answers to each prompt.

    Raises:
        RunError: R243, the model's output was not finite.
        DataError: D401, a prompt leaves no room for an answer.
    """
    tokenizer = asking.template.tokenizer
    stops = tuple(sorted({*asking.template.stop_ids, tokenizer.eos_id} - {None}))
    asked: dict[str, Request] = {}
    for example, key in zip(examples, keys, strict=True):
        prompt = tuple(example.ids_T[: border(example)].tolist())
        for number in range(count):
            sampling = Sampling(
                max_tokens=asking.max_tokens,
                temperature=asking.temperature,
                seed=seed_of(asking.seed, f"{key}/{number}"),
                stop=asking.template.stop_strings,
                stop_ids=stops,
            )
            name = f"{key}/{number}"
            asked[name] = Request(name, prompt, sampling)
    events = asking.generator.generate(asked.values())
    made = [
        _sampled(asking, example, events[f"{key}/{number}"])
        for example, key in zip(examples, keys, strict=True)
        for number in range(count)
    ]
    return [made[start : start + count] for start in range(0, len(made), count)]


def seed_of(seed: int, key: str) -> int:
    """The seed of one answer."""
    text = f"{seed}/rollout/{key}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


def border(example: Example) -> int:
    """Where the answer begins: the first trained token."""
    trained = np.flatnonzero(example.weights_T)
    return int(trained[0]) if len(trained) else len(example.ids_T)


def examples_of(batch: Batch) -> list[Example]:
    """The rows that a batch was laid out from; shared prompts are not among them."""
    ids, weights = batch.ids_BT.reshape(-1).cpu().numpy(), batch.weights_BT.reshape(-1).cpu()
    spans = zip(batch.segments.start_G.tolist(), batch.segments.length_G.tolist(), strict=True)
    cut = [slice(start, start + length) for start, length in spans]
    return [Example(ids[one].astype(np.int32), weights.numpy()[one]) for one in cut]


def _sampled(asking: Asking, example: Example, events: list[Event]) -> Sampled:
    at, last = border(example), events[-1]
    if last.finish_reason == "error":
        raise RunError(
            "R243",
            "the model's output was not finite while it answered a prompt",
            where=asking.template.tokenizer.decode(example.ids_T[:at].tolist())[-200:],
            fix="lower optim.learning_rate, or go back: tunesmith resume RUN@step-N",
        )
    prompt = example.ids_T[:at].tolist()
    ids = [event.token for event in events]
    weight = float(example.weights_T[at]) if at < len(example.ids_T) else 1.0
    weights_T = np.zeros(at + len(ids), np.float32)
    weights_T[at:] = weight
    decode, prefix = asking.template.tokenizer.decode, asking.template.answer_prefix
    answer = Answer(
        prompt=decode(prompt),
        text="".join(event.text_delta for event in events).removeprefix(prefix),
        reference=decode(example.ids_T[at:].tolist(), skip_special=True).removeprefix(prefix),
        ids=(*prompt, *ids),
        tokens=len(ids),
        finished=last.finish_reason == "stop",
    )
    return Sampled(Example(np.array([*prompt, *ids], np.int32), weights_T), answer)


# ---------------------------------------------------------------- forward passes


Measure = Callable[[Batch], tuple[Any, dict[str, Tensor]]]
"""(token log-probabilities that say where, values of the tokens by name, (S, …) each)."""


def measured(
    run: Any, made: Round, measure: Measure, within: AbstractContextManager | None = None
) -> dict[str, np.ndarray]:
    """Values of all tokens of a round, in evaluation mode; float32, 0 beyond, of shape (P, G, A)
    and, where a token's value has parts, theirs.

    Args:
        run: The run in hand.
        made: The round.
        measure: Computes the values of a batch.
        within: A context for all passes, such as the tuner's reference.
    """
    shape = mask_of(made).shape
    found: dict[str, np.ndarray] = {}
    training = run.model.training
    run.model.eval()
    with torch.no_grad(), within or nullcontext():
        for micro in (micro for step in made.plan for micro in step):
            batch = made.batch(micro, run.loader.layout).to(run.parallel.device)
            tokens, values = measure(batch)
            example_S = example_of(tokens, batch)
            places = example_S.cpu().numpy(), place_in(example_S).cpu().numpy()
            for name, values_S in values.items():
                parts = tuple(values_S.shape[1:])
                table = np.zeros((len(micro) * shape[1], shape[2], *parts), np.float32)
                table[places] = values_S.float().cpu().numpy()
                column = found.setdefault(name, np.zeros((*shape, *parts), np.float32))
                column[micro] = table.reshape(len(micro), *shape[1:], *parts)
    run.model.train(training)
    return found


def log_probabilities(run: Any, made: Round, temperature: float) -> np.ndarray:
    """Log-probabilities of all tokens under the policy as it is now, by the training forward."""
    return measured(run, made, _scoring(run, temperature))["logprobs"]


def reference_log_probabilities(run: Any, made: Round, temperature: float) -> np.ndarray:
    """The same under the model as it was before training."""
    within = run.tuner.reference(run.model)
    return measured(run, made, _scoring(run, temperature), within)["logprobs"]


def _scoring(run: Any, temperature: float) -> Measure:
    def measure(batch: Batch) -> tuple[Any, dict[str, Tensor]]:
        tokens, _ = run.model.score(batch, temperature=temperature)
        return tokens, {"logprobs": tokens.logprobs_S}

    return measure


def mask_of(made: Round) -> np.ndarray:
    """Which places of a (P, G, A) column hold tokens; bool."""
    counts = np.array([[np.count_nonzero(e.weights_T) for e in item] for item in made.items])
    return np.arange(max(int(counts.max()), 1)) < counts[..., None]
