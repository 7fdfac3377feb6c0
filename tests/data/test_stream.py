"""Streamed data: the order of a stored buffer, exact steps after a resume, bounded memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.data.test_encode import CONFIG, alpaca, build, write
from tests.data.toy import Encoder
from tunesmith.data import encode, hub, mix, stream, stream_head
from tunesmith.data.json_rows import Row
from tunesmith.data.loader import Loader
from tunesmith.data.stream_loader import StreamLoader
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig, Source
from tunesmith.types import Conversation, Document

CHECKS = encode.Checks((Conversation,))


def quiet(topic, text):
    """Says nothing."""


def opened(sources, config=CONFIG, checks=CHECKS, say=quiet, seed=7):
    sources = [Source(str(one)) if not isinstance(one, Source) else one for one in sources]
    return stream_head.open_streams(sources, config, Encoder(), checks, say, seed)


def loader(head, **options):
    options = {"seed": 7, "batch_size": 2, "buffer_size": 16, "max_steps": 100, **options}
    return StreamLoader(items=head.items, **options)


def content(steps):
    return [[(b.ids_BT.tolist(), b.weights_BT.tolist()) for b in step] for step in steps]


def rows(tmp_path, count=50, name="a.jsonl"):
    return write(tmp_path / name, alpaca(count))


@pytest.mark.parametrize("size", [1, 4, 16, 50, 1000])
def test_the_order_is_that_of_a_stored_buffer(tmp_path, size):
    path = rows(tmp_path)
    stored = Loader(dataset=build(path, tmp_path / "home"), seed=7, batch_size=3, buffer_size=size)
    streamed = loader(opened([path]), batch_size=3, buffer_size=size)
    steps = 2 * stored.steps_in_epoch() + 3
    assert content(streamed.steps(0, steps)) == content(stored.steps(0, steps))
    assert streamed.epoch_of(steps) == 2.0
    ends = [step for step in range(steps + 1) if streamed.ends_epoch(step)]
    assert ends == [step for step in range(steps + 1) if stored.ends_epoch(step)]


@pytest.mark.parametrize("n", [1, 5, 4095, 4096, 4097, 9000])
@pytest.mark.parametrize("size", [1, 5, 4096])
def test_shuffled_is_buffered(n, size):
    for epoch in (0, 3):
        order = list(stream.shuffled(range(n), size, 5, epoch))
        assert order == mix.buffered(n, size, 5, epoch).tolist()


@pytest.mark.parametrize("packing", ["none", "pack"])
def test_a_resumed_run_goes_on_exactly(tmp_path, packing):
    streamed = loader(opened([rows(tmp_path)]), packing=packing, max_length=40)
    whole = content(streamed.steps(0, 40))
    for start in (1, 13, 24, 25, 39):
        again = loader(opened([tmp_path / "a.jsonl"]), packing=packing, max_length=40)
        assert content(again.steps(start, 40)) == whole[start:]
        assert again.describe(39) == streamed.describe(39)


@pytest.mark.parametrize("packing", ["none", "pack", "blocks"])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_same_steps(tmp_path, packing, world):
    kind = Document if packing == "blocks" else Conversation
    path = write(
        tmp_path / "a.jsonl", [{"text": f"text {i} " * (i % 4)} for i in range(1, 40) if i % 4]
    )
    path = path if packing == "blocks" else rows(tmp_path, name="b.jsonl")
    head = opened([path], checks=encode.Checks((kind,)))
    options = {"packing": packing, "max_length": 30, "accumulation": 1}
    alone = loader(head, batch_size=2 * world, **options).steps(0, 12)
    shares = [
        loader(head, batch_size=2, rank=rank, world=world, **options).steps(0, 12)
        for rank in range(world)
    ]
    for one, *parts in zip(alone, *shares, strict=True):
        together = [ids for part in parts for b in part if b.units for ids in b.ids_BT[0].tolist()]
        real = [batch for part in parts for batch in part if sum(batch.units.values())]
        assert sum(len(batch.ids_BT[0]) for batch in real) == len(one[0].ids_BT[0])
        assert [i for batch in real for i in batch.ids_BT[0].tolist()] == one[0].ids_BT[0].tolist()
        assert together


def test_blocks_are_those_of_the_store(tmp_path):
    texts = [{"text": "abcdefgh"[: 1 + i % 8] * (1 + i % 5)} for i in range(60)]
    path = write(tmp_path / "a.jsonl", texts)
    options = {"packing": "blocks", "max_length": 13, "seed": 7, "batch_size": 2}
    stored = Loader(dataset=build(path, tmp_path / "home"), buffer_size=9, **options)
    head = opened([path], checks=encode.Checks((Document,)))
    streamed = StreamLoader(items=head.items, buffer_size=9, max_steps=100, **options)
    steps = stored.steps_in_epoch() + 2
    assert content(streamed.steps(0, steps)) == content(stored.steps(0, steps))


def test_every_row_is_in_exactly_one_bin(tmp_path):
    streamed = loader(opened([rows(tmp_path)]), packing="pack", max_length=60, batch_size=1)
    places = []
    for step, _ in enumerate(streamed.steps(0, 60)):
        places += streamed.describe(step)
        if streamed.ends_epoch(step + 1):
            break
    assert sorted(places) == sorted(f"{tmp_path / 'a.jsonl'}:{n}" for n in range(1, 51))


class Fixed:
    """A source of numbers."""

    def __init__(self, number, size):
        self.items = [(number, i) for i in range(size)]

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize(
    ("strategy", "drawn"),  # concat draws nothing
    [
        ("concat", False),
        ("interleave_under", False),
        ("interleave_under", True),
        ("interleave_over", False),
        ("interleave_over", True),
    ],
)
@pytest.mark.parametrize("sizes", [[3, 5], [5, 3, 4], [1, 1], [4, 4], [1, 7]])
def test_mixing_counts_as_the_stored_mixture(strategy, sizes, drawn):
    probs = [1.0 + i for i in range(len(sizes))] if drawn else None
    sources = [Fixed(number, size) for number, size in enumerate(sizes)]
    found = list(stream.Mixed(sources, strategy, probs, 11))
    assert [number for number, _ in found] == mix.sources(sizes, strategy, probs, 11).tolist()
    for number, size in enumerate(sizes):
        taken = [i for n, i in found if n == number]
        assert taken == [i % size for i in range(len(taken))]


def test_nothing_is_read_before_it_is_needed(tmp_path, monkeypatch):
    path, read = rows(tmp_path, 5000), []
    original = stream.rows

    def counted(*args, **options):
        for row in original(*args, **options):
            read.append(row.line)
            yield row

    monkeypatch.setattr(stream, "rows", counted)
    streamed = loader(opened([path]), buffer_size=8)
    read.clear()
    for _ in itertools.islice(streamed.steps(0, 50), 3):
        pass
    assert 0 < max(read) <= 8 + stream.BATCH_ROWS * 2


def test_bad_rows_later_in_the_stream(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_head, "ROWS", 10)
    many = alpaca(40)
    many[30] = {"instruction": "q", "output": None}
    path = write(tmp_path / "a.jsonl", many)
    with pytest.raises(DataError, match=r"D122(.|\n)*a.jsonl:31"):
        list(loader(opened([path])).steps(0, 40))
    said = []
    config = DataConfig(on_bad_row="skip")
    head = opened([path], config, say=lambda topic, text: said.append(text))
    places = []
    streamed = loader(head, batch_size=1)
    for step, _ in enumerate(streamed.steps(0, 78)):
        places += streamed.describe(step)
    assert len(places) == 78
    assert len(set(places)) == 39
    assert sum("a.jsonl:31" in text for text in said) == 1  # two epochs, told once


def test_the_head_is_what_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_head, "ROWS", 10)
    said = []
    head = opened([rows(tmp_path)], say=lambda topic, text: said.append(text))
    assert (len(head), head.report["rows"]) == (10, 10)
    assert head.where(3).endswith("a.jsonl:4")
    assert "alpaca (detected), streamed; looked at its first 10 rows" in said[0]
    bad = write(tmp_path / "bad.jsonl", [{"instruction": "q", "output": None}, *alpaca(3)])
    with pytest.raises(DataError, match=r"D122(.|\n)*bad.jsonl:1"):
        opened([bad])


def test_several_sources_with_columns_weights_and_limits(tmp_path):
    other = write(tmp_path / "b.jsonl", [{"frage": f"f{i}", "da": f"d{i}"} for i in range(9)])
    mapped = Source(
        str(other), columns={"prompt": "frage", "completion": "da"}, weight=0.5, max_samples=3
    )
    streamed = loader(opened([rows(tmp_path, 4), mapped]), batch_size=1, buffer_size=None)
    batches = [step[0] for step in streamed.steps(0, 7)]
    assert [float(batch.weights_BT.max()) for batch in batches] == [1.0] * 4 + [0.5] * 3


@pytest.fixture
def hub_rows(monkeypatch):
    asked = []

    def load(source, at, split, cache_dir, *, streaming):
        asked.append((source.path, split, streaming))
        return "abc", iter(alpaca(30))

    monkeypatch.setattr(hub, "_load", load)
    return asked


def test_a_set_of_the_hub_is_streamed_and_not_copied(tmp_path, hub_rows):
    head = opened([Source("hf:org/set", split="test")])
    assert head.where(2) == "hf:org/set[test]:3"
    steps = content(loader(head, buffer_size=None, batch_size=3).steps(0, 10))
    stored = Loader(
        dataset=build(rows(tmp_path, 30), tmp_path / "home"), seed=7, batch_size=3, shuffle=False
    )
    assert steps == content(stored.steps(0, 10))
    assert set(hub_rows) == {("hf:org/set", "test", True)}


def test_an_error_of_the_hub_in_the_middle(monkeypatch):
    def broken():
        yield from alpaca(3)
        raise ConnectionError("gone")

    monkeypatch.setattr(hub, "_load", lambda *a, **k: ("abc", broken()))
    with pytest.raises(DataError, match="D130"):
        list(hub.streamed(Source("hf:org/set"), None))


def test_rows_of_the_hub_are_what_json_would_hold(monkeypatch):
    import datetime

    found = [{"a": datetime.date(2024, 1, 2), "b": b"x"}, "plain"]
    monkeypatch.setattr(hub, "_load", lambda *a, **k: ("abc", iter(found)))
    first, second = hub.streamed(Source("hf:org/set"), None)
    assert first == Row({"a": "2024-01-02", "b": "<bytes>"}, "hf:org/set[train]", 1)
    assert second.value == {"text": "plain"}


def test_token_ids_and_empty_sources_are_refused(tmp_path):
    np.save(tmp_path / "c_ids.npy", np.arange(5, dtype=np.uint16))
    np.savez(tmp_path / "c_idx.npz", lens=np.array([5], np.int32), docs=np.array([0, 1]))
    with pytest.raises(DataError, match="D216"):
        opened([tmp_path / "c"])
    with pytest.raises(DataError, match="D102"):
        opened([write(tmp_path / "e.jsonl", [])])


def test_what_needs_a_value_for_each_row_is_refused(tmp_path):
    streamed = loader(opened([rows(tmp_path)]))
    with pytest.raises(DataError, match="D216"):
        streamed.row_ids(0)
    with pytest.raises(DataError, match="D216"):
        streamed.with_column("reference", np.zeros(3))
