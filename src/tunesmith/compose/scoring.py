"""Reward models loaded to score: the base with its adapter merged, and the head of its run."""

from __future__ import annotations

import json
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
Ends = Callable[[Sequence[Sequence[int]]], Any]
"""Sequences of ids in, the hidden states of their last tokens (N, D) out."""


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

    found, folder = _place(spec, root, tokenizer)
    device = platform.device()
    head_1D = load_file(folder / HEAD)["score.weight"].to(device)
    whole = not found.adapters and _is_classifier(folder)
    ends = (_one_by_one if whole else _together)(found, folder, dtype, device)

    def score(answers: Sequence[Any]) -> list[float]:
        scores: list[float] = []
        with torch.no_grad():
            for group in _groups([len(one.ids) for one in answers]):
                hidden_ND = ends([answers[i].ids for i in group])
                scores += (hidden_ND.to(head_1D.dtype) @ head_1D[0]).tolist()
        return scores

    return score


def _together(found: source.Source, folder: Path, dtype: str, device: Any) -> Ends:
    """A language model with its adapter merged: sequences are read end to end."""
    import torch

    from tunesmith.data.collate import collate
    from tunesmith.models.language_model import LanguageModel

    origin, config = Origin(found, folder, ""), ModelConfig(path=found.base)
    hf = model.weights(origin, config, dtype=dtype, device=device, seed=0).requires_grad_(False)
    made = LanguageModel(hf, kernels="eager", compute_dtype=getattr(torch, dtype)).eval()

    def ends(rows: Sequence[Sequence[int]]) -> Any:
        arrays = [np.array(ids, np.int32) for ids in rows]
        examples = [Example(ids, np.zeros(len(ids), np.float32)) for ids in arrays]
        batch = collate(examples, padded=not made.packable).to(device)
        last_N = batch.segments.start_G.astype("int64") + batch.segments.length_G - 1
        return made.hidden_at(batch, torch.from_numpy(last_N).to(device))

    return ends


def _one_by_one(found: source.Source, folder: Path, dtype: str, device: Any) -> Ends:
    """A sequence classifier of transformers, which has no head to be a language model with."""
    import torch

    from tunesmith.models.classifier import last_hidden

    last = last_hidden(folder, getattr(torch, dtype), device)
    return lambda rows: torch.stack([last(ids) for ids in rows])


def _is_classifier(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return any("ForSequenceClassification" in name for name in config.get("architectures") or ())


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
