"""Memory in huge pages, for what every step reads whole: weights, and cached keys and values.

In pages of 4 KiB a processor spends as much time on finding a page as on reading it: in pages of
2 MiB sixteen requests at once are answered a tenth faster, one alone 1.7 times as fast (Zen 4 in a
virtual machine, float32; ADR 0018 and 0025). Where the system has no such pages nothing changes.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

PAGE = 2**21
"""Bytes of a huge page."""
MOST = 2**30
"""So much is moved at most: it takes two milliseconds a megabyte."""
_COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1


def zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros in the memory of the CPU, from the beginning of a huge page on if they fill one."""
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(*shape, dtype=dtype)
    memory = mmap.mmap(-1, size + PAGE)
    memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    skipped = -whole.data_ptr() % PAGE
    return whole[skipped : skipped + size].view(dtype).view(*shape)


def settle(packed: Iterable[Tensor]) -> None:
    """Moves matrices that oneDNN laid out into huge pages; their addresses stay.

    Their neighbours in memory move with them.
    """
    advice: Any = getattr(mmap, "MADV_HUGEPAGE", None)
    places = [span for span in map(_span, packed) if span is not None]
    if advice is None or not places or sum(end - begin for begin, end in places) > MOST:
        return
    madvise = ctypes.CDLL(None).madvise
    for begin, end in _joined(places):
        for wish in (advice, _COLLAPSE):  # the second an older system does in its own time
            madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), wish)


def _span(packed: Tensor) -> tuple[int, int] | None:
    """Addresses of a matrix in oneDNN's layout, widened to whole pages."""
    try:
        begin = torch.ops.mkldnn.data_ptr(packed)
        end = begin + torch.ops.mkldnn._nbytes(packed)
    except (AttributeError, RuntimeError):  # another torch
        return None
    return begin // PAGE * PAGE, -(-end // PAGE) * PAGE


def _joined(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that touch as one."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(places):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found
