"""Which weights of a run are evaluated, and how they get into the model as training had it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, RunError
from tunesmith.rundir import RunDir


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a run, and which of its weights."""

    run: RunDir
    weights: Path | None
    """final/, or a checkpoint; None: what the run began with."""
    step: int

    @property
    def final(self) -> Path | None:
        """final/, if that is what is evaluated."""
        at = self.weights
        return None if at is None or (at / "MANIFEST.json").is_file() else at

    @property
    def name(self) -> str:
        """`final`, `step-100`, or `beginning`."""
        return self.weights.name if self.weights else "beginning"

    def describe(self) -> str:
        return f"{self.run.id} → {self.name} (step {self.step:,})"


def find(spec: str, root: str = "runs/") -> Subject:
    """The run a user means, and its final weights, else its best or newest whole checkpoint.

    Args:
        spec: Id, prefix, path or `last`, with `@step-100` if wanted; or a run's `final` folder.
            `@step-0` is the model that the run began with, of which there is no checkpoint.
        root: Folder of runs.

    Raises:
        ConfigError: C233, it is a model and no run.
        RunError: R105, no such run; R107, R108, it has no weights (of that step).
    """
    path = Path(spec).expanduser()
    if path.name == "final" and (path.parent / "run.json").is_file():
        spec = f"{path.parent}@final"
    elif spec.startswith("builtin:") or (path / "config.json").is_file():
        raise ConfigError(
            "C233",
            f"`{spec}` is a model: what a run measures, and on which data, it can't say",
            where="RUN",
            fix="name the run that made it (tunesmith runs lists them)",
        )
    run, selector = RunDir.find(spec.removeprefix("run:"), root)
    if selector == "step-0" and 0 not in run.steps():
        return Subject(run, None, 0)
    weights = run.model_path(selector)
    if (weights / "MANIFEST.json").is_file():
        return Subject(run, weights, int(weights.name.removeprefix("step-")))
    final = run.info().get("final")
    return Subject(run, weights, int(final if final is not None else run.info().get("step", 0)))


def restore(run: Any, subject: Subject) -> None:
    """Puts the weights that are evaluated into a run.

    Raises:
        RunError: R113, the checkpoint is damaged; R247, final/ lacks what the recipe trains.
    """
    from tunesmith.training import checkpoint

    if subject.weights is None:
        return
    if subject.final is None:
        run.restore_weights(checkpoint.open_step(subject.run.path, subject.step))
        return
    if (subject.final / "adapter_config.json").is_file():
        run.tuner.load(run.hf, subject.final)
    else:
        _copy_whole(run, subject.final)
    score = run.stage.modules().get("score")
    if score is not None:
        _copy_head(score, subject.final)


def _copy_whole(run: Any, folder: Path) -> None:
    """A saved model's weights by name; a classifier lacks the language model's head."""
    import torch
    from safetensors.torch import load_file

    places = dict(run.hf.named_parameters(remove_duplicate=False))
    output = run.hf.get_output_embeddings()
    unused = (
        {id(p) for p in output.parameters()} if (folder / "score.safetensors").is_file() else ()
    )
    found: set[int] = set()
    for file in sorted(folder.glob("model*.safetensors")):
        for name, tensor in load_file(file).items():
            if name in places and places[name].shape == tensor.shape:
                with torch.no_grad():
                    places[name].copy_(tensor)
                found.add(id(places[name]))
    missing = [
        name
        for name, p in run.hf.named_parameters()
        if p.requires_grad and id(p) not in found and id(p) not in unused
    ]
    if missing:
        raise RunError(
            "R247",
            f"{len(missing)} tensors that the recipe trains are not in final/, e.g. {missing[0]}",
            where=str(folder),
            fix="evaluate a checkpoint (RUN@step-N), or train again",
        )


def _copy_head(score: Any, folder: Path) -> None:
    import torch

    from tunesmith.models import classifier

    weight = score.weight
    like = {"dtype": weight.dtype, "device": weight.device}
    head = classifier.read_head(folder, weight.shape[1], **like)
    with torch.no_grad():
        weight.copy_(head.weight)
