"""LAW: `tunesmith eval` of a run says what the run's last evaluation said, to the last bit; what it
says of single rows, summed up, is what it says of all."""

from __future__ import annotations

import math

import pytest
from tests.laws.test_resume import CELLS, STAGES, make_recipe  # noqa: F401 (a fixture)

from tunesmith import compose
from tunesmith.compose import evaluating, subject
from tunesmith.compose.evaluating import Measured
from tunesmith.rundir import RunDir

WHOLE = [(stage, "full") for stage in STAGES] + [("sft", {"kind": "freeze", "num_layers": 1})]
WHOLE += [("reward", {"kind": "freeze", "num_layers": 1})]


def name(cell) -> str:
    stage, tuner = cell
    return f"{stage}-{tuner if isinstance(tuner, str) else tuner['kind']}"


def evaluations(run: RunDir) -> dict[int, dict[str, float]]:
    """Metrics of the run's own evaluations by step."""
    return {
        line["step"]: {k.removeprefix("eval_"): v for k, v in line.items() if k.startswith("eval_")}
        for line in run.metrics()
        if "eval_loss" in line or "eval_divergence" in line
    }


def measured(run: RunDir, selector: str = "") -> Measured:
    return evaluating.measure(subject.find(f"{run.path}{selector}"))


def when(cell):
    """A cell with its mark: every stage once, and one adapter, in the fast suite."""
    fast = cell[1] == "full" or cell == CELLS[0]
    return pytest.param(cell, marks=() if fast else pytest.mark.slow, id=name(cell))


@pytest.mark.parametrize("make_recipe", [when(c) for c in CELLS + WHOLE], indirect=True)
def test_eval_equals_the_last_evaluation_of_the_run(make_recipe):  # noqa: F811
    run = compose.train(make_recipe("run", save_total_limit=None))
    told = evaluations(run)
    assert sorted(told) == [0, 4, 8, 9]  # the last step, too, which no interval asked for
    before = run.metrics(), run.info()
    found = measured(run)
    assert found.metrics == told[9]
    assert measured(run, "@step-4").metrics == told[4]
    assert measured(run, "@step-0").metrics == told[0]
    assert (run.metrics(), run.info()) == before

    for metric, values in found.rows.items():
        if found.units.get(metric) == "rows":
            assert math.fsum(values) / len(values) == pytest.approx(told[9][metric], abs=1e-6)
    if "tokens" in found.rows:
        pairs = zip(found.rows["loss"], found.rows["tokens"], strict=True)
        total = sum(loss * tokens for loss, tokens in pairs)
        assert total / sum(found.rows["tokens"]) == pytest.approx(told[9]["loss"], rel=1e-5)
