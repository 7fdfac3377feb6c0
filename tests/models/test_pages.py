"""Huge pages: what is laid there or moved there holds the same numbers."""

from __future__ import annotations

import mmap

import pytest
import torch

from tunesmith.losses.products import lay_out, packed_linear
from tunesmith.models import pages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 1024, 512)])
def test_zeros_in_pages(shape, dtype):
    found = pages.zeros(shape, dtype)
    assert found.shape == shape
    assert found.dtype == dtype
    assert not found.any()
    if found.nbytes >= pages.PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        assert found.data_ptr() % pages.PAGE == 0
    found.fill_(1)
    assert found.sum(dtype=torch.float64) == found.numel()


def test_moved_matrices_multiply_as_before():
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(1536, 384, generator=draw) for _ in range(3)]
    packed = [lay_out(weight) for weight in weights]
    if packed[0] is None:
        pytest.skip("oneDNN's layout gains nothing on this CPU")
    x = torch.randn(4, 384, generator=draw)
    before = [packed_linear(x, one) for one in packed]
    pages.settle(packed)
    for one, expected in zip(packed, before, strict=True):
        assert torch.equal(packed_linear(x, one), expected)


def test_plain_matrices_stay_where_they_are():
    pages.settle([torch.ones(4, 4)])  # has no address in oneDNN's eyes


def test_spans_that_touch_become_one():
    page = pages.PAGE
    spans = [(4 * page, 5 * page), (0, 2 * page), (page, 3 * page), (5 * page, 6 * page)]
    assert pages._joined(spans) == [(0, 3 * page), (4 * page, 6 * page)]
