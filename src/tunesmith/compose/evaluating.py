"""`tunesmith eval`: what a run's own evaluation says of its weights, on its data or on other data.

The model is built as for training (tuner beside its base, the run's type and kernels), takes the
trained weights back, and goes through the function that the evaluations of a training are: the
same data gives the same numbers to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith import platform, recipe as recipes
from tunesmith.compose import build, data, model, rewarding, source
from tunesmith.compose.display import Display
from tunesmith.compose.subject import Subject, find, restore
from tunesmith.errors import ConfigError, EnvironmentFault, RunError
from tunesmith.recipe.sections import Holdout, Recipe, Source
from tunesmith.rundir import RunDir

Say = Callable[[str, str], None]


@dataclass(frozen=True)
class Measured:
    """Metrics of a run's weights, and everything they depend on."""

    subject: Subject
    metrics: dict[str, float]
    units: dict[str, str]
    """What each metric is a mean over: rows, tokens …"""
    standard_errors: dict[str, float]
    """Of metrics that are plain means over rows."""
    rows: dict[str, list[Any]]
    """Values of single rows, or examples, by name; empty where a stage has none."""
    places: list[str]
    """`file:line` of each of them."""
    facts: dict[str, Any]
    """Data and settings."""


class Beside:
    """A run's directory that an evaluation reads and never writes."""

    def __init__(self, run: RunDir, resolved: dict[str, Any] | None):
        self.path, self.id = run.path, run.id
        self._info = {**run.info(), "resolved": resolved}

    def info(self) -> dict[str, Any]:
        return self._info

    def update(self, **fields: Any) -> None:
        self._info |= fields

    def append_event(self, kind: str, **fields: Any) -> None:
        """Events are of training."""


class Said(Display):
    """Passes on the facts of a build."""

    def __init__(self, say: Say):
        self.say = say

    def line(self, topic: str, text: str) -> None:
        self.say(topic, text)


def evaluate(run: str, data: Sequence[str] = (), *, root: str = "runs/") -> Measured:
    """What a run's own evaluation says of its weights; nothing is written.

    Args:
        run: Id, prefix, path or `last`; `RUN@step-100` a checkpoint, `RUN@step-0` the beginning.
        data: Files of any format; none: the run's own evaluation data.
        root: Folder of runs.

    Raises:
        TunesmithError: what `subject.find` and `measure` raise.
    """
    return measure(find(run, root), data)


def measure(subject: Subject, files: Sequence[str] = (), say: Say = lambda a, b: None) -> Measured:
    """Evaluates weights of a run.

    Args:
        subject: From `subject.find`.
        files: Data of any format; none: the run's own evaluation data.
        say: Is told (topic, text) what was found and chosen.

    Raises:
        ConfigError: C234, there is no evaluation data.
        RunError: R113, the checkpoint is damaged; R202, the base has changed; R247, the weights
            are not what the recipe trains.
        TunesmithError: what a training raises of model and data.
    """
    from tunesmith.training import measure as measuring

    say("run", subject.describe())
    run, eval_set, settings = _built(subject, tuple(files), say)
    rows: measuring.Rows = {}
    metrics, units = measuring.measure(run, run.eval_loader, rows)
    facts = {
        "stage": run.recipe.stage.kind,
        "data": [
            {"path": one.get("path"), "sha256": one.get("key")}
            for one in eval_set.report.get("sources", [])
        ],
        "rows": len(eval_set),
        **_left_out(run.recipe.data.eval, eval_set.report),
        "settings": settings,
    }
    places = _places(eval_set, max(map(len, rows.values()), default=0))
    errors = measuring.standard_errors(rows, units)
    return Measured(subject, metrics, units, errors, rows, places, facts)


def _built(subject: Subject, files: tuple[str, ...], say: Say) -> tuple[Any, Any, dict[str, Any]]:
    """The run with its weights, its evaluation data, and the settings worth noting."""
    platform.prepare()
    recipe = _recipe(subject, files)
    resolved = _resolved(subject.run, say)
    platform.prepare(resolved["threads"] if resolved else recipe.train.threads)
    recipe, origin = _origin(subject.run, recipe)
    display = Said(say)
    recipe = data.fit_context(data.local(recipe, say), origin, say)
    factory = data.encoder_factory(recipe, origin.tokenizer_dir)
    stage = factory.build()
    stage.check(recipe)
    rewarding.check(recipe, stage)
    recipe, eval_set = _eval_set(recipe, factory, stage, say)
    if not files:
        _tell_change(subject.run, eval_set, say)
    beside: Any = Beside(subject.run, resolved)
    run = build.build_run(recipe, origin, beside, stage, (eval_set, eval_set), display)
    run.total_steps = 0  # nothing is trained: no reference of training rows is needed
    stage.prepare(run, lambda text: say("stage", text))
    restore(run, subject)
    train = recipe.train
    size = recipe.eval.per_device_eval_batch_size or train.per_device_train_batch_size
    settings = {
        "stage": dataclasses.asdict(recipe.stage),
        "template": stage.template.name,
        "system": recipe.data.system,
        "max_length": recipe.data.max_length,
        "per_device_eval_batch_size": size,
        "seed": train.seed,
        "resolved": beside.info()["resolved"],
    }
    return run, eval_set, settings


