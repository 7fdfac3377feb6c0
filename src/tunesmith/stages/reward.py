"""A reward model: one number for a conversation, higher for the answer that was preferred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import ConfigError
from tunesmith.stages import pairs_impl as pairs
from tunesmith.types import Batch, Encoded, Example, Loss, Preference, Term

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class RewardConfig:
    """Bradley–Terry model of preferences, on the hidden state of the last token."""

    kind: Literal["reward"] = "reward"
    """The stage's name."""
    margin: float = 0.0
    """By how much the chosen answer's score is asked to be higher; a row's `margin` is added."""
    center_rewards_coefficient: float = 0.0
    """Weight of (chosen + rejected)², which keeps scores around zero (arXiv:2312.09244); 0.01 is
    usual, 0 is off."""


class RewardStage(pairs.PairStage):
    """Loss −log σ(r_c − r_r − margin), r a linear head without bias (arXiv:2203.02155, eq. 1;
    margins by row: arXiv:2307.09288, eq. 2).

    Scores are read at last tokens, so weights there are free to carry a row's margin m: 1 + m on
    the chosen side, 1 on the rejected. A source's weight w makes them w·(1 + m) and w: both are
    found again, and w multiplies the pair's loss.
    """

    Config = RewardConfig
    score: nn.Linear | None = None
    """The head, shape (1, D), once `equip` has made it."""

    def check(self, recipe: Any) -> None:
        if self.config.center_rewards_coefficient < 0:
            raise ConfigError(
                "C186",
                f"center_rewards_coefficient is {self.config.center_rewards_coefficient}",
                where="stage.center_rewards_coefficient",
                fix="use 0 (off) or a positive number such as 0.01",
            )

    def encode(self, samples: Sequence[Preference]) -> list[Encoded]:
        """Chosen and rejected of each pair with its margin, or why it can't be trained."""
        return [
            found._replace(examples=_carrying(sample.margin, found.examples))
            for sample, found in zip(samples, super().encode(samples), strict=True)
        ]

    def equip(self, hf: nn.Module) -> None:
        """Draws the head from torch's RNG, in float32 or wider."""
        import torch

        config: Any = hf.config
        text = config.get_text_config()
        weight = next(hf.parameters())
        wide = torch.promote_types(weight.dtype, torch.float32)
        like = {"device": weight.device, "dtype": wide}
        self.score = torch.nn.Linear(text.hidden_size, 1, bias=False, **like)
        if weight.device.type != "meta":
            torch.nn.init.normal_(self.score.weight, std=1 / text.hidden_size**0.5)

    def modules(self) -> dict[str, nn.Module]:
        return {} if self.score is None else {"score": self.score}

    def loss(self, model: Any, batch: Batch) -> Loss:
        from torch.nn.functional import logsigmoid

        scores = pairs.sides(self.scores(model, batch))
        margin_P, weight_P = (found.to(scores.chosen_P) for found in _carried(batch))
        losses_P = -weight_P * logsigmoid(scores.margin_P - self.config.margin - margin_P)
        terms = {"ranking": Term(losses_P.sum(), "rows")}
        if self.config.center_rewards_coefficient:
            squares_P = weight_P * (scores.chosen_P + scores.rejected_P) ** 2
            coefficient = self.config.center_rewards_coefficient
            terms["centring"] = Term(squares_P.sum(), "rows", coefficient)
        return pairs.told(terms, scores)

    def scores(self, model: Any, batch: Batch) -> Tensor:
        """The score of each example: of its last token, which is the end marker; shape (N,)."""
        assert self.score is not None, "equip makes the head"
        hidden_ND = model.hidden_at(batch, _last(batch))
        return self.score(hidden_ND.to(self.score.weight.dtype))[:, 0]

    def save(self, hf: nn.Module, path: Path) -> None:
        """score.safetensors; a whole model becomes a sequence classifier of transformers, too."""
        from tunesmith.models.classifier import save

        assert self.score is not None, "equip makes the head"
        save(hf, self.score.weight, path)


def _last(batch: Batch) -> Tensor:
    """Flat position of each example's last token, shape (N,)."""
    import torch

    segments, ends = batch.segments, pairs.answers(batch)
    last_N = segments.start_G[ends].astype("int64") + segments.length_G[ends] - 1
    return torch.from_numpy(last_N).to(batch.ids_BT.device)


def _carrying(margin: float, examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """Chosen and rejected with weights 1 + margin and 1 on their last tokens."""
    carried = []
    for example, weight in zip(examples, (1.0 + margin, 1.0), strict=False):
        weights_T = example.weights_T.copy()
        weights_T[-1] = weight
        carried.append(Example(example.ids_T, weights_T))
    return tuple(carried)


def _carried(batch: Batch) -> tuple[Tensor, Tensor]:
    """The margin of each pair and the weight of its source, shape (P,) each."""
    weights_N = batch.weights_BT.reshape(-1)[_last(batch)]
    return weights_N[0::2] / weights_N[1::2] - 1, weights_N[1::2]
