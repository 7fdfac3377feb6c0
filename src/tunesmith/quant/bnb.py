"""Linear layers in 4 or 8 bits by bitsandbytes, quantised while they are loaded.

Four bits: blocks of 64 weights share a scale, the values are 16 quantiles of a normal distribution
(NF4, arXiv:2305.14314 section 3) or small floats (FP4). Eight bits: LLM.int8() (arXiv:2208.07339),
a scale a row, inputs beyond 6.0 multiplied apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.errors import EnvironmentFault, MissingExtra

if TYPE_CHECKING:
    from tunesmith.recipe.sections import Quantization

METHODS = ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit")
"""What `quant_method` is called in the config of a model that was stored quantised."""


def require() -> None:
    """Raises:
    MissingExtra: E401, bitsandbytes is not installed.
    """
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "bnb", "model.quantize")


def stored(config: Any) -> bool:
    """Whether a model's files hold weights quantised by bitsandbytes.

    Args:
        config: Of transformers.

    Raises:
        EnvironmentFault: E231, they are quantised by something else.
        MissingExtra: E401, bitsandbytes is not installed.
    """
    found = vars(config).get("quantization_config")
    if found is None:
        return False
    method = str((found if isinstance(found, dict) else found.to_dict()).get("quant_method"))
    if method not in METHODS:
        raise EnvironmentFault(
            "E231",
            f"this model's weights are quantised by {method}, which can't be computed here",
            where="config.json",
            fix="use the model it was made of; model.quantize=bnb4 quantises that here",
        )
    require()
    from tunesmith.quant import bnb_impl

    bnb_impl.library()  # before transformers imports it, with what it would fetch
    return True


def loading(wanted: Quantization, keep: tuple[str, ...], dtype: Any) -> Any:
    """What `from_pretrained` takes as `quantization_config`.

    Args:
        wanted: `model.quantize` of the recipe.
        keep: Names of modules that stay as they are, above all the output head.
        dtype: Type of the products.

    Raises:
        MissingExtra: E401, bitsandbytes is not installed.
    """
    require()
    from tunesmith.quant import bnb_impl

    return bnb_impl.loading(wanted, keep, dtype)


def adopt(hf: Any) -> None:
    """Makes layers that bitsandbytes quantised layers of ours, over the same memory."""
    from tunesmith.quant import bnb_impl

    bnb_impl.adopt(hf)
