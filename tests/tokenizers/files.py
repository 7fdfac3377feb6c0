"""Small tokenizer files of every kind, written here byte by byte."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tunesmith.errors import EnvironmentFault
from tunesmith.templates.tokenizers import convert
from tunesmith.templates.tokenizers.bytelevel import letters

BYTES = [(f"<0x{i:02X}>", 0.0, 6) for i in range(256)]
HEAD = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
SEPARATOR = "\n__ggml_vocab_test__\n"


def varint(value: int) -> bytes:
    value %= 2**64
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | float | bytes | str) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def sentencepiece(
    pieces: Iterable[tuple[str, float, int]],
    *,
    kind: int = 2,
    trainer: dict[int, int] | None = None,
    normalizer: dict[int, int | bytes] | None = None,
) -> bytes:
    """A `tokenizer.model`; `trainer` and `normalizer` are fields by number."""
    data = b"".join(
        field(1, field(1, text) + field(2, score) + (field(3, type) if type != 1 else b""))
        for text, score, type in pieces
    )
    specs = {3: kind, 35: 1, 43: -1, **(trainer or {})}
    data += field(2, b"".join(field(number, value) for number, value in specs.items()))
    rules: dict[int, int | bytes] = {4: 0, **(normalizer or {})}
    return data + field(3, b"".join(field(number, value) for number, value in rules.items()))


def words(*texts: str) -> list[tuple[str, float, int]]:
    """Pieces for words: their characters, then each longer beginning, the earlier the better."""
    found = dict.fromkeys(char for text in texts for char in text)
    for text in texts:
        found |= dict.fromkeys(text[:size] for size in range(2, len(text) + 1))
    return [*HEAD, *BYTES, *((text, -float(rank), 1) for rank, text in enumerate(found))]


def ranks(*texts: str) -> bytes:
    """A `.tiktoken` file: all bytes, then each longer beginning of the texts."""
    found = dict.fromkeys(bytes([i]) for i in range(256))
    for text in texts:
        raw = text.encode()
        found |= dict.fromkeys(raw[:size] for size in range(2, len(raw) + 1))
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(found)]
    return b"".join(lines)


def gpt2(folder: Path, *texts: str) -> Path:
    """A vocab.json and a merges.txt."""
    letter = letters()
    tokens = [letter[byte] for byte in range(256)]
    merges = []
    for text in texts:
        word = "".join(letter[byte] for byte in text.encode())
        for size in range(2, len(word) + 1):
            if word[:size] not in tokens:
                merges.append(f"{word[: size - 1]} {word[size - 1]}")
                tokens.append(word[:size])
    tokens.append("<|endoftext|>")
    vocabulary = {token: id for id, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    return folder


def gguf(entries: dict[str, object]) -> bytes:
    """A GGUF file without tensors."""
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries))
    for key, value in entries.items():
        data += _string(key) + _value(value)
    return data


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: object) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    assert isinstance(value, Sequence)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    form, kind = ("f", 6) if value and isinstance(value[0], float) else ("i", 5)
    return struct.pack(f"<IIQ{len(value)}{form}", 9, kind, len(value), *value)


def vectors(folder: Path, name: str) -> list[tuple[str, list[int]]]:
    """(text, ids) of llama.cpp's test vectors."""
    file = folder / f"ggml-vocab-{name}.gguf"
    texts = file.with_suffix(".gguf.inp").read_text(encoding="utf-8").split(SEPARATOR)
    lines = file.with_suffix(".gguf.out").read_text(encoding="utf-8").split("\n")
    found = [
        (text, [int(id) for id in line.split()]) for text, line in zip(texts, lines, strict=True)
    ]
    assert len(found) == 47
    return found


def write(folder: Path, **contents) -> Path:
    """Writes JSON files by their stem."""
    for name, value in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def llama(folder: Path, *texts: str, **more) -> Path:
    """A folder with a small tokenizer.model."""
    data = sentencepiece(words("▁hello", "▁world", *texts), **more)
    (folder / "tokenizer.model").write_bytes(data)
    return folder


def ids(made: convert.Converted, text: str) -> list[int]:
    return made.rust.encode(text, add_special_tokens=False).ids


def code(call) -> str:
    with pytest.raises(EnvironmentFault) as caught:
        call()
    assert caught.value.fix
    return caught.value.code
