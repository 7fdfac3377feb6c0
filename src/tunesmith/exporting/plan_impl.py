"""Which weights a merged model has: names, shapes and types, ties undone where training undid them.

Only headers are read here; each weight is made when it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ExportError
from tunesmith.exporting.adapter_impl import Adapter, Place
from tunesmith.exporting.shards_impl import Planned, Stored, stored
from tunesmith.models import load
from tunesmith.recipe.sections import ModelConfig


@dataclass
class Plan:
    """The weights to write, and what of the config changes with them."""

    tensors: list[Planned] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Names of weights that the adapters change."""
    vocabulary: int = 0
    """Rows of the embedding."""
    config: dict[str, object] = field(default_factory=dict)
    """Fields of config.json with a new value."""
    exact: bool = True
    """Whether every changed weight is written in float32 or wider."""


@dataclass
class Base:
    """A base by its headers and its modules."""

    directory: Path
    skeleton: PreTrainedModel
    files: dict[str, Stored]
    """Stored tensors by the names the modules have."""
    embedding: str
    head: str
    tied: bool

    def source(self, name: str) -> Stored | None:
        """Where a weight's values are; a tied head's are the embedding's."""
        return self.files.get(self.embedding if self.tied and name == self.head else name)

    def place(self, name: str) -> Place:
        module = self.skeleton.get_submodule(name.rpartition(".")[0])
        transposed = isinstance(module, (Conv1D, nn.Embedding)) and name.endswith(".weight")
        return "transposed" if transposed else "linear"


def read_base(directory: Path) -> Base:
    """Reads a base's config and headers.

    Raises:
        EnvironmentFault: E201–E205, no such model, or none we know.
        ExportError: X102, it is quantised; X103, a file can't be read.
    """
    skeleton = load.skeleton(ModelConfig(path=str(directory)))
    if "quantization_config" in skeleton.config.to_dict():
        raise ExportError(
            "X102",
            "a quantised base can't be merged into",
            where=str(directory),
            fix="merge into the model it was quantised from, then quantise the result",
        )
    names = {id(parameter): name for name, parameter in skeleton.named_parameters()}
    embedding = names[id(skeleton.get_input_embeddings().weight)]
    output = skeleton.get_output_embeddings()
    head = next((f"{n}.weight" for n, m in skeleton.named_modules() if m is output), embedding)
    tied = output is None or output.weight is skeleton.get_input_embeddings().weight
    known = {name for name, _ in skeleton.named_parameters()} | {head}
    files = {
        _known_name(name, known, skeleton.base_model_prefix): tensor
        for name, tensor in stored(directory).items()
    }
    return Base(directory, skeleton, files, embedding, head, tied)


def _known_name(name: str, known: set[str], prefix: str) -> str:
    """A stored name as the modules call it: checkpoints of a bare backbone lack its prefix."""
    other = name.removeprefix(f"{prefix}.") if name.startswith(f"{prefix}.") else f"{prefix}.{name}"
    return other if name not in known and other in known else name


def plan(base: Base, adapters: Sequence[Adapter], dtype: torch.dtype | None) -> Plan:
    """Lays out the merged model.

    Args:
        base: What the adapters were trained on.
        adapters: In the order they were trained, each on what the ones before it make.
        dtype: Type of all floating-point weights; None: each keeps the base's.

    Raises:
        ExportError: X104, an adapter does not fit the base.
    """
    _check_fit(base, adapters)
    untied = base.tied and any(_parts_ends(base, adapter) for adapter in adapters)
    names = [name for name in base.files if not (base.tied and name == base.head)]
    if untied:
        names.append(base.head)
    made = Plan()
    for name in names:
        source = base.source(name)
        assert source is not None
        mine = [adapter for adapter in adapters if _changes(base, adapter, name)]
        floating = source.dtype.is_floating_point
        target = dtype if dtype is not None and floating else source.dtype
        shape = _shape(base, mine, name, source)
        made.tensors.append(Planned(name, shape, target, _maker(base, mine, name, source, target)))
        if mine:
            made.changed.append(name)
            made.exact = made.exact and target.itemsize >= 4
    if untied:
        made.config["tie_word_embeddings"] = False
    rows = {t.name: t.shape[0] for t in made.tensors if t.name in (base.embedding, base.head)}
    if len(set(rows.values())) > 1:
        raise _misfit(adapters[-1], f"embedding and head would have {rows} rows")
    made.vocabulary = rows[base.embedding]
    if made.vocabulary != base.files[base.embedding].shape[0]:
        made.config["vocab_size"] = made.vocabulary
    if dtype is not None:
        made.config["dtype"] = str(dtype).removeprefix("torch.")
    return made


