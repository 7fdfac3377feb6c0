"""SentencePiece models written here: flags, symbols, what can't be carried over."""

from __future__ import annotations

import pytest

from tests.tokenizers import files
from tests.tokenizers.files import code, ids, llama, write
from tunesmith.templates.tokenizers import convert


def test_bytes_spaces_and_unknown_characters(tmp_path):
    made = convert.convert(llama(tmp_path))
    assert made.kind == "SentencePiece BPE"
    assert made.rust.encode("hello world", add_special_tokens=False).tokens == ["▁hello", "▁world"]
    assert made.rust.encode("é", add_special_tokens=False).tokens == ["▁", "<0xC3>", "<0xA9>"]
    assert made.rust.decode(ids(made, " hello  é\n")) == " hello  é\n"
    assert made.config["bos_token"] == "<s>"
    assert made.rust.encode("hello").tokens == ["<s>", "▁hello"]
    assert any("begin with <s>" in note for note in made.notes)


@pytest.mark.parametrize("oracle", [False, True])
def test_user_defined_symbols(oracle, tmp_path):
    pieces = [*files.words("▁hello", "▁world"), ("<n>", 0.0, 4), ("▁▁", 0.0, 4), ("7", 0.0, 4)]
    data = files.sentencepiece(pieces)
    (tmp_path / "tokenizer.model").write_bytes(data)
    rust = convert.convert(tmp_path).rust
    expected = {
        "hello<n>world": ["▁hello", "<n>", "w", "o", "r", "l", "d"],
        "<n>hello": ["▁", "<n>", "h", "e", "l", "l", "o"],
        "7": ["▁", "7"],
        "  hello": ["▁▁", "▁hello"],
    }
    if oracle:
        theirs = pytest.importorskip("sentencepiece")
        model = theirs.SentencePieceProcessor(model_proto=data)
        expected = {text: model.encode(text, out_type=str) for text in expected}
    for text, tokens in expected.items():
        assert rust.encode(text, add_special_tokens=False).tokens == tokens
    assert rust.encode("<n>", add_special_tokens=False).tokens == ["<n>"]  # the one exception


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("trim", [0, 1])
def test_flags_of_the_normalizer(kind, prefix, trim, tmp_path):
    theirs = pytest.importorskip("sentencepiece")
    pieces = files.words("▁hello", "▁world", "▁▁", "hello")
    data = files.sentencepiece(pieces, kind=kind, normalizer={3: prefix, 4: trim})
    (tmp_path / "tokenizer.model").write_bytes(data)
    rust = convert.convert(tmp_path).rust
    model = theirs.SentencePieceProcessor(model_proto=data)
    for text in ["hello", " hello", "  hello   world  ", "", " ", "a\n hello", "▁hello"]:
        expected = model.encode(text)
        assert rust.encode(text, add_special_tokens=False).ids == expected, text
        assert rust.decode(expected, skip_special_tokens=False) == model.decode(expected)


def test_config_may_say_no_prefix_and_not_legacy(tmp_path):
    llama(tmp_path)
    write(tmp_path, tokenizer_config={"add_prefix_space": False})
    assert convert.convert(tmp_path).rust.encode("hello", add_special_tokens=False).tokens[0] != "▁"
    write(tmp_path, tokenizer_config={"legacy": False})
    made = convert.convert(tmp_path)
    assert made.rust.encode("hello</s>hello", add_special_tokens=False).tokens == [
        "▁hello", "</s>", "h", "e", "l", "l", "o",
    ]  # fmt: skip
    write(tmp_path, tokenizer_config={})
    made = convert.convert(tmp_path)
    assert made.rust.encode("hello</s>hello", add_special_tokens=False).tokens == [
        "▁hello", "</s>", "▁hello",
    ]  # fmt: skip


def test_control_tokens_in_text_of_unigram_are_text(tmp_path):
    llama(tmp_path, "<a", "s>b", kind=1)
    made = convert.convert(tmp_path)
    made.rust.encode_special_tokens = True
    assert made.rust.encode("a<s>b", add_special_tokens=False).tokens == ["▁", "a", "<", "s>b"]


def test_oddities_are_told(tmp_path):
    pieces = [*files.HEAD, *files.BYTES, ("a", -1.0, 1), ("b", -1.0, 1), ("ab", -1.0, 1),
              ("ba", -1.0, 1), ("xyz", -2.0, 1), ("bb", -3.0, 5),
              *((f"{a}{b}", -9.0, 1) for a in "ab" for b in ("aa", "bb"))]  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(files.sentencepiece(pieces))
    notes = " | ".join(convert.convert(tmp_path).notes)
    assert "pieces can't be built from smaller ones" in notes
    assert "1 pieces marked as unused" in notes
    assert "share their score" in notes


@pytest.mark.parametrize(
    "more", [{"kind": 3}, {"trainer": {24: 1}}, {"normalizer": {5: 0}}],
    ids=["words", "suffix", "spaces"],
)  # fmt: skip
def test_features_without_a_counterpart(more, tmp_path):
    assert code(lambda: convert.convert(llama(tmp_path, **more))) == "E223"


def test_chatglm(tmp_path):
    llama(tmp_path)
    write(tmp_path, tokenizer_config={"tokenizer_class": "ChatGLMTokenizer"})
    made = convert.convert(tmp_path)
    size = len(files.words("▁hello", "▁world"))
    assert made.rust.token_to_id("[MASK]") == size
    assert made.rust.token_to_id("eop") == size + 4
    assert made.config["add_bos_token"] is False


def test_chatglm_1_rewrites_white_space(tmp_path):
    white = [(text, 0.0, 4) for text in ("<n>", "<|tab|>", "<|blank_3|>", "<|blank_2|>")]
    pieces = [*files.words("▁hello", "▁world"), *white, ("<sop>", 0.0, 3)]
    (tmp_path / "ice_text.model").write_bytes(files.sentencepiece(pieces))
    text = "hello\n\n     world\thello"
    expected = ["▁hello", "<n>", "<n>", "<|blank_3|>", "<|blank_2|>", "w", "o", "r", "l", "d",
                "<|tab|>", "h", "e", "l", "l", "o"]  # fmt: skip
    counts = {}
    for config in (None, {"num_image_tokens": 0}, {"num_image_tokens": 5}, {}):
        if config is not None:
            write(tmp_path, tokenizer_config={"tokenizer_class": "ChatGLMTokenizer", **config})
        made = convert.convert(tmp_path)
        found = made.rust.encode(text, add_special_tokens=False)
        assert found.tokens == expected
        assert made.rust.decode(found.ids) == text
        counts[str(config)] = made.rust.token_to_id("<sop>") - len(pieces) + 1
        assert f"{counts[str(config)]:,} image" in made.notes[0] or not counts[str(config)]
    assert list(counts.values()) == [0, 0, 5, 20_000]
