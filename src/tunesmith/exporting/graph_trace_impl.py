"""A transformers model as graphs of fixed form: what of it is traced, and the JSON that says it.

Two programs share one signature: `prefill` takes a chunk of tokens, `decode` one. Both write keys
and values into tables that the caller owns, at positions that follow `begin`, and answer the logits
after one of their tokens. Nothing depends on values and no size is open, so a program is a list of
operations with numbers and names in it, and no expression that a reader would have to evaluate.

Legend: `T` tokens, `C` room of the cache in tokens, `K` key heads, `E` width of a head, `L` layers,
`V` vocabulary.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import ExportError

CHUNK = 64
"""Tokens of a prompt that a call of `prefill` takes; the cache's room is a multiple of it."""
SLIDING = "sliding_attention"
PREFIX = "hf."


@dataclass(frozen=True)
class Traced:
    """Programs of a model as JSON, and what they need beside its weights.

    Attributes:
        programs: `prefill` and `decode`, in the form of torch's own exporter.
        constants: Tensors that are no weights, by `PROGRAM.NAME`.
        cache: Shape of each layer's keys, and of its values: (1, K, C, E).
        room: `C`.
    """

    programs: Mapping[str, Any]
    constants: Mapping[str, Tensor]
    cache: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    room: int


class _Tables:
    """What attention layers ask of a cache, over tensors of fixed size."""

    is_compileable = False

    def __init__(self, slots: Mapping[int, int], keys: Any, values: Any, positions_T: Tensor):
        self.slots, self.keys, self.values, self.positions_T = slots, keys, values, positions_T

    def update(self, key: Tensor, value: Tensor, layer_idx: int, cache_kwargs: Any = None) -> Any:
        """All keys and values of a layer, the new ones in their places."""
        at = self.slots[layer_idx]
        keys = self.keys[at].index_copy_(2, self.positions_T, key)
        return keys, self.values[at].index_copy_(2, self.positions_T, value)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class _Probe:
    """Sees what layers write, and keeps nothing."""

    is_compileable = False

    def __init__(self) -> None:
        self.shapes: dict[int, tuple[torch.Size, torch.Size]] = {}

    def update(self, key: Tensor, value: Tensor, layer_idx: int, cache_kwargs: Any = None) -> Any:
        self.shapes[layer_idx] = key.shape, value.shape
        return key, value

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class StaticGraph(nn.Module):
    """(ids_T, begin_1, last_1, keys, values) → logits (1, V); writes into keys and values.

    Args:
        hf: A model of a family with the attention interface.
        context: Positions it may meet; what is padded beyond them stays at the last one.
    """

    def __init__(self, hf: Any, context: int):
        super().__init__()
        self.hf, self.context = hf, context
        config = hf.config.get_text_config()
        fields = config.to_dict()
        kinds = set(fields.get("layer_types") or ())
        self.window: int | None = fields.get("sliding_window")
        self.mixed = SLIDING in kinds
        if kinds and not self.mixed:
            self.window = None
        self.keeps = "logits_to_keep" in inspect.signature(hf.forward).parameters
        probe = _Probe()
        hf(**self._words(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), 1),
           past_key_values=probe)  # fmt: skip
        self.slots = {layer: at for at, layer in enumerate(sorted(probe.shapes))}
        self.shapes = [probe.shapes[layer] for layer in self.slots]

    def forward(
        self,
        ids_T: Tensor,
        begin_1: Tensor,
        last_1: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
    ) -> Tensor:
        positions_T = begin_1 + torch.arange(ids_T.shape[0])
        words = self._words(ids_T, positions_T, keys[0].shape[2])
        if self.keeps:
            words["logits_to_keep"] = last_1
        tables = _Tables(self.slots, keys, values, positions_T)
        logits = self.hf(**words, past_key_values=tables).logits[0]
        return logits if self.keeps else logits.index_select(0, last_1)

    def _words(self, ids_T: Tensor, positions_T: Tensor, room: int) -> dict[str, Any]:
        """What the family's own code is called with, but the cache."""
        behind_TC = positions_T[:, None] - torch.arange(room)
        full = self._mask(behind_TC >= 0)
        mask: Any = full
        if self.window is not None:
            seen_TC = torch.logical_and(behind_TC >= 0, behind_TC < self.window)
            near = self._mask(seen_TC)
            mask = {"full_attention": full, SLIDING: near} if self.mixed else near
        return {
            "input_ids": ids_T[None],
            "position_ids": positions_T.clamp(max=self.context - 1)[None],
            "attention_mask": mask,
            "use_cache": True,
        }

    def _mask(self, seen_TC: Tensor) -> Tensor:
        """Added to scores: eager attention takes it as readily as torch's own."""
        zero = torch.zeros((), dtype=self.hf.dtype)
        return torch.where(seen_TC, zero, torch.finfo(self.hf.dtype).min)[None, None]

    def tables(self, room: int) -> tuple[list[Tensor], list[Tensor]]:
        """Empty keys and values."""
        made = [
            [torch.zeros(shape[0], shape[1], room, shape[3], dtype=self.hf.dtype) for shape in pair]
            for pair in self.shapes
        ]
        return [pair[0] for pair in made], [pair[1] for pair in made]


