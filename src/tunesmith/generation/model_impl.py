"""The model under an engine: the family's own code or our shorter one, and adapters beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from tunesmith.errors import ConfigError
from tunesmith.generation.soft_impl import Beginning, beginning_of
from tunesmith.generation.step_impl import StepPlan
from tunesmith.models import attention
from tunesmith.models.decoding import Beside, Decoder, Delta, add_delta, serves
from tunesmith.models.language_model import LanguageModel
from tunesmith.models.lowrank import LowRankLinear
from tunesmith.models.soft import soft_of

PACK_BYTES = 4 * 2**30
"""Weights up to this size get a copy in the layout that is read fastest."""


class Forward:
    """Logits of a step.

    Args:
        model: A LanguageModel or a transformers model of a family with the attention interface.
    """

    def __init__(self, model: Any):
        self.hf: Any = model.hf if isinstance(model, LanguageModel) else model
        if not isinstance(model, LanguageModel):
            attention.install(self.hf, "auto")
        mixed = isinstance(model, LanguageModel) and model.autocast
        self.direct = not mixed and serves(self.hf)
        self.keeps = "logits_to_keep" in inspect.signature(self.hf.forward).parameters
        self.adapters: dict[str, Mapping[str, Delta]] = {}
        self.decoder: Decoder | None = None
        self.alone: Any = None
        """What computes a token that is alone, called as `Single`; or None."""
        self.compiler: Callable[[Decoder], Any] | None = None
        """Makes `alone` of a decoder, if it is to be compiled."""
        self.virtual: dict[str, Any] = {}
        """Adapters that are virtual tokens, by name."""
        self._beginnings: dict[str | None, Beginning] = {}
        self._print: Any = None
        self._beside: Sequence[Beside] = ()

    def refresh(self, live: bool) -> bool:
        """Takes the weights as they are now; whether they may have changed since the last time.

        Args:
            live: Whether the model is in training: no copy of its weights is made.
        """
        parameters = tuple((p.data_ptr(), p._version) for p in self.hf.parameters())
        enabled = tuple(m.enabled for m in self.hf.modules() if isinstance(m, LowRankLinear))
        now = (live, parameters, enabled, soft_of(self.hf) is None)
        if now == self._print:
            if live:
                self._beginnings.clear()
            return live
        self._print = now
        self._beginnings.clear()
        if self.direct:
            size = sum(p.numel() * p.element_size() for p in self.hf.parameters())
            small = self.hf.device.type == "cpu" and size <= PACK_BYTES
            self.decoder = Decoder(self.hf, pack=small and not live)
            self.alone = self.decoder.single
            if self.compiler is not None and self.alone is not None:
                self.alone = self.compiler(self.decoder)
        return True

    def add_adapter(self, name: str, deltas: Mapping[str, Delta]) -> None:
        """Deltas of linear layers by module name, for requests that name them.

        Raises:
            ConfigError: G123, the model has no such layer, or has an adapter of its own.
        """
        modules = dict(self.hf.named_modules())
        missing = [module for module in deltas if module not in modules]
        own = any(isinstance(module, LowRankLinear) for module in modules.values())
        own = own or soft_of(self.hf) is not None
        if missing or own:
            why = f"the model has no {missing[0]}" if missing else "the model has one of its own"
            raise ConfigError(
                "G123",
                f"adapter `{name}` can't be loaded beside the model",
                why=why,
                fix="load the base itself, and the adapters that were trained on it",
            )
        if not self.direct:
            already = {module for held in self.adapters.values() for module in held}
            for module in set(deltas) - already:
                modules[module].register_forward_hook(self._hook(module))
        self.adapters[name] = {
            module: delta._replace(
                A_RI=delta.A_RI.to(self.hf.device), B_OR=delta.B_OR.to(self.hf.device)
            )
            for module, delta in deltas.items()
        }

    def add_virtual(self, name: str, soft: Any) -> None:
        """Virtual tokens, for requests that name them.

        Raises:
            ConfigError: G123, the model has an adapter of its own.
        """
        self.add_adapter(name, {})
        self.virtual[name] = soft
        self._beginnings.pop(name, None)

    def tokens_before(self, name: str | None) -> int:
        """How many virtual tokens stand before a request that names this adapter."""
        soft = soft_of(self.hf) if name is None else self.virtual.get(name)
        return 0 if soft is None else soft.tokens

    def beginning(self, name: str | None) -> Beginning | None:
        """What the row of such a request begins with; None: its own tokens."""
        if not self.tokens_before(name):
            return None
        if name not in self._beginnings:
            soft = soft_of(self.hf) if name is None else self.virtual[name]
            self._beginnings[name] = beginning_of(self.hf, soft)
        return self._beginnings[name]

    def _hook(self, name: str) -> Any:
        def add(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            for part in self._beside:
                delta = part.deltas.get(name)
                if delta is not None:
                    some = slice(part.first, part.last)
                    add_delta(output[0, some], inputs[0][0, some], delta)

        return add

    def __call__(
        self,
        plan: StepPlan,
        wanted: list[int],
        adapters: Sequence[tuple[int, int, str | None]],
        greedy: bool = False,
    ) -> Tensor:
        """Logits of the tokens at `wanted`, shape (S, V).

        Args:
            plan: The step.
            wanted: Places in it, ascending; may be empty.
            adapters: (first, count, adapter) of its pieces, in the step's order.
            greedy: Only the best word of each is asked for: others' logits may be −∞.
        """
        if self.alone is not None and wanted:
            token = plan.single()
            if token is not None and all(name is None for _, _, name in adapters):
                return self.alone(*token, greedy)
        device = self.hf.device
        ids_T = torch.tensor(plan.ids, device=device)
        positions_T = torch.tensor(plan.positions, device=device)
        beside = self._parts(adapters) if self.adapters else ()
        wanted_S = torch.tensor(wanted, device=device, dtype=torch.long)
        if self.decoder is not None:
            some = None if len(wanted) == len(plan.ids) else wanted_S
            return self.decoder(ids_T, positions_T, some, plan, beside, greedy)
        inputs: dict[str, Any] = {"logits_to_keep": wanted_S} if self.keeps else {}
        self._beside = beside
        try:
            logits_TV = self.hf(
                input_ids=ids_T[None],
                attention_mask=attention.carry(plan),
                position_ids=positions_T[None],
                use_cache=False,
                **inputs,
            ).logits[0]
        finally:
            self._beside = ()
        return logits_TV if self.keeps else logits_TV.index_select(0, wanted_S)

    def _parts(self, adapters: Sequence[tuple[int, int, str | None]]) -> list[Beside]:
        """Runs of tokens with the same adapter."""
        found: list[Beside] = []
        for first, count, name in adapters:
            if name is None:
                continue
            deltas = self.adapters[name]
            if found and found[-1].last == first and found[-1].deltas is deltas:
                found[-1] = found[-1]._replace(last=first + count)
            else:
                found.append(Beside(first, first + count, deltas))
        return found


@contextmanager
def evaluating(hf: Any) -> Iterator[None]:
    """No gradients, no dropout; afterwards every module is in the mode it was in."""
    training = [m for m in hf.modules() if m.training] if hf.training else []
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def turns_by_length(hf: Any) -> bool:
    """Whether rotations depend on how long the longest request of a pass is (dynamic, longrope)."""
    rope = hf.config.get_text_config().to_dict().get("rope_parameters") or {}
    kinds = [part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, Mapping)]
    return any("dynamic" in kind or kind == "longrope" for kind in kinds if kind)


def forget_lengths(hf: Any) -> None:
    """Rotations as they are before the first request: transformers keeps those of the longest."""
    for module in hf.modules():
        for name, first in list(module.named_buffers(recurse=False)):
            if not name.endswith("original_inv_freq"):
                continue
            prefix = name.removesuffix("original_inv_freq")
            module._buffers[f"{prefix}inv_freq"] = first.clone()
            if hasattr(module, "original_max_seq_len"):
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def context_length(config: PreTrainedConfig) -> int | None:
    """Tokens that a model's positions reach, times their scaling; None if nothing limits them.

    Families that scale by `original_max_position_embeddings` count the scaling already.
    """
    text = config.get_text_config()
    reach = getattr(text, "max_position_embeddings", None)  # absent where positions are ALiBi
    if not isinstance(reach, int) or reach < 1:
        return None
    rope = text.to_dict().get("rope_parameters") or {}
    factor = rope.get("factor") or 1.0
    return max(reach, int(rope.get("original_max_position_embeddings", reach) * factor))


def token_bytes(hf: Any) -> int:
    """Bytes of a token's keys and values in all layers: key heads only."""
    config = hf.config.get_text_config()
    fields = config.to_dict()
    heads = config.num_attention_heads
    width = fields.get("head_dim") or config.hidden_size // heads
    keys = fields.get("num_key_value_heads") or heads
    return 2 * config.num_hidden_layers * keys * width * hf.dtype.itemsize
