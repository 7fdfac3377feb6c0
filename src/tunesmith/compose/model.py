"""Where a run starts from, its weights in memory, and models loaded to talk to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import platform, recipe as recipes
from tunesmith.compose import quantising, source
from tunesmith.compose.quantising import Quantize
from tunesmith.compose.source import Source
from tunesmith.errors import ConfigError
from tunesmith.recipe.sections import ModelConfig, Recipe
from tunesmith.templates import base as templates
from tunesmith.templates.tokenizers import convert
from tunesmith.tuners import base as tuners

if TYPE_CHECKING:
    from tunesmith.models.language_model import LanguageModel


HEADS = {"reward": "score.", "ppo": "value."}
"""What a stage trains beside the language model: its checkpoints hold it, under this name."""


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
        found = source.language_model(config.path, recipe.output.dir)
        directory = tokenizer_dir(config, found)
        return Origin(found, directory, source.content_hash(found))
    if config.tokenizer is None:
        raise ConfigError(
            "C182",
            "a model from scratch needs a tokenizer",
            where="model.tokenizer",
            fix="set model.tokenizer=DIRECTORY or builtin:tiny",
        )
    directory = tokenizer_dir(config, None)
    drawn = json.dumps([dict(config.config or {}), recipe.train.seed], sort_keys=True)
    return Origin(None, directory, hashlib.sha256(drawn.encode()).hexdigest())


def tokenizer_dir(config: ModelConfig, found: Source | None) -> Path:
    if config.tokenizer is not None:
        return source.locate(config.tokenizer).top or Path(config.tokenizer)
    assert found is not None
    if found.top is not None and convert.has_tokenizer(found.top):
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


def weights(
    origin: Origin,
    config: ModelConfig,
    *,
    dtype: str,
    device: Any,
    seed: int,
    keep: tuple[str, ...] = (),
    as_stored: bool = True,
) -> Any:
    """The transformers model of an origin, its inner adapters merged into it.

    Over quantised weights an adapter stays beside them.

    Args:
        origin: What it is made of.
        config: The recipe's section.
        dtype: Type of the weights in memory.
        device: Where they go.
        seed: Draws the weights of a fresh model.
        keep: Names of modules that `config.quantize` leaves as they are.
        as_stored: Whether merged weights are rounded as the base is stored.
    """
    import torch

    from tunesmith.models import info, load
    from tunesmith.templates.tokenizer import Tokenizer

    if origin.source is None:
        size = Tokenizer.load(origin.tokenizer_dir).vocab_size
        return load.load(config, dtype=dtype, device=device, seed=seed, vocab_size=size).hf
    found = origin.source
    if found.base:
        config = dataclasses.replace(config, path=found.base)
    # Deltas are rounded once, to the type the base is stored in: a run is what `merge` makes of it.
    merges = found.checkpoint is not None and _is_adapter(found.checkpoint)
    if config.quantize is not None:
        return _few_bits(found, config, merges, dtype=dtype, device=device, seed=seed, keep=keep)
    loaded = dtype
    if as_stored and (found.adapters or (found.base and merges)):
        loaded = info.stored_dtype(load.resolve(found.base)[0], dtype)
    hf = load.load(config, dtype=loaded, device=device, seed=seed).hf
    for adapter in found.adapters:
        tuner = tuners.for_adapter(adapter)
        tuner.apply(hf)
        tuner.load(hf, adapter)
        if tuner.mergeable or adapter != found.adapters[-1] or found.checkpoint is not None:
            tuner.merge(hf)  # virtual tokens stay as they are, if nothing lies over them
    if found.checkpoint is not None:
        _overlay(hf, found.checkpoint)
    return hf if loaded == dtype else load.to_dtype(hf, getattr(torch, dtype))


def _few_bits(
    found: Source, config: ModelConfig, merges: bool, *, keep: tuple[str, ...], **how: Any
) -> Any:
    """A model quantised as it loads, with its adapter beside the weights."""
    from tunesmith.models import load

    quantising.over(found, merges)
    tuner = tuners.for_adapter(found.adapters[0]) if found.adapters else None
    if found.checkpoint is not None:
        tuner = tuners.build(run_recipe(found.checkpoint).tuner)
    keep = (*keep, *quantising.whole(tuner))
    hf = load.load(config, keep=keep, **how).hf
    if found.adapters and tuner is not None:
        tuner.apply(hf)
        tuner.load(hf, found.adapters[0])
    if found.checkpoint is not None:
        _overlay(hf, found.checkpoint, merge=False)
    return hf.requires_grad_(False)


def _is_adapter(checkpoint: Path) -> bool:
    """Whether a checkpoint holds deltas rather than weights of the base."""
    return run_recipe(checkpoint).tuner.kind in quantising.BESIDE


def _overlay(hf: Any, path: Path, *, merge: bool = True) -> None:
    """Lays a checkpoint's trained weights over the base; an adapter's are merged if asked."""
    from tunesmith.training import checkpoint

    recipe = run_recipe(path)
    tuner = tuners.build(recipe.tuner)
    tuner.apply(hf)
    tensors = checkpoint.Checkpoint(path).weights()
    parameters = dict(hf.named_parameters())
    import torch

    own = HEADS.get(recipe.stage.kind)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if own is None or not name.startswith(own):
                parameters[name].copy_(tensor)
    if tuner.mergeable and merge:
        tuner.merge(hf)


def skeleton(origin: Origin, config: ModelConfig) -> Any:
    """The model without memory (on the meta device), for counting."""
    from tunesmith.models import load

    if origin.source is None:
        return load.skeleton(config)
    return load.skeleton(dataclasses.replace(config, path=origin.source.base))


def run_recipe(checkpoint: Path) -> Recipe:
    """The recipe of the run that a checkpoint directory belongs to."""
    return recipes.load(str(checkpoint.parents[1] / "resolved.yaml"), environ={})


@dataclass
class Loaded:
    """A model to talk to: weights, tokenizer, template, and what was found under its name."""

    model: LanguageModel
    tokenizer: Any
    template: Any
    system: str | None
    description: str
    path: Path | None


def load(
    spec: str, *, dtype: str = "auto", root: str = "runs/", quantize: Quantize | None = None
) -> Loaded:
    """Loads a run, directory, embedded model or hub id for generation, in eval mode.

    Args:
        spec: What `source.locate` understands.
        dtype: Compute type; auto: what this machine does fastest, but on a CPU float32 for weights
            that are stored in it, so that answers are those of the weights.
        root: Where runs are looked for first.
        quantize: Few bits for the weights of its linear layers; None: as it was trained.

    Raises:
        ConfigError: E230, what was asked for can't be quantised.
        EnvironmentFault: E201, no such model.
        MissingExtra: E401, bitsandbytes is not installed.
    """
    platform.prepare()
    import torch

    from tunesmith.models.language_model import LanguageModel

    found = source.language_model(spec, root)
    config, name, system, recipe = ModelConfig(path=found.base), "auto", None, None
    if found.checkpoint is not None:  # not yet a model of its own: the run's recipe tells the rest
        recipe = run_recipe(found.checkpoint)
        name, system = recipe.data.template, recipe.data.system
        config = recipe.model if not found.base else config
        directory = origin(recipe).tokenizer_dir
    else:
        directory = tokenizer_dir(config, found)
        system = found.card().get("system")
    few_bits = quantising.chosen(quantize, found, recipe)
    config = dataclasses.replace(config, quantize=few_bits)
    compute = compute_type(dtype, found)
    start = Origin(found, directory, "")
    hf = weights(start, config, dtype=compute, device=platform.device(), seed=0)
    template = templates.load(name, directory)
    model = LanguageModel(
        hf, attention="sdpa", kernels="eager", compute_dtype=getattr(torch, compute)
    )
    model.eval()
    top = found.checkpoint or found.top
    description = f"{spec} → {top or found.base}"
    return Loaded(model, template.tokenizer, template, system, description, top)


def compute_type(dtype: str, found: Source) -> str:
    """`auto` resolved: bfloat16 on a CPU only for weights that are stored no better."""
    if dtype == "auto" and platform.device() == "cpu" and found.base:
        from tunesmith.models import info, load as loading

        if info.stored_dtype(loading.resolve(found.base)[0], "float32") == "float32":
            return "float32"
    return platform.choose_dtype(dtype)
