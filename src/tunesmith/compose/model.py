"""Builds the model side of a run: weights, tuner, optimizer; and loads models to talk to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import platform
from tunesmith.compose import data, samples, source
from tunesmith.compose.display import Display
from tunesmith.compose.source import Source
from tunesmith.errors import ConfigError, EnvironmentFault
from tunesmith.parallel import base as parallel
from tunesmith.recipe.sections import ModelConfig, Recipe
from tunesmith.rundir import RunDir
from tunesmith.templates import base as templates
from tunesmith.tuners import base as tuners
from tunesmith.types import Stage

if TYPE_CHECKING:
    from tunesmith.models.language_model import LanguageModel


@dataclass(frozen=True)
class Origin:
    """What a run starts from: weights to load or a config to draw them from, and a tokenizer."""

    source: Source | None
    tokenizer_dir: Path
    sha256: str

    def describe(self) -> str:
        if self.source is None:
            return "from scratch"
        over = f" + {len(self.source.adapters)} adapter(s)" if self.source.adapters else ""
        return f"{self.source.spec}{over}"


def origin(recipe: Recipe) -> Origin:
    """Finds the model and tokenizer of a recipe without reading weights.

    Raises:
        ConfigError: C181, neither model.path nor model.config, or both; C182, no tokenizer.
        EnvironmentFault: E201, no such model.
    """
    config = recipe.model
    if (config.path is None) == (config.config is None):
        raise ConfigError(
            "C181",
            "a model is named by `path` or drawn from `config`: one of the two",
            where="model",
            fix="set model.path=DIRECTORY (or builtin:tiny), or model.config={model_type: …}",
        )
    if config.path is not None:
        found = source.locate(config.path, recipe.output.dir)
        directory = _tokenizer_dir(config, found)
        return Origin(found, directory, source.content_hash(found))
    if config.tokenizer is None:
        raise ConfigError(
            "C182",
            "a model from scratch needs a tokenizer",
            where="model.tokenizer",
            fix="set model.tokenizer=DIRECTORY or builtin:tiny",
        )
    directory = _tokenizer_dir(config, None)
    drawn = json.dumps([dict(config.config or {}), recipe.train.seed], sort_keys=True)
    return Origin(None, directory, hashlib.sha256(drawn.encode()).hexdigest())


def _tokenizer_dir(config: ModelConfig, found: Source | None) -> Path:
    if config.tokenizer is not None:
        return source.locate(config.tokenizer).top or Path(config.tokenizer)
    assert found is not None
    if found.top is not None and (found.top / "tokenizer.json").is_file():
        return found.top
    from tunesmith.models import load

    return load.tokenizer_dir(dataclasses.replace(config, path=found.base))


def context_length(origin: Origin, config: ModelConfig) -> int | None:
    """Tokens the model's positions reach, times its RoPE scaling; None if nothing says."""
    if origin.source is None:
        found = dict(config.config or {})
    else:
        path = Path(origin.source.base) / "config.json"
        found = json.loads(path.read_text()) if path.is_file() else {}
    reach = found.get("max_position_embeddings") or found.get("n_positions")
    factor = float((config.rope_scaling or {}).get("factor", 1.0))
    return int(reach * factor) if reach else None


def weights(origin: Origin, config: ModelConfig, *, dtype: str, device: Any, seed: int) -> Any:
    """The transformers model of an origin, its inner adapters merged into it."""
    from tunesmith.models import load
    from tunesmith.templates.tokenizer import Tokenizer

    if origin.source is None:
        size = Tokenizer.load(origin.tokenizer_dir).vocab_size
        return load.load(config, dtype=dtype, device=device, seed=seed, vocab_size=size).hf
    based = dataclasses.replace(config, path=origin.source.base)
    hf = load.load(based, dtype=dtype, device=device, seed=seed).hf
    for adapter in origin.source.adapters:
        tuner = tuners.for_adapter(adapter)
        tuner.load(hf, adapter)
        tuner.merge(hf)
    if origin.source.checkpoint is not None:
        _overlay(hf, origin.source.checkpoint)
    return hf


def _overlay(hf: Any, path: Path) -> None:
    """Lays a checkpoint's trained weights over the base; an adapter's are merged."""
    from tunesmith import recipe as recipes
    from tunesmith.training import checkpoint

    recipe = recipes.load(str(path.parents[1] / "resolved.yaml"), environ={})
    tuner = tuners.build(recipe.tuner)
    tuner.apply(hf)
    tensors = checkpoint.Checkpoint(path).weights()
    parameters = dict(hf.named_parameters())
    import torch

    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
    if tuner.mergeable:
        tuner.merge(hf)


def skeleton(origin: Origin, config: ModelConfig) -> Any:
    """The model without memory (on the meta device), for counting."""
    from tunesmith.models import load

    if origin.source is None:
        return load.skeleton(config)
    return load.skeleton(dataclasses.replace(config, path=origin.source.base))


def resolve(recipe: Recipe, directory: RunDir, *, planned_tokens: int) -> dict[str, Any]:
    """Every automatic choice, made once and kept on resume.

    Raises:
        EnvironmentFault: E110, this machine can't honour a choice made at the start of the run.
    """
    earlier = directory.info().get("resolved")
    if earlier:
        _check_same_machine(earlier, directory)
        return earlier
    dtype = platform.choose_dtype(recipe.train.dtype)
    chosen = {
        "device": platform.device(),
        "dtype": dtype,
        "threads": platform.threads(),
        "isa_cap": platform.isa_cap(),
        "attention": recipe.model.attention,
        "kernels": recipe.model.kernels,
    }
    directory.update(resolved=chosen)
    return chosen