def _parts_ends(base: Base, adapter: Adapter) -> bool:
    """Whether an adapter makes a tied embedding and head differ.

    Deltas and modules trained whole change one of the two, as PEFT computes them; a resized
    vocabulary, saved without either, changes what both share.
    """
    ends = (base.embedding, base.head)
    by_delta = any(name.rpartition(".")[0] in adapter.deltas for name in ends)
    return by_delta or any(adapter.saves(name) and name in adapter.whole for name in ends)


def _partner(base: Base, adapter: Adapter, name: str) -> str:
    """The name under which an adapter has a weight: that of its tied partner, if need be."""
    if name in adapter.whole or not base.tied or name not in (base.embedding, base.head):
        return name
    other = base.head if name == base.embedding else base.embedding
    return other if other in adapter.whole and not adapter.saves(other) else name


def _changes(base: Base, adapter: Adapter, name: str) -> bool:
    return adapter.changes(name) or _partner(base, adapter, name) in adapter.whole


def _shape(base: Base, adapters: Sequence[Adapter], name: str, source: Stored) -> tuple[int, ...]:
    shape = source.shape
    for adapter in adapters:
        whole = adapter.whole.get(_partner(base, adapter, name))
        if whole is not None and whole.shape[1:] == shape[1:]:
            shape = whole.shape
    return shape


def _maker(base: Base, adapters: Sequence[Adapter], name: str, source: Stored, target: torch.dtype):
    """Makes the weight: deltas in float32, rounded once at the end."""

    def make() -> Tensor:
        weight = source.read()
        for adapter in adapters:
            partner = _partner(base, adapter, name)
            if partner != name:
                weight = adapter.whole[partner].read()
            weight = adapter.apply(name, weight, base.place(name))
        rounded = weight.to(target).contiguous()
        if target != source.dtype or adapters:
            _check_finite(name, weight, rounded)
        return rounded

    return make


def _check_finite(name: str, weight: Tensor, rounded: Tensor) -> None:
    if rounded.is_floating_point() and not rounded.isfinite().all():
        kind = str(rounded.dtype).removeprefix("torch.")
        caused = (
            "its values are too large for it" if weight.isfinite().all() else "they were before"
        )
        raise ExportError(
            "X105",
            f"values of `{name}` are not finite in {kind}: {caused}",
            fix="merge with --dtype float32 or bfloat16, or use an earlier checkpoint",
        )


def _check_fit(base: Base, adapters: Sequence[Adapter]) -> None:
    """Every tensor of every adapter has its place in the base, of the right shape."""
    for adapter in adapters:
        for module, delta in adapter.deltas.items():
            name = f"{module}.weight"
            source = base.source(name)
            if source is None:
                raise _misfit(adapter, f"the base has no weight `{name}`")
            names = ("A", "B") if "A" in delta.parts else ("embedding_A", "embedding_B")
            (_, width), (height, _) = (delta.parts[n].shape for n in names)
            wanted = (width, height) if base.place(name) == "transposed" else (height, width)
            rows = adapter.whole.get(name, source)
            if tuple(rows.shape) != wanted:
                raise _misfit(adapter, f"`{module}` is {rows.shape} there, {wanted} here")
            if "B.bias" in delta.parts and f"{module}.bias" not in base.files:
                raise _misfit(adapter, f"`{module}` has no bias to add to")
        for name, tensor in adapter.whole.items():
            source = base.source(name)
            if source is None:
                raise _misfit(adapter, f"the base has no weight `{name}`")
            resized = name.rpartition(".")[0] in _ends(base)
            if tensor.shape != source.shape and not (
                resized and tensor.shape[1:] == source.shape[1:]
            ):
                raise _misfit(adapter, f"`{name}` is {source.shape} there, {tensor.shape} here")


def _ends(base: Base) -> set[str]:
    return {base.embedding.rpartition(".")[0], base.head.rpartition(".")[0]}


def _misfit(adapter: Adapter, why: str) -> ExportError:
    return ExportError(
        "X104",
        f"this adapter does not fit the base: {why}",
        where=str(adapter.path),
        fix="name the model it was trained on with --base",
    )
