"""Real tokenizers give the ids that llama.cpp and SentencePiece give, on real and on wild text."""

from __future__ import annotations

import functools
import random

import pytest
from tokenizers import Tokenizer as Rust

from tests.tokenizers.files import vectors
from tunesmith.templates.tokenizers import convert, sentencepiece

pytestmark = pytest.mark.shared

# Vectors → the file they are tested on, and the rule where no file beside it names one.
SOURCES = {
    "bert-bge": ("llama.cpp-models/ggml-vocab-bert-bge.gguf", None),
    "deepseek-coder": ("llama.cpp-models/ggml-vocab-deepseek-coder.gguf", None),
    "deepseek-llm": ("llama.cpp-models/ggml-vocab-deepseek-llm.gguf", None),
    "falcon": ("llama.cpp-models/ggml-vocab-falcon.gguf", None),
    "gpt-2": ("llama.cpp-models/ggml-vocab-gpt-2.gguf", None),
    "llama-spm": ("llama.cpp-models/ggml-vocab-llama-spm.gguf", None),
    "phi-3": ("llama.cpp-models/ggml-vocab-phi-3.gguf", None),
    "llama-bpe": ("llama3/tokenizer.model", "llama3"),
    "qwen2": ("qwen1/qwen.tiktoken", None),
    "deepseek-r1-qwen": ("qwen1/qwen.tiktoken", None),
}
MORE = {"llama-spm": "llama2/tokenizer.model", "gpt-2": "gpt2/vocab.json"}
# BERT takes accents and capitals off; DeepSeek's added tokens spell `ü` and the like as text, which
# its decoder reads as bytes: so do transformers with DeepSeek's own file.
NO_WAY_BACK = {"bert-bge", "deepseek-coder", "deepseek-llm"}
# Vectors whose tokenizer is not among the files.
WITHOUT_SOURCE = {"chameleon", "command-r", "roberta-bpe"}
SENTENCEPIECE = (
    "llama2/tokenizer.model",
    "chatglm2/tokenizer.model",
    "baichuan1/tokenizer.model",
    "internlm1/V7_sft.model",
    "mistral/tokenizer.model.v1",
    "mistral/mistral_instruct_tokenizer_240323.model.v3",
    "mistral/mistral_instruct_tokenizer_241114.model.v7",
)
TRICKY = [
    "", " ", "  a  ", "\n", "\n\nHello", "\tx\ty", "①②", "e\u0301", "ﬁ", "a\u00a0b", "▁x", "x ▁",
    "½", "ｆｕｌｌ", "a\u200bb", "a  b   c    d", "x<n>y", "hi<eoh>there", "[REF]abc[/REF]", "\r\n",
    "𝒳", "7", "🏳️‍🌈", "aaa aaaa aaaaa aaaaaaaa", "-------- ======", "<s>x</s>", "<unk>", "″\u0339",
    "ÀĀ\u0327",
]  # fmt: skip


@functools.cache
def converted(path, pattern=None):
    """A conversion that several tests look at, and none changes."""
    return convert.convert(path, pattern)


def ids(rust: Rust, text: str) -> list[int]:
    return rust.encode(text, add_special_tokens=False).ids


def test_every_vector_is_tested_or_explained(shared_data):
    folder = shared_data / "tokenizers" / "llama.cpp-models"
    found = {p.name.removeprefix("ggml-vocab-").removesuffix(".gguf.inp")
             for p in folder.glob("*.inp")}  # fmt: skip
    assert found == SOURCES.keys() | WITHOUT_SOURCE


@pytest.mark.parametrize("name", [*SOURCES, *(f"{name} from its own files" for name in MORE)])
def test_llama_cpp_vectors(name, shared_data):
    folder = shared_data / "tokenizers"
    short = name.split()[0]
    source, pattern = SOURCES[short] if short == name else (MORE[short], None)
    made = converted(folder / source, pattern)
    for text, expected in vectors(folder / "llama.cpp-models", short):
        assert ids(made.rust, text) == expected, text
        if short not in NO_WAY_BACK:
            assert made.rust.decode(expected).strip() == text.strip()