def _recipe(subject: Subject, files: tuple[str, ...]) -> Recipe:
    """The run's recipe, set to evaluate and nothing else."""
    from tunesmith.tuners import base as tuners

    path = subject.run.path / "resolved.yaml"
    recipe = recipes.load(str(path), environ={})
    evaluation = recipe.data.eval
    if files:
        evaluation = tuple(Source(path=name) for name in files)
    if not evaluation:
        raise ConfigError(
            "C234",
            f"{subject.run.id} was trained without evaluation data",
            where=str(path),
            fix="name some: --data FILE",
        )
    tuner = recipe.tuner
    if subject.final and tuner.kind in source.VIRTUAL.values():
        tuner = vars(tuners.for_adapter(subject.final))["config"]  # its MLP is gone in final/
    wanted = dataclasses.replace(recipe.data, eval=evaluation)
    if not isinstance(evaluation, Holdout):  # training data is needed for its holdout only
        wanted = dataclasses.replace(wanted, train=evaluation, streaming=False)
    each = dataclasses.replace(recipe.eval, steps=1, generate=0)
    log = dataclasses.replace(recipe.log, report_to=())
    return dataclasses.replace(recipe, data=wanted, eval=each, tuner=tuner, log=log)


def _eval_set(recipe: Recipe, factory: Any, stage: Any, say: Say) -> tuple[Recipe, Any]:
    """The rows, and the recipe as if they were all its data (they stand in for training rows)."""
    single = dataclasses.replace(
        recipe.data, packing="none", mix_strategy="concat", interleave_probs=None
    )
    if isinstance(recipe.data.eval, Holdout):
        _, eval_set = data.datasets(recipe, factory, stage, say)
    else:
        only = dataclasses.replace(recipe, data=dataclasses.replace(single, eval=None))
        eval_set, _ = data.datasets(only, factory, stage, say)
    assert eval_set is not None, "_recipe has seen to it"
    return dataclasses.replace(recipe, data=single), eval_set


def _resolved(run: RunDir, say: Say) -> dict[str, Any] | None:
    """The choices the run was made with; None (choose anew) on another kind of machine."""
    earlier = run.info().get("resolved")
    here = {"device": platform.device(), "isa_cap": platform.isa_cap()}
    if earlier and all(earlier[name] == value for name, value in here.items()):
        return earlier
    if earlier:
        say("note", "trained on another kind of machine: last digits may differ from the run's own")
    return None


def _origin(run: RunDir, recipe: Recipe) -> tuple[Recipe, model.Origin]:
    """The model the run began with, by the name it was given, else wherever it is now."""
    recorded = run.info().get("base")
    try:
        found = model.origin(recipe)
    except EnvironmentFault:  # it has moved
        if not recorded:
            raise
        place = source.existing_base(recorded, run.path)
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, path=place))
        found = model.origin(recipe)
    if recorded and recorded["sha256"] != found.sha256:
        raise RunError(
            "R202",
            "the base model's weights are not those this run was trained on",
            where=str(run.path),
            fix="restore the base model's files",
        )
    return recipe, found


def _tell_change(run: RunDir, eval_set: Any, say: Say) -> None:
    """Says it where the evaluation rows, or the code that encodes them, are not the run's."""
    noted = [one["sha256"] for one in (run.info().get("data") or {}).get("eval", [])]
    now = [one.get("key") for one in eval_set.report.get("sources", [])]
    if noted and noted != now:
        say(
            "note",
            "the evaluation data, or the code that encodes it, has changed since the training",
        )


def _left_out(evaluation: Any, report: dict[str, Any]) -> dict[str, Any]:
    """What of the files was not measured as it is; a holdout's report is of all its source."""
    if isinstance(evaluation, Holdout):
        return {"holdout": dataclasses.asdict(evaluation)}
    count = report["bad_rows"] + report["left_out"]
    return {"left_out": count, "truncated_tokens": report["truncated"]}


def _places(eval_set: Any, count: int) -> list[str]:
    """`file:line` of each value: one a row, or one an example of a row."""
    each = range(len(eval_set))
    if count == len(eval_set):
        return [eval_set.where(row) for row in each]
    return [eval_set.where(row) for row in each for _ in eval_set[row]]
