"""What is said about the numbers a model computes with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tunesmith.compose import sampling


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_told_with_what_they_cost(dtype):
    model = SimpleNamespace(hf=torch.nn.Linear(2, 2))
    model.hf.dtype = torch.float32
    assert sampling.numbers(model) == ()
    model.hf.dtype = dtype
    (said,) = sampling.numbers(model)
    assert str(dtype).removeprefix("torch.") in said
    assert "depend on what else is in its batch" in said
    assert "--dtype float32" in said
