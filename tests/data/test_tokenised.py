"""Data that is token ids already trains what its text would, or is refused with a reason."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from tests.data.toy import Encoder
from tunesmith.data import blocks, corpus, encode, split, store, tokenised
from tunesmith.errors import ConfigError, DataError
from tunesmith.recipe.sections import DataConfig, Holdout, Source
from tunesmith.types import Conversation, Document

KEY = {"stage": {"kind": "sft"}, "template": "t", "tokenizer": "k", "system": None}
CONFIG = DataConfig(max_length=100)


def build(source, home, config=CONFIG, key=KEY, accepts=(Conversation,), vocab_size=300):
    if isinstance(source, str):
        source = Source(source)
    checks = encode.Checks(accepts, None, vocab_size)
    return encode.build([source], config, Encoder(), key, num_proc=1, home=home, checks=checks)


@pytest.fixture
def saved(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": f"answer {i}"} for i in range(5)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = build(str(path), tmp_path / "home")
    out = tmp_path / "tokens"
    tokenised.save(data, out, {**KEY, "max_length": 100}, replace=False)
    path.unlink()
    return data, out


def contents(data):
    return [[(e.ids_T.tolist(), e.weights_T.tolist()) for e in data[i]] for i in range(len(data))]


def test_a_folder_trains_what_its_rows_would(saved, tmp_path):
    data, out = saved
    assert tokenised.kind_of(out) == "tokens"
    assert tokenised.stage_of(out) == "sft"
    again = build(str(out), tmp_path / "home")
    assert contents(again) == contents(data)
    assert [again.where(i) for i in range(5)] == [data.where(i) for i in range(5)]
    assert again.report["rows"] == 5
    assert again.report["tokens"] == data.report["tokens"]


def test_weight_and_max_samples_count(saved, tmp_path):
    data, out = saved
    half = build(Source(str(out), weight=0.5, max_samples=2), tmp_path / "home")
    assert len(half) == 2
    assert half.report["rows"] == 2
    assert half.trained.tolist() == (data.trained[:2] / 2).tolist()
    assert (half[1][0].weights_T == data[1][0].weights_T / 2).all()


@pytest.mark.parametrize("name", ["stage", "template", "tokenizer", "system"])
def test_tokens_of_another_recipe_are_refused(saved, tmp_path, name):
    with pytest.raises(DataError, match="D214") as caught:
        build(str(saved[1]), tmp_path / "home", key={**KEY, name: "other"})
    assert f"another {name}" in str(caught.value)


LIMITED = {"max_length": 100, "truncation": "newest_rounds", "on_overlength": "truncate"}
LIMITED |= {"max_prompt_length": None, "max_answer_length": None}


@pytest.mark.parametrize(
    "other",
    [
        {"truncation": "cut_end"},
        {"on_overlength": "skip"},
        {"max_length": 200},
        {"max_prompt_length": 30},
        {"max_answer_length": 30},
    ],
)
def test_limits_matter_where_something_was_cut(tmp_path, other):
    config = dataclasses.replace(CONFIG, **other)
    for name, prompt in (("short", "q"), ("long", "q" * 60)):  # the toy calls this cut
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps({"prompt": prompt, "completion": "a"}) + "\n")
        data = build(str(path), tmp_path / "home")
        tokenised.save(data, tmp_path / name, {**KEY, **LIMITED}, replace=False)
        assert len(build(str(tmp_path / name), tmp_path / "home")) == 1
    assert len(build(str(tmp_path / "short"), tmp_path / "home", config)) == 1
    with pytest.raises(DataError, match="D214") as caught:
        build(str(tmp_path / "long"), tmp_path / "home", config)
    (changed,) = other
    assert f"data.{changed}={LIMITED[changed]}, not {other[changed]}" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "config", "what"),
    [
        ({"system": "s"}, CONFIG, "system prompt"),
        ({"format": "alpaca"}, CONFIG, "`format`"),
        ({"columns": {"a": "b"}}, CONFIG, "`columns`"),
        ({}, DataConfig(max_length=5), "max_length is 5"),
    ],
)
def test_what_would_change_tokens_is_refused(saved, tmp_path, source, config, what):
    with pytest.raises(DataError, match="D214") as caught:
        build(Source(str(saved[1]), **source), tmp_path / "home", config)
    assert what in str(caught.value)


@pytest.mark.parametrize("damage", ["shard", "card", "name", "missing"])
def test_damaged_folders(saved, tmp_path, damage):
    out = saved[1]
    card = out / tokenised.CARD
    if damage == "shard":
        (out / "shard-000000").write_bytes(b"x")
    elif damage == "card":
        card.write_text("{}")
    elif damage == "name":  # a name must not lead out of the folder
        shutil.move(out / "shard-000000", tmp_path / "shard-000000")
        card.write_text(card.read_text().replace("shard-000000", "../shard-000000"))
    else:
        (out / "shard-000000").unlink()
    with pytest.raises(DataError, match="D212"):
        build(str(out), tmp_path / "home")


def test_a_folder_is_replaced_only_if_it_holds_tokens(saved, tmp_path):
    data, out = saved
    with pytest.raises(ConfigError, match="C212"):
        tokenised.save(data, out, KEY, replace=False)
    tokenised.save(data, out, {**KEY, "max_length": 100}, replace=True)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="C212"):
        tokenised.save(data, tmp_path / "mine", KEY, replace=True)


# ---------------------------------------------------------------- corpora

DOCUMENTS = [list(range(10 * d, 10 * d + n)) for d, n in enumerate([9, 1, 4, 2, 25])]


@pytest.fixture(params=["megatron", "bin"])
def prefix(request, tmp_path):
    with corpus.writer(tmp_path / "corpus" / "c", request.param, 300) as add:
        for ids in DOCUMENTS:
            add(ids)
    return str(tmp_path / "corpus" / "c")


def test_a_corpus_is_mapped_in_blocks_of_its_documents(prefix, tmp_path):
    data = build(prefix, tmp_path / "home", DataConfig(max_length=4), accepts=(Document,))
    found = {}
    for i in range(len(data)):
        (example,) = data[i]
        assert len(example.ids_T) <= 4
        assert example.weights_T.tolist() == [0.0] + [1.0] * (len(example.ids_T) - 1)
        found.setdefault(data.where(i), []).append(example.ids_T.tolist())
    assert list(found) == [f"{prefix}:{line}" for line in (1, 3, 4, 5)]
    for number, parts in zip((0, 2, 3, 4), found.values(), strict=True):
        assert [*parts[0], *(t for part in parts[1:] for t in part[1:])] == DOCUMENTS[number]
    assert (data.report["rows"], data.report["left_out"]) == (5, 1)
    assert data.report["reasons"] == {"the document has no token to predict": 1}
    assert data.trained.sum() == data.report["trained"] == 8 + 3 + 1 + 24
    # Nothing is copied: the ids are views of the mapped file.
    assert isinstance(data.shards[0].ids_T, np.memmap)
    assert not (tmp_path / "home" / "store").exists()


def test_blocks_of_a_corpus_are_its_stream(prefix, tmp_path):
    data = build(prefix, tmp_path / "home", DataConfig(max_length=4), accepts=(Document,))
    first, _ = blocks.documents(data)
    plan = blocks.Plan.of(data, np.arange(len(first)))
    ids, _ = plan.tokens(0, plan.total)
    assert ids.tolist() == [t for d in (0, 2, 3, 4) for t in DOCUMENTS[d]]


def test_a_folder_of_corpora_is_all_of_them(prefix, tmp_path):
    with corpus.writer(tmp_path / "corpus" / "b", "megatron", 300) as add:
        add([7, 8, 9])
    data = build(str(tmp_path / "corpus"), tmp_path / "home", accepts=(Document,))
    assert [name.rsplit("/")[-1] for name in data.files] == ["b", "c"]
    assert data[0][0].ids_T.tolist() == [7, 8, 9]


def test_weights_and_kinds_of_corpora(prefix, tmp_path):
    source = Source(prefix, weight=0.5)
    data = build(source, tmp_path / "home", accepts=(Document,))
    assert data[0][0].weights_T.tolist() == [0.0] + [0.5] * 8
    assert data.report["trained"] == 18.0
    with pytest.raises(DataError, match="D214"):
        build(prefix, tmp_path / "home")  # a stage of conversations
    with pytest.raises(DataError, match="D214") as caught:
        build(prefix, tmp_path / "home", accepts=(Document,), vocab_size=60)
    assert "id 64, where the tokenizer has 60" in str(caught.value)


def test_the_key_of_a_corpus_follows_its_content(prefix, tmp_path):
    """Size, time of change and content: an index made for other bytes is never taken."""

    def key():
        data = build(prefix, tmp_path / "home", accepts=(Document,))
        return data.report["sources"][0]["key"]

    before = key()
    assert key() == before
    name = corpus.SUFFIXES[corpus.kind_of(tokenised.Path(prefix))][0]
    path = tokenised.Path(prefix + name)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 0  # touched, but equal
    path.write_bytes(raw)
    assert key() == before
    raw[-2] ^= 1  # another last id, the same size
    stat = path.stat()
    path.write_bytes(raw)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # and the same time, as rsync sets it
    assert key() != before


def test_splits_are_of_each_source_and_keep_documents_whole(prefix, tmp_path):
    config = DataConfig(max_length=4)
    one = build(prefix, tmp_path / "home", config, accepts=(Document,))
    data = store.concat([one, one], one.report)
    train, evaluation = split.of_dataset(data, Holdout(split="50,25,25"), 1)
    lines = lambda items: [(int(data.source_N[i]), int(data.line_N[i])) for i in items]
    assert sorted(set(lines(train))) == [(0, 1), (0, 3), (1, 1), (1, 3)]
    assert sorted(set(lines(evaluation))) == [(0, 4), (1, 4)]
    train, evaluation = split.of_dataset(data, Holdout(count=2), 1)
    assert not set(lines(train)) & set(lines(evaluation))
    assert len(set(lines(evaluation))) == 2
    assert sorted([*train, *evaluation]) == list(range(len(data)))
    with pytest.raises(DataError, match="D208"):
        split.of_dataset(data, Holdout(split="1"), 1)


# ---------------------------------------------------------------- save_to_disk


def saved_to_disk(path, columns):
    arrow = pytest.importorskip("pyarrow")
    path.mkdir()
    table = arrow.table(columns)
    with arrow.ipc.new_stream(str(path / "data-00000-of-00001.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    (path / "dataset_info.json").write_text("{}")
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (path / "state.json").write_text(json.dumps({"_data_files": files}))
    return str(path)


def test_prompts_are_not_trained(tmp_path):
    rows = {"input_ids": [[5, 6, 7, 8], [9, 8, 7], [4, 5], [1, 2, 3]], "seq_len": [2, 1, 2, 0]}
    path = saved_to_disk(tmp_path / "d", rows)
    assert (tokenised.kind_of(path), tokenised.stage_of(path)) == ("arrow", "sft")
    data = build(path, tmp_path / "home", DataConfig(max_length=100, on_bad_row="skip"))
    assert contents(data) == [
        [([5, 6, 7, 8], [0.0, 0.0, 1.0, 1.0])],
        [([9, 8, 7], [0.0, 1.0, 1.0])],
        [([1, 2, 3], [0.0, 1.0, 1.0])],
    ]
    assert data.report["bad_rows"] == 1
    assert data.report["skipped"][0] == {
        "file": path, "line": 3, "code": "D204", "reason": "nothing to train", "policy": "row",
    }  # fmt: skip
    again = build(path, tmp_path / "home", DataConfig(max_length=100, on_bad_row="skip"))
    assert contents(again) == contents(data)


def test_labels_and_lengths(tmp_path):
    rows = {"input_ids": [[5, 6, 7, 8]], "labels": [[-100, 6, -100, 8]]}
    path = saved_to_disk(tmp_path / "d", rows)
    data = build(path, tmp_path / "home")
    assert contents(data) == [[([5, 6, 7, 8], [0.0, 1.0, 0.0, 1.0])]]
    short = build(path, tmp_path / "home", DataConfig(max_length=3))
    assert contents(short) == [[([5, 6, 7], [0.0, 1.0, 0.0])]]
    assert short.report["truncated"] == 1
    with pytest.raises(DataError, match="D207"):
        build(path, tmp_path / "home", DataConfig(max_length=3, on_overlength="error"))


def test_what_datasets_itself_saves(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"input_ids": [[1, 2, 3]] * 3, "seq_len": [1] * 3})
    made.save_to_disk(str(tmp_path / "d"))
    data = build(str(tmp_path / "d"), tmp_path / "home")
    assert contents(data) == [[([1, 2, 3], [0.0, 1.0, 1.0])]] * 3


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"text": ["a"]}, "D212"),
        ({"input_ids": [[1, 2]], "labels": [[1]]}, "D212"),
        ({"input_ids": [[1, 300]], "seq_len": [1]}, "D214"),
    ],
)
def test_sets_that_do_not_fit(tmp_path, columns, code):
    with pytest.raises(DataError, match=code):
        build(saved_to_disk(tmp_path / "d", columns), tmp_path / "home")


def test_a_set_without_its_file(tmp_path):
    path = saved_to_disk(tmp_path / "d", {"input_ids": [[1, 2]], "seq_len": [1]})
    (tmp_path / "d" / "state.json").write_text("[]")
    with pytest.raises(DataError, match="D212"):
        build(path, tmp_path / "home")
