"""Shards: what is written is read back as views, and a damaged file is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.data.toy import dataset, weights
from tunesmith.data import store
from tunesmith.types import Example

ROW = st.tuples(
    st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), min_size=1, max_size=3),
    st.integers(0, 5),
    st.integers(1, 2**32 - 1),
)


def items_of(rows):
    return [
        store.Item(
            tuple(Example(np.array(ids, np.int32), weights(len(ids)) * 0.3) for ids in examples),
            file,
            line,
        )
        for examples, file, line in rows
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.lists(ROW, max_size=5), min_size=1, max_size=3))
def test_round_trip(tmp_path, rows):
    paths = []
    for number, part in enumerate(rows):
        paths.append(tmp_path / f"shard-{number}")
        size = store.write_shard(paths[-1], items_of(part))
        assert size == paths[-1].stat().st_size
    data = store.open_dataset(paths, [f"f{i}" for i in range(6)], {})
    written = [item for part in rows for item in items_of(part)]
    assert len(data) == len(written)
    for index, item in enumerate(written):
        found = data[index]
        assert len(found) == len(item.examples)
        for one, other in zip(found, item.examples, strict=True):
            assert one.ids_T.tolist() == other.ids_T.tolist()
            assert one.weights_T.tolist() == other.weights_T.tolist()
        assert data.where(index) == f"f{item.file}:{item.line}"
        assert data.lengths[index] == sum(len(e.ids_T) for e in item.examples)
        assert data.trained[index] == sum(e.weights_T.sum(dtype=float) for e in item.examples)


def test_selection_and_concatenation_are_views(tmp_path):
    one, two = dataset(tmp_path, [3, 4, 5], "a"), dataset(tmp_path, [6, 7], "b")
    both = store.concat([one, two], {"rows": 5})
    assert both.lengths.tolist() == [3, 4, 5, 6, 7]
    assert [int(both[i][0].ids_T[1]) for i in range(5)] == [3, 4, 5, 3, 4]
    assert both.where(3) == "f.jsonl:1"
    assert both.sources == ("f.jsonl", "f.jsonl")
    some = both.select([4, 0])
    assert some.lengths.tolist() == [7, 3]
    assert some.report == {"rows": 5, "items": 2, "examples": 2, "tokens": 10, "trained": 8.0}
    assert np.shares_memory(some[0][0].ids_T, two.shards[0].ids_T)
    with pytest.raises(ValueError, match="read-only"):
        some[0][0].ids_T[0] = 5


@pytest.mark.parametrize("damage", [b"", b"x", b"x" * 200])
def test_what_is_no_shard(tmp_path, damage):
    path = tmp_path / "shard"
    path.write_bytes(damage)
    with pytest.raises(ValueError, match=r"shard|empty"):
        store.Shard.open(path)
    store.write_shard(path, items_of([([[1, 2, 3]], 0, 1)]))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no token shard"):
        store.Shard.open(path)
