"""The tokenizer: same ids as transformers, honest special tokens, whole characters."""

from __future__ import annotations

import copy
import json
import multiprocessing
import shutil

import pytest
from hypothesis import given, settings, strategies as st

from tests.templates.conftest import KINDS, transformers_of
from tunesmith.errors import EnvironmentFault
from tunesmith.templates.tokenizer import Tokenizer

TEXTS = ["Hello world", " two  spaces ", "a\n\nb\t c", "你好，世界。", "naïve 🎉🚀", "", "</s> end"]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_transformers(folder, text):
    ours, theirs = Tokenizer.load(folder), transformers_of(folder)
    assert ours.encode_text(text) == theirs.encode(text, add_special_tokens=False)
    ids = ours.encode_text(text)
    assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)


def test_names_and_sizes(trained):
    tokenizer = Tokenizer.load(trained["prepend"])
    assert tokenizer.decode([tokenizer.bos_id]) == "<s>"
    assert tokenizer.decode([tokenizer.eos_id]) == "</s>"
    assert tokenizer.pad_id is None
    assert tokenizer.token("eos_token") == "</s>"
    assert tokenizer.vocab_size == tokenizer.rust.get_vocab_size(with_added_tokens=True)
    assert {tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id} < tokenizer.special_ids


def test_tokens_named_in_the_configuration_become_special(trained, tmp_path):
    """`eos_token` may be an ordinary piece of the vocabulary in tokenizer.json."""
    folder = tmp_path / "copy"
    shutil.copytree(trained["bytes"], folder)
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] != "</s>"]
    data["model"]["vocab"]["</s>"] = max(data["model"]["vocab"].values()) + 1
    known = {t["id"] for t in data["added_tokens"]}
    while data["model"]["vocab"]["</s>"] in known:
        data["model"]["vocab"]["</s>"] += 1
    file.write_text(json.dumps(data))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.eos_id in tokenizer.special_ids
    assert tokenizer.encode_text("a</s>")[-1] == tokenizer.eos_id


def test_documents_begin_with_bos_and_never_spell_control_tokens(folder):
    tokenizer = Tokenizer.load(folder)
    text = "one</s>two<|im_end|>three"
    [ids] = tokenizer.encode_documents([text])
    begin = [tokenizer.bos_id] if tokenizer.adds_bos else []
    assert ids[: len(begin)] == begin
    rest = ids[len(begin) :]
    assert not tokenizer.special_ids.intersection(rest) - {tokenizer.unk_id}
    if "unigram" not in str(folder):  # it knows no `|`
        assert tokenizer.decode(rest).strip() == text


def test_pickles_by_folder_and_works_in_another_process(trained):
    tokenizer = Tokenizer.load(trained["prepend"])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(tokenizer.encode_text, ["Hello"]) == [tokenizer.encode_text("Hello")]
    assert copy.copy(tokenizer).hash == tokenizer.hash


def test_hash_tells_tokenizers_apart(trained, tmp_path):
    first = Tokenizer.load(trained["bytes"])
    folder = tmp_path / "copy"
    shutil.copytree(trained["bytes"], folder)
    assert Tokenizer.load(folder).hash == first.hash
    config = {**first.config, "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.load(folder).hash != first.hash


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60), kind=st.sampled_from(KINDS[:-1]))
def test_stream_joins_to_the_whole_and_has_no_half_characters(trained, text, kind):
    tokenizer = Tokenizer.load(trained[kind])
    ids = tokenizer.encode_batch([text], "start", frozenset(tokenizer.added))[0]
    stream = tokenizer.decode_stream()
    parts = [stream.step(id) for id in ids]
    assert "".join(parts) + stream.finish() == tokenizer.decode(ids)
    assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


def test_stream_of_broken_bytes_goes_on(trained):
    tokenizer = Tokenizer.load(trained["prepend"])
    broken = tokenizer.rust.token_to_id("<0xF0>")
    ids = [broken] * 9 + tokenizer.encode_text("ok")
    stream = tokenizer.decode_stream()
    text = "".join(map(stream.step, ids)) + stream.finish()
    assert text.endswith("ok")
    assert text.count("\ufffd") >= 1


def test_stream_leaves_special_tokens_out_unless_asked(trained):
    tokenizer = Tokenizer.load(trained["bytes"])
    ids = tokenizer.encode_text("a</s>")
    quiet, loud = tokenizer.decode_stream(), tokenizer.decode_stream(skip_special=False)
    assert "".join(map(quiet.step, ids)) == "a"
    assert "".join(map(loud.step, ids)) == "a</s>"


def test_save_and_load_again(folder, tmp_path):
    tokenizer = Tokenizer.load(folder)
    tokenizer.save(tmp_path, chat_template="{{ messages }}")
    again = Tokenizer.load(tmp_path)
    assert again.hash == tokenizer.hash
    assert again.chat_template == "{{ messages }}"


def test_save_leaves_out_what_would_run_code(trained, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(trained["bytes"], source)
    config = {"auto_map": {"AutoTokenizer": "evil.Tokenizer"}, "eos_token": "</s>"}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    Tokenizer.load(source).save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"eos_token": "</s>"}


def test_chat_template_by_name(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained["bytes"], folder)
    several = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert Tokenizer.load(folder).chat_template == "d"


@pytest.mark.parametrize("damage", ["missing", "torn", "config"])
def test_unreadable_tokenizers_are_named(trained, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(trained["bytes"], folder)
    if damage == "missing":
        (folder / "tokenizer.json").unlink()
    elif damage == "torn":
        text = (folder / "tokenizer.json").read_text()
        (folder / "tokenizer.json").write_text(text[: len(text) // 2])
    else:
        (folder / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(EnvironmentFault) as caught:
        Tokenizer.load(folder)
    assert caught.value.code == "E201"
    assert str(folder) in str(caught.value)


def test_white_space_is_content_even_where_a_template_writes_it(trained, tmp_path):
    """GPT-NeoX's tokenizer has runs of spaces as added tokens; templates are indented by them."""
    tokenizer = Tokenizer.load(trained["bytes"])
    tokenizer.rust.add_tokens(["    ", "\n\n", "<|role|>"])
    tokenizer.rust.save(str(tmp_path / "tokenizer.json"))
    found = Tokenizer.load(tmp_path).markup_only("{% if x %}\n\n    <|role|>")
    assert "<|role|>" in found
    assert not {"    ", "\n\n"} & found
