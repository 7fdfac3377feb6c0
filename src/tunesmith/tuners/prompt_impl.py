"""How virtual tokens come to a model, are switched off, and lie on disk in PEFT's format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import ConfigError, EnvironmentFault
from tunesmith.models.load import packable
from tunesmith.models.soft import NAME, SoftPrefix, SoftPrompt, shape_of
from tunesmith.tuners.lora_files_impl import CONFIG, WEIGHTS
from tunesmith.tuners.lora_impl import settle, transformers_model, wide
from tunesmith.tuners.prefix import PrefixConfig
from tunesmith.tuners.prompt import PromptConfig

KEY = "prompt_embeddings"
"""What PEFT calls the one tensor of such an adapter."""
KINDS = {"PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
PREFIX_STD = 1.0
"""Keys and values begin as PEFT draws them: smaller ones take far longer to matter."""


def check(config: PromptConfig | PrefixConfig) -> None:
    """Raises:
    ConfigError: E232, a value that says nothing.
    """
    what = ""
    if config.tokens < 1:
        what = f"{config.tokens} virtual tokens"
    elif isinstance(config, PromptConfig) and (config.init == "text") != bool(config.text):
        what = "tuner.text goes with init: text, and that with a text"
    elif (
        isinstance(config, PrefixConfig)
        and config.hidden is not None
        and not (config.projection and config.hidden > 0)
    ):
        what = f"hidden: {config.hidden} is the width of an MLP that there is not"
    if what:
        raise ConfigError("E232", what, where="tuner", fix="tokens: 20; init: text, text: WORDS")


def no_merge(what: str) -> ConfigError:
    """The refusal of a merge."""
    return ConfigError(
        "E234",
        f"{what} can't be merged into weights",
        why="They are read before every text; no weight of the model could stand for them.",
        fix="keep the adapter beside its base: chat, generate and serve take it as it is",
    )


def apply_prompt(model: nn.Module, config: PromptConfig, ids: tuple[int, ...]) -> None:
    """Gives a model trained embeddings of virtual tokens."""
    hf = _ready(model)
    table_VD = hf.get_input_embeddings().weight.detach()
    count, dtype = config.tokens, wide(table_VD.dtype)
    if config.init == "random" or table_VD.is_meta:
        noise_nD = torch.randn(count, table_VD.shape[1], dtype=dtype)
        scale = 0.0 if table_VD.is_meta else float(table_VD.float().std())
        vectors_nD = (noise_nD * scale).to(table_VD.device)
    else:
        drawn = torch.randint(len(table_VD), (count,))
        said = torch.tensor((ids * count)[:count]) if ids else drawn
        vectors_nD = table_VD[said.to(table_VD.device)].to(dtype).clone()
    _give(model, SoftPrompt(vectors_nD))


def apply_prefix(model: nn.Module, config: PrefixConfig) -> None:
    """Gives a model trained keys and values of virtual tokens."""
    hf = _ready(model)
    shape, like = shape_of(hf), hf.get_input_embeddings().weight
    width = hf.config.get_text_config().hidden_size
    hidden = (config.hidden or width) if config.projection else None
    size = width if config.projection else shape.numbers
    std = 1.0 if config.projection else PREFIX_STD
    vectors = torch.randn(config.tokens, size, dtype=wide(like.dtype)) * std
    _give(model, SoftPrefix(vectors.to(like.device), shape, hidden))


def _ready(model: nn.Module) -> Any:
    hf: Any = transformers_model(model)
    if NAME in hf._modules:
        what = "the model has virtual tokens already"
        raise ConfigError("E233", what, where="tuner", fix="train from its base, or use lora")
    if not packable(hf.config):
        raise ConfigError(
            "E233",
            f"{hf.config.model_type} can't be given virtual tokens",
            where="tuner",
            why="its code does not go through transformers' attention interface",
            fix="tuner=lora",
        )
    return hf


def _give(model: nn.Module, soft: nn.Module) -> None:
    hf: Any = transformers_model(model)
    hf.requires_grad_(False)
    soft.train(hf.training)
    hf.add_module(NAME, soft)
    settle(model)


@contextmanager
def reference(model: nn.Module) -> Iterator[None]:
    """Within it `model` computes what it did before `apply`."""
    soft: Any = transformers_model(model).get_submodule(NAME)
    try:
        soft.enabled = False
        yield
    finally:
        soft.enabled = True


def save(model: nn.Module, path: Path) -> None:
    """Writes the adapter; the weights first, so that a config always has its weights."""
    hf: Any = transformers_model(model)
    soft: Any = hf.get_submodule(NAME)
    made: Any = soft._modules.get("transform")
    text, shape = hf.config.get_text_config(), shape_of(hf)
    prefix = isinstance(soft, SoftPrefix)
    path.mkdir(parents=True, exist_ok=True)
    stored = soft.stored().detach().contiguous().cpu().clone()
    save_file({KEY: stored}, path / WEIGHTS, metadata={"format": "pt"})
    fields: dict[str, Any] = {
        "peft_type": "PREFIX_TUNING" if prefix else "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": hf.name_or_path or None,
        "inference_mode": True,
        "num_virtual_tokens": soft.tokens,
        "num_layers": text.num_hidden_layers,
        "num_transformer_submodules": 1,
        "num_attention_heads": shape.heads if prefix else text.num_attention_heads,
        "token_dim": shape.heads * shape.width if prefix else text.hidden_size,
    }
    if prefix:
        projected = made is not None
        fields |= {
            "prefix_projection": projected,
            "encoder_hidden_size": made[0].out_features if projected else None,
        }
    else:
        fields |= {"prompt_tuning_init": "RANDOM"}
    written = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    (path / CONFIG).write_text(written, encoding="utf-8")


def kind_of(path: Path) -> str | None:
    """`prompt` or `prefix` for an adapter of virtual tokens on disk; None for others."""
    file = path / CONFIG
    if not file.is_file():
        return None
    return KINDS.get(json.loads(file.read_text(encoding="utf-8")).get("peft_type"))


def config_of(path: Path) -> PromptConfig | PrefixConfig:
    """The config with which an adapter on disk can be loaded; an MLP is not kept in it."""
    tokens = len(read(path))
    return PrefixConfig(tokens=tokens) if kind_of(path) == "prefix" else PromptConfig(tokens=tokens)


def read(path: Path) -> Tensor:
    """The tensor of an adapter.

    Raises:
        EnvironmentFault: E209, no adapter there; E210, it holds something else.
    """
    if not (path / WEIGHTS).is_file():
        what = f"no adapter at {path}: {WEIGHTS} is missing"
        raise EnvironmentFault("E209", what, fix=f"give a directory with {CONFIG} and {WEIGHTS}")
    stored = load_file(path / WEIGHTS)
    if set(stored) != {KEY} or stored[KEY].dim() != 2:
        names = ", ".join(sorted(stored)[:3])
        raise EnvironmentFault(
            "E210", f"an adapter of virtual tokens with {names}", where=str(path)
        )
    return stored[KEY]


def load(model: nn.Module, path: Path) -> None:
    """Copies the virtual tokens on disk into a model that has as many."""
    soft: Any = transformers_model(model).get_submodule(NAME)
    stored = read(path)
    if stored.shape != soft.embedding.shape:
        shapes = f"{tuple(stored.shape)}, not {tuple(soft.embedding.shape)}"
        raise EnvironmentFault(
            "E210",
            f"these virtual tokens do not fit the model: {shapes}",
            where=str(path),
            fix="use the base they were trained on",
        )
    with torch.no_grad():
        soft.embedding.copy_(stored)
