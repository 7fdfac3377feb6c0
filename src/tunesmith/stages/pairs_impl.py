"""What the stages on preference pairs share: encoding a pair, and its log-probabilities.

A pair is one item of two examples, chosen before rejected. Legend: `P` pairs, `G` segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tunesmith.errors import ConfigError, DataError
from tunesmith.stages.base import Plain
from tunesmith.stages.sft import example
from tunesmith.templates import missing
from tunesmith.templates.fit import fit, misfit
from tunesmith.templates.truncate import Limits, length
from tunesmith.types import Conversation, Encoded, Loss, Message, Parts, Preference, Term

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.templates.base import EncodedTurn
    from tunesmith.types import Batch, Run, TokenLogprobs


class PairStage(Plain):
    """A stage on preference pairs, but for its loss."""

    sample = (Preference,)

    def check(self, recipe: Any) -> None:
        """Refuses numbers that make no sense.

        Raises:
            ConfigError: C185, label_smoothing; C186, beta; C198, sources with weights.
        """
        config = self.config
        if config.beta <= 0:
            raise ConfigError(
                "C186", f"beta is {config.beta}", where="stage.beta", fix="use a positive number"
            )
        smoothing = vars(config).get("label_smoothing", 0.0)
        if not 0 <= smoothing < 0.5:
            raise ConfigError(
                "C185",
                f"label_smoothing is {smoothing}",
                where="stage.label_smoothing",
                why="it is the share of pairs believed to be labelled the wrong way round",
                fix="use 0 (off), or a share below 0.5",
            )
        refuse_source_weights(recipe)

    def encode(self, samples: Sequence[Preference]) -> list[Encoded]:
        """Chosen and rejected of each pair, or the reason why it can't be trained."""
        return [_encode_pair(sample, self.parts) for sample in samples]


class ReferenceFree(PairStage):
    """A stage on pairs that compares with no other model."""

    def prepare(self, run: Run, say: Callable[[str], None]) -> None:
        """Says what its metrics lack, and why."""
        say("no reference, so no KL is measured")


class Sides(NamedTuple):
    """One number for each pair and side, shape (P,)."""

    chosen_P: Tensor
    rejected_P: Tensor

    def minus(self, other: Sides) -> Sides:
        return Sides(self.chosen_P - other.chosen_P, self.rejected_P - other.rejected_P)

    def over(self, other: Sides) -> Sides:
        return Sides(self.chosen_P / other.chosen_P, self.rejected_P / other.rejected_P)

    @property
    def margin_P(self) -> Tensor:
        return self.chosen_P - self.rejected_P


def refuse_source_weights(recipe: Any) -> None:
    """Losses of log-probabilities of whole answers: a factor on tokens would change their beta.

    Raises:
        ConfigError: C198.
    """
    for number, source in enumerate(recipe.data.train):
        if source.weight != 1.0:
            raise ConfigError(
                "C198",
                f"weight {source.weight} of a source has no meaning for stage {recipe.stage.kind}",
                where=f"data.train[{number}].weight",
                why="it scales tokens, so it would change how strongly these rows are pulled apart",
                fix="leave it; take more or fewer of its rows (max_samples, interleave_probs)",
            )


def limits(parts: Parts) -> Limits:
    """Lengths, and the rule to cut by."""
    budgets = parts.max_prompt_length, parts.max_answer_length
    return Limits(parts.max_length, *budgets, parts.truncation)


def _encode_pair(sample: Preference, parts: Parts) -> Encoded:
    try:
        sides = [_sequence(sample, answer, parts) for answer in (sample.chosen, sample.rejected)]
    except DataError as error:
        return Encoded(problem=error.what)
    if sides[0] == sides[1]:
        return Encoded(problem="chosen and rejected are the same")
    problem = limits(parts).excess(sides)
    if not problem:
        return Encoded(tuple(map(example, sides)))
    if parts.on_overlength != "truncate":
        return Encoded(problem=problem, policy=parts.on_overlength)
    return _truncated(sample, parts, sides)


def _truncated(sample: Preference, parts: Parts, sides: list[list[EncodedTurn]]) -> Encoded:
    """Both sides cut to fit, if they still answer the same prompt; else the pair is left out."""
    fitted = []
    for answer in (sample.chosen, sample.rejected):
        talk = _conversation(sample, answer)
        how = (lambda c: _render(c, parts)[-1:], parts.template.tokenizer, limits(parts))
        found = fit(talk, *how)
        if not found:
            problem = misfit(talk, *how)
            return Encoded(problem=problem, policy="skip")
        fitted.append(found[-1])
    prompts = [turns[-1].prompt_ids for turns in fitted]
    if prompts[0] != prompts[1] or len(fitted[0]) != len(fitted[1]):
        problem = f"prompt and answers do not fit data.max_length = {parts.max_length} tokens"
        return Encoded(problem=problem, policy="skip")
    if fitted[0] == fitted[1]:
        problem = "cut to data.max_length, chosen and rejected are the same"
        return Encoded(problem=problem, policy="skip")
    cut = sum(map(length, sides)) - sum(map(length, fitted))
    pairs = zip(sides, fitted, strict=True)
    shorter = any(len(b[-1].completion_ids) < len(a[-1].completion_ids) for a, b in pairs)
    gaps = lambda: _gaps(sample, parts)
    return Encoded(tuple(map(example, fitted)), cut, cut_answer=shorter, gaps=gaps)


