"""Kahneman–Tversky optimisation: single answers with a verdict instead of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import ConfigError
from tunesmith.stages import feedback_impl
from tunesmith.stages.base import Plain
from tunesmith.stages.pairs_impl import refuse_source_weights
from tunesmith.types import Batch, Encoded, Feedback, Loss, Run, Step

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KtoConfig:
    """Answers that are desirable or not (arXiv:2402.01306)."""

    kind: Literal["kto"] = "kto"
    """The stage's name."""
    beta: float = 0.1
    """Risk aversion, and the strength of the pull towards the reference."""
    desirable_weight: float = 1.0
    """Weight of desirable answers; raise it where they are few, so that the two sides balance."""
    undesirable_weight: float = 1.0
    """Weight of undesirable answers."""


class KtoStage(Plain):
    """An item is an answer and a mismatched one: the prompt with the next row's answer.

    The reference point z₀ = max(0, mean log π/ref of mismatched answers) is taken over the whole
    step, so that accumulation and ranks don't change it. Undesirable answers have weight -1.
    """

    Config = KtoConfig
    sample = (Feedback,)

    def check(self, recipe: Any) -> None:
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            value = getattr(self.config, name)
            if value <= 0:
                fix = "use a positive number"
                raise ConfigError("C186", f"{name} is {value}", where=f"stage.{name}", fix=fix)
        refuse_source_weights(recipe)

    def prepare(self, run: Run, say: Callable[[str], None]) -> None:
        """Computes, or finds, the reference's log-probabilities."""
        from tunesmith.stages.reference_impl import attach

        attach(run, say)

    def encode(self, samples: Sequence[Feedback]) -> list[Encoded]:
        """An answer and a mismatched one for each row, or the reason why it can't be trained."""
        return feedback_impl.encode(samples, self.parts)

    def steps(self, run: Run) -> Iterator[Step]:
        for step in run.loader.steps(run.step, run.total_steps):
            self._set_reference_point(run, step)
            yield step

    def evaluation_steps(self, run: Run, loader: Any) -> Iterator[Step]:
        """z₀ is that of all evaluation data, whatever its batches: TRL takes each batch's own,
        which makes the loss depend on `per_device_eval_batch_size`. Each row is computed once."""
        steps = list(loader.steps(0, loader.steps_in_epoch(0)))
        self._set_reference_point(run, [batch for step in steps for batch in step], keep=True)
        yield from steps

    def _set_reference_point(self, run: Run, batches: Step, *, keep: bool = False) -> None:
        """Puts z₀ of the batches, over all ranks, into each; with `keep` log π/ref as well."""
        import torch

        total, rows = 0.0, 0.0
        training = run.model.training
        run.model.eval()
        with torch.no_grad():
            for batch in batches:
                if batch.units["rows"]:
                    moved = batch.to(run.parallel.device)
                    ratio_N, mismatched_N = self._ratios(run.model, moved)
                    total += float(mismatched_N.sum())
                    rows += len(mismatched_N)
                    if keep:
                        batch.extra["ratio"] = ratio_N.cpu()
        run.model.train(training)
        found = run.parallel.sum({"kl": total, "rows": rows})
        kl = max(0.0, found["kl"] / (found["rows"] or 1.0))
        for batch in batches:
            batch.extra["kl"] = torch.tensor(kl)

    def loss(self, model: Any, batch: Batch) -> Loss:
        from tunesmith.losses import preference

        if not batch.units["rows"]:
            return feedback_impl.nothing(model, batch)
        config = self.config
        if "ratio" in batch.extra:
            ratio_N, kl = batch.extra["ratio"], batch.extra["kl"]
        else:
            ratio_N, mismatched_N = self._ratios(model, batch)
            # A batch that stands alone, of no step, has a reference point of its own.
            kl = batch.extra.get("kl", mismatched_N.mean().clamp(min=0).detach())
        desirable_N, kl = feedback_impl.verdicts(batch), kl.to(ratio_N)
        weights = config.desirable_weight, config.undesirable_weight
        losses_N = preference.kto(ratio_N, desirable_N, kl, config.beta, weights)
        return feedback_impl.told(losses_N, config.beta * ratio_N, desirable_N, kl)

    def _ratios(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """log π/ref of answers and of mismatched answers, shape (N,) each; the latter without
        gradient."""
        logps_N, mismatched_N = feedback_impl.log_probabilities(model, batch)
        reference_N2 = batch.extra["reference"]
        return logps_N - reference_N2[:, 0], (mismatched_N - reference_N2[:, 1]).detach()