def texts(shared_data) -> list[str]:
    """Pieces of real text in several languages, and strings of random characters."""
    rng = random.Random(0)
    found = list(TRICKY)
    for file in sorted((shared_data / "text").rglob("*.*"))[:6]:
        text = file.read_text(encoding="utf-8", errors="ignore")[:200_000]
        for _ in range(20):
            start = rng.randrange(max(1, len(text) - 200))
            found.append(text[start : start + rng.randrange(5, 200)])
    blocks = [(32, 127), (0xA0, 0x250), (0x400, 0x500), (0x900, 0x970), (0xAC00, 0xAC80),
              (0x3040, 0x3100), (0x4E00, 0x5000), (0xFF00, 0xFFEF), (0x1F600, 0x1F640)]  # fmt: skip
    letters = [chr(code) for block in blocks for code in range(*block)]
    for _ in range(100):
        found.append("".join(rng.choice(letters) for _ in range(rng.randrange(1, 30))))
    return found


@pytest.mark.parametrize("source", SENTENCEPIECE)
def test_ids_and_text_equal_sentencepiece(source, shared_data):
    oracle = pytest.importorskip("sentencepiece")
    file = shared_data / "tokenizers" / source
    rust = convert.convert(file).rust
    rust.encode_special_tokens = True  # SentencePiece never reads control tokens from text
    theirs = oracle.SentencePieceProcessor(model_file=str(file))
    alone = {p.text for p in sentencepiece.read(file.read_bytes()).pieces if p.type == 4}
    for text in texts(shared_data):
        expected = theirs.encode(text)
        if text in alone and len(text) > 1:  # the one exception; see docs/tokenizers.md
            expected = expected[-1:]
        assert ids(rust, text) == expected, text
        assert rust.decode(expected, skip_special_tokens=False) == theirs.decode(expected)


def test_chatglm_1_gives_the_ids_of_its_code(shared_data):
    oracle = pytest.importorskip("sentencepiece")
    file = shared_data / "tokenizers" / "chatglm1" / "ice_text.model"
    rust = convert.convert(file).rust
    rust.encode_special_tokens = True
    theirs = oracle.SentencePieceProcessor(model_file=str(file))
    pieces = sentencepiece.read(file.read_bytes()).pieces
    symbols = {id for id, p in enumerate(pieces) if p.type == sentencepiece.USER_DEFINED}
    code = "def f(x):\n    if x:\n\treturn {}\n\n\n        # {}\n".format(" " * 81, " " * 163)
    for text in [*texts(shared_data), code, "  a", "a  ", " \n \t ", " " * 80, "a" + " " * 200]:
        written = text.replace("\n", "<n>").replace("\t", "<|tab|>")  # as tokenization_chatglm.py
        for count in range(80, 1, -1):
            written = written.replace(" " * count, f"<|blank_{count}|>")
        expected = theirs.encode(written)
        if len(expected) == 2 and expected[1] in symbols and pieces[expected[0]].text == "▁":
            expected = expected[-1:]  # the one exception; see docs/tokenizers.md
        assert ids(rust, text) == expected, text
        back = theirs.decode(expected).replace("<n>", "\n").replace("<|tab|>", "\t")
        for count in range(2, 81):
            back = back.replace(f"<|blank_{count}|>", " " * count)
        assert rust.decode(expected, skip_special_tokens=False) == back


def test_gguf_and_sentencepiece_of_one_model_agree(shared_data):
    folder = shared_data / "tokenizers"
    one = converted(folder / "llama.cpp-models/ggml-vocab-llama-spm.gguf").rust
    other = converted(folder / "llama2/tokenizer.model").rust
    assert one.get_vocab() == other.get_vocab()
    for text in texts(shared_data):
        assert ids(one, text) == ids(other, text)
