"""Folders with splits: of save_to_disk, of the hub, and of names alone."""

from __future__ import annotations

import json

import pytest

from tunesmith.data import folder_splits, local_set, read, tokenised
from tunesmith.errors import ConfigError, DataError, MissingExtra
from tunesmith.recipe.sections import Source

CHATS = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]}
    for i in range(5)
]
README = """---
configs:
- config_name: en
  default: true
  data_files:
  - {split: train, path: en/train-*}
  - {split: test, path: en/test-*}
- config_name: de
  data_files:
  - {split: train, path: de/*}
---
"""


def chosen(tmp_path, source, said=None):
    said = [] if said is None else said
    return local_set.chosen(source, tmp_path / "home", lambda topic, text: said.append(text))


def values(path):
    return [row.value for row in read.rows(path)]


@pytest.fixture
def shards(tmp_path):
    """A set as `hf download` leaves it: two subsets, two splits, several kinds of file."""
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    top = tmp_path / "set"
    names = ["en/train-00000-of-00002", "en/train-00001-of-00002", "en/test-00000-of-00001", "de/a"]
    for number, name in enumerate(names):
        path = top / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(arrow.table({"text": [f"{number}.{i}" for i in "ab"]}), path)
    (top / "README.md").write_text(README)
    (top / "extra.jsonl").write_text("{}\n")
    return top


def test_splits_and_subsets_are_those_of_the_readme(tmp_path, shards):
    pytest.importorskip("datasets")
    said: list[str] = []
    train = chosen(tmp_path, Source(str(shards), split="train", max_samples=3), said)
    assert values(train.path) == [{"text": t} for t in ("0.a", "0.b", "1.a", "1.b")]
    assert (train.split, train.subset, train.max_samples) == (None, None, 3)
    assert "4 rows" in said[0]
    test = chosen(tmp_path, Source(str(shards), split="test"))
    assert values(test.path) == [{"text": "2.a"}, {"text": "2.b"}]
    german = chosen(tmp_path, Source(str(shards), subset="de"))
    assert values(german.path) == [{"text": "3.a"}, {"text": "3.b"}]
    for source in (Source(str(shards), split="x"), Source(str(shards), subset="fr")):
        with pytest.raises(DataError, match="D232"):
            chosen(tmp_path, source)


def test_a_folder_without_rows_has_no_split(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="D232"):
        chosen(tmp_path, Source(str(tmp_path / "empty"), split="train"))


def test_a_copy_follows_the_content_of_the_folder(tmp_path, shards):
    pytest.importorskip("datasets")
    source = Source(str(shards), split="test")
    first = chosen(tmp_path, source)
    assert chosen(tmp_path, source) == first
    (shards / "en" / "test-00000-of-00001.parquet").write_bytes(
        (shards / "de" / "a.parquet").read_bytes()
    )
    again = chosen(tmp_path, source)
    assert again.path != first.path
    assert values(again.path) == [{"text": "3.a"}, {"text": "3.b"}]


def test_a_split_of_files_needs_its_extra(tmp_path, shards, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match="datasets"):
        chosen(tmp_path, Source(str(shards), split="train"))


def test_shards_of_several_splits_are_not_read_as_one(shards):
    with pytest.raises(DataError, match="D231") as caught:
        values(shards / "en")
    assert "test" in caught.value.what
    assert "train" in caught.value.what
    assert len(values(shards / "de")) == 2


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["train.jsonl", "eval.jsonl"], True),
        (["train/a.jsonl", "test/a.jsonl"], True),
        (["Train-00000-of-00002.jsonl", "validation-00000-of-00001.jsonl"], True),
        (["train-0.jsonl", "train-1.jsonl", "more.jsonl"], False),
        (["valid.jsonl", "dev_2.jsonl"], False),
        (["trains.jsonl", "testament.jsonl"], False),
    ],
)
def test_names_of_splits(tmp_path, names, refused):
    found = [tmp_path / name for name in names]
    if not refused:
        folder_splits.check(found, tmp_path)
        return
    with pytest.raises(DataError, match="D231"):
        folder_splits.check(found, tmp_path)


def test_rows_that_save_to_disk_wrote(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(CHATS)
    path = tmp_path / "chats"
    made.save_to_disk(str(path), num_shards=2)
    assert tokenised.kind_of(path) is None
    assert values(path) == CHATS
    lines = [(row.file.rpartition("/")[2], row.line) for row in read.rows(path)]
    assert lines[2:4] == [("data-00000-of-00002.arrow", 3), ("data-00001-of-00002.arrow", 1)]
    with pytest.raises(ConfigError, match="C105"):
        chosen(tmp_path, Source(str(path), split="train"))


def test_splits_that_save_to_disk_wrote(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(CHATS)
    both, one = tmp_path / "both", tmp_path / "one"
    datasets.DatasetDict(train=rows.select([0, 1]), test=rows.select([2])).save_to_disk(str(both))
    datasets.DatasetDict(train=rows.select([4])).save_to_disk(str(one))
    assert values(chosen(tmp_path, Source(str(both), split="test")).path) == [CHATS[2]]
    said: list[str] = []
    assert values(chosen(tmp_path, Source(str(one)), said).path) == [CHATS[4]]
    assert "only one" in said[0]
    with pytest.raises(DataError, match="D231"):
        chosen(tmp_path, Source(str(both)))
    with pytest.raises(DataError, match="D231"):  # where nobody chose
        values(both)
    with pytest.raises(DataError, match=r"D232(.|\n)*train, test"):
        chosen(tmp_path, Source(str(both), split="dev"))
    with pytest.raises(ConfigError, match="C105"):
        chosen(tmp_path, Source(str(both), split="test", subset="en"))
    (both / local_set.DICT).write_text("[]")
    with pytest.raises(DataError, match="D212"):
        chosen(tmp_path, Source(str(both), split="test"))


def test_both_formats_of_arrow_and_none(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"text": [f"{i}" for i in range(2500)]})
    for name, new in (("s", arrow.ipc.new_stream), ("f", arrow.ipc.new_file)):
        with new(str(tmp_path / f"{name}.arrow"), table.schema) as stream:
            stream.write_table(table)
        found = list(read.rows(tmp_path / f"{name}.arrow"))
        assert [row.value["text"] for row in found] == [f"{i}" for i in range(2500)]
        assert found[-1].line == 2500
    for bad in (b"no arrow at all", (tmp_path / "s.arrow").read_bytes()[:3000]):
        (tmp_path / "bad.arrow").write_bytes(bad)
        with pytest.raises(DataError, match="D104"):
            values(tmp_path / "bad.arrow")


def test_arrow_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.arrow").write_bytes(b"x")
    with pytest.raises(MissingExtra, match="pyarrow"):
        values(tmp_path / "a.arrow")


def test_what_others_write_about_a_set_is_no_row(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"a": {}}, indent=2))
    assert values(tmp_path) == CHATS


def test_a_split_is_chosen_and_told_on_the_command_line(own_home, capsys, shards):
    pytest.importorskip("datasets")
    from tunesmith.cli.main import main

    words = ["data", "check", str(shards), "stage=pretrain", "data.train.split=train"]
    assert main(words) == 0
    assert "4 rows →" in capsys.readouterr().err
    # The stage is found out first; what is fetched for that is told too.
    assert main(["data", "check", str(shards), "data.train.split=test"]) == 0
    assert "2 rows →" in capsys.readouterr().err
