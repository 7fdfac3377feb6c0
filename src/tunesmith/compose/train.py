"""Builds a run from a recipe, in the order a user wants its errors: recipe, data, then weights."""

from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import platform, recipe as recipes
from tunesmith.compose import (
    artefacts,
    build,
    data,
    edited,
    findings,
    memory,
    model,
    quantising,
    rewarding,
    source,
    stopping,
)
from tunesmith.compose.display import Display, Logged
from tunesmith.compose.samples_of import measured
from tunesmith.errors import RunError
from tunesmith.recipe.sections import Recipe
from tunesmith.rundir import RunDir
from tunesmith.types import Stage


def train(recipe: Recipe, *, display: Display | None = None, text: str | None = None) -> RunDir:
    """Runs a recipe to its end, or to a stop that was asked for.

    Args:
        recipe: What to do.
        display: Shows progress; default: silence.
        text: The recipe as the user wrote it, kept in the run directory.

    Returns:
        The run directory; its `info()["state"]` is done or stopped.

    Raises:
        TunesmithError: whatever is the user's to mend; the run directory records it.
    """
    display = Logged(display or Display())
    platform.prepare(recipe.train.threads)
    check_reports(recipe)
    recipe = data.named(recipe, display.line)
    ready = prepare(
        recipe, display
    )  # what is wrong with model or data is told before a run is made
    recipe = data.pinned(recipe)
    directory = RunDir.create(
        text or recipes.dump(recipe),
        recipe,
        root=recipe.output.dir,
        name=recipe.output.name,
        resolved=recipes.dump(recipe, recipes.origins(recipe)),
    )
    edited.note(directory, recipe)
    return _execute(ready, directory, display, resuming=False)


def resume(
    spec: str,
    *,
    overrides: tuple[str, ...] = (),
    display: Display | None = None,
    root: str = "runs/",
    given: Recipe | None = None,
) -> RunDir:
    """Goes on with a run from its newest valid checkpoint, as if nothing had happened.

    Args:
        spec: Run id, prefix, path or `last`.
        overrides: `key=value` changes; only lengths, intervals, log and output may change.
        given: The recipe as it is today; default: as it was when the run began.

    Raises:
        ConfigError: C190, an override or the given recipe changes what may not change on resume.
        RunError: R203, the run is already finished and nothing was changed.
    """
    display = Logged(display or Display())
    directory, _ = RunDir.find(spec.removeprefix("run:"), root)
    written = str(directory.path / "resolved.yaml")
    before = recipes.load(written, environ={})
    recipe = recipes.load(written, overrides, environ={})
    if given is not None:
        recipe = data.pinned(data.named(given, display.line))
    else:
        edited.check(directory, before, display.line)
    edited.refuse(before, recipe, written)
    check_reports(recipe)
    directory.refuse_if_locked()
    info = directory.info()
    if info["state"] == "done" and recipe == before:
        raise RunError(
            "R203",
            f"{directory.id} is finished: all {info['total_steps']:,} steps are done",
            where=str(directory.path),
            fix="train on from it: model=run:" + directory.id,
        )
    resolved = info.get("resolved")
    platform.prepare(resolved["threads"] if resolved else recipe.train.threads)
    return _execute(prepare(recipe, display), directory, display, resuming=True)


@dataclass(frozen=True)
class Ready:
    """A recipe whose model is found and whose data is encoded: only weights are missing."""

    recipe: Recipe
    origin: model.Origin
    stage: Stage
    train_set: Any
    eval_set: Any
    memory_gb: float
    """Peak memory it will need."""


def prepare(recipe: Recipe, display: Display) -> Ready:
    """Finds the model, checks stage, tuner and memory, encodes the data; reads no weights, writes
    no run.

    Raises:
        TunesmithError: whatever is wrong with recipe, model or data.
    """
    origin = model.origin(recipe)
    quantising.check(recipe, origin.source)
    source.check_base(origin.source)
    recipe = data.local(recipe, display.line)
    data.check_sources(recipe)
    display.header(recipe.stage.kind)
    recipe = fit_context(recipe, origin, display)
    factory = data.encoder_factory(recipe, origin.tokenizer_dir)
    stage = factory.build()
    stage.check(recipe)
    rewarding.check(recipe, stage)
    train_set, eval_set = data.datasets(recipe, factory, stage, display.line)
    display.line("data", artefacts.describe_data(train_set, eval_set, measured(stage)))
    findings.check_before_training(recipe, stage, train_set, eval_set, display.line)
    for note in data.notes(recipe, train_set, stage):
        display.line("note", note)
    need = memory.check_fits(
        recipe, origin, platform.choose_dtype(recipe.train.dtype), train_set, stage
    )  # puts the tuner on a model without weights: what it refuses is told here
    return Ready(recipe, origin, stage, train_set, eval_set, need.total)


