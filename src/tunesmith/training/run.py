"""A run in hand: the parts compose built, the step it is at, and when to log, evaluate and save."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import ConfigError, RunError
from tunesmith.recipe.sections import Recipe
from tunesmith.registry import did_you_mean
from tunesmith.training import checkpoint
from tunesmith.training.log import Log
from tunesmith.training.measure import measure
from tunesmith.training.optim import load_state_tensors, state_tensors
from tunesmith.training.precision import LossScale
from tunesmith.training.schedule import factor
from tunesmith.types import Generator, Parallel, Stage, Tuner


@dataclass
class Best:
    """The best evaluation so far, and the checkpoint that holds it (None: none was saved)."""

    value: float
    step: int
    saved: bool
    loss: float | None = None
    """Its evaluation loss, where `value` is another metric."""


@dataclass
class TrainingRun:
    """Everything the loop touches. Built by compose; the loop only calls its methods."""

    recipe: Recipe
    directory: Any
    stage: Stage
    tuner: Tuner
    model: torch.nn.Module
    """The wrapped LanguageModel: batches in, log-probabilities out."""
    hf: torch.nn.Module
    """The transformers model inside, whose parameter names checkpoints use."""
    parallel: Parallel
    optimizer: torch.optim.Optimizer
    loader: Any
    eval_loader: Any | None
    total_steps: int
    scale: LossScale
    base_hash: str
    report: Callable[[dict[str, Any]], None]
    """Observes each metrics line (terminal, tensorboard …)."""
    reporters: list[Any]
    """To be closed when the run ends."""
    sample: Callable[[int], None] | None = None
    """Writes sampled answers of a step, at evaluations."""
    generator: Generator | None = None
    """Answers with the model in training, as it is now."""
    scorer: Callable[[str], Callable] | None = None
    """Loads a reward model by name: answers in, scores out."""
    teacher: Callable[[str], Any] | None = None
    """Loads a language model by name."""
    step: int = 0
    best: Best | None = None
    stop_signal: int | None = None
    started_at: int = 0
    log: Log = field(default_factory=Log)
    first_eval: float | None = None
    last_eval: float | None = None

    @property
    def device(self) -> Any:
        return self.parallel.device

    @property
    def finished(self) -> bool:
        return self.stop_signal is not None or self.step >= self.total_steps

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Trained parameters by their names in the model and in the stage's own modules."""
        named = {n: p for n, p in self.hf.named_parameters() if p.requires_grad}
        for prefix, module in self.stage.modules().items():
            named |= {f"{prefix}.{n}": p for n, p in module.named_parameters() if p.requires_grad}
        return named

    # ------------------------------------------------------------ the update

    def set_learning_rate(self) -> None:
        """Sets the rate of the update that follows, a pure function of the step."""
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def learning_rate(self) -> float:
        optim = self.recipe.optim
        return optim.learning_rate * factor(self.step, self.total_steps, optim)

    def clip(self) -> torch.Tensor:
        """Unscales, clips, and returns the global gradient norm before clipping."""
        parameters = list(self.trainable().values())
        self.scale.unscale(parameters)
        return self.parallel.clip(parameters, self.recipe.optim.max_grad_norm)

    def on_non_finite(self, norm: torch.Tensor) -> None:
        """fp16: no update, and half the scale; else stop before the weights are touched."""
        self.log.drop_step()
        if self.scale.enabled:
            self.directory.append_event("overflow", step=self.step + 1, scale=self.scale.value)
            self.scale.update(finite=False)
            return
        rows = ", ".join(self.loader.describe(self.step)[:4])
        raise RunError(
            "R201",
            f"the gradient norm of step {self.step + 1} is {float(norm)}; no weight was changed",
            where=f"rows {rows} …",
            fix="lower optim.learning_rate, or look at these rows: tunesmith data inspect",
        )

    # ------------------------------------------------------------ when due

    def emit_if_due(self) -> None:
        train = self.recipe.train
        first = train.logging_first_step and self.step == 1
        if first or self.step % train.logging_steps == 0 or self.step == self.total_steps:
            means = self.log.flush(self.parallel.sum)
            rate = self.recipe.optim.learning_rate
            rate *= factor(self.step - 1, self.total_steps, self.recipe.optim)
            self.emit(
                {
                    **means,
                    "learning_rate": rate,
                    "grad_norm": self.log.grad_norm,
                    "tokens": self.log.tokens,
                    **self.log.timing(self.total_steps - self.step, self._asides_left()),
                }
            )

    def _asides_left(self) -> dict[str, int]:
        """Evaluations and saves still to come, those of this step among them."""
        every = self.recipe.eval.steps
        evaluations = self._times_due(every) if self.eval_loader else 0
        if self.eval_loader and every != "epoch":  # the last step always has one
            evaluations += self.total_steps % int(every) != 0
        return {"eval": evaluations, "save": self._times_due(self.recipe.train.save_steps)}

    def _times_due(self, every: int | str) -> int:
        before = max(self.step - 1, 0)
        if every == "no":
            return 0
        if every == "epoch":
            ends = math.ceil(self.loader.epoch_of(self.total_steps))
            return ends - math.floor(self.loader.epoch_of(before))
        return self.total_steps // int(every) - before // int(every)

    def emit(self, metrics: dict[str, Any]) -> None:
        """Writes one line of metrics.jsonl and shows it (rank 0)."""
        line = {"step": self.step, "epoch": round(self.loader.epoch_of(self.step), 4), **metrics}
        if self.parallel.rank == 0:
            self.directory.append_metrics(line)
            self.report(line)

    def evaluate_if_due(self) -> None:
        """Evaluates where the recipe says so, and at the last step."""
        last = self.step == self.total_steps
        if self.eval_loader is None or not (last or self._due(self.recipe.eval.steps)):
            return
        metrics = self.evaluate()
        value = metrics[self.recipe.eval.metric_for_best_model]
        sign = -1.0 if self.recipe.eval.greater_is_better else 1.0
        if self.best is None or sign * value < sign * self.best.value:
            saved = self.recipe.eval.load_best_model_at_end or self._due(
                self.recipe.train.save_steps
            )
            self.best = Best(value, self.step, saved, metrics.get("eval_loss"))

    def check_metric(self, metrics: dict[str, float]) -> None:
        """Refuses `eval.metric_for_best_model` that no evaluation gives.

        Raises:
            ConfigError: C188.
        """
        name = self.recipe.eval.metric_for_best_model
        if name not in metrics:
            raise ConfigError(
                "C188",
                f"no evaluation of this stage gives `{name}`",
                where="eval.metric_for_best_model",
                fix=f"{did_you_mean(name, list(metrics))}  known: {', '.join(metrics)}".strip(),
            )

    def evaluate(self) -> dict[str, float]:
        """Token-weighted means over all evaluation data, and perplexity = exp(mean loss)."""
        if self.eval_loader is None:
            return {}
        with self.log.aside("eval"):
            return self._evaluate(self.eval_loader)

    def _evaluate(self, loader: Any) -> dict[str, float]:
        means, _ = measure(self, loader)
        metrics = {f"eval_{name}": value for name, value in means.items()}
        if "eval_loss" in metrics:
            self.first_eval = metrics["eval_loss"] if self.first_eval is None else self.first_eval
            self.last_eval = metrics["eval_loss"]
        self.emit(metrics)
        if self.sample is not None and self.parallel.rank == 0:
            self.sample(self.step)
        return metrics

    def save_if_due(self) -> None:
        best_here = self.best is not None and self.best.saved and self.best.step == self.step
        stopping = self.stop_signal is not None
        if best_here or stopping or self._due(self.recipe.train.save_steps):
            self.save()

    def _due(self, every: int | str) -> bool:
        if every == "no":
            return False
        if every == "epoch":
            return self.loader.ends_epoch(self.step) or self.step == self.total_steps
        return self.step % int(every) == 0

    # ------------------------------------------------------------ checkpoints

    def save(self) -> Path:
        """Commits a checkpoint of this step: trained weights, optimizer, state."""
        with self.log.aside("save"):
            return self._save()

    def _save(self) -> Path:
        path = checkpoint.save(
            self.directory.path,
            self.step,
            weights={name: p.detach() for name, p in self.trainable().items()},
            optimizer=state_tensors(self.optimizer, self.trainable()),
            state=self.state(),
            limit=self.recipe.train.save_total_limit,
            best=self.best.step if self.best and self.best.saved else None,
            parallel=self.parallel,
        )
        self.directory.append_event("checkpoint", step=self.step)
        return path

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "base_hash": self.base_hash,
            "best": vars(self.best) if self.best else None,
            "first_eval": self.first_eval,
            "last_eval": self.last_eval,
            "log": self.log.state(),
            "scale": self.scale.state(),
            "stage": self.stage.state(),
        }

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Goes back to a checkpoint as if nothing had happened since."""
        self.restore_weights(saved)
        load_state_tensors(self.optimizer, self.trainable(), saved.optimizer())
        state = saved.state
        self.step = self.started_at = state["step"]
        self.best = Best(**state["best"]) if state["best"] else None
        self.first_eval, self.last_eval = state["first_eval"], state["last_eval"]
        self.log.load_state(state["log"])
        self.scale.load_state(state["scale"])
        self.stage.load_state(state["stage"])

    def restore_weights(self, saved: checkpoint.Checkpoint) -> None:
        """Puts a checkpoint's trained weights into the model.

        Raises:
            RunError: R202, the checkpoint was made on another base model; R246, it lacks what is
                trained, as those of an earlier version may.
        """
        if saved.state["base_hash"] != self.base_hash:
            raise RunError(
                "R202",
                "the base model's weights are not those this checkpoint was trained on",
                where=str(saved.path),
                fix="restore the base model's files, or start a new run",
            )
        weights, trained = saved.weights(), self.trainable()
        for name, parameter in trained.items():
            if name not in weights or weights[name].shape != parameter.shape:
                shape = tuple(weights[name].shape) if name in weights else "missing"
                raise RunError(
                    "R246",
                    f"the checkpoint does not fit what is trained: `{name}` is {shape}, here it is "
                    f"{tuple(parameter.shape)}",
                    where=str(saved.path),
                    why="it was written by another version of tunesmith, or for another stage",
                    fix="resume with the version that wrote it, or start a new run",
                )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])
