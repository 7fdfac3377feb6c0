"""The language model of a run: batches in, log-probabilities at supervised positions out.

Legend: `B` rows, `T` tokens, `S` supervised positions, `D` model width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import ConfigError
from tunesmith.losses.tokens import Head, head_logprobs
from tunesmith.models import attention as attention_module, kernels as kernels_module
from tunesmith.models.allocator import keep_freed_memory
from tunesmith.models.heads import head_of, verify
from tunesmith.models.load import packable
from tunesmith.models.soft import (
    NAME,
    SoftPrefix,
    cache,
    embeddings,
    injected,
    lay,
    soft_of,
)
from tunesmith.types import Batch, Segments, TokenLogprobs

Embed = Callable[[Tensor, Batch], Tensor]


class LanguageModel(nn.Module):
    """A causal language model over padding-free batches.

    Args:
        hf: The transformers model; it stays usable by itself as `.hf` (generation).
        attention: `model.attention` of the recipe.
        kernels: `model.kernels` of the recipe.
        compute_dtype: Type of the products; default: that of the weights.
        master_weights: Whether tuners keep trained weights in float32.
        planned_tokens: Tokens this run will train on, for `auto` kernels; None: a short run.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        *,
        attention: str = "auto",
        kernels: str = "auto",
        compute_dtype: torch.dtype | None = None,
        master_weights: bool = True,
        planned_tokens: int | None = None,
    ):
        super().__init__()
        self.hf = hf
        self.compute_dtype = compute_dtype or hf.dtype
        self.master_weights = master_weights
        self.packable = packable(hf.config)
        self.attention = attention_module.choose(attention, hf.device.type, self.compute_dtype)
        self.notes: list[str] = []
        if self.packable:
            self.notes += attention_module.install(hf, attention)
            self.notes += kernels_module.install(hf, kernels, planned_tokens)
        if not kernels_module.known(hf) and hf.device.type != "meta":
            verify(hf)
        if hf.device.type == "cpu":
            keep_freed_memory()
        self.settle()

    def settle(self) -> None:
        """Takes the weights' types as they are now; tuners call it when they changed them.

        Trained weights lose their float32 copy where the recipe keeps none. Products then run
        under autocast if any weight is in another type but deltas and virtual tokens, which cast
        themselves.
        """
        named = list(self.hf.named_parameters())
        if not self.master_weights:
            for _, parameter in named:
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(self.compute_dtype)
        base = (p for name, p in named if not casts_itself(name) and p.is_floating_point())
        self.autocast = any(p.dtype != self.compute_dtype for p in base)

    def forward(self, batch: Batch, embed: Embed | None = None) -> TokenLogprobs:
        """Log-probabilities of the targets with weight ≠ 0, in batch order.

        Args:
            batch: Packed (B = 1, segments end to end) or padded (a segment a row).
            embed: Changes the embeddings (B, T, D) before the first layer (NEFTune), or None.
        """
        return self.score(batch, embed, guess=True)[0]

    def score(
        self,
        batch: Batch,
        embed: Embed | None = None,
        *,
        temperature: float = 1.0,
        guess: bool = False,
    ) -> tuple[TokenLogprobs, Tensor]:
        """As `forward`, with the hidden states that predict the targets, shape (S, D).

        Args:
            batch: As `forward`.
            embed: As `forward`.
            temperature: Divides the logits: log-probabilities of tokens sampled at it.
            guess: Whether the loss will be Σ c·w·log p, which a trained head can be told.
        """
        ids, weights = batch.ids_BT.reshape(-1), batch.weights_BT.reshape(-1)
        position_S = weights.nonzero()[:, 0]
        hidden_SD = self.hidden_at(batch, predecessors(batch.segments, position_S), embed)
        weights_S = weights[position_S]
        logprobs_S, correct_S = head_logprobs(
            hidden_SD,
            self.head(temperature),
            ids[position_S].long(),
            weights_S=weights_S if guess else None,
        )
        starts_G = torch.as_tensor(batch.segments.start_G, device=position_S.device)
        segment_S = torch.searchsorted(starts_G.long(), position_S, right=True) - 1
        return TokenLogprobs(logprobs_S, weights_S, segment_S, correct_S), hidden_SD

    def head(self, temperature: float = 1.0) -> Head:
        """The output head as it is now, its logits divided by a temperature.

        Raises:
            ConfigError: C192, a temperature other than 1 with a head that caps its logits.
        """
        head = head_of(self.hf)
        if temperature == 1.0:
            return head
        if head.softcap is not None:
            raise ConfigError(
                "C192",
                f"{self.hf.config.model_type} caps its logits: only temperature 1 can be trained",
                where="stage.temperature",
                fix="stage.temperature=1",
            )
        return head._replace(scale=head.scale / temperature)

    @property
    def shares_prompts(self) -> bool:
        """Whether answers to one prompt can be laid out behind one copy of it."""
        return self.packable and attention_module.shares_prompts(self.hf.config, self.attention)

    def hidden(self, batch: Batch, embed: Embed | None = None) -> Tensor:
        """Hidden states after the last norm, shape (B, T, D); padding positions hold garbage."""
        soft = soft_of(self.hf)
        if soft is None:
            return self._backbone(batch, self._visibility(batch), embed)
        hidden, place_T = self._soft(soft, batch, embed)
        return hidden.flatten(0, 1).index_select(0, place_T).view(*batch.ids_BT.shape, -1)

    def checkpoint_activations(self) -> None:
        """Recomputes activations in the backward pass: about a third slower, far less memory."""
        self.hf.activation_checkpointing_enable({"use_reentrant": False})

    def named_tensors(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by the names transformers gives them."""
        return self.hf.state_dict(keep_vars=True)

    def hidden_at(self, batch: Batch, wanted_S: Tensor, embed: Embed | None = None) -> Tensor:
        """Hidden states after the last norm at flat positions (row · T + column), shape (S, D)."""
        soft = soft_of(self.hf)
        if soft is not None:
            hidden, place_T = self._soft(soft, batch, embed, wanted_S)
            if hidden.shape[:2] == (1, len(wanted_S)) and self._trims(batch):
                return hidden[0]
            return hidden.flatten(0, 1).index_select(0, place_T[wanted_S])
        mask = self._visibility(batch)
        plan = attention_module.carried(mask)
        if plan is not None and kernels_module.trims(self.hf):
            plan.wanted_S = wanted_S
            return self._backbone(batch, mask, embed)[0]
        return self._backbone(batch, mask, embed).flatten(0, 1).index_select(0, wanted_S)

    def _trims(self, batch: Batch) -> bool:
        """Whether the last layer is told which positions are wanted."""
        packed = self.packable and len(batch.ids_BT) == 1
        return packed and kernels_module.trims(self.hf)

    def _soft(
        self, soft: Any, batch: Batch, embed: Embed | None, wanted_S: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states behind virtual tokens, and where each flat position of the batch is.

        Where the last layer goes on with wanted positions alone, these are all there are.
        """
        ids_BT = batch.ids_BT.long()
        plain_BTD = self.hf.get_input_embeddings()(ids_BT)
        if embed is not None:
            plain_BTD = embed(plain_BTD, batch)
        prefix = isinstance(soft, SoftPrefix)
        if prefix and not (self.packable and len(ids_BT) == 1):
            return self._behind_cache(soft, batch, plain_BTD)
        layout = lay(batch, soft.tokens)
        mask = self._visibility(layout.batch)
        plan = attention_module.carried(mask)
        if prefix:
            plan.injected = injected(soft, layout, self.compute_dtype)
        if plan is not None and wanted_S is not None and self._trims(batch):
            plan.wanted_S = layout.place_T[wanted_S]
        with self.computing():
            output = self.hf.base_model(
                inputs_embeds=embeddings(soft, layout, plain_BTD),
                attention_mask=mask,
                position_ids=layout.batch.positions_BT.long(),
                use_cache=False,
            )
        return output.last_hidden_state, layout.place_T

    def _behind_cache(
        self, soft: SoftPrefix, batch: Batch, plain_BTD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Padded rows behind a prefix, as transformers' families take one: a cache that is full."""
        B = len(plain_BTD)
        mask_BT = self._padding(batch)
        seen_BC = torch.cat([mask_BT.new_ones(B, soft.tokens), mask_BT], dim=1)
        with self.computing():
            output = self.hf.base_model(
                inputs_embeds=plain_BTD,
                attention_mask=seen_BC,
                position_ids=batch.positions_BT.long() + soft.tokens,
                past_key_values=cache(soft, self.hf, B, self.compute_dtype),
                use_cache=True,
            )
        flat_T = torch.arange(batch.ids_BT.numel(), device=plain_BTD.device)
        return output.last_hidden_state, flat_T

    def _backbone(self, batch: Batch, mask: Tensor, embed: Embed | None) -> Tensor:
        ids_BT = batch.ids_BT.long()
        if embed is None:
            inputs = {"input_ids": ids_BT}
        else:
            inputs = {"inputs_embeds": embed(self.hf.get_input_embeddings()(ids_BT), batch)}
        with self.computing():
            output = self.hf.base_model(
                **inputs,
                attention_mask=mask,
                position_ids=batch.positions_BT.long(),
                use_cache=False,
            )
        return output.last_hidden_state

    def _visibility(self, batch: Batch) -> Tensor:
        """Who sees whom: segments for packed rows, a padding mask for rows of one segment."""
        B, T = batch.ids_BT.shape
        device = batch.ids_BT.device
        rows_G = np.asarray(batch.segments.start_G) // T
        one_a_row = len(np.unique(rows_G)) == len(rows_G)
        if self.packable and B == 1:
            plan = attention_module.Plan(batch.segments, T, device, self.attention)
            return attention_module.carry(plan)
        if not one_a_row:
            raise ConfigError(
                "C178",
                f"{self.hf.config.model_type} can't be trained on packed rows",
                why="its code does not go through transformers' attention interface",
                fix="data.packing=none (one example a row is used for such families)",
            )
        return self._padding(batch)

    def _padding(self, batch: Batch) -> Tensor:
        """1 where a padded row has a token, shape (B, T)."""
        B, T = batch.ids_BT.shape
        mask_BT = np.zeros(B * T, dtype=np.int64)
        for start, length in zip(batch.segments.start_G, batch.segments.length_G, strict=True):
            mask_BT[start : start + length] = 1
        return torch.as_tensor(mask_BT.reshape(B, T), device=batch.ids_BT.device)

    def computing(self) -> AbstractContextManager[Any]:
        """Around every use of `.hf`: products in the compute type, whatever the weights are in."""
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self.hf.device.type, dtype=self.compute_dtype)


def casts_itself(name: str) -> bool:
    """Whether a parameter is cast to the type of the products where it is used."""
    return "lora_" in name or name.startswith(f"{NAME}.")


def predecessors(segments: Segments, position_S: Tensor) -> Tensor:
    """Flat positions whose hidden states predict the tokens at `position_S`.

    It is the position before: the first token of a segment has weight 0. Only what continues a
    shared prompt is predicted by the prompt's last token.
    """
    before_S = position_S - 1
    children = np.flatnonzero(segments.parent_G >= 0)
    if not len(children):
        return before_S
    parents = segments.parent_G[children]
    first_C = torch.as_tensor(segments.start_G[children], device=position_S.device).long()
    ends = segments.start_G[parents] + segments.length_G[parents] - 1
    end_C = torch.as_tensor(ends, device=position_S.device).long()
    child_S = torch.searchsorted(first_C, position_S, right=True) - 1
    child_S = child_S.clamp(min=0)
    return torch.where(first_C[child_S] == position_S, end_C[child_S], before_S)