def _execute(ready: Ready, directory: RunDir, display: Logged, *, resuming: bool) -> RunDir:
    with (
        stopping.disk_errors(directory),
        directory.lock(),
        stopping.graceful() as stop,
        stopping.recorded(directory, stop),
        stopping.disk_errors(directory),  # within too, so that run.json says the same
    ):
        stop.display = display
        display.into(directory.path / "log.txt")
        display.line("run", str(directory.path))
        artefacts.write_report(directory, ready.train_set, ready.eval_set)
        directory.update(**artefacts.lineage(ready.recipe, ready.train_set, ready.eval_set))
        run = _build(ready, directory, display, resuming=resuming)
        from tunesmith.training.loop import fit

        stop.run = run
        directory.append_event("resumed" if resuming else "started", step=run.step)
        if run.step == 0 and run.eval_loader is not None:
            run.check_metric(run.evaluate())
        if not run.finished:
            fit(run)
        _finish(run, ready.origin, display)
    return directory


def _build(ready: Ready, directory: RunDir, display: Display, *, resuming: bool) -> Any:
    """All parts; weights last."""
    from tunesmith.training import checkpoint

    directory.clean()
    checkpoint.clean(directory.path)
    saved = _newest(directory, display) if resuming else None
    decode = ready.stage.template.tokenizer.decode
    display.example(*artefacts.first_example(ready.train_set), decode)
    recipe, origin = ready.recipe, ready.origin
    directory.update(estimated_memory_gb=round(ready.memory_gb, 3))
    sets = ready.train_set, ready.eval_set
    run = build.build_run(recipe, origin, directory, ready.stage, sets, display)
    checkpoint.check_space(directory.path, run.trainable().values())
    display.line("plan", describe_plan(run, ready.memory_gb))
    run.stage.prepare(run, lambda text: display.line("stage", text))
    if saved is not None:
        run.restore(saved)
    return run


def _newest(directory: RunDir, display: Display) -> Any:
    """The newest valid checkpoint, or None; what was measured after it is forgotten."""
    from tunesmith.training import checkpoint

    def skipped(path: Path, why: str) -> None:
        display.line("resume", f"skipped {path.name}: {why}")
        directory.append_event("checkpoint skipped", name=path.name, why=why)

    saved = checkpoint.newest(directory.path, on_skip=skipped)
    where = f"step {saved.step}" if saved else "the beginning (no valid checkpoint)"
    display.line("resume", f"from {where}, by the recipe it began with (resolved.yaml)")
    step = saved.step if saved else -1
    directory.truncate_metrics(step)
    checkpoint.discard_after(directory.path, step)
    return saved


def describe_plan(run: Any, gigabytes: float) -> str:
    """`20 steps × 16 sequences · eval every 50 · about 0.9 GB`."""
    train = run.recipe.train
    size = train.per_device_train_batch_size * train.gradient_accumulation_steps
    what = {"pack": "bins", "blocks": "blocks"}.get(run.recipe.data.packing, "sequences")
    parts = [f"{run.total_steps:,} steps × {size * run.parallel.world} {what}"]
    if run.eval_loader is not None:
        every = run.recipe.eval.steps
        parts.append("eval each epoch" if every == "epoch" else f"eval every {every}")
    return " · ".join([*parts, f"about {gigabytes:.1f} GB"])


def check_reports(recipe: Recipe) -> None:
    """Refuses an unknown reporter, or one that is not installed, before any work."""
    from tunesmith.training import report

    report.check_installed(recipe.log.report_to)


def fit_context(recipe: Recipe, origin: Any, display: Display) -> Recipe:
    """The recipe with data.max_length no longer than the model's context, said aloud."""
    return data.fit_context(recipe, origin, display.line)


def _finish(run: Any, origin: Any, display: Display) -> None:
    """Writes curves, and final/ when all steps are done; else records the stop."""
    from tunesmith.training import checkpoint, plot

    directory = run.directory
    plot.write(directory.metrics(), directory.path, directory.id)
    for reporter in run.reporters:
        reporter.close()
    facts = {"step": run.step, "total_steps": run.total_steps, "peak_memory_gb": peak_memory_gb()}
    if run.step < run.total_steps:
        code = stopping.EXIT_OF_SIGNAL[run.stop_signal]
        directory.update(state="stopped", exit_code=code, **facts)
        remarks = run.stage.remarks()
        display.done(
            {"state": "stopped", "step": run.step, "path": directory.path, "remarks": remarks}
        )
        return
    best = run.best if run.recipe.eval.load_best_model_at_end else None
    if run.best is not None:
        facts |= {"best_value": run.best.value, "best_step": run.best.step}
        if run.best.saved:
            facts["best_checkpoint"] = f"checkpoints/step-{run.best.step}"
    if best is not None and best.saved:
        run.restore_weights(checkpoint.open_step(directory.path, best.step))
    artefacts.write_final(run, origin)
    directory.update(state="done", exit_code=0, final=best.step if best else run.step, **facts)
    display.done(
        {
            "state": "done",
            "step": run.step,
            "path": directory.path,
            "first_eval": run.first_eval,
            "last_eval": best.loss if best else run.last_eval,
            "best_step": best.step if best else None,
            "elapsed_s": run.log.elapsed_s(),
            "remarks": run.stage.remarks(),
        }
    )


def peak_memory_gb() -> float:
    """The most memory this process has held: of the device if it has its own, else resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss counts what the process was before exec: its parent's size
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def forget_peak_memory() -> None:
    """From here on `peak_memory_gb` is of what follows: a second run of a process is not told the
    first one's."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # man proc_pid_clear_refs: 5 resets the peak resident set size
        Path("/proc/self/clear_refs").write_text("5")
