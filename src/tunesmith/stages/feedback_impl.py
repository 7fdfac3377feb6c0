"""What a stage on answers with a verdict needs: encoding, log-probabilities, metrics.

An item has two examples: the answer, and a mismatched one, the same prompt with the answer of the
next row. Legend: `N` rows, `G` segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DataError
from tunesmith.stages.pairs_impl import answers, limits, summed
from tunesmith.stages.sft import example
from tunesmith.templates.fit import fit, misfit
from tunesmith.templates.truncate import cut_answer, length
from tunesmith.types import Conversation, Encoded, Example, Feedback, Loss, Parts, Term

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.templates.base import EncodedTurn
    from tunesmith.types import Batch


def encode(samples: Sequence[Feedback], parts: Parts) -> list[Encoded]:
    """Two examples for each row, or the reason why there are none.

    The mismatched answer is that of the next row that can be used, of those encoded together.
    """
    found = [fitted(sample, parts) for sample in samples]
    usable = [i for i, one in enumerate(found) if not isinstance(one, Encoded)]
    if len(usable) == 1:
        return [one if isinstance(one, Encoded) else Encoded(problem=_ALONE) for one in found]
    partner = dict(zip(usable, [*usable[1:], *usable[:1]], strict=True))
    made = []
    for index, one in enumerate(found):
        if isinstance(one, Encoded):
            made.append(one)
            continue
        turns, cut = one
        other: Any = found[partner[index]]
        answer = other[0][-1]._replace(prompt_ids=turns[-1].prompt_ids)
        mismatched = cut_answer([*turns[:-1], answer], parts.max_length)
        own = _signed(example(turns), samples[index].desirable)
        made.append(Encoded((own, example(mismatched)), truncated=cut))
    return made


_ALONE = "a single answer has no other to be compared with"


def fitted(sample: Feedback, parts: Parts) -> tuple[list[EncodedTurn], int] | Encoded:
    """The sequence of a row, cut to fit, and the tokens cut; or why there is none."""
    talk = _last_answer_only(sample.conversation)
    encode = lambda c: parts.template.encode_batch(parts.template.render(c, system=parts.system))
    try:
        sequences = encode(talk)
    except DataError as error:
        return Encoded(problem=error.what)
    turns = sequences[-1]
    if not turns[-1].answered:
        return Encoded(problem="the answer is empty, so only an end marker would be trained")
    whole = length(turns)
    problem = limits(parts).excess([turns])
    if not problem:
        return turns, 0
    if parts.on_overlength != "truncate":
        return Encoded(problem=problem, policy=parts.on_overlength)
    how = (lambda c: encode(c)[-1:], parts.template.tokenizer, limits(parts))
    fitted = fit(talk, *how)
    if not fitted:
        problem = misfit(talk, *how)
        return Encoded(problem=problem, policy="skip")
    return fitted[-1], whole - length(fitted[-1])


def _last_answer_only(talk: Conversation) -> Conversation:
    """The conversation in which only the last answer is trained: it is what was judged."""
    last = max((i for i, m in enumerate(talk.messages) if m.role == "assistant"), default=-1)
    weighted = (replace(m, weight=1.0 if i == last else 0.0) for i, m in enumerate(talk.messages))
    return Conversation(tuple(weighted), talk.tools)


def _signed(one: Example, desirable: bool) -> Example:
    return one if desirable else Example(one.ids_T, -one.weights_T)


def verdicts(batch: Batch) -> Tensor:
    """Whether each answer is desirable: the sign of its weights; bool, shape (N,)."""
    import torch

    weights_T = batch.weights_BT.reshape(-1)
    own = answers(batch)[0::2]
    starts, lengths = batch.segments.start_G[own], batch.segments.length_G[own]
    spans = zip(starts.tolist(), lengths.tolist(), strict=True)
    return torch.stack([weights_T[start : start + n].sum() > 0 for start, n in spans])


def log_probabilities(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of answers and of mismatched answers, whatever the sign of their weights; shape (N,)."""
    tokens = model(batch)
    sums_N = summed(tokens._replace(weights_S=tokens.weights_S.abs()), batch)
    return sums_N[0::2], sums_N[1::2]


def nothing(model: Any, batch: Batch) -> Loss:
    """The loss of a batch without rows: zero, and connected to the weights as every rank's is."""
    return Loss({"loss": Term(model(batch).logprobs_S.sum() * 0.0, "rows")}, {})


def told(losses_N: Tensor, rewards_N: Tensor, desirable_N: Tensor, kl: Tensor) -> Loss:
    """The loss with what is logged: sums over rows; a side's mean reward is its sum over its
    share."""
    good_N = desirable_N.to(rewards_N.dtype)
    found = {
        "rewards/desirable_sum": rewards_N * good_N,
        "rewards/undesirable_sum": rewards_N * (1 - good_N),
        "rewards/desirable_share": good_N,
        "kl": kl.expand(len(rewards_N)),
    }
    metrics = {name: Term(values_N.detach().sum(), "rows") for name, values_N in found.items()}
    rows = {"loss": losses_N.detach(), "reward": rewards_N.detach(), "desirable": desirable_N}
    return Loss({"loss": Term(losses_N.sum(), "rows")}, metrics, lambda: rows)
