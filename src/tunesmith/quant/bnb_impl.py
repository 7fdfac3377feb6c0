"""Quantised linear layers over bitsandbytes' functions, and the library without its remote kernels.

bitsandbytes' own layers repack their weights at the first call on some CPUs and from then on
compute in bfloat16 without gradients, whatever was asked for. Ours hold the same quantised numbers
and never do: their products are those of the dequantised weights, in the type of the input.

Legend: `N` tokens, `I` inputs, `O` outputs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from tunesmith.recipe.sections import Quantization

THRESHOLD = 6.0
"""Inputs beyond it are multiplied apart, in full: LLM.int8()'s own value, section 3.2."""
_FORBIDDEN = "kernels"
"""The package through which bitsandbytes would fetch compiled code from a hub, and run it."""
_LEFT = (
    "hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit",
    "is_loaded_in_8bit", "is_4bit_serializable", "is_8bit_serializable",
)  # fmt: skip
"""Marks that transformers leaves on a model it quantised."""


@lru_cache
def library() -> Any:
    """bitsandbytes, imported so that it can't run code from a hub."""
    with _no_remote_code():
        import bitsandbytes  # pyright: ignore[reportMissingImports]
    for name in ("cpu", "mps"):  # in case somebody else had imported it
        module: Any = sys.modules.get(f"bitsandbytes.backends.{name}.ops")
        if module is not None and "gemm_4bit_forward_kernel" in vars(module):
            module.gemm_4bit_forward_kernel = None
        if module is not None and "_kernel_load_failed" in vars(module):
            module._kernel, module._kernel_load_failed = None, True
    # at each product in 8 bits it says that inputs are rounded to float16: the docs say so once
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return bitsandbytes


@contextmanager
def _no_remote_code() -> Iterator[None]:
    """Within it the package that fetches compiled code can't be imported."""
    before = sys.modules.get(_FORBIDDEN)
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = log.level
    sys.modules[_FORBIDDEN] = None  # type: ignore[assignment]
    log.setLevel(logging.ERROR)  # it advises to install that package
    try:
        yield
    finally:
        log.setLevel(level)
        if before is None:
            del sys.modules[_FORBIDDEN]
        else:
            sys.modules[_FORBIDDEN] = before


class QuantisedLinear(nn.Module):
    """A frozen linear layer in few bits.

    Args:
        source: A `Linear4bit` or `Linear8bitLt` that holds quantised weights.
        dtype: Type of the products.
    """

    quantised: Tensor

    def __init__(self, source: Any, dtype: torch.dtype):
        super().__init__()
        self.training = source.training
        self.in_features, self.out_features = source.in_features, source.out_features
        self.bias = source.bias
        self.dtype = dtype
        self.state = _state_of(source)
        self.bits = 4 if source.weight.dtype == torch.uint8 else 8
        # what no file holds: a run's checkpoint has the adapter, and the name of its base
        self.register_buffer("quantised", source.weight.data, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.quantised.device

    @property
    def nbytes(self) -> int:
        """Memory of the weights with their scales."""
        parts = vars(self.state).values()
        nested = vars(self.state).get("state2")
        if nested is not None:
            parts = [*parts, nested.absmax]
        own = {t.data_ptr(): t.nbytes for t in parts if isinstance(t, Tensor) and t.numel() > 256}
        own[self.quantised.data_ptr()] = self.quantised.nbytes
        return sum(own.values())

    @property
    def weight(self) -> Tensor:
        """The weights as they compute, dequantised anew at each call, shape (O, I)."""
        functional = library().functional
        if self.bits == 4:
            return functional.dequantize_4bit(self.quantised, self.state).to(self.dtype)
        return functional.int8_vectorwise_dequant(self.quantised, self.state.SCB).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        bnb = library()
        x = x.to(self.dtype)  # autocast may hand over a wider residual stream
        if self.bits == 4:
            y = bnb.matmul_4bit(x, self.quantised, quant_state=self.state)
        else:
            self.state.is_training = self.training
            y = bnb.matmul(x, self.quantised, state=self.state)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"in={self.in_features}, out={self.out_features}, bits={self.bits}"


def _state_of(source: Any) -> Any:
    """Scales, and how the weights are laid out."""
    if source.weight.dtype == torch.uint8:
        return source.weight.quant_state
    state = source.state
    state.CB, state.SCB = source.weight.data, source.weight.SCB
    return state


def loading(wanted: Quantization, keep: tuple[str, ...], dtype: torch.dtype) -> BitsAndBytesConfig:
    """See `bnb.loading`."""
    library()
    names = list(keep)
    if wanted.bits == 8:
        return BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=THRESHOLD, llm_int8_skip_modules=names
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=wanted.quant_type,
        bnb_4bit_use_double_quant=wanted.double_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=names,
    )


def adopt(hf: Any) -> None:
    """See `bnb.adopt`."""
    kinds = library().nn.Linear4bit, library().nn.Linear8bitLt
    for name, module in list(hf.named_modules()):
        if isinstance(module, kinds):
            hf.set_submodule(name, QuantisedLinear(module, hf.dtype))
    for mark in _LEFT:
        hf.__dict__.pop(mark, None)
    vars(hf.config).pop("quantization_config", None)
