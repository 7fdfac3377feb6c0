"""Data sets by name: entries of a dataset_info.json old and new, and those that are known."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith import registry
from tunesmith.data import catalogue, encode, read
from tunesmith.data.formats import base
from tunesmith.errors import ConfigError, DataError
from tunesmith.recipe.sections import DataConfig, Source


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"q": "hi", "a": "yo"}]))
    return tmp_path


def write(folder, entries):
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    return DataConfig(dataset_info=str(folder))


def named(folder, entry, **given):
    """The source that an entry called `mine` makes, and what was said."""
    said = []
    config = write(folder, {"mine": entry})
    found = catalogue.named(Source("mine", **given), config, lambda *words: said.append(words))
    return found, said


ENTRIES = {
    "no columns": ({}, None, None),
    "old alpaca": (
        {"columns": {"prompt": "q", "query": "", "response": "a", "history": ""}},
        "alpaca",
        {"instruction": "q", "input": "", "output": "a", "history": "", "system": ""},
    ),
    "old pairs": (
        {"ranking": True, "columns": {"prompt": "q", "response": "a"}},
        "preference",
        {"instruction": "q", "input": "", "output": "a", "history": "", "system": ""},
    ),
    "pairs": (
        {"ranking": True, "columns": {"prompt": "q", "chosen": "a", "rejected": "b"}},
        "preference",
        {
            "instruction": "q",
            "input": "",
            "history": "",
            "system": "",
            "chosen": "a",
            "rejected": "b",
        },
    ),
    "verdicts": (
        {"columns": {"prompt": "q", "response": "a", "kto_tag": "ok"}},
        "feedback",
        {
            "instruction": "q",
            "input": "",
            "output": "a",
            "history": "",
            "system": "",
            "label": "ok",
        },
    ),
    "text": ({"columns": {"prompt": "q"}}, "text", {"text": "q"}),
    "sharegpt": (
        {"formatting": "sharegpt", "columns": {"messages": "c", "tools": "t"}},
        "sharegpt",
        {"messages": "c", "system": "", "tools": "t"},
    ),
    "sharegpt, nothing said": ({"formatting": "sharegpt"}, None, None),
    "openai": (
        {
            "formatting": "sharegpt",
            "columns": {"messages": "c"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
            },
        },
        "openai",
        {"messages": "c", "system": "", "tools": ""},
    ),
    "openai by its name": (
        {"formatting": "openai", "columns": {"tools": "t"}},
        "openai",
        {"messages": "messages", "system": "", "tools": "t"},
    ),
    "tags": (
        {"formatting": "sharegpt", "tags": {"role_tag": "who", "user_tag": "Customer"}},
        "sharegpt",
        {"messages": "conversations", "role_tag": "who", "user_tag": "Customer"},
    ),
    "pairs of turns": (
        {
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "c", "chosen": "a", "rejected": "b"},
        },
        "preference",
        {"prompt": "c", "system": "", "tools": "", "chosen": "a", "rejected": "b"},
    ),
    "verdicts on turns": (
        {"formatting": "sharegpt", "columns": {"messages": "c", "kto_tag": "ok"}},
        "feedback",
        {"messages": "c", "system": "", "tools": "", "label": "ok"},
    ),
}


@pytest.mark.parametrize("layout", ENTRIES)
def test_entries_become_format_and_columns(folder, layout):
    entry, format, columns = ENTRIES[layout]
    found, _ = named(folder, {"file_name": "a.json", **entry})
    assert (found.path, found.format) == (str(folder / "a.json"), format)
    assert found.columns == columns
    if format is not None:
        base.check_columns(format, found.columns or {}, "here")  # every role exists


def test_what_the_user_says_comes_first(folder):
    entry = {"file_name": "a.json", "columns": {"prompt": "q", "response": "a"}, "num_samples": 5}
    found, _ = named(folder, entry, format="openai", max_samples=2, system="s", weight=0.5)
    assert (found.format, found.max_samples, found.system, found.weight) == ("openai", 2, "s", 0.5)
    assert named(folder, entry)[0].max_samples == 5


def test_hub_sets_win_over_files_and_keep_subset_split_and_folder(folder):
    entry = {
        "hf_hub_url": "org/set",
        "file_name": "a.json",
        "script_url": "s",
        "subset": "en",
        "split": "train_sft",
        "folder": "python",
    }
    found, _ = named(folder, entry)
    assert (found.path, found.subset, found.split) == ("hf:org/set/python", "en", "train_sft")


def test_a_file_that_is_another_is_refused_or_said(folder):
    entry = {"file_name": "a.json", "file_sha1": "0" * 40, "novel": 1}
    with pytest.raises(DataError, match="D220") as caught:
        named(folder, entry)
    assert f"data.train={folder / 'a.json'}" in caught.value.fix
    assert "data.on_finding=warn" in caught.value.fix
    said = []
    config = replace(write(folder, {"mine": entry}), on_finding="warn")
    found = catalogue.named(Source("mine"), config, lambda *words: said.append(words))
    assert found.path.endswith("a.json")
    notes = [text for topic, text in said if topic == "note"]
    assert "novel" in notes[0]
    assert "is not the file described" in notes[1]
    digest = hashlib.sha1((folder / "a.json").read_bytes()).hexdigest()
    assert digest in notes[1]
    assert digest in caught.value.why
    _, said = named(folder, {"file_name": "a.json", "file_sha1": digest.upper()})
    assert [topic for topic, _ in said] == ["data"]


@pytest.mark.parametrize(
    ("entry", "code", "words"),
    [
        ({"script_url": "belle"}, "D133", "script `belle`(.|\n)*rows.py:function"),
        ({"script_url": "https://h/rows.py:f"}, "D133", "code of data sets never|no file"),
        ({"script_url": "gone.py:rows"}, "D133", "there is no file (.|\n)*gone.py"),
        ({"file_nam": "a.json"}, "D133", "`file_nam`: did you mean `file_name`"),
        ({"ms_hub_url": "org/x"}, "D133", "ModelScope"),
        ({"cloud_file_name": "s3://x"}, "D133", "cloud"),
        ({}, "D133", "no hub set and no file"),
        ([], "D133", "no object"),
        ({"file_name": "none.json"}, "D133", "not there"),
        ({"file_name": "a.json", "columns": []}, "D133", "`columns`"),
        ({"file_name": "a.json", "formatting": "x", "columns": {"a": "b"}}, "D133", "unknown"),
        ({"file_name": "a.json", "columns": {"images": "pics"}}, "D124", "pics"),
        ({"file_name": "a.json", "fill": ["name", "author"]}, "D127", "fill: .name: …, author"),
    ],
)
def test_entries_that_are_refused(folder, entry, code, words):
    with pytest.raises(DataError, match=rf"{code}(.|\n)*{words}"):
        named(folder, entry)


def test_a_script_that_is_a_function_of_the_user_is_run_and_said(folder, tmp_path):
    (folder / "rows.py").write_text("def mine():\n    yield {'q': 'hi', 'a': 'yo'}\n")
    columns = {"prompt": "q", "response": "a"}
    found, said = named(folder, {"script_url": "rows.py:mine", "columns": columns})
    assert found.path == f"{folder.resolve()}/rows.py:mine"
    assert ("data", "mine: its rows are made by your function rows.py:mine") in said
    here = catalogue.local(
        found, DataConfig(), tmp_path / "home", lambda *words: said.append(words)
    )
    (row,) = read.rows(here.path)
    assert row.value == {"q": "hi", "a": "yo"}
    assert here.format == "alpaca"
    assert any("running your code" in text for _, text in said)


@pytest.mark.parametrize(
    ("columns", "row", "why"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, {"q": "?", "a": "x", "b": "y"}, "name"),
        ({"prompt": "q", "response": "a"}, {"q": "?", "a": ["x", "y"]}, "`a` holds lists"),
    ],
)
def test_pairs_are_seen_where_an_entry_forgets_to_say_ranking(folder, columns, row, why):
    (folder / "a.json").write_text(json.dumps([row]))
    entry = {"file_name": "a.json", "columns": columns}
    found, said = named(folder, entry)
    assert (found, found.format) == (named(folder, {**entry, "ranking": True})[0], "preference")
    assert any("read as pairs" in text and why in text for _, text in said)
    # What an entry says itself is believed.
    assert named(folder, {**entry, "ranking": False})[0].format != "preference"


def test_columns_that_mean_nothing_are_said_with_the_nearest(folder):
    columns = {"promt": "q", "response": "a"}
    _, said = named(folder, {"file_name": "a.json", "columns": columns, "formating": "alpaca"})
    texts = " ".join(text for _, text in said)
    assert "`promt` in columns means nothing, and is not used  did you mean `prompt`?" in texts
    assert "formating did you mean `formatting`?" in texts


def test_names_are_found_beside_the_file_they_would_be(folder):
    write(folder, {"mine": {"file_name": "a.json"}})
    found = catalogue.named(Source(str(folder / "mine")), DataConfig(), lambda *_: None)
    assert found.path == str(folder / "a.json")
    with pytest.raises(DataError, match=r"D132(.|\n)*did you mean `mine`"):
        catalogue.named(Source(str(folder / "mime")), DataConfig(), lambda *_: None)


def test_files_and_addresses_are_left_as_they_are(folder):
    write(folder, {"a.json": {"file_name": "other.json"}})
    for path in (str(folder / "a.json"), "hf:org/set", "builtin:demo/train.jsonl", "rows.py:f"):
        source = Source(path)
        assert catalogue.named(source, DataConfig(), lambda *_: None) is source
    # A file that is not there is told as such, not as an unknown name.
    source = Source("nowhere/chats.jsonl")
    assert catalogue.named(source, DataConfig(), lambda *_: None) is source


def test_a_corpus_of_token_ids_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("book.bin", "book.idx"):
        (tmp_path / name).touch()
    source = Source("book")
    assert catalogue.named(source, DataConfig(), lambda *_: None) == source


def test_an_info_file_holds_no_rows_itself(folder):
    write(folder, {"mine": {"file_name": "a.json"}})
    source = Source(str(folder / "dataset_info.json"))
    with pytest.raises(DataError, match=r"D133.*holds no rows(.|\n)*in its place: .*/NAME.*mine"):
        catalogue.named(source, DataConfig(), lambda *_: None)


@pytest.mark.parametrize(
    ("path", "key"),
    [("a.json", "split"), ("a.json", "revision"), ("hf:org/set/a.jsonl", "subset")],
)
def test_keys_of_the_hub_are_refused_where_they_mean_nothing(tmp_path, path, key):
    with pytest.raises(ConfigError, match=f"C105.*`{key}` means nothing"):
        catalogue.local(Source(path, **{key: "x"}), DataConfig(), tmp_path, lambda *_: None)
    source = Source("a.json")
    assert catalogue.local(source, DataConfig(), tmp_path, lambda *_: None) is source


def test_info_files_that_are_none(folder):
    config = DataConfig(dataset_info=str(folder / "dataset_info.json"))
    for text, words in ((None, "no such"), ("{", "not a dataset_info"), ("[]", "no object of")):
        if text is not None:
            (folder / "dataset_info.json").write_text(text)
        with pytest.raises(DataError, match=f"D133.*{words}"):
            catalogue.named(Source("mine"), config, lambda *_: None)


def test_the_sets_that_are_known():
    said = []
    found = catalogue.named(Source("belle_1m"), DataConfig(), lambda *words: said.append(words))
    assert found.path == "hf:BelleGroup/train_1M_CN"
    assert said == [
        ("data", "belle_1m: hf:BelleGroup/train_1M_CN (licence: GPL-3.0, for research only)")
    ]
    found = catalogue.named(Source("firefly"), DataConfig(), lambda *_: None)
    assert (found.format, found.columns["instruction"]) == ("alpaca", "input")
    with pytest.raises(DataError, match=r"D132(.|\n)*did you mean `belle_1m`"):
        catalogue.named(Source("bele_1m"), DataConfig(), lambda *_: None)
    assert found.path == "hf:YeungNLP/firefly-train-1.1M"
    with pytest.raises(DataError, match=r"D133(.|\n)*download it from https://github.com/"):
        catalogue.named(Source("oaast_rm_zh"), DataConfig(), lambda *_: None)
    unfilled = Source("self_cognition", fill={"title": "x"})
    with pytest.raises(DataError, match=r"D127(.|\n)*name: …, author: …"):
        catalogue.named(unfilled, DataConfig(), lambda *_: None)


def test_files_of_known_sets_are_found_here(tmp_path, monkeypatch):
    """In this folder or in that of data.dataset_info; recorded by their full path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "oaast_rm_zh.json").write_text("[]")
    here = catalogue.named(Source("oaast_rm_zh"), DataConfig(), lambda *_: None)
    assert (here.path, here.format) == (str(tmp_path / "oaast_rm_zh.json"), "preference")
    monkeypatch.chdir("/")
    (tmp_path / "dataset_info.json").write_text("{}")
    config = DataConfig(dataset_info=str(tmp_path))
    assert catalogue.named(Source("oaast_rm_zh"), config, lambda *_: None) == here


