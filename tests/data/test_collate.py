"""Examples laid end to end or padded: the same tokens, weights, positions and units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tunesmith.data.collate import collate, filler
from tunesmith.types import Example


def example(ids, weights):
    return Example(np.array(ids, np.int32), np.array(weights, np.float32))


TWO = [example([5, 6, 7], [0, 0, 1]), example([8, 9], [0, 0.5])]


def test_end_to_end():
    batch = collate(TWO)
    assert batch.ids_BT.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.weights_BT.tolist() == [[0, 0, 1, 0, 0.5]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.segments.start_G.tolist() == [0, 3]
    assert batch.segments.length_G.tolist() == [3, 2]
    assert batch.segments.parent_G.tolist() == [-1, -1]
    assert batch.units == {"tokens": 1.5, "segments": 2.0}
    assert str(batch.ids_BT.dtype) == str(batch.positions_BT.dtype) == "torch.int64"


def test_padded():
    right = collate(TWO, padded=True)
    assert right.ids_BT.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert right.segments.start_G.tolist() == [0, 3]
    left = collate(TWO, padded=True, padding_side="left")
    assert left.ids_BT.tolist() == [[5, 6, 7], [0, 8, 9]]
    assert left.positions_BT.tolist() == [[0, 1, 2], [0, 0, 1]]
    assert left.segments.start_G.tolist() == [0, 4]
    assert left.units == right.units == collate(TWO).units


def test_first_token_can_not_be_a_target():
    with pytest.raises(ValueError, match="first token"):
        collate([example([5, 6], [1, 1])])


def test_filler_counts_nothing():
    assert set(filler().units.values()) == {0.0}
    assert not filler().weights_BT.any()


EXAMPLES = st.lists(
    st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=9
).map(lambda rows: [example(ids, [0, *(i % 3 for i in ids[1:])]) for ids in rows])


@given(EXAMPLES, st.sampled_from(["none", "left", "right"]))
def test_segments_find_their_tokens(examples, side):
    batch = collate(
        examples, padded=side != "none", padding_side="left" if side == "left" else "right"
    )
    ids, weights = batch.ids_BT.flatten().numpy(), batch.weights_BT.flatten().numpy()
    positions = batch.positions_BT.flatten().numpy()
    segments = batch.segments
    for one, start, length in zip(examples, segments.start_G, segments.length_G, strict=True):
        span = slice(start, start + length)
        assert (ids[span] == one.ids_T).all()
        assert (weights[span] == one.weights_T).all()
        assert (positions[span] == np.arange(length)).all()
    assert batch.units["tokens"] == weights.sum() == sum(e.weights_T.sum() for e in examples)
