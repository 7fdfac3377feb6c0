"""Reward models loaded to score: the base with its adapter merged, and the head of its run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import platform
from tunesmith.compose import model, source
from tunesmith.compose.model import Origin
from tunesmith.errors import ConfigError
from tunesmith.recipe.sections import ModelConfig, Recipe
from tunesmith.rewards import base as rewards
from tunesmith.types import Example, Stage

BATCH_TOKENS = 4096
"""Tokens that are scored at once."""
HEAD = "score.safetensors"


def check_rewards(recipe: Recipe, stage: Stage) -> None:
    """Refuses a reward that is no reward model, or reads other tokens, before any weight is loaded.

    Raises:
        ConfigError: C228, it is no finished reward model; C229, its tokenizer is another one.
        EnvironmentFault: E201, nothing is there.
    """
    for reward in vars(recipe.stage).get("rewards", ()):
        if rewards.is_model(reward.path):
            _place(reward.path, recipe.output.dir, stage.template.tokenizer)


def load(spec: str, root: str, tokenizer: Any, dtype: str) -> Callable[[Sequence[Any]], Any]:
    """A function that scores answers as the reward model in training would: by their last token.

    Args:
        spec: The run (or its folder) of stage reward.
        root: Folder of runs.
        tokenizer: Of the model whose answers are scored; ids are passed on as they are.
        dtype: Compute type.

    Raises:
        ConfigError: C228, C229.
        EnvironmentFault: E201, nothing is there; E211, its base is gone.
    """
    import torch
    from safetensors.torch import load_file

    from tunesmith.data.collate import collate
    from tunesmith.models.language_model import LanguageModel

    found, folder = _place(spec, root, tokenizer)
    config = ModelConfig(path=found.base)
    device = platform.device()
    origin = Origin(found, folder, "")
    hf = model.weights(origin, config, dtype=dtype, device=device, seed=0)
    hf.requires_grad_(False)
    made = LanguageModel(hf, kernels="eager", compute_dtype=getattr(torch, dtype)).eval()
    head_1D = load_file(folder / HEAD)["score.weight"].to(device)

    def score(answers: Sequence[Any]) -> list[float]:
        scores: list[float] = []
        for group in _groups([len(one.ids) for one in answers]):
            rows = [np.array(answers[i].ids, np.int32) for i in group]
            examples = [Example(ids, np.zeros(len(ids), np.float32)) for ids in rows]
            batch = collate(examples, padded=not made.packable).to(device)
            last_N = batch.segments.start_G.astype("int64") + batch.segments.length_G - 1
            with torch.no_grad():
                hidden_ND = made.hidden_at(batch, torch.from_numpy(last_N).to(device))
                scores += (hidden_ND.to(head_1D.dtype) @ head_1D[0]).tolist()
        return scores

    return score


def _place(spec: str, root: str, tokenizer: Any) -> tuple[source.Source, Path]:
    """The reward model's source, and the folder of its head."""
    from tunesmith.templates.tokenizer import Tokenizer

    found = source.locate(spec, root)
    folder = found.top
    if folder is None or not (folder / HEAD).is_file():
        raise ConfigError(
            "C228",
            f"`{spec}` is no finished reward model: there is no {HEAD}",
            where="stage.rewards",
            fix="train one (stage: reward) to its end and name its run",
        )
    if Tokenizer.load(folder).hash != tokenizer.hash:
        raise ConfigError(
            "C229",
            f"the reward model `{spec}` reads other tokens than the model in training",
            where="stage.rewards",
            fix="train the reward model from the same base model",
        )
    return found, folder


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Neighbours of at most `BATCH_TOKENS` together, in order."""
    group: list[int] = []
    size = 0
    for index, length in enumerate(lengths):
        if group and size + length > BATCH_TOKENS:
            yield group
            group, size = [], 0
        group.append(index)
        size += length
    if group:
        yield group