def trace(hf: Any, context: int) -> Traced:
    """The programs of a model in eval mode.

    Raises:
        ExportError: X321, torch can't make graphs of this family's code.
    """
    room = -(-context // CHUNK) * CHUNK
    programs, constants = {}, {}
    try:
        with torch.no_grad():
            graph = StaticGraph(hf, context).eval()
            for name, tokens in (("prefill", CHUNK), ("decode", 1)):
                programs[name], found = _program(graph, name, tokens, room)
                constants |= found
    except Exception as error:  # of the family's code or of torch's exporter: both are many
        first = next(iter(str(error).strip().splitlines()), "")[:300]
        raise ExportError(
            "X321",
            f"no graph can be made of a {hf.config.model_type} model",
            why=f"{type(error).__name__}: {first}",
            fix="serve the weights: tunesmith chat, generate and serve take them as they are",
        ) from error
    keys, values = graph.tables(room)
    shapes = [(tuple(k.shape), tuple(v.shape)) for k, v in zip(keys, values, strict=True)]
    return Traced(programs, constants, shapes, room)


def _program(
    graph: StaticGraph, name: str, tokens: int, room: int
) -> tuple[Any, dict[str, Tensor]]:
    """One program as JSON, and its constants."""
    # Private, and the only way to torch's JSON: the public `torch.export.save` pickles examples.
    from torch._export.serde.serialize import serialize

    ids_T, one = torch.zeros(tokens, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    exported = torch.export.export(graph, (ids_T, one, one.clone(), *graph.tables(room)))
    listed = exported.graph_module.graph
    for node in list(listed.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            listed.erase_node(node)
    made = serialize(
        exported,
        serialize_state_dict=False,
        serialize_constants=False,
        serialize_example_inputs=False,
    )
    program = json.loads(made.exported_program)
    for node in program["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}  # stack traces: names of files of the machine it was made on
    calls = program["graph_module"]["module_call_graph"]
    program["graph_module"]["module_call_graph"] = [call for call in calls if not call["fqn"]]
    for spec in program["graph_module"]["signature"]["input_specs"]:
        _rename(spec, name)
    constants = {
        f"{name}.{_bare(key)}": tensor.detach().clone().contiguous()
        for key, tensor in exported.constants.items()
        if isinstance(tensor, Tensor)
    }
    return program, constants


def _rename(spec: dict[str, Any], program: str) -> None:
    """Weights are called as in the model's own file, constants after their program."""
    for kind, key in (("parameter", "parameter_name"), ("buffer", "buffer_name")):
        if kind in spec:
            bare = _bare(spec[kind][key])
            lasting = kind == "parameter" or spec[kind]["persistent"]
            spec[kind][key] = bare if lasting else f"{program}.{bare}"
    if "tensor_constant" in spec:
        bare = _bare(spec["tensor_constant"]["tensor_constant_name"])
        spec["tensor_constant"]["tensor_constant_name"] = f"{program}.{bare}"


def _bare(name: str) -> str:
    return name.removeprefix(PREFIX)