def test_every_known_set_is_whole():
    for name, entry in catalogue.known().items():
        assert {"licence", "gated"} <= set(entry), name
        assert ("hf_hub_url" in entry) != ("file_name" in entry), name
        assert "hf_hub_url" in entry or entry["page"].startswith("https://"), name
        format, columns = catalogue.catalogue_entry.rows(name, entry)
        if format is not None:
            base.check_columns(format, columns or {}, name)
    assert len(catalogue.known()) > 30


def test_the_page_lists_every_known_set_and_every_format():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    assert [name for name in catalogue.known() if f"| `{name}` |" not in page] == []
    assert [name for name in registry.names("formats") if f"`{name}`" not in page] == []


@pytest.mark.shared
def test_real_files_of_known_sets_are_the_ones_described(shared_data):
    place = shared_data / "instruct/llama-efficient-tuning-old"
    fill, said = {"name": "a", "author": "b"}, []
    for name in ("self_cognition", "oaast_sft_zh", "oaast_rm_zh", "example"):
        entry = catalogue.known()[name]
        catalogue.catalogue_entry.source(
            name, entry, Source(name, fill=fill), place, lambda *words: said.append(words)
        )
    assert said == []


# What the real dataset_info.json files say of the files beside them.
@pytest.mark.shared
def test_every_local_name_of_a_real_file_is_read(shared_data):
    place = shared_data / "instruct/llamafactory"
    entries = json.loads((place / "dataset_info.json").read_text())
    config = DataConfig(dataset_info=str(place))
    formats = {}
    for name in entries:
        try:
            found = catalogue.named(Source(name), config, lambda *_: None)
        except DataError as error:
            formats[name] = error.code
            continue
        if not found.path.startswith("hf:"):
            formats[name] = found.format or encode.detect(found)
            rows = list(encode.read.rows(found.path, max_samples=20))
            for row in rows:
                base.samples(base.load(formats[name]), row, found.columns or {}, config)
    refused = {name for name, code in formats.items() if code == "D124"}
    assert {"mllm_demo", "mllm_video_demo", "llava_1k_en", "rlhf_v"} <= refused
    assert formats.pop("deepctrl") == "D133"
    assert {name: code for name, code in formats.items() if name not in refused} == {
        "identity": "alpaca",
        "alpaca_en_demo": "alpaca",
        "alpaca_zh_demo": "alpaca",
        "glaive_toolcall_en_demo": "sharegpt",
        "glaive_toolcall_zh_demo": "sharegpt",
        "dpo_en_demo": "preference",
        "dpo_zh_demo": "preference",
        "kto_en_demo": "feedback",
        "wiki_demo": "text",
        "c4_demo": "text",
    }
