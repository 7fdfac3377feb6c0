"""Special tokens and damage: what small files say is carried over, what is wrong is told."""

from __future__ import annotations

import pytest

from tests.tokenizers import files
from tests.tokenizers.files import code, llama, write
from tunesmith.templates.tokenizers import convert


def test_special_tokens_of_all_four_files(tmp_path):
    size = len(files.words("▁hello", "▁world"))
    llama(tmp_path)
    write(
        tmp_path,
        tokenizer_config={
            "tokenizer_class": "LlamaTokenizer",
            "auto_map": {"AutoTokenizer": "evil.Tokenizer"},
            "add_eos_token": True,
            "model_max_length": 77,
            "chat_template": "{{ messages }}",
            "added_tokens_decoder": {
                str(size + 1): {"content": "<|user|>", "special": False, "rstrip": True}
            },
        },
        special_tokens_map={
            "pad_token": {"content": "<pad>"}, "additional_special_tokens": ["<|im_end|>"],
        },
        added_tokens={"<|im_end|>": size},
        generation_config={"eos_token_id": [size, 2]},
    )  # fmt: skip
    made = convert.convert(tmp_path)
    flags = made.rust.get_added_tokens_decoder()
    assert flags[size].content == "<|im_end|>"
    assert flags[size].special
    assert (flags[size + 1].content, flags[size + 1].special) == ("<|user|>", False)
    assert flags[size + 1].rstrip
    assert flags[size + 2].content == "<pad>"
    assert any("<pad>" in note for note in made.notes)
    assert made.config["eos_token"] == "<|im_end|>"
    assert made.config["model_max_length"] == 77
    assert "auto_map" not in made.config
    assert made.rust.encode("hello").tokens == ["<s>", "▁hello", "<|im_end|>"]
    assert made.chat_template == "{{ messages }}"


def test_gaps_between_ids_are_filled_and_told(tmp_path):
    size = len(files.words("▁hello", "▁world"))
    llama(tmp_path)
    write(tmp_path, added_tokens={"<x>": size + 3})
    made = convert.convert(tmp_path)
    assert made.rust.token_to_id("<x>") == size + 3
    assert made.rust.id_to_token(size) == f"<|unused_{size}|>"
    assert any("3 ids" in note for note in made.notes)


def test_files_that_contradict_each_other(tmp_path):
    llama(tmp_path)
    write(tmp_path, added_tokens={"</s>": 5})
    assert code(lambda: convert.convert(tmp_path)) == "E224"


@pytest.mark.parametrize("name", ["tokenizer.model", "x.tiktoken", "vocab.json", "merges.txt"])
def test_torn_files(name, tmp_path):
    if name == "tokenizer.model":
        llama(tmp_path)
    elif name == "x.tiktoken":
        (tmp_path / name).write_bytes(files.ranks("abc"))
    else:
        files.gpt2(tmp_path, "hello")
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 - 1])
    assert code(lambda: convert.convert(tmp_path, "gpt2")) == "E221"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.model", b"\x0e"),
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\n"),
        ("tokenizer.model", b""),
        ("x.tiktoken", b"IQ== 0\nIQ== x\n"),
        ("x.tiktoken", b"IQ== 0\nIg== 2\n"),
        ("x.tiktoken", b"IQ== 0\nIg== 1\n"),
        ("a.gguf", b"GGUF\x03\0\0\0" + b"\xff" * 16),
        ("a.gguf", b"GGUF\x09\0\0\0" + b"\0" * 16),
    ],
)
def test_files_that_are_something_else(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    assert code(lambda: convert.convert(tmp_path / name, "gpt2")) == "E221"


def test_small_files_that_are_no_json(tmp_path):
    llama(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text("{")
    assert code(lambda: convert.convert(tmp_path)) == "E221"
    (tmp_path / "special_tokens_map.json").write_text("[]")
    assert code(lambda: convert.convert(tmp_path)) == "E221"


def test_which_file_it_is(tmp_path):
    assert code(lambda: convert.convert(tmp_path)) == "E201"
    assert not convert.has_tokenizer(tmp_path)
    (tmp_path / "a.model").write_bytes(files.sentencepiece(files.words("a")))
    (tmp_path / "b.tiktoken").write_bytes(files.ranks("a"))
    assert code(lambda: convert.convert(tmp_path)) == "E225"
    llama(tmp_path)
    assert convert.convert(tmp_path).source.name == "tokenizer.model"


def test_flags_of_files_and_of_symbols(tmp_path):
    """Naming a token doesn't take its flags; a user-defined symbol stays in normalised text."""
    pieces = [*files.words("▁hello", "▁world"), ("<n>", 0.0, 4), ("<end>", 0.0, 4)]
    (tmp_path / "tokenizer.model").write_bytes(files.sentencepiece(pieces))
    size = len(pieces)
    decoder = {
        str(size - 2): {"content": "<n>", "special": False, "normalized": False},
        str(size - 1): {"content": "<end>", "special": True, "rstrip": True, "normalized": False},
    }
    write(tmp_path, tokenizer_config={"added_tokens_decoder": decoder, "eos_token": "<end>"})
    made = convert.convert(tmp_path)
    flags = made.rust.get_added_tokens_decoder()
    assert flags[size - 1].special
    assert flags[size - 1].rstrip
    assert not flags[size - 2].special
    tokens = made.rust.encode("hello<n>hello", add_special_tokens=False).tokens
    assert tokens == ["▁hello", "<n>", "h", "e", "l", "l", "o"]
