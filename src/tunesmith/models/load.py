"""Loading models: directories, the package's own, the hub, or fresh ones from a config.

safetensors only, and code that comes with a model never runs. RoPE scaling is put into the config
before the model is built, for the rotary tables are made by its constructor.
"""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.logging import disable_progress_bar

from tunesmith import threads
from tunesmith.errors import ConfigError, EnvironmentFault
from tunesmith.models import quantised
from tunesmith.models.allocator import returning_freed_memory
from tunesmith.models.interface import says_all
from tunesmith.quant import bnb
from tunesmith.recipe.sections import ModelConfig

BUILTIN = "builtin:"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_WANTED = ("*.json", "*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jinja")


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, and where its tokenizer is."""

    hf: PreTrainedModel
    tokenizer_dir: Path
    description: str
    """One line for the terminal: `llama 6L×256  5.8M params  float32`."""
    source: Path | None
    """The directory its weights came from; None for a fresh model."""
    revision: str | None = None
    """Commit of a hub model."""


def load(
    model: ModelConfig,
    *,
    dtype: str | torch.dtype = "float32",
    device: Any = "cpu",
    seed: int = 42,
    vocab_size: int | None = None,
    keep: tuple[str, ...] = (),
) -> LoadedModel:
    """Loads or builds the model that a recipe names.

    Args:
        model: The recipe's section.
        dtype: Type of the weights in memory.
        device: Where to put it.
        seed: Draws the weights of a fresh model.
        vocab_size: Vocabulary of a fresh model; default: that of its tokenizer.
        keep: Names of modules that `model.quantize` leaves as they are.

    Raises:
        EnvironmentFault: E201–E207, E231; see docs/errors.md.
        ConfigError: C176, neither a path nor a config, or a config without tokenizer; E230, weights
            that are drawn or quantised already were to be quantised.
        MissingExtra: E401, bitsandbytes is not installed.
    """
    disable_progress_bar()  # a run says what it does itself
    threads.watch()
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    if model.config is not None:
        quantised.refuse_fresh(model)
        return _fresh(model, dtype, device, seed, vocab_size)
    if model.path is None:
        raise ConfigError("C176", "model needs a `path` or a `config`", where="model")
    directory, revision = resolve(model.path, model.revision, model.cache_dir)
    config = read_config(directory, model.rope_scaling)
    _check_weights(directory)
    few_bits = quantised.options(model, config, keep, dtype=dtype, device=device)
    with returning_freed_memory() if few_bits else nullcontext():
        hf, report = cast(Any, AutoModelForCausalLM).from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **few_bits,
        )
    _check_report(directory, report)
    if few_bits:
        bnb.adopt(hf)
    tokenizer = tokenizer_dir(model) if model.tokenizer else directory
    hf = hf.to(device)
    return LoadedModel(hf, tokenizer, describe(hf), directory, revision)


def skeleton(model: ModelConfig) -> PreTrainedModel:
    """The model on the meta device: all shapes, no memory, no weights read.

    Raises:
        EnvironmentFault: E201–E207, as `load`.
    """
    if model.config is not None:
        fields = dict(model.config)
        fields.setdefault("vocab_size", _vocabulary(tokenizer_dir(model)))
        config = _config(fields, model.rope_scaling, "model.config")
    else:
        directory, _ = resolve(str(model.path), model.revision, model.cache_dir)
        config = read_config(directory, model.rope_scaling)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def tokenizer_dir(model: ModelConfig) -> Path:
    """The directory of the model's tokenizer, found without reading any weights."""
    spec = model.tokenizer or model.path
    if spec is None:
        raise ConfigError(
            "C176",
            "a model from scratch needs a tokenizer",
            where="model.tokenizer",
            fix="model.tokenizer=builtin:tiny, or a directory with tokenizer.json",
        )
    return resolve(spec, model.revision, model.cache_dir)[0]


def resolve(spec: str, revision: str | None = None, cache: str | None = None):
    """Where the files of `spec` are: (directory, hub commit or None).

    Raises:
        EnvironmentFault: E201, there is no such model; E202, the hub can't be reached.
    """
    if spec.startswith(BUILTIN):
        return _builtin(spec.removeprefix(BUILTIN)), None
    directory = Path(spec).expanduser()
    if directory.is_dir():
        return directory, None
    if directory.is_file():
        directory, why = directory.parent, "it is a file"
    elif spec.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(spec):
        why = "there is no such directory"
    else:
        return _download(spec, revision, cache)
    raise EnvironmentFault(
        "E201", f"no model at {spec}: {why}", fix="give a model directory, builtin:NAME or a hub id"
    )


def read_config(directory: Path, rope_scaling: Any = None) -> PreTrainedConfig:
    """A model's config, with RoPE scaling already in it.

    Raises:
        EnvironmentFault: E201, no config.json; E204, code of its own; E205, unknown family;
            E207, an adapter.
    """
    path = directory / "config.json"
    if not path.is_file():
        if (directory / "adapter_config.json").is_file():
            raise EnvironmentFault(
                "E207",
                f"{directory} holds an adapter, not a model",
                fix="name the base as model.path, or merge first: tunesmith merge",
            )
        raise EnvironmentFault(
            "E201", f"no model at {directory}: config.json is missing", fix="check model.path"
        )
    fields = json.loads(path.read_text(encoding="utf-8"))
    return _config(fields, rope_scaling, str(directory))


