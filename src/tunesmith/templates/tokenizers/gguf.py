"""The tokenizer in a GGUF file: its metadata, and the same as a `tokenizers` tokenizer.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Weights are not touched.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer as Rust,
    decoders,
    models,
    normalizers,
    pre_tokenizers as pre,
)

from tunesmith.templates.tokenizers import bytelevel, patterns, sentencepiece as spm
from tunesmith.templates.tokenizers.faults import no_pattern, unreadable, unsupported

MAGIC = b"GGUF"
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_NAMES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "seperator": "sep",
          "cls": "cls", "mask": "mask"}  # fmt: skip


class _Reader:
    """A place in the bytes that moves on with each value read."""

    def __init__(self, data: mmap.mmap):
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise ValueError("the file ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in _NUMBERS:
                form = _NUMBERS[inner]
                size = struct.calcsize(form)
                return list(struct.unpack(f"<{count}{form}", self.take(count * size)))
            return [self.value(inner) for _ in range(count)]
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        raise ValueError(f"no value has the type {kind}")


def metadata(file: Path) -> dict[str, Any]:
    """Key → value of a GGUF file.

    Raises:
        EnvironmentFault: E221, it is none, or torn.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as m:
            reader = _Reader(m)
            if reader.take(4) != MAGIC:
                raise ValueError("it does not begin with GGUF")
            version = reader.number("I")
            if version not in (2, 3):
                raise ValueError(f"version {version}; 2 and 3 are known")
            reader.number("Q")  # tensors
            return {
                reader.text(): reader.value(reader.number("I")) for _ in range(reader.number("Q"))
            }
    except (ValueError, OSError, struct.error, MemoryError, RecursionError) as error:
        raise unreadable(file, error) from None


def convert(
    file: Path, pattern: str | None = None
) -> tuple[Rust, dict[str, Any], list[str], dict[str, str]]:
    """The tokenizer of a GGUF file.

    Returns:
        The tokenizer, settings of tokenizer_config.json, notes, named tokens.

    Raises:
        EnvironmentFault: E221, the file has none, or is torn; E222, its split is unknown; E223, it
            is of a kind that tokenizer.json does not have.
    """
    found = metadata(file)
    told = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in found.items()
        if key.startswith("tokenizer.ggml.")
    }
    tokens = told.get("tokens")
    if not isinstance(tokens, list) or not tokens:
        raise unreadable(file, "it holds no tokenizer")
    types = told.get("token_type") or [spm.NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise unreadable(file, f"{len(tokens)} tokens, but {len(types)} types")
    kind, notes = str(told.get("model")), list[str]()
    if kind in ("llama", "t5"):
        rust, notes = spm.convert(_pieces(told, tokens, types, kind))
    elif kind == "gpt2":
        rust = _bytes(file, told, tokens, types, pattern)
    elif kind == "bert":
        rust = _wordpiece(tokens)
    else:
        raise unsupported(f"the tokenizer of kind `{kind}` in {file.name}")
    if kind in ("gpt2", "bert"):
        _declare(rust, tokens, types)
    named = {
        f"{short}_token": tokens[id]
        for name, short in _NAMES.items()
        if isinstance(id := told.get(f"{name}_token_id"), int) and 0 <= id < len(tokens)
    }
    settings = {k: told[k] for k in ("add_bos_token", "add_eos_token") if k in told}
    settings.setdefault("add_bos_token", kind == "llama" and "bos_token" in named)
    if isinstance(found.get("tokenizer.chat_template"), str):
        settings["chat_template"] = found["tokenizer.chat_template"]
    return rust, settings, notes, named


def _pieces(told: dict[str, Any], tokens: list[str], types: list[int], kind: str) -> spm.Model:
    scores = told.get("scores") or [0.0] * len(tokens)
    return spm.Model(
        [spm.Piece(*piece) for piece in zip(tokens, scores, types, strict=True)],
        kind=spm.BPE if kind == "llama" else spm.UNIGRAM,
        byte_fallback=spm.BYTE in types,
        charsmap=bytes(value % 256 for value in told.get("precompiled_charsmap", [])),
        add_dummy_prefix=bool(told.get("add_space_prefix", True)),
        remove_extra_whitespaces=bool(told.get("remove_extra_whitespaces", False)),
        ids={short: told.get(f"{name}_token_id", -1) for name, short in _NAMES.items()},
    )


def _bytes(
    file: Path, told: dict[str, Any], tokens: list[str], types: list[int], pattern: str | None
) -> Rust:
    name = patterns.named(pattern or told.get("pre"))
    if name is None:
        raise no_pattern(f"{file} (tokenizer.ggml.pre: {told.get('pre')})", patterns.known())
    vocabulary: dict[str, int] = {}
    for id, token in enumerate(tokens):
        vocabulary.setdefault(token, id)
    merges = bytelevel.split_merges(told.get("merges") or [], vocabulary, file)
    split = patterns.PATTERNS[name]
    return bytelevel.build(vocabulary, merges, split)


def _wordpiece(tokens: list[str]) -> Rust:
    """BERT's WordPiece; GGUF writes `▁word` and `piece` for `word` and `##piece`."""
    vocabulary = {}
    for id, token in enumerate(tokens):
        if token.startswith(spm.SPACE):
            token = token[1:]
        elif not (token.startswith("[") and token.endswith("]")):
            token = f"##{token}"
        vocabulary.setdefault(token, id)
    rust = Rust(models.WordPiece(vocabulary, unk_token="[UNK]"))
    rust.normalizer = normalizers.BertNormalizer(lowercase=True)
    rust.pre_tokenizer = pre.BertPreTokenizer()
    rust.decoder = decoders.WordPiece()
    return rust


def _declare(rust: Rust, tokens: list[str], types: list[int]) -> None:
    """Tells which tokens are looked for in text before it is split."""
    typed = list(zip(tokens, types, strict=True))
    control = [token for token, kind in typed if kind in (spm.CONTROL, spm.UNKNOWN)]
    rust.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    defined = [token for token, kind in typed if kind == spm.USER_DEFINED]
    rust.add_tokens([AddedToken(token, normalized=False) for token in defined])
