"""Builds a TrainingRun: every automatic choice made once, then weights, tuner and loaders."""

from __future__ import annotations

import functools
from typing import Any

from tunesmith import platform
from tunesmith.compose import data, model, quantising, rewarding, samples, source
from tunesmith.compose.display import Display
from tunesmith.compose.model import Origin
from tunesmith.errors import EnvironmentFault
from tunesmith.parallel import base as parallel
from tunesmith.recipe.sections import Recipe
from tunesmith.rundir import RunDir
from tunesmith.tuners import base as tuners
from tunesmith.types import Stage


def resolve(recipe: Recipe, directory: RunDir, *, planned_tokens: int) -> dict[str, Any]:
    """Every automatic choice, made once and kept on resume.

    Raises:
        EnvironmentFault: E110, this machine can't honour a choice made at the start of the run.
    """
    earlier = directory.info().get("resolved")
    if earlier:
        _check_same_machine(earlier, directory)
        return earlier
    import torch

    from tunesmith.models import attention, kernels

    dtype, device = platform.choose_dtype(recipe.train.dtype), platform.device()
    chosen = {
        "device": device,
        "dtype": dtype,
        "threads": platform.threads(),
        "isa_cap": platform.isa_cap(),
        "attention": attention.choose(recipe.model.attention, device, getattr(torch, dtype)),
        "kernels": kernels.choose(recipe.model.kernels, device, planned_tokens),
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


def memory_dtype(recipe: Recipe, compute: str) -> str:
    """The type weights are loaded in: frozen ones in the compute type, trained ones in float32
    when they are their own master copy."""
    if recipe.model.dtype != "auto":
        return recipe.model.dtype
    trains_base = recipe.tuner.kind in ("full", "freeze")
    return "float32" if trains_base and recipe.train.master_weights else compute


def build_run(
    recipe: Recipe,
    origin: Origin,
    directory: RunDir,
    stage: Stage,
    sets: tuple[Any, Any],
    display: Display,
) -> Any:
    """Weights, tuner, optimizer and loaders joined into a TrainingRun.

    Args:
        recipe: What to do.
        origin: Its weights.
        directory: The run's directory, locked.
        stage: What is trained.
        sets: Training and evaluation data.
        display: Is told what was chosen.
    """
    from tunesmith.generation.torch import TorchGenerator
    from tunesmith.training import optim, report
    from tunesmith.training.precision import LossScale
    from tunesmith.training.run import TrainingRun

    backend = parallel.build(recipe.parallel, platform.device())
    planned = int(sets[0].lengths.sum() * recipe.train.num_train_epochs)
    resolved = resolve(recipe, directory, planned_tokens=planned)
    directory.update(base=base_record(origin, directory))
    tuner = tuners.build(recipe.tuner, stage.template.tokenizer)
    language_model = _language_model(recipe, origin, resolved, tuner, backend.device, planned)
    hf = language_model.hf
    _tell_model(display, origin, language_model, resolved)
    for note in [*stage.template.notes, *language_model.notes]:
        display.line("note", note)
    ranks = _layout(language_model, tuner, backend)
    loader = stage.arrange(data.train_loader(recipe, sets[0], **ranks))
    generator = TorchGenerator(language_model, stage.template.tokenizer)
    reporters = report.build(recipe.log.report_to, directory.path)
    display.line("tuner", describe_tuner(recipe, hf))
    stage.equip(hf)
    groups = [*tuner.parameter_groups(hf, recipe.optim.weight_decay), *stage_groups(stage)]
    return TrainingRun(
        recipe=recipe,
        directory=directory,
        stage=stage,
        tuner=tuner,
        model=backend.wrap(language_model),
        hf=hf,
        parallel=backend,
        optimizer=optim.build(groups, recipe.optim, backend.device),
        loader=loader,
        eval_loader=data.eval_loader(recipe, sets[1], **ranks),
        total_steps=loader.total_steps(recipe.train.num_train_epochs, recipe.train.max_steps),
        scale=LossScale(enabled=resolved["dtype"] == "float16"),
        base_hash=origin.sha256,
        report=_observer(display, reporters),
        reporters=reporters,
        sample=_sampler(recipe, generator, stage, sets[1], directory),
        generator=generator,
        **_other_models(recipe, stage, resolved["dtype"]),
    )


def _tell_model(display: Display, origin: Origin, made: Any, resolved: dict) -> None:
    """`builtin:tiny  llama 5L×256  computes in float32 on cpu (1 thread)`."""
    from tunesmith.generation.model_impl import turns_by_length
    from tunesmith.models import load, quantised

    count = resolved["threads"]
    threads = f"{count} thread{'' if count == 1 else 's'}"
    where = f"computes in {resolved['dtype']} on {made.hf.device} ({threads})"
    display.line("model", f"{origin.describe()}  {load.describe(made.hf)}  {where}")
    notes = list(quantised.notes(made.hf))
    if turns_by_length(made.hf):
        notes.append(
            "its rotations depend on the longest example of a batch: losses of examples beyond its "
            "first length depend on what is beside them; linear, yarn and llama3 scaling do not"
        )
    for note in notes:
        display.line("note", note)


def _layout(made: Any, tuner: Any, backend: Any) -> dict[str, Any]:
    """Which part of each step is this process's, and how its batches are laid out."""
    from tunesmith.models import load

    padded = not (load.packable(made.hf.config) and tuner.packable)
    shared = made.shares_prompts and not padded
    ranks = {"rank": backend.rank, "world": backend.world}
    return {**ranks, "padded": padded, "share_prompts": shared}


def _other_models(recipe: Recipe, stage: Stage, dtype: str) -> dict[str, Any]:
    """Services that load a reward model or a teacher by name."""
    places = {"root": recipe.output.dir, "dtype": dtype}
    scorer = functools.partial(rewarding.load, tokenizer=stage.template.tokenizer, **places)
    return {"scorer": scorer, "teacher": functools.partial(model.load, **places)}


def _language_model(
    recipe: Recipe, origin: Origin, resolved: dict, tuner: Any, device: Any, planned: int
) -> Any:
    """The model with its tuner applied, its new weights drawn from train.seed."""
    import torch

    from tunesmith.models.language_model import LanguageModel

    dtype = memory_dtype(recipe, resolved["dtype"])
    seed = recipe.train.seed
    keep = quantising.whole(tuner)
    hf = model.weights(origin, recipe.model, dtype=dtype, device=device, seed=seed, keep=keep)
    torch.manual_seed(seed)
    tuner.apply(hf)
    made = LanguageModel(
        hf,
        attention=resolved["attention"],
        kernels=resolved["kernels"],
        compute_dtype=getattr(torch, resolved["dtype"]),
        master_weights=recipe.train.master_weights,
        planned_tokens=planned,
    )
    if recipe.train.activation_checkpointing:
        made.checkpoint_activations()
    return made


def _observer(display: Display, reporters: list[Any]) -> Any:
    def observe(line: dict[str, Any]) -> None:
        display.metrics(line)
        for reporter in reporters:
            reporter.metrics(line)

    return observe


def _sampler(recipe: Recipe, generator: Any, stage: Stage, eval_set: Any, directory: RunDir) -> Any:
    """Answers evaluation prompts at evaluations, if the recipe asks for it."""
    if not recipe.eval.generate or eval_set is None:
        return None
    path = directory.path / "samples.jsonl"
    return samples.sampler(eval_set, recipe.eval.generate, stage.template, generator, path)


def base_record(origin: Origin, directory: RunDir) -> dict[str, Any] | None:
    """What run.json notes about the base, so that a checkpoint finds it; None from scratch."""
    if origin.source is None:
        return None
    return source.record_base(origin.source, directory.path, origin.sha256)


def stage_groups(stage: Stage) -> list[dict[str, Any]]:
    """The parameters of a stage's own modules, without decay: they are heads of few numbers."""
    named = {
        f"{prefix}.{name}": parameter
        for prefix, module in stage.modules().items()
        for name, parameter in module.named_parameters()
    }
    if not named:
        return []
    return [{"params": list(named.values()), "names": list(named), "weight_decay": 0.0}]


def describe_tuner(recipe: Recipe, hf: Any) -> str:
    """`lora r=16 on 42 linears → 0.61M trainable (7.3%)`."""
    from tunesmith.models import quantised

    counts = [(p.numel(), p.requires_grad) for p in hf.parameters()]
    trained = sum(n for n, on in counts if on)
    whole = quantised.parameters(hf)
    what = recipe.tuner.kind
    if what == "lora":
        linears = sum(name.endswith(".lora_A") for name, _ in hf.named_parameters())
        what += f" r={recipe.tuner.r} on {linears} linears"
    elif what in ("prompt", "prefix"):
        what += f" of {recipe.tuner.tokens} virtual tokens"
    return f"{what} → {trained / 1e6:.2f}M trainable ({100 * trained / whole:.1f}%)"
