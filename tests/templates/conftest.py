"""Tokenizers of every kind: trained here in a moment, and real ones where they are at hand."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer as Rust,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from tests.once import once
from tunesmith.templates.tokenizer import Tokenizer

CONTROLS = [
    "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>",
    "<|start_header_id|>", "<|end_header_id|>",
]  # fmt: skip
CORPUS = [
    "You are a helpful assistant. Answer the question: what is the colour of the sea?",
    "system user assistant Human: Hello Assistant: hello world, this is a test of words.",
    "### Instruction: Write a response that appropriately completes the request. ### Response:",
    "你好，世界。今天天气怎么样？ Ünïcödé naïve café 🎉🚀 1234567890 \n\n\t def f(x): return x",
    "A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT:",
]
KINDS = ("bytes", "bytes-prefix", "metaspace-first", "metaspace-always", "prepend", "unigram")


def write_tokenizer(rust: Rust, folder: Path, special: list[str], **config) -> Path:
    """Adds special tokens and writes the two files of a tokenizer."""
    rust.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    rust.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def train(kind: str, folder: Path) -> Path:
    """A small tokenizer of one of KINDS, with the control tokens of ChatML and Llama."""
    rust = Rust(models.BPE(byte_fallback=not kind.startswith("bytes"), unk_token="<unk>"))
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    if kind.startswith("bytes"):
        prefix = kind == "bytes-prefix"
        rust = Rust(models.BPE())
        rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        rust.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet)
    else:
        rust.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )  # fmt: skip
        trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", *bytes_])
    if kind.startswith("metaspace"):
        scheme = kind.removeprefix("metaspace-")
        rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    if kind == "prepend":
        rust.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    if kind == "unigram":
        # As converted from SentencePiece: the control tokens are pieces of the vocabulary too.
        rust = Rust(models.Unigram())
        rust.pre_tokenizer = pre_tokenizers.Metaspace()
        rust.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=400, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"]
        )
    rust.train_from_iterator(CORPUS, trainer)
    # What a trainer is told to keep it calls special; bytes are not.
    data = json.loads(rust.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in bytes_]
    rust = Rust.from_str(json.dumps(data))
    return write_tokenizer(
        rust, folder, CONTROLS, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        add_bos_token=kind in ("prepend", "metaspace-first"),
    )  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Folder of each kind of tokenizer."""
    return {kind: train(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="session")
def equipped(trained, tmp_path_factory) -> dict[str, Path]:
    """The same, with the control tokens of every shipped format."""
    from tests.templates.every import with_all_tokens

    return {
        kind: with_all_tokens(folder, tmp_path_factory.mktemp(f"all-{kind}"))
        for kind, folder in trained.items()
    }


@pytest.fixture(scope="session")
def letters(tmp_path_factory) -> Path:
    """Each character is a token, `§` is EOS: for goldens that are written by hand."""
    characters = [chr(code) for code in range(32, 127)]
    vocab = {character: id for id, character in enumerate(["\n", *characters, "§"])}
    rust = Rust(models.WordLevel(vocab, unk_token="?"))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    rust.decoder = decoders.Fuse()
    return write_tokenizer(rust, tmp_path_factory.mktemp("letters"), ["§"], eos_token="§")


@pytest.fixture(params=KINDS)
def folder(request, trained) -> Path:
    """Each of them in turn."""
    return trained[request.param]


# Source: the pattern in Llama 3's tokenizer code; line breaks in a row stay together.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="session")
def llama3(shared_data, tmp_path_factory) -> Path:
    """Llama 3's real ranks as transformers converts them."""
    return once(tmp_path_factory, "llama3", lambda folder: write_llama3(shared_data, folder))


def write_llama3(shared_data: Path, folder: Path) -> None:
    lines = (shared_data / "tokenizers" / "llama3" / "tokenizer.model").read_bytes().splitlines()
    ranks = {base64.b64decode(t): int(rank) for t, rank in map(bytes.split, filter(None, lines))}
    letter = bytes_to_letters()
    word = {token: "".join(letter[byte] for byte in token) for token in ranks}
    merges = []
    for token in ranks:
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        found = [(a, b) for a, b in halves if a in ranks and b in ranks]
        found.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(word[a], word[b]) for a, b in found]
    vocab = {word[token]: rank for token, rank in ranks.items()}
    rust = Rust(models.BPE(vocab, merges, ignore_merges=True))
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rust.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    write_tokenizer(rust, folder, special, bos_token=special[0], eos_token=special[1])


def bytes_to_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in a byte-level vocabulary (from GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


@pytest.fixture(scope="session")
def llama2(shared_data, tmp_path_factory) -> Path:
    """Llama 2's real SentencePiece model as transformers converts it."""
    return once(tmp_path_factory, "llama2", lambda folder: write_llama2(shared_data, folder))


def write_llama2(shared_data: Path, folder: Path) -> None:
    pieces = sentencepiece(shared_data / "tokenizers" / "llama2" / "tokenizer.model")
    vocab = {piece: id for id, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces[259:]:
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        found = [(a, b) for a, b in halves if a in vocab and b in vocab]
        merges += [(-score, vocab[a], vocab[b], a, b) for a, b in found]
    merges = [(a, b) for *_, a, b in sorted(merges)]
    rust = Rust(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    rust.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )  # fmt: skip
    write_tokenizer(
        rust, folder, ["<unk>", "<s>", "</s>"],
        bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True,
    )  # fmt: skip


def sentencepiece(path: Path) -> list[tuple[str, float]]:
    """(piece, score) of a SentencePiece model: field 1 of the message, its fields 1 and 2."""
    import struct

    found = []
    for number, value in fields(path.read_bytes()):
        if number == 1:
            inner = dict(fields(value))
            found.append((inner[1].decode(), struct.unpack("<f", inner.get(2, bytes(4)))[0]))
    return found


def fields(data: bytes):
    """Fields of a protobuf message that are bytes or fixed 32-bit."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            _, at = varint(data, at)
        elif key & 7 == 2:
            size, at = varint(data, at)
            yield key >> 3, data[at : at + size]
            at += size
        else:
            size = 4 if key & 7 == 5 else 8
            yield key >> 3, data[at : at + size]
            at += size


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def with_specials(folder: Path, target: Path, source: str) -> Path:
    """A copy of a tokenizer that also knows the control tokens which a template writes."""
    found = re.findall(r"<[|｜][^<>|｜\s']{1,40}[|｜]>|\[/?[A-Z_]+\]|</?s>|<\w+_of_turn>", source)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    rust = Rust.from_file(str(folder / "tokenizer.json"))
    return write_tokenizer(rust, target, list(dict.fromkeys(found)), **config)


def transformers_of(folder: Path):
    """The same tokenizer in transformers."""
    from transformers import PreTrainedTokenizerFast

    named = Tokenizer.load(folder).named
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **named)
