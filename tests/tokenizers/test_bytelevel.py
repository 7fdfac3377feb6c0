"""Byte-level BPE and GGUF vocabularies written here: rules, merges, metadata."""

from __future__ import annotations

import pytest

from tests.tokenizers import files
from tests.tokenizers.files import code, ids, write
from tunesmith.templates.tokenizers import convert, patterns


def test_ranks_by_name_class_and_option(tmp_path):
    data = files.ranks(" the cat", "12", "don't")
    (tmp_path / "qwen.tiktoken").write_bytes(data)
    made = convert.convert(tmp_path)
    assert made.kind == "tiktoken ranks, split as qwen"
    assert made.rust.encode(" the cat", add_special_tokens=False).tokens[0] == "Ġthe"
    assert made.rust.token_to_id("<|im_end|>") == len(data.splitlines()) + 2
    assert made.config["eos_token"] == "<|endoftext|>"
    (tmp_path / "qwen.tiktoken").rename(tmp_path / "tokenizer.model")
    assert code(lambda: convert.convert(tmp_path)) == "E222"
    assert convert.convert(tmp_path, "llama3").config["bos_token"] == "<|begin_of_text|>"
    write(tmp_path, config={"model_type": "glm4", "eos_token_id": 5})
    made = convert.convert(tmp_path)
    assert made.kind.endswith("split as glm4")
    write(tmp_path, tokenizer_config={"tokenizer_class": "StrangeTokenizer"}, config={})
    assert code(lambda: convert.convert(tmp_path)) == "E222"


def test_vocab_and_merges(tmp_path):
    files.gpt2(tmp_path, " hello", "world")
    made = convert.convert(tmp_path)
    assert made.rust.encode("world hello", add_special_tokens=False).tokens == ["world", "Ġhello"]
    assert made.config["eos_token"] == "<|endoftext|>"
    assert any("as in GPT-2" in note for note in made.notes)
    write(tmp_path, config={"model_type": "qwen2"})
    assert convert.convert(tmp_path).kind == "byte-level BPE, split as qwen2"
    write(tmp_path, tokenizer_config={"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True})
    tokens = convert.convert(tmp_path).rust.encode("hello", add_special_tokens=False).tokens
    assert tokens == ["Ġhello"]
    write(tmp_path, tokenizer_config={}, config={"model_type": "strange"})
    assert code(lambda: convert.convert(tmp_path)) == "E222"


def test_every_rule_cuts_without_losing_a_character():
    text = "I've 12345 naïve 世界 🎉!!\r\n\n  x = {a_b};\t½ ﬁ ۳"
    for name, split in patterns.PATTERNS.items():
        rule = split.pre_tokenizer()
        joined = "".join(part for part, _ in rule.pre_tokenize_str(text))
        letter = convert.bytelevel.letters()
        assert joined == "".join(letter[byte] for byte in text.encode()), name
    assert {patterns.named(name) for name in patterns._NAMES} <= patterns.PATTERNS.keys()


def bytes_gguf(**more) -> bytes:
    letter = convert.bytelevel.letters()
    tokens = [letter[byte] for byte in range(256)] + ["he", "<|end|>", "<tag>"]
    return files.gguf(
        {
            "general.architecture": "llama",
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "qwen2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * 257 + [3, 4],
            "tokenizer.ggml.merges": ["h e"],
            "tokenizer.ggml.eos_token_id": 257,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.chat_template": "{{ messages }}",
            **more,
        }
    )


def test_gguf_of_bytes(tmp_path):
    (tmp_path / "a.gguf").write_bytes(bytes_gguf())
    made = convert.convert(tmp_path / "a.gguf")
    assert ids(made, "he<|end|><tag>")[0] == 256
    assert ids(made, "he<|end|><tag>")[1:] == [257, 258]
    assert made.config["eos_token"] == "<|end|>"
    assert made.chat_template == "{{ messages }}"
    flags = made.rust.get_added_tokens_decoder()
    assert (flags[257].special, flags[258].special) == (True, False)


def test_gguf_of_pieces_equals_its_sentencepiece(tmp_path):
    pieces = [*files.words("▁hello", "▁world"), ("<n>", 0.0, 4)]
    (tmp_path / "tokenizer.model").write_bytes(files.sentencepiece(pieces))
    texts, scores, types = zip(*pieces, strict=True)
    data = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": list(texts),
        "tokenizer.ggml.scores": list(scores),
        "tokenizer.ggml.token_type": list(types),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    (tmp_path / "b.gguf").write_bytes(files.gguf(data))
    one, other = convert.convert(tmp_path), convert.convert(tmp_path / "b.gguf")
    assert one.rust.get_vocab() == other.rust.get_vocab()
    for text in ["hello <n>world", " é", "<s>"]:
        assert one.rust.encode(text).ids == other.rust.encode(text).ids


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tokenizer.ggml.pre": "strange"}, "E222"),
        ({"tokenizer.ggml.model": "rwkv"}, "E223"),
        ({"tokenizer.ggml.tokens": "none"}, "E221"),
        ({"tokenizer.ggml.token_type": [1]}, "E221"),
        ({"tokenizer.ggml.merges": ["x yz"]}, "E221"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_gguf_that_can_not_be_read(change, expected, tmp_path):
    (tmp_path / "a.gguf").write_bytes(bytes_gguf(**change))
    assert code(lambda: convert.convert(tmp_path / "a.gguf")) == expected
