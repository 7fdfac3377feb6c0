"""What would train badly in the data of a recipe: one judgement for `data check` and training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.compose.samples_of import measured
from tunesmith.data import check
from tunesmith.data.finding import SKIP, Finding, Markers
from tunesmith.errors import GateFailed
from tunesmith.recipe import origins
from tunesmith.recipe.sections import Recipe
from tunesmith.types import Document, Stage

if TYPE_CHECKING:
    from tunesmith.data.store import Dataset


def findings(
    recipe: Recipe,
    stage: Stage,
    train: Dataset,
    evaluation: Dataset | None,
) -> tuple[Finding, ...]:
    """What would train badly; see `data.check`. That long rows are cut is a choice only where the
    recipe says so itself."""
    tokenizer = stage.template.tokenizer
    documents = stage.sample == (Document,)
    ends = {tokenizer.eos_id} if documents else {*stage.template.stop_ids, tokenizer.eos_id}
    data = recipe.data
    chosen = origins(recipe).get("data.on_overlength", "default") != "default"
    cutting = chosen and data.on_overlength == "truncate"
    markers = Markers(
        frozenset(ends - {None}),
        tokenizer.bos_id,
        documents=documents,
        max_length=data.max_length,
        cutting=cutting,
        measured=measured(stage),
        skipping=data.on_bad_row == "skip",
    )
    return check.check(train, markers, evaluation)


def check_before_training(
    recipe: Recipe, stage: Stage, train: Dataset, evaluation: Dataset | None, say: Any
) -> None:
    """Tells MINOR and MAJOR findings, and stops at a MAJOR one.

    Raises:
        GateFailed: G110, unless data.on_finding is warn.
    """
    found = findings(recipe, stage, train, evaluation)
    for one in found:
        if one.level != "OK":
            say("check", f"{one.level} {one.text}")
    major = [one for one in found if one.level == "MAJOR"]
    if major and recipe.data.on_finding == "error":
        raise major_finding(major, major[0].where[0] if major[0].where else "data")


def major_finding(major: Sequence[Finding], where: str) -> GateFailed:
    """G110: data that would train badly, and what mends each of these findings."""
    more = f" (and {len(major) - 1} more)" if len(major) > 1 else ""
    fixes = dict.fromkeys(one.fix for one in major if one.fix)
    anyway = ["or data.on_finding=warn to train all the same"]
    if any(SKIP in fix for fix in fixes):
        anyway = []
    return GateFailed(
        "G110",
        f"MAJOR: {major[0].text}{more}",
        where=where,
        fix="; ".join([*fixes, *anyway]),
    )
