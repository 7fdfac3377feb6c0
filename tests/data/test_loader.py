"""Steps as a pure function: every row once an epoch, whatever the ranks; nothing is dropped."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.data.toy import dataset
from tunesmith.data.loader import Loader, cut


def tokens_of(step):
    """The rows a step trains, seen in its tokens (item i is made of the token i + 3)."""
    return sorted({int(t) - 3 for b in step for t in b.ids_BT[b.weights_BT > 0].tolist()})


CASES = {
    "lengths": st.lists(st.integers(2, 12), min_size=1, max_size=30),
    "batch_size": st.integers(1, 4),
    "accumulation": st.integers(1, 3),
    "world": st.integers(1, 4),
    "packing": st.sampled_from(["none", "pack"]),
    "shuffle": st.booleans(),
    "padded": st.booleans(),
    "max_forward_tokens": st.sampled_from([None, 1, 10, 25]),
    "seed": st.integers(0, 99),
}
RELAXED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80
)


@RELAXED
@given(case=st.fixed_dictionaries(CASES))
def test_an_epoch_is_every_row_once(tmp_path, case):
    data = dataset(tmp_path, case.pop("lengths"))
    world = case.pop("world")
    ranks = [Loader(dataset=data, max_length=16, rank=r, world=world, **case) for r in range(world)]
    steps = ranks[0].steps_in_epoch()
    assert steps == ranks[0].steps_in_epoch(1)
    for epoch in (0, 1):
        seen = []
        for index in range(epoch * steps, (epoch + 1) * steps):
            parts = [loader.step(index) for loader in ranks]
            assert len({len(part) for part in parts}) == 1  # no rank waits for another
            rows = [row for part in parts for row in tokens_of(part)]
            assert sorted(rows) == sorted(ranks[0].row_ids(index))
            total = sum(batch.units["tokens"] for part in parts for batch in part)
            assert total == sum(data.trained[row] for row in ranks[0].row_ids(index))
            seen += rows
        assert sorted(seen) == list(range(len(data)))


@RELAXED
@given(case=st.fixed_dictionaries({k: v for k, v in CASES.items() if k != "world"}))
def test_rows_of_a_step_do_not_depend_on_the_number_of_ranks(tmp_path, case):
    data = dataset(tmp_path, case.pop("lengths"))
    size = case.pop("batch_size") * case.pop("accumulation") * 36
    rows = []
    for world in (1, 2, 3, 4):
        for accumulation in (1, 3):
            loader = Loader(
                dataset=data,
                max_length=16,
                batch_size=size // world // accumulation,
                accumulation=accumulation,
                world=world,
                **case,
            )
            rows.append([loader.row_ids(i) for i in range(2 * loader.steps_in_epoch())])
    assert all(one == rows[0] for one in rows)


@RELAXED
@given(case=st.fixed_dictionaries(CASES), start=st.integers(0, 40))
def test_state_is_the_number_of_the_step(tmp_path, case, start):
    data = dataset(tmp_path, case.pop("lengths"))
    fresh, used = (Loader(dataset=data, max_length=16, **case) for _ in range(2))
    for index in range(start):
        used.step(index)
    expected = [[b.ids_BT.tolist() for b in used.step(i)] for i in range(start, start + 4)]
    assert [[b.ids_BT.tolist() for b in s] for s in fresh.steps(start, start + 4)] == expected


@RELAXED
@given(case=st.fixed_dictionaries(CASES), limit=st.integers(1, 40))
def test_a_pass_has_at_most_so_many_tokens_or_one_row(tmp_path, case, limit):
    data = dataset(tmp_path, case.pop("lengths"))
    case["max_forward_tokens"] = limit
    loader = Loader(dataset=data, max_length=16, **{**case, "world": 1})
    for index in range(loader.steps_in_epoch()):
        for batch in loader.step(index):
            assert batch.ids_BT.numel() <= limit or len(batch.segments.start_G) == 1


def test_cut_joins_neighbours():
    assert cut([3, 3, 3, 9, 1], 6) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert cut([3, 3, 1, 1], 6, padded=True) == [slice(0, 2), slice(2, 4)]
    assert cut([1, 1, 3], 6, padded=True) == [slice(0, 2), slice(2, 3)]
    assert cut([100], 6) == [slice(0, 1)]


def test_bins_hold_at_most_max_length(tmp_path):
    data = dataset(tmp_path, [3, 5, 7, 9, 2, 4, 8, 6] * 5)
    loader = Loader(dataset=data, seed=1, batch_size=1, max_length=16, packing="pack")
    widths = [
        batch.ids_BT.shape[1] for i in range(loader.steps_in_epoch()) for batch in loader.step(i)
    ]
    assert max(widths) <= 16
    assert sum(widths) == 220
    assert len(widths) == 14


def test_order_changes_with_the_epoch_only_if_shuffled(tmp_path):
    data = dataset(tmp_path, [4] * 20)
    shuffled = Loader(dataset=data, seed=1, batch_size=20)
    assert shuffled.row_ids(0) != shuffled.row_ids(1)
    plain = Loader(dataset=data, seed=1, batch_size=20, shuffle=False)
    assert plain.row_ids(0) == plain.row_ids(1) == list(range(20))


def test_counts(tmp_path):
    data = dataset(tmp_path, [4] * 21)
    loader = Loader(dataset=data, seed=1, batch_size=2, accumulation=2)
    assert loader.steps_in_epoch() == 6
    assert [len(loader.step(i)) for i in range(6)] == [2, 2, 2, 2, 2, 1]
    assert loader.total_steps(3, None) == 18
    assert loader.total_steps(0.5, None) == 3
    assert loader.total_steps(0.1 + 0.2, None) == loader.total_steps(0.3, None) == 2
    assert loader.total_steps(3, 5) == 5
    assert loader.epoch_of(9) == 1.5
    assert [i for i in range(14) if loader.ends_epoch(i)] == [6, 12]
    assert loader.describe(5) == [f"f.jsonl:{loader.row_ids(5)[0] + 1}"]


def test_prefetching_ends_with_its_reader_and_passes_errors_on(tmp_path):
    data = dataset(tmp_path, [4] * 20)
    loader = Loader(dataset=data, seed=1, batch_size=2)
    before = set(threading.enumerate())
    for _ in loader.steps(0, 10_000):
        break
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    broken = Loader(dataset=data, seed=1, batch_size=0)
    with pytest.raises(ZeroDivisionError):
        list(broken.steps(0, 2))
