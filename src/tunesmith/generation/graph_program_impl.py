"""Programs of an exported graph: a list of known operations over tensors, and nothing else.

torch's own reader builds Python source of the names in a file, evaluates its expressions and may
unpickle what lies beside it. This one knows a fixed set of operations and plain arguments; whatever
else a file says is refused (ADR 0023).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

_NAMES = """
add.Tensor add_.Tensor addmm.default alias.default arange.default arange.start arange.start_step
bitwise_and.Tensor bitwise_not.default bmm.default cat.default chunk.default clamp.default
clamp_min.default clone.default contiguous.default cos.default detach.default detach_.default
div.Tensor div_.Tensor dropout.default embedding.default eq.Scalar erf.default exp.default
expand.default flatten.using_ints full.default full_like.default gather.default ge.Scalar
ge.Tensor gelu.default gt.Scalar gt.Tensor index.Tensor index_copy_.default index_select.default
layer_norm.default le.Scalar le.Tensor lift_fresh_copy.default linear.default logical_and.default
lt.Scalar lt.Tensor masked_fill.Scalar matmul.default mean.dim mul.Scalar mul.Tensor mul_.Tensor
neg.default new_ones.default ones.default ones_like.default permute.default pow.Tensor_Scalar
pow.Tensor_Tensor relu.default repeat.default repeat_interleave.self_int reshape.default
rms_norm.default rsqrt.default rsub.Scalar scalar_tensor.default
scaled_dot_product_attention.default select.int sigmoid.default silu.default sin.default
slice.Tensor softmax.int split.Tensor split_with_sizes.default sqrt.default square.default
squeeze.dim stack.default sub.Tensor sum.dim_IntList t.default tanh.default to.device to.dtype
to.dtype_layout topk.default transpose.int type_as.default unflatten.int unsqueeze.default
view.default where.ScalarOther where.ScalarSelf where.self zeros.default zeros_like.default
"""
OPERATIONS = frozenset(_NAMES.split())
"""Operations of ATen that compute tensors of tensors; none reads files, or memory of others."""
TYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""torch's exporter writes types as numbers."""
FORMS = {1: torch.contiguous_format, 4: torch.preserve_format}
NUMBERS = {"as_int": int, "as_float": (int, float), "as_bool": bool}
WORDS = {"none", "tanh", "Infinity", "-Infinity", "NaN"}


class _Ref(NamedTuple):
    """A value that an operation before made, by its name."""

    name: str


@dataclass(frozen=True)
class _Step:
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outs: tuple[str, ...]
    several: bool
    dead: tuple[str, ...]
    """What nobody asks for afterwards."""


class Unreadable(Exception):
    """The text says what of a program is not understood."""


