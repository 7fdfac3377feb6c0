"""Attention of one step: new tokens of many requests, each over its own cached keys and values.

The tokens of a step lie end to end, lane by lane: first the single tokens of requests that are
decoding, which attend in one product a lane, then chunks of prompts, one product each. What
depends on the layout alone (where to write, who sees what) is made once a step, not once a layer.

Legend: `T` tokens of the step, `n` tokens of a group, `H` query heads, `K` key heads, `G` = H/K,
`C` cached tokens seen, `E` width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from tunesmith.generation.lanes_impl import Lane, Place
from tunesmith.models.attention import Rule


class Piece(NamedTuple):
    """New tokens of one request; those before them are in its place."""

    place: Place
    ids: Sequence[int]


@dataclass(eq=False)
class Group:
    """Tokens `first` … `last` - 1 of the step that attend together, in rows `low` … `high` - 1."""

    first: int
    last: int
    lane: Lane
    low: int
    high: int
    starts: list[int]
    """Tokens cached before, of each row that has tokens here."""
    rows: list[int]
    chunk: bool
    """One row with several tokens, rather than rows with one token each."""
    masks: dict[tuple[int | None, int], Tensor | None] = field(default_factory=dict)


@dataclass(eq=False)
class Write:
    """Tokens of one lane, and where they go: `slot_n` = row · C + position."""

    first: int
    last: int
    lane: Lane
    rows: list[int]
    positions: list[int]
    indices: dict[int, Tensor] = field(default_factory=dict)
    """By number of key heads: flat rows of (R · K · C, E), shape (n · K,)."""

    def index(self, K: int, device: torch.device) -> Tensor:
        if K not in self.indices:
            C = self.lane.capacity
            flat = [r * K * C + p for r, p in zip(self.rows, self.positions, strict=True)]
            heads_K = torch.arange(0, K * C, C)
            index = (torch.tensor(flat)[:, None] + heads_K).view(-1)
            self.indices[K] = index.to(device)
        return self.indices[K]


class StepPlan:
    """What a mask carries through a family's code, in place of a segment plan.

    Args:
        pieces: New tokens; `order` says how they were laid out.
        device: Where they are computed.
    """

    cached = True
    wanted_S = None

    def __init__(self, pieces: Sequence[Piece], device: torch.device):
        self.device = device
        self.order = sorted(
            range(len(pieces)),
            key=lambda at: (
                pieces[at].place.lane.capacity,
                len(pieces[at].ids) > 1,
                pieces[at].place.row,
            ),
        )
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.begins = [0] * len(pieces)
        """Where each piece begins in the step, in the order given."""
        self.groups: list[Group] = []
        self.writes: list[Write] = []
        for at in self.order:
            self.begins[at] = len(self.ids)
            self._lay(pieces[at])

    def _lay(self, piece: Piece) -> None:
        place, first = piece.place, len(self.ids)
        self.ids += piece.ids
        last = len(self.ids)
        positions = list(range(place.length, place.length + last - first))
        self.positions += positions
        if not self.writes or self.writes[-1].lane is not place.lane:
            self.writes.append(Write(first, first, place.lane, [], []))
        write = self.writes[-1]
        write.last = last
        write.rows += [place.row] * (last - first)
        write.positions += positions
        group = self.groups[-1] if self.groups else None
        chunk = last - first > 1
        if group is None or group.chunk or chunk or group.lane is not place.lane:
            group = Group(first, last, place.lane, place.row, place.row + 1, [], [], chunk)
            self.groups.append(group)
        group.last, group.high = last, place.row + 1
        group.starts.append(place.length)
        group.rows.append(place.row)

    def single(self) -> tuple[int, int, Lane, int] | None:
        """(id, position, lane, row) if the step is one token of one request."""
        if len(self.ids) != 1:
            return None
        write = self.writes[0]
        return self.ids[0], self.positions[0], write.lane, write.rows[0]

    def attend(self, layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, rule: Rule) -> Tensor:
        """Stores this step's keys and values, and attends; returns (T, H, E of the values)."""
        for write in self.writes:
            keys, values = write.lane.layer(layer, k_TKE, v_TKE)
            if write.last - write.first == 1:
                row, position = write.rows[0], write.positions[0]
                keys[row, :, position] = k_TKE[write.first]
                values[row, :, position] = v_TKE[write.first]
                continue
            index = write.index(k_TKE.shape[1], self.device)
            for table, new in ((keys, k_TKE), (values, v_TKE)):
                flat = new[write.first : write.last].reshape(-1, new.shape[2])
                table.view(-1, table.shape[3]).index_copy_(0, index, flat)
        if len(self.groups) == 1:
            return self._group(self.groups[0], layer, q_THE, rule)
        pieces = [self._group(g, layer, q_THE[g.first : g.last], rule) for g in self.groups]
        return torch.cat(pieces)

    def _group(self, group: Group, layer: int, q_nHE: Tensor, rule: Rule) -> Tensor:
        """Attention of a group, (n, H, E); the G queries of a key head are rows of one product."""
        n, H, E = q_nHE.shape
        keys, values = group.lane.keys[layer], group.lane.values[layer]
        K = keys.shape[1]
        end = (group.starts[0] + n) if group.chunk else max(group.starts) + 1
        begin = 0
        if rule.window is not None:
            begin = max(0, min(group.starts) - rule.window + 1)
        k_RKCE = keys[group.low : group.high, :, begin:end]
        v_RKCE = values[group.low : group.high, :, begin:end]
        if group.chunk:
            q_RKnE = q_nHE.view(n, K, H // K, E).permute(1, 2, 0, 3).reshape(1, K, -1, E)
            mask = self._mask(group, rule.window, begin, end, H // K, q_nHE.dtype)
        else:
            q_RKnE = q_nHE.view(n, K, H // K, E)
            mask = self._mask(group, rule.window, begin, end, H // K, q_nHE.dtype)
            if n != group.high - group.low:  # rows between that have no single token here
                rows = torch.tensor(group.rows, device=self.device) - group.low
                k_RKCE, v_RKCE = k_RKCE[rows], v_RKCE[rows]
        if rule.softcap is None:
            out = sdpa(q_RKnE, k_RKCE, v_RKCE, attn_mask=mask, scale=rule.scale)
        else:
            out = _capped(q_RKnE, k_RKCE, v_RKCE, mask, rule)
        if not group.chunk:
            return out.reshape(n, H, -1)
        return out.view(K, H // K, n, -1).permute(2, 0, 1, 3).reshape(n, H, -1)

    def _mask(
        self, group: Group, window: int | None, begin: int, end: int, G: int, dtype: torch.dtype
    ) -> Tensor | None:
        """0 where a token may look, else −∞, over keys `begin` … `end` - 1; None: everywhere.

        Made once a step: torch would make these numbers of a mask of truths in every layer. A
        chunk's has a row for each of the `G` queries of a token.
        """
        key = (window, G)
        if key in group.masks:
            return group.masks[key]
        if group.chunk:
            at_n1 = torch.arange(group.starts[0], end, device=self.device)[:, None]
        else:
            at_n1 = torch.tensor(group.starts, device=self.device)[:, None]
        mask = None
        if group.chunk or len(set(group.starts)) > 1:
            key_C = torch.arange(begin, end, device=self.device)
            mask = key_C <= at_n1
            if window is not None:
                mask &= key_C > at_n1 - window
            if not group.chunk:
                mask = mask[:, None, None]  # (n, 1, 1, C)
            numbers = torch.zeros(mask.shape, dtype=dtype, device=self.device)
            mask = numbers.masked_fill_(~mask, -math.inf)
            mask = mask.repeat(G, 1) if group.chunk else mask
        group.masks[key] = mask
        return mask

    def advance(self, pieces: Sequence[Piece]) -> None:
        """Counts the new tokens as cached."""
        for piece in pieces:
            piece.place.length += len(piece.ids)


def _capped(q, k, v, mask: Tensor | None, rule: Rule) -> Tensor:
    """Attention whose scores are soft-capped (arXiv:2408.00118, section 2)."""
    assert rule.softcap is not None
    scores = torch.tanh(q @ k.transpose(-1, -2) * (rule.scale / rule.softcap)) * rule.softcap
    if mask is not None:
        scores = scores + mask
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.softmax(scores, dim=-1, dtype=wide).to(q.dtype) @ v