def _check_same_machine(earlier: dict[str, Any], directory: RunDir) -> None:
    here = {"device": platform.device(), "isa_cap": platform.isa_cap()}
    for name, value in here.items():
        if earlier[name] != value:
            raise EnvironmentFault(
                "E110",
                f"this run began with {name}={earlier[name]}, this machine has {value}",
                where=str(directory.path),
                fix="resume on the same kind of machine, or start a new run from its weights",
            )


def build_run(
    recipe: Recipe,
    origin: Origin,
    directory: RunDir,
    stage: Stage,
    sets: tuple[Any, Any],
    display: Display,
) -> Any:
    """Weights, tuner, optimizer and loaders joined into a TrainingRun."""
    import torch

    from tunesmith.models import load
    from tunesmith.models.language_model import LanguageModel
    from tunesmith.training import optim, report
    from tunesmith.training.precision import LossScale
    from tunesmith.training.run import TrainingRun

    backend = parallel.build(recipe.parallel, platform.device())
    planned = int(sets[0].lengths.sum() * recipe.train.num_train_epochs)
    resolved = resolve(recipe, directory, planned_tokens=planned)
    hf = weights(
        origin,
        recipe.model,
        dtype=memory_dtype(recipe, resolved["dtype"]),
        device=backend.device,
        seed=recipe.train.seed,
    )
    tuner = tuners.build(recipe.tuner)
    torch.manual_seed(recipe.train.seed)  # new weights of the tuner are drawn from it
    tuner.apply(hf)
    padded = not (load.packable(hf.config) and tuner.packable)
    ranks = {"rank": backend.rank, "world": backend.world, "padded": padded}
    loader = data.train_loader(recipe, sets[0], **ranks)
    total = loader.total_steps(recipe.train.num_train_epochs, recipe.train.max_steps)
    model = LanguageModel(
        hf,
        attention=resolved["attention"],
        kernels=resolved["kernels"],
        compute_dtype=getattr(torch, resolved["dtype"]),
        master_weights=recipe.train.master_weights,
        planned_tokens=planned,
    )
    if recipe.train.activation_checkpointing:
        model.checkpoint_activations()
    for note in model.notes:
        display.line("note", note)
    reporters = report.build(recipe.log.report_to, directory.path)

    def observe(line: dict[str, Any]) -> None:
        display.metrics(line)
        for reporter in reporters:
            reporter.metrics(line)

    sample = None
    if recipe.eval.generate and sets[1] is not None:
        from tunesmith.generation.torch import TorchGenerator

        generator = TorchGenerator(model, stage.template.tokenizer)
        path = directory.path / "samples.jsonl"
        sample = samples.sampler(sets[1], recipe.eval.generate, stage.template, generator, path)
    return TrainingRun(
        recipe=recipe,
        directory=directory,
        stage=stage,
        tuner=tuner,
        model=backend.wrap(model),
        hf=hf,
        parallel=backend,
        optimizer=optim.build(
            tuner.parameter_groups(hf, recipe.optim.weight_decay), recipe.optim, backend.device
        ),
        loader=loader,
        eval_loader=data.eval_loader(recipe, sets[1], **ranks),
        total_steps=total,
        scale=LossScale(enabled=resolved["dtype"] == "float16"),
        base_hash=origin.sha256,
        report=observe,
        sample=sample,
    )


def memory_dtype(recipe: Recipe, compute: str) -> str:
    """The type weights are loaded in: frozen ones in the compute type, trained ones in float32
    when they are their own master copy."""
    if recipe.model.dtype != "auto":
        return recipe.model.dtype
    trains_base = recipe.tuner.kind in ("full", "freeze")
    return "float32" if trains_base and recipe.train.master_weights else compute


@dataclass
class Loaded:
    """A model to talk to: weights, tokenizer, template, and what was found under its name."""

    model: LanguageModel
    tokenizer: Any
    template: Any
    system: str | None
    description: str
    path: Path | None


def load(spec: str, *, dtype: str = "auto", root: str = "runs/") -> Loaded:
    """Loads a run, directory, embedded model or hub id for generation, in eval mode.

    Args:
        spec: What `source.locate` understands.
        dtype: Compute type; auto: what this machine does fastest, float32 on a CPU without bf16.

    Raises:
        EnvironmentFault: E201, no such model.
    """
    platform.prepare()
    import torch

    from tunesmith.models.language_model import LanguageModel

    found = source.locate(spec, root)
    config = ModelConfig(path=found.base)
    directory = _tokenizer_dir(config, found)
    start = Origin(found, directory, "")
    compute = platform.choose_dtype(dtype)
    hf = weights(start, config, dtype=compute, device=platform.device(), seed=0)
    card = found.card()
    template = templates.load(card.get("template", "auto"), directory)
    model = LanguageModel(
        hf, attention="sdpa", kernels="eager", compute_dtype=getattr(torch, compute)
    )
    model.eval()
    top = found.checkpoint or found.top
    description = f"{spec} → {top or found.base}"
    return Loaded(model, template.tokenizer, template, card.get("system"), description, top)