def packable(config: PreTrainedConfig) -> bool:
    """Whether a family can train on segments laid end to end.

    It must ask transformers' attention interface for all of its attention, and nothing else in it
    may carry state from token to token (state-space layers, linear attention, convolutions).
    """
    family = _family(config)
    if family is None or family._is_stateful or not family._can_set_attn_implementation():
        return False
    if not says_all(family, config):
        return False
    fields = config.get_text_config().to_dict()
    kinds = set(fields.get("layer_types") or ()) | set(fields.get("layers_block_type") or ())
    return kinds <= {"full_attention", "sliding_attention", "attention"}


def describe(hf: PreTrainedModel) -> str:
    """`llama 6L×256  5.8M params  float32`."""
    config = hf.config.get_text_config()
    shape = f"{config.num_hidden_layers}L×{config.hidden_size}"
    count = quantised.parameters(hf)
    dtype = str(hf.dtype).removeprefix("torch.")
    return f"{config.model_type} {shape}  {in_short(count)} params  {dtype}"


def in_short(count: int) -> str:
    """A count of parameters: `1.24B`, `5.8M`, `260K`."""
    if count >= 1e9:
        return f"{count / 1e9:.2f}B"
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}K"


def _fresh(model: ModelConfig, dtype, device, seed, vocab_size) -> LoadedModel:
    directory = tokenizer_dir(model)
    fields = dict(model.config or {})
    if "vocab_size" not in fields:
        fields["vocab_size"] = vocab_size or _vocabulary(directory)
    config = _config(fields, model.rope_scaling, "model.config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # drawn on the CPU in float32: the same weights for every dtype
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    hf = to_dtype(hf, dtype).to(device)
    return LoadedModel(hf, directory, describe(hf), None)


def to_dtype(hf: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model with its weights in another type.

    What no file holds, above all the frequencies of rotary positions, stays in float32, as it does
    where transformers loads a model: `hf.to(dtype)` would round them, and far positions with them.
    """
    for tensor in hf.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return hf


def _config(fields: dict[str, Any], rope_scaling: Any, where: str) -> PreTrainedConfig:
    kind = fields.get("model_type")
    if kind not in CONFIG_MAPPING:
        if "auto_map" in fields:
            raise EnvironmentFault(
                "E204",
                f"this model comes with code of its own ({fields['auto_map']}), which is never run",
                where=where,
                fix="use a family that transformers knows",
            )
        raise EnvironmentFault(
            "E205", f"transformers knows no model_type {kind!r}", where=where, fix="check config"
        )
    fields = {name: value for name, value in fields.items() if name != "auto_map"}
    config = AutoConfig.for_model(**fields)
    if rope_scaling is not None:
        scaled = {"rope_theta": _theta(config), **rope_scaling}
        config = AutoConfig.for_model(**{**fields, "rope_parameters": scaled})
    if _family(config) is None:
        raise EnvironmentFault(
            "E205", f"{kind} is not a causal language model", where=where, fix="choose another"
        )
    return config


def _theta(config: PreTrainedConfig) -> float:
    fields = config.get_text_config().to_dict()
    rope = fields.get("rope_parameters") or {}
    return rope.get("rope_theta") or fields.get("rope_theta") or 10000.0


def _family(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    family = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return family[0] if isinstance(family, (tuple, list)) else family


def _builtin(name: str) -> Path:
    assets = Path(str(files("tunesmith"))) / "assets"
    directory = assets / name
    if not name or not directory.is_dir():
        known = ", ".join(sorted(p.name for p in assets.glob("*") if (p / "config.json").is_file()))
        raise EnvironmentFault(
            "E201", f"no builtin model `{name}`", fix=f"known: {known or 'none'}"
        )
    return directory


def _download(spec: str, revision: str | None, cache: str | None) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            spec, revision=revision, cache_dir=cache, allow_patterns=list(_WANTED)
        )
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        missing = isinstance(error, HfHubHTTPError) and not isinstance(
            error, LocalEntryNotFoundError
        )
        raise EnvironmentFault(
            "E201" if missing else "E202",
            f"{spec} is no directory here, and the hub "
            + ("has no such model" if missing else "can't be reached"),
            why=str(error).splitlines()[0][:200],
            fix="download it elsewhere and give the directory as model.path",
        ) from error
    path = Path(found)
    return path, path.name


def _check_weights(directory: Path) -> None:
    if any(directory.glob("*.safetensors")):
        return
    pickles = sorted(
        p.name for suffix in ("bin", "pt", "pth") for p in directory.glob(f"*.{suffix}")
    )
    if pickles:
        raise EnvironmentFault(
            "E203",
            f"{directory} has its weights only as a pickle ({pickles[0]}), which is never read",
            fix="convert it to safetensors, where you trust it, with the tool that wrote it",
        )
    raise EnvironmentFault(
        "E201", f"no model at {directory}: no *.safetensors beside config.json", fix="download it"
    )


def _check_report(directory: Path, report: Any) -> None:
    missing = sorted(report["missing_keys"]) + sorted(k[0] for k in report["mismatched_keys"])
    if missing:
        raise EnvironmentFault(
            "E206",
            f"{len(missing)} weights are missing or have another shape: {', '.join(missing[:3])}",
            where=str(directory),
            fix="the checkpoint is incomplete or belongs to another config.json",
        )


def _vocabulary(directory: Path) -> int:
    """Number of token ids of a tokenizer, added tokens included."""
    from tunesmith.templates.tokenizer import Tokenizer

    return Tokenizer.load(directory).vocab_size
