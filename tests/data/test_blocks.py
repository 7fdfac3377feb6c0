"""Blocks hold every token of every document once as a target, in their order, cut to one length."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings, strategies as st

from tunesmith.data import store
from tunesmith.data.blocks import Plan, documents
from tunesmith.data.loader import Loader, Mixture
from tunesmith.types import Example

RELAXED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
LENGTHS = st.lists(st.integers(2, 25), min_size=1, max_size=12)


def corpus(tmp_path, lengths, max_length=8, name="shard"):
    """Documents of so many tokens, ids 1000·document + place, in blocks as the stage cuts them."""
    items = []
    for line, length in enumerate(lengths, 1):
        ids = np.arange(length, dtype=np.int32) + 1000 * line
        for start in range(0, length - 1, max_length - 1):
            part = ids[start : start + max_length]
            weights = np.ones(len(part), np.float32)
            weights[0] = 0
            items.append(store.Item((Example(part, weights),), 0, line))
    path = tmp_path / name
    store.write_shard(path, items)
    return store.open_dataset([path], ["f"], {"rows": len(lengths)})


@RELAXED
@given(LENGTHS, st.integers(2, 30), st.integers(0, 3))
def test_the_stream_is_the_documents_end_to_end(tmp_path, lengths, length, seed):
    data = corpus(tmp_path, lengths)
    first, count = documents(data)
    assert len(first) == len(lengths)
    assert int(count.sum()) == len(data)
    order = np.random.default_rng(seed).permutation(len(lengths))
    expected = [1000 * (d + 1) + i for d in order for i in range(lengths[d])]
    blocks = Plan.of(data, order).blocks(length)
    examples = [block.example() for block in blocks]
    assert all(len(e.ids_T) == length for e in examples[:-1])
    assert all(e.weights_T[0] == 0 for e in examples)
    joined = [e.ids_T.tolist() for e in examples]
    assert [*joined[0], *(t for part in joined[1:] for t in part[1:])] == expected
    targets = sorted(t for e in examples for t in e.ids_T[e.weights_T > 0].tolist())
    assert targets == sorted(t for t in expected if t % 1000)  # all but each document's first


def test_the_rows_of_a_block_are_those_it_has_tokens_of(tmp_path):
    data = corpus(tmp_path, [4, 4, 4])
    blocks = Plan.of(data, np.arange(3)).blocks(6)
    assert [block.rows.tolist() for block in blocks] == [[0, 1], [1, 2], [2]]


def targets_of(loader, epoch):
    """All targets of an epoch."""
    steps = range(loader.steps_in_epoch())
    found = []
    for index in steps:
        for batch in loader.step(epoch * len(steps) + index):
            found += batch.ids_BT[batch.weights_BT > 0].tolist()
    return sorted(found)


@RELAXED
@given(LENGTHS, st.booleans(), st.integers(1, 3), st.sampled_from([None, 3]))
def test_a_loader_of_blocks_trains_every_target_once_an_epoch(
    tmp_path, lengths, shuffle, size, buffer_size
):
    data = corpus(tmp_path, lengths)
    loader = Loader(
        dataset=data,
        seed=3,
        batch_size=size,
        max_length=6,
        packing="blocks",
        shuffle=shuffle,
        buffer_size=buffer_size,
    )
    expected = sorted(1000 * (d + 1) + i for d, n in enumerate(lengths) for i in range(1, n))
    for epoch in (0, 1):
        assert targets_of(loader, epoch) == expected


def mixed(tmp_path, sizes):
    sets = [corpus(tmp_path, [5] * n, name=f"s{i}") for i, n in enumerate(sizes)]
    return store.concat(sets, {"rows": sum(sizes)})


@RELAXED
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=3),
    st.sampled_from(["none", "pack", "blocks"]),
    st.sampled_from(["interleave_under", "interleave_over"]),
    st.booleans(),
)
def test_a_mixture_is_the_same_for_every_number_of_ranks(tmp_path, sizes, packing, strategy, drawn):
    data = mixed(tmp_path, sizes)
    total = sum(range(1, len(sizes) + 1))
    probs = tuple((i + 1) / total for i in range(len(sizes))) if drawn else None
    rows = []
    for world, accumulation in ((1, 6), (2, 3), (3, 2), (6, 1)):
        ranks = [
            Loader(
                dataset=data,
                seed=5,
                batch_size=1,
                accumulation=accumulation,
                max_length=12,
                packing=packing,
                mixture=Mixture(strategy, probs),
                rank=rank,
                world=world,
            )
            for rank in range(world)
        ]
        steps = sum(ranks[0].steps_in_epoch(epoch) for epoch in (0, 1))
        assert ranks[0].ends_epoch(steps)
        assert ranks[0].total_steps(2) == steps
        assert ranks[0].epoch_of(steps) == 2
        rows.append([ranks[0].row_ids(index) for index in range(steps)])
        for index in range(steps):
            units = sum(b.units["tokens"] for one in ranks for b in one.step(index))
            if packing != "blocks":
                assert units == sum(data.trained[row] for row in rows[-1][index])
    assert all(one == rows[0] for one in rows)


def test_a_buffer_reads_from_the_beginning_to_the_end(tmp_path):
    data = corpus(tmp_path, [3] * 60)
    loader = Loader(dataset=data, seed=1, batch_size=1, buffer_size=10)
    rows = [loader.row_ids(index)[0] for index in range(60)]
    assert sorted(rows) == list(range(60))
    assert all(row <= place + 10 for place, row in enumerate(rows))
    later = Loader(dataset=data, seed=1, batch_size=1, buffer_size=10)
    assert [later.row_ids(index)[0] for index in range(37, 60)] == rows[37:]