class Program:
    """A program of an exported folder.

    Args:
        program: The JSON of torch's exporter.
        tensors: Weights and constants by the names that the program has for them.

    Raises:
        Unreadable: It has something in it that is not known here, or lacks a tensor.
    """

    def __init__(self, program: Any, tensors: Mapping[str, Tensor]):
        try:
            module = program["graph_module"]
            graph = module["graph"]
            self.inputs: list[str] = []
            self._fixed: dict[str, Tensor] = {}
            for spec in module["signature"]["input_specs"]:
                self._bind(spec, tensors)
            outs = [spec["user_output"]["arg"] for spec in module["signature"]["output_specs"]]
            self.outputs = [_name(out["as_tensor"]) for out in outs]
            self._steps = _steps(graph["nodes"], {*self._fixed, *self.inputs, *self.outputs})
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise Unreadable(f"it is not of the form it should have ({error!r})") from None

    def _bind(self, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """An input: of the caller, or a tensor of the files."""
        [(kind, said)] = spec.items()
        if kind == "user_input":
            self.inputs.append(_name(said["arg"]["as_tensor"]))
            return
        keys = {
            "parameter": "parameter_name",
            "buffer": "buffer_name",
            "tensor_constant": "tensor_constant_name",
        }
        if kind not in keys:
            raise Unreadable(f"it wants a {kind}")
        name = said[keys[kind]]
        if name not in tensors:
            raise Unreadable(f"the tensor {name} is missing")
        self._fixed[_name(said["arg"])] = tensors[name]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs; inputs that the program writes into are changed."""
        env: dict[str, Any] = {**self._fixed, **dict(zip(self.inputs, inputs, strict=True))}
        for step in self._steps:
            found = step.call(
                *(_filled(value, env) for value in step.args),
                **{name: _filled(value, env) for name, value in step.kwargs.items()},
            )
            for name, value in zip(step.outs, found if step.several else (found,), strict=True):
                env[name] = value
            for name in step.dead:
                del env[name]
        return [env[name] for name in self.outputs]


def _filled(value: Any, env: Mapping[str, Any]) -> Any:
    if type(value) is _Ref:
        return env[value.name]
    return [_filled(one, env) for one in value] if type(value) is list else value


def _steps(nodes: Sequence[Any], kept: set[str]) -> list[_Step]:
    """The operations in order; each forgets what is used by it last."""
    found: list[_Step] = []
    known, asked = set(kept), set(kept)
    for node in nodes:
        args = [(said["name"], said.get("kind"), _value(said["arg"])) for said in node["inputs"]]
        for _, _, value in args:
            if missing := _refs(value) - known:
                raise Unreadable(f"nothing makes {sorted(missing)[0]}")
        outs, several = _outs(node["outputs"])
        known |= set(outs)
        positional = tuple(value for _, kind, value in args if kind != 2)
        named = {name: value for name, kind, value in args if kind == 2}
        found.append(_Step(_operation(node["target"]), positional, named, outs, several, ()))
    for at in range(len(found) - 1, -1, -1):
        step = found[at]
        used = set(step.outs).union(*map(_refs, (*step.args, *step.kwargs.values())))
        found[at] = replace(step, dead=tuple(used - asked))
        asked |= used
    return found


def _outs(outputs: Sequence[Any]) -> tuple[tuple[str, ...], bool]:
    """Names of what an operation makes, and whether it answers several at once."""
    if len(outputs) == 1 and "as_tensors" in outputs[0]:
        return tuple(_name(one) for one in outputs[0]["as_tensors"]), True
    names = tuple(_name(one["as_tensor"]) for one in outputs)
    return names, len(names) > 1


def _operation(target: str) -> Callable[..., Any]:
    name = str(target).removeprefix("torch.ops.aten.")
    if name not in OPERATIONS or name == target:
        raise Unreadable(f"the operation {target!r} is not one that is run here")
    packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


def _name(said: Mapping[str, Any]) -> str:
    name = said["name"]
    if not isinstance(name, str):
        raise Unreadable(f"{name!r} is no name")
    return name


def _refs(value: Any) -> set[str]:
    if isinstance(value, _Ref):
        return {value.name}
    return set().union(*map(_refs, value)) if isinstance(value, list) else set()


def _value(said: Mapping[str, Any]) -> Any:
    """An argument: a number, a name of a tensor, a type; lists of them."""
    [(kind, value)] = said.items()
    if kind == "as_none":
        return None
    if kind in ("as_tensor", "as_optional_tensor"):
        return _value(value) if kind == "as_optional_tensor" else _Ref(_name(value))
    if kind == "as_tensors":
        return [_Ref(_name(one)) for one in value]
    if kind == "as_optional_tensors":
        return [_value(one) for one in value]
    if kind in NUMBERS:
        return _number(kind, value)
    if kind.removesuffix("s") in NUMBERS:
        return [_number(kind.removesuffix("s"), one) for one in value]
    if kind == "as_string" and value in WORDS:
        return value
    if kind == "as_scalar_type":
        return TYPES[value]
    if kind == "as_memory_format":
        return FORMS[value]
    if kind == "as_layout" and value == 7:
        return torch.strided
    if kind == "as_device" and value["type"] == "cpu":
        return torch.device("cpu")
    raise Unreadable(f"an argument is {json.dumps(said)[:80]}")


def _number(kind: str, value: Any) -> Any:
    if kind == "as_float" and value in WORDS:
        return float(value)
    if not isinstance(value, NUMBERS[kind]):
        raise Unreadable(f"{value!r} is not {kind.removeprefix('as_')}")
    return value
