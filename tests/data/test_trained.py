"""Trained tokens are counted by their weights' being there, and what is only measured apart."""

from __future__ import annotations

import numpy as np

from tunesmith.data import store
from tunesmith.data.trained import tokens
from tunesmith.types import Example


def example(*weights):
    return Example(np.arange(len(weights), dtype=np.int32), np.array(weights, np.float32))


def test_weights_are_counted_not_summed(tmp_path):
    groups = [(example(0, 0.5, 2), example(0, 1, 1, 1)), (example(0, -1), example(0, 0, 1))]
    store.write_shard(tmp_path / "a", [store.Item(one, 0, i) for i, one in enumerate(groups, 1)])
    store.write_shard(tmp_path / "b", [store.Item((example(0, 3),), 0, 3)])
    data = store.open_dataset([tmp_path / "a", tmp_path / "b"], ["f"], {})
    assert tokens(data) == (8, 0)
    assert tokens(data, (1,)) == (4, 4)
    assert tokens(data.select([2, 1]), (1,)) == (2, 1)
    assert tokens(data.select([])) == (0, 0)
