"""What a model makes of text that is given: embeddings, log-probabilities, scores; nothing sampled.

Legend: `B` texts, `T` tokens, `V` vocabulary, `D` model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tunesmith.losses.tokens import chunk_rows, logits
from tunesmith.models.decoding import Delta, add_delta
from tunesmith.models.heads import head_of
from tunesmith.models.language_model import LanguageModel

BATCH_TOKENS = 8192
"""Tokens, padding included, that go through the model at once."""


class Told(NamedTuple):
    """What the model thought of one token, given those before it."""

    logprob: float
    top: tuple[tuple[int, float], ...]


class Reader:
    """Reads texts with a causal model of any family, padded on the right, where padding is unseen.

    Args:
        model: A language model.
        backbone, head: Instead of the model's own, for a reward model: what gives hidden states,
            and what makes a score of one.
        deltas: An adapter's, by module name: added to the model while it reads.
    """

    def __init__(
        self,
        model: LanguageModel | None,
        *,
        backbone: nn.Module | None = None,
        head: nn.Linear | None = None,
        deltas: Mapping[str, Delta] | None = None,
    ):
        self.model = model
        found: Any = backbone if model is None else model.hf.base_model
        self.backbone = found
        self.head = head
        self.deltas = dict(deltas or {})
        self.width = int(found.config.get_text_config().hidden_size)

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Means of the last hidden states, of length 1, in the order of the texts."""
        found: list[list[float]] = [[] for _ in texts]
        with torch.no_grad():
            for rows, hidden_BTD, length_B in self._batches(texts):
                seen_BT1 = _seen(hidden_BTD, length_B)[:, :, None]
                sum_BD = hidden_BTD.float().masked_fill(~seen_BT1, 0).sum(1)
                unit_BD = nn.functional.normalize(sum_BD / length_B[:, None], dim=-1)
                for row, values in zip(rows, unit_BD.tolist(), strict=True):
                    found[row] = values
        return found

    def score(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """The head's number at the last token of each text."""
        if self.head is None:
            raise ValueError("a language model has no score")
        found = [0.0] * len(texts)
        with torch.no_grad():
            for rows, hidden_BTD, length_B in self._batches(texts):
                at_B = torch.arange(len(rows), device=hidden_BTD.device)
                last_BD = hidden_BTD[at_B, length_B - 1].to(self.head.weight.dtype)
                scores_B = self.head(last_BD)[:, 0].tolist()
                for row, value in zip(rows, scores_B, strict=True):
                    found[row] = value
        return found

    def logprobs(self, ids: Sequence[int], top: int) -> list[Told]:
        """What the model thought of each token but the first, and the likeliest at its place."""
        if self.model is None:
            raise ValueError("a reward model has no log-probabilities")
        head = head_of(self.model.hf)
        told: list[Told] = []
        with torch.no_grad():
            _, hidden_BTD, _ = next(self._batches([ids]))
            hidden_TD = hidden_BTD[0, :-1].to(head.weight_VD.dtype)
            step = chunk_rows(head.weight_VD)
            for start in range(0, len(hidden_TD), step):
                logprobs_TV = logits(hidden_TD[start : start + step], head).log_softmax(-1)
                targets = torch.tensor(ids[start + 1 : start + 1 + len(logprobs_TV)])
                targets_T1 = targets.to(logprobs_TV.device)[:, None]
                own = logprobs_TV.gather(1, targets_T1)[:, 0].tolist()
                told += [
                    Told(*pair) for pair in zip(own, _likeliest(logprobs_TV, top), strict=True)
                ]
        return told

    def _batches(
        self, texts: Sequence[Sequence[int]]
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """(indices, hidden states, lengths), alike lengths together."""
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        while order:
            longest, rows = len(texts[order[0]]), []
            while order:
                longest = max(longest, len(texts[order[0]]))
                if rows and longest * (len(rows) + 1) > BATCH_TOKENS:
                    break
                rows.append(order.pop(0))
            yield rows, *self._hidden([texts[row] for row in rows])

    def _hidden(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        device = next(self.backbone.parameters()).device
        longest = max(map(len, texts))
        ids_BT = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
        length_B = torch.tensor([len(text) for text in texts], device=device)
        ids_BT = ids_BT.to(device)
        mask_BT = _seen(ids_BT, length_B).long()
        training = self.backbone.training
        self.backbone.eval()
        with self._computing(), self._adapted():
            output = self.backbone(
                input_ids=ids_BT,
                # families with a state read a mask amiss, and need none where nothing is padded
                attention_mask=None if mask_BT.all() else mask_BT,
                use_cache=False,
            )
        self.backbone.train(training)
        return output.last_hidden_state, length_B

    @contextmanager
    def _adapted(self) -> Iterator[None]:
        """The model with the adapter's deltas; only within this."""
        modules = {} if self.model is None else dict(self.model.hf.named_modules())
        hooks = []
        try:
            for name, delta in self.deltas.items():
                hooks.append(modules[name].register_forward_hook(_adding(delta)))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _computing(self) -> AbstractContextManager[Any]:
        if self.model is not None:
            return self.model.computing()
        return torch.no_grad()


def _adding(delta: Delta) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        device = output.device
        here = Delta(delta.A_RI.to(device), delta.B_OR.to(device), delta.scale)
        add_delta(output, inputs[0], here)

    return add


def _seen(like_BT: Tensor, length_B: Tensor) -> Tensor:
    """Which places hold tokens rather than padding, shape (B, T)."""
    return torch.arange(like_BT.shape[1], device=length_B.device)[None] < length_B[:, None]


def _likeliest(logprobs_TV: Tensor, top: int) -> list[tuple[tuple[int, float], ...]]:
    if not top:
        return [()] * len(logprobs_TV)
    best = logprobs_TV.topk(min(top, logprobs_TV.shape[-1]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [tuple(zip(ids, values, strict=True)) for ids, values in pairs]
