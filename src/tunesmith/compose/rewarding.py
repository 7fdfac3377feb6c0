"""Reward models that score the answers of a model in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tunesmith.compose import scoring, source
from tunesmith.errors import ConfigError, EnvironmentFault
from tunesmith.recipe.sections import Recipe
from tunesmith.rewards import base as rewards
from tunesmith.types import Example, Stage


def check(recipe: Recipe, stage: Stage) -> None:
    """Refuses a reward that is no reward model, or reads other tokens, before any weight is loaded.

    Raises:
        ConfigError: C228, it is no reward model; C229, its tokenizer is another one.
        EnvironmentFault: E201, nothing is there.
    """
    for reward in vars(recipe.stage).get("rewards", ()):
        if rewards.is_model(reward.path):
            _check(reward.path, recipe.output.dir, stage.template.tokenizer)


def load(spec: str, root: str, tokenizer: Any, dtype: str) -> Callable[[Sequence[Any]], Any]:
    """A function that scores answers as the reward model in training would: by their last token.

    Args:
        spec: The run (or its folder) of stage reward.
        root: Folder of runs.
        tokenizer: Of the model whose answers are scored; ids are passed on as they are.
        dtype: Compute type.

    Raises:
        ConfigError: C228, C229.
        EnvironmentFault: E201, nothing is there.
    """
    _check(spec, root, tokenizer)
    scorer = scoring.load(spec, dtype=dtype, root=root)

    def score(answers: Sequence[Any]) -> list[float]:
        arrays = [np.array(one.ids, np.int32) for one in answers]
        return scorer.scores([Example(ids, np.zeros(len(ids), np.float32)) for ids in arrays])

    return score


def _check(spec: str, root: str, tokenizer: Any) -> None:
    from tunesmith.templates.tokenizer import Tokenizer

    try:
        found = source.locate(spec, root)
    except EnvironmentFault as fault:
        raise EnvironmentFault(
            fault.code,
            fault.what,
            where="stage.rewards",
            why=fault.why,
            fix="name a run of stage reward, or its folder",
        ) from None
    if found.checkpoint is not None and "@" not in spec:
        raise ConfigError(
            "C228",
            f"the run `{spec}` is not finished: it has a checkpoint, {found.checkpoint.name}, only",
            where="stage.rewards",
            fix="let it finish (tunesmith resume), or name the checkpoint: RUN@step-N",
        )
    if not found.scores:
        raise ConfigError(
            "C228",
            f"`{spec}` is no reward model: it has no score head",
            where="stage.rewards",
            fix="train one (stage: reward) and name its run",
        )
    if Tokenizer.load(scoring.tokenizer_dir(found)).hash != tokenizer.hash:
        raise ConfigError(
            "C229",
            f"the reward model `{spec}` reads other tokens than the model in training",
            where="stage.rewards",
            fix="train the reward model from the same base model",
        )
