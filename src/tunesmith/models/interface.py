"""Whether a family's attention says all it does through transformers' attention interface.

Ours stands behind that interface, knows scale, dropout, soft cap and window, and takes what a step
is from the mask. Families that give it more (sinks, biases, indices of sparse attention), ask it
twice a layer, make their own mask, or count positions by themselves would be computed wrong
without a word. That is read from the family's own code, for there is no other place that tells.

Tried on every causal family of transformers 5.23 (tests/models/test_interface.py).
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

from transformers import PreTrainedConfig, PreTrainedModel

KNOWN = {
    "attention_mask", "dropout", "scaling", "sliding_window", "softcap", "is_causal", "position_ids"
}  # fmt: skip
"""What ours heeds; `position_ids`, which some hand on, change no attention but flash's."""
REPEATING = {"hrm_text"}
"""Families that run a layer several times a token, over other keys each time."""


class Call(NamedTuple):
    """A place where a class asks the interface."""

    owner: str
    mask: str
    options: frozenset[str]


def says_all(family: type[PreTrainedModel], config: PreTrainedConfig) -> bool:
    """Whether ours computes what the family's attention does."""
    if config.model_type in REPEATING:
        return False
    if "position_ids" not in inspect.signature(family.forward).parameters:
        return False
    found, makes_windows = _read(family.__module__)
    if makes_windows and not any("sliding_window" in call.options for call in found):
        fields = config.get_text_config().to_dict()
        if fields.get("sliding_window") and fields.get("use_sliding_window", True):
            return False  # its window is in the mask alone
    once = all(count == 1 for count in Counter(call.owner for call in found).values())
    plain = all(call.mask == "attention_mask" and call.options <= KNOWN for call in found)
    return bool(found) and once and plain


@lru_cache
def _read(module: str) -> tuple[tuple[Call, ...], bool]:
    """The calls in a family's code, those of other senses than text aside; and whether it makes
    masks with a window."""
    source = inspect.getsource(sys.modules[module])
    found = []
    for owner in ast.walk(ast.parse(source)):
        if isinstance(owner, ast.ClassDef) and not owner.name.count("Vision"):
            found += [_call(owner.name, node) for node in ast.walk(owner) if _asks(node)]
    return tuple(found), "create_sliding_window_causal_mask" in source


def _asks(node: Any) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    return node.func.id == "attention_interface"


def _call(owner: str, node: Any) -> Call:
    options = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
    mask = ast.unparse(node.args[4]) if len(node.args) > 4 else options.get("attention_mask", "")
    return Call(owner, mask, frozenset(options))