def _gaps(sample: Preference, parts: Parts) -> list[dict[int, int]]:
    """Where tokens of chosen and of rejected were cut away."""
    talks = [_conversation(sample, answer) for answer in (sample.chosen, sample.rejected)]
    encode = lambda c: _render(c, parts)[-1:]
    return [
        missing.gaps(talk, encode, parts.template.tokenizer, limits(parts))[-1] for talk in talks
    ]


def _sequence(sample: Preference, answer: tuple[Message, ...], parts: Parts) -> list[EncodedTurn]:
    """The sequence that ends with the answer."""
    sequences = _render(_conversation(sample, answer), parts)
    if not sequences or not any(t.weight and t.answered for t in sequences[-1]):
        raise DataError("D303", "an answer is empty, so only an end marker would be trained")
    return sequences[-1]


def _conversation(sample: Preference, answer: tuple[Message, ...]) -> Conversation:
    """Prompt and answer as one conversation in which only the answer is trained."""
    past = tuple(replace(m, weight=0.0) for m in sample.prompt.messages)
    said = tuple(replace(m, weight=1.0 if m.weight is None else m.weight) for m in answer)
    return Conversation(past + said, sample.prompt.tools)


def _render(talk: Conversation, parts: Parts) -> list[list[EncodedTurn]]:
    template = parts.template
    return template.encode_batch(template.render(talk, system=parts.system))


# ---------------------------------------------------------------- losses


def answers(batch: Batch) -> np.ndarray:
    """Segments that end an example, in the order of examples: all but shared prompts."""
    if "example" not in batch.extra:
        return np.arange(len(batch.segments.start_G))
    return np.flatnonzero(batch.extra["example"].cpu().numpy() >= 0)


def example_of(tokens: TokenLogprobs, batch: Batch) -> Tensor:
    """The example that each supervised position belongs to, shape (S,)."""
    owner_G = batch.extra.get("example")
    return tokens.segment_S if owner_G is None else owner_G[tokens.segment_S]


def summed(tokens: TokenLogprobs, batch: Batch) -> Tensor:
    """Σ w·log p of each example, float64, shape (N,).

    In float32 the sum of a long answer, −2,000 nats, is right to 1e-3 only: a loss of small margins
    then has four digits.
    """
    values_S = (tokens.logprobs_S * tokens.weights_S).double()
    zeros_N = values_S.new_zeros(len(answers(batch)))
    return zeros_N.index_add(0, example_of(tokens, batch), values_S)


def sides(values_N: Tensor) -> Sides:
    """Values of examples as pairs: chosen and rejected lie next to each other."""
    return Sides(values_N[0::2], values_N[1::2])


def log_probabilities(tokens: TokenLogprobs, batch: Batch) -> tuple[Sides, Sides]:
    """Log-probability of each answer, and its number of trained tokens."""
    ones = tokens._replace(logprobs_S=tokens.logprobs_S.new_ones(len(tokens.logprobs_S)))
    return sides(summed(tokens, batch)), sides(summed(ones, batch))


def reference(batch: Batch) -> Sides:
    """Log-probabilities under the reference, which `prepare` computed before training."""
    values_P2 = batch.extra["reference"]
    return Sides(values_P2[:, 0], values_P2[:, 1])


def told(
    terms: dict[str, Term],
    rewards: Sides,
    logps: Sides | None = None,
    ratios: Sides | None = None,
) -> Loss:
    """The loss with what is logged of pairs: means over pairs once the loop has divided.

    Args:
        terms: What is trained.
        rewards: What the loss compares.
        logps: Log-probabilities of the answers.
        ratios: log π/ref of the answers, where there is a reference: the estimate k1 of their KL
            (joschu.net/blog/kl-approx.html). It is unbiased for answers that π would write; for
            answers of the reference, its negative is so for KL(ref ‖ π).
    """
    better_P = rewards.chosen_P > rewards.rejected_P
    found: dict[str, Any] = {
        "rewards/chosen": rewards.chosen_P,
        "rewards/rejected": rewards.rejected_P,
        "rewards/margins": rewards.margin_P,
        "rewards/accuracies": better_P.to(rewards.chosen_P.dtype),
    }
    if logps is not None:
        found |= {"logps/chosen": logps.chosen_P, "logps/rejected": logps.rejected_P}
    if ratios is not None:
        found |= {"kl/chosen": ratios.chosen_P, "kl/rejected": ratios.rejected_P}
    rows = {name: values_P.detach() for name, values_P in found.items()}
    sums = {name: Term(values_P.sum(), "rows") for name, values_P in rows.items()}
    return Loss(terms, sums, lambda: rows)


def chosen_nll(tokens: TokenLogprobs, batch: Batch) -> Tensor:
    """Σ w·−log p over tokens of chosen answers; its unit is `first_tokens`."""
    chosen_S = (example_of(tokens, batch) % 2 == 0).to(tokens.logprobs_S.dtype)
    return -(tokens.logprobs_S * tokens.weights_S * chosen_S).sum()
