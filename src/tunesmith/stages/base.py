"""What stages share: building one by name, and the weighted token loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import registry
from tunesmith.types import Loss, Parts, Stage, Term

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tunesmith.types import Batch, Run, Step, TokenLogprobs


class Plain:
    """What most stages are: config and parts; no modules of their own, preparation or state."""

    def __init__(self, config: Any, parts: Parts):
        self.config = config
        self.parts = parts
        self.template = parts.template

    @classmethod
    def build(cls, config: Any, parts: Parts) -> Any:
        return cls(config, parts)

    def equip(self, hf: nn.Module) -> None:
        """No modules beside the model."""

    def modules(self) -> dict[str, nn.Module]:
        return {}

    def prepare(self, run: Run, say: Callable[[str], None]) -> None:
        """Nothing is needed before training."""

    def arrange(self, loader: Any) -> Any:
        return loader

    def steps(self, run: Run) -> Iterator[Step]:
        return run.loader.steps(run.step, run.total_steps)

    def evaluation_steps(self, run: Run, loader: Any) -> Iterator[Step]:
        return loader.steps(0, loader.steps_in_epoch(0))

    def save(self, hf: nn.Module, path: Path) -> None:
        """The tuner saves all there is."""

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore: what such a stage does is a function of the step."""

    def remarks(self) -> list[str]:
        """Nothing to say at the end."""
        return []


def build(config: Any, parts: Parts) -> Stage:
    """The stage that `config.kind` names.

    Args:
        config: The stage's frozen Config.
        parts: What a stage may use: template, lengths, seed.
    """
    return registry.load("stages", config.kind).build(config, parts)


def token_loss(tokens: TokenLogprobs, batch: Batch) -> Loss:
    """Weighted negative log-likelihood Σ w·−log p, and how many targets were the likeliest token.

    Both are sums over the unit `tokens` (Σ w); the loop divides by its global count, so that
    packing, accumulation and ranks leave the loss of a step unchanged.
    """
    nll = -(tokens.logprobs_S * tokens.weights_S).sum()
    correct = (tokens.correct_S * tokens.weights_S).sum()
    metrics = {"accuracy": Term(correct.detach(), "tokens")}
    return Loss({"loss": Term(nll, "tokens")}, metrics, lambda: _by_example(tokens, batch))


def _by_example(tokens: TokenLogprobs, batch: Batch) -> dict[str, Any]:
    """Mean loss and accuracy of each example, and the tokens that they are means of."""
    weights_S = tokens.weights_S.double()
    zeros_G = weights_S.new_zeros(len(batch.segments.start_G))
    total = lambda values_S: zeros_G.index_add(0, tokens.segment_S, values_S.double() * weights_S)
    counts_G = total(weights_S.new_ones(len(weights_S)))
    divisor_G = counts_G.where(counts_G != 0, 1.0)
    found = {
        "loss": -total(tokens.logprobs_S) / divisor_G,
        "accuracy": total(tokens.correct_S) / divisor_G,
        "tokens": counts_G,
    }
    owner_G = batch.extra.get("example")  # -1: a prompt that several examples share
    return (
        found if owner_G is None else {n: values_G[owner_G >= 0] for n, values_G in found.items()}
    )


def neftune(embeddings_BTD: Tensor, batch: Batch, alpha: float) -> Tensor:
    """Adds u ~ Uniform(−α/√(L·D), α/√(L·D)) to the embeddings of each segment of length L.

    L is the segment's own length, whatever it is packed with, so packing does not change the noise
    scale. Source: NEFTune, arXiv:2310.05914, algorithm 1.

    Args:
        embeddings_BTD: Output of the embedding layer, shape (B, T, D).
        batch: The batch it belongs to; its segments give L.
        alpha: Noise magnitude α; the paper uses 5 to 15.
    """
    import torch

    B, T, D = embeddings_BTD.shape
    scale = torch.zeros(B * T, dtype=torch.float32)
    for start, length in zip(batch.segments.start_G, batch.segments.length_G, strict=True):
        scale[start : start + length] = alpha / float(int(length) * D) ** 0.5
    noise = torch.rand(B, T, D, device=embeddings_BTD.device) * 2 - 1
    scale = scale.view(B, T, 1).to(embeddings_BTD.device)
    return embeddings_BTD + (noise * scale).to(embeddings_BTD.dtype)
