"""`0.3 PREFIX 0.7 PREFIX`: shares of tokens, whatever is drawn; and what is no blend."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.toy import Encoder
from tunesmith.compose import data
from tunesmith.data import blend, corpus, encode, loader
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig, Recipe, Source
from tunesmith.types import Document

KEY = {"stage": {"kind": "pretrain"}, "template": "t", "tokenizer": "k", "system": None}


@pytest.fixture
def corpora(tmp_path):
    """Many short documents, and few long ones."""
    names = []
    for name, count, length in (("short", 300, 12), ("long", 30, 170)):
        with corpus.writer(tmp_path / name, "megatron", 300) as add:
            for i in range(count):
                add([*(np.arange(length + i % 5) % 200 + 3).tolist(), 2])
        names.append(str(tmp_path / name))
    return names


def test_parts(corpora):
    short, long = corpora
    assert blend.parts(f"3 {short} 0.7 {long}") == [(3.0, short), (0.7, long)]
    assert blend.parts(f"1 {short}") == [(1.0, short)]
    assert blend.parts(short) == []
    assert blend.parts("belle_1m") == []
    assert blend.parts("my data.jsonl") == []


def test_a_file_of_such_a_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "3 rows.txt").write_text("x")
    assert blend.parts("3 rows.txt") == []


@pytest.mark.parametrize("text", ["0.3 {0} 0.7", "0.3 {0} x {1}", "0 {0} 1 {1}", "nan {0}",
                                  "0.3 {0}x", "0.3 {0} 0.7 nowhere"])  # fmt: skip
def test_what_can_not_be_used(corpora, text):
    with pytest.raises(DataError, match="D217"):
        blend.parts(text.format(*corpora))


def test_a_corpus_without_documents(tmp_path):
    with corpus.writer(tmp_path / "empty", "megatron", 300) as add:
        add([2])
    with pytest.raises(DataError, match="D217"):
        blend.chances(blend.parts(f"1 {tmp_path}/empty"), 64, whole_documents=True)


@pytest.mark.parametrize("packing", ["none", "pack", "blocks"])
def test_shares_are_of_tokens(corpora, tmp_path, packing):
    text = f"1 {corpora[0]} 3 {corpora[1]}"
    said = []
    recipe = data._unblended(
        Recipe(data=DataConfig(train=(Source(text),), max_length=64, packing=packing)),
        lambda topic, line: said.append(line),
    )
    config = recipe.data
    assert [one.path for one in config.train] == corpora
    assert config.mix_strategy == "interleave_over"
    assert "25.0%" in said[0]
    checks = encode.Checks((Document,), None, 300)
    options = {"num_proc": 1, "home": tmp_path / "home", "checks": checks}
    found = encode.build(config.train, config, Encoder(), KEY, **options)
    made = loader.Loader(
        dataset=found,
        seed=1,
        batch_size=1,
        max_length=64,
        packing=packing,
        mixture=loader.Mixture(config.mix_strategy, config.interleave_probs),
    )
    steps = made.steps_in_epoch()
    rows = [row for step in range(steps) for row in made.row_ids(step)]
    first = np.array([found.source_N[row] == 0 for row in rows])
    lengths = found.lengths[rows]
    assert lengths[first].sum() / lengths.sum() == pytest.approx(0.25, abs=0.04)


def test_the_split_is_taken_of_each_corpus(corpora, tmp_path):
    from tunesmith.data import split
    from tunesmith.recipe.sections import Holdout

    sources = [Source(name) for name in corpora]
    checks = encode.Checks((Document,), None, 300)
    options = {"num_proc": 1, "home": tmp_path / "home", "checks": checks}
    found = encode.build(sources, DataConfig(max_length=64), Encoder(), KEY, **options)
    train, held_out = split.of_dataset(found, Holdout(split="949,50,1"), 1)
    lines = lambda items, n: {found.line_N[i] for i in items if found.source_N[i] == n}
    # Megatron's rounding: 300 documents are 285 + 15 + 0, 30 are 28 + 2 + 0, less what is over.
    (a, b), (c, d), _ = corpus.parts("949,50,1", 300)
    assert lines(train, 0) == set(range(a + 1, b + 1))
    assert lines(held_out, 0) == set(range(c + 1, d + 1))
    (a, b), (c, d), _ = corpus.parts("949,50,1", 30)
    assert (lines(train, 1), lines(held_out, 1)) == (
        set(range(a + 1, b + 1)),
        set(range(c + 1, d + 1)),
    )


def test_orders_that_megatron_drew_are_said_and_not_read(corpora, tmp_path):
    checks = encode.Checks((Document,), None, 300)
    options = {"num_proc": 1, "home": tmp_path / "home", "checks": checks}
    said = []
    tell = {**options, "progress": lambda topic, text: said.append(text)}
    before = encode.build([Source(corpora[0])], DataConfig(), Encoder(), KEY, **tell)
    assert not any("Megatron" in text for text in said)
    name = tmp_path / "short_gpt_train_indexmap_10ns_64sl_1s_doc_idx.npy"
    np.save(name, np.zeros(3, np.int32))
    after = encode.build([Source(corpora[0])], DataConfig(), Encoder(), KEY, **tell)
    assert any(name.name in text for text in said)
    assert after.lengths.tolist() == before.lengths.tolist()
    assert blend.caches(tmp_path / "long") == []
