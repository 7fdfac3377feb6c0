"""Names of every shipped format and variant, and a tokenizer that knows all their tokens."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer as Rust

from tests.templates.conftest import write_tokenizer
from tunesmith.templates import base, formats

FOLDER = Path(base.__file__).parent
STRINGS = tuple(path.stem for path in sorted(FOLDER.glob("*.toml")))
VARIANTS = tuple(
    f"{name}@{variant}"
    for name in STRINGS
    for variant in formats.variants((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
)
EVERY = (*STRINGS, *VARIANTS)
PADDLE = tuple(path.stem for path in sorted(FOLDER.glob("*.json")))
TOKENS = [
    "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>", "<reserved_102>",
    "<reserved_103>", "<reserved_106>", "<reserved_107>", "<human>", "<bot>", "<eoh>", "<eoa>",
    "[gMASK]", "sop", "<|python_tag|>", "<|eom_id|>", "[UNK]", "<sop>",
]  # fmt: skip
PAIRED = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


def with_all_tokens(folder: Path, target: Path) -> Path:
    """A copy of a tokenizer that knows the control tokens of all formats, and tags as Qwen has."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    rust = Rust.from_file(str(folder / "tokenizer.json"))
    rust.add_tokens(PAIRED)
    return write_tokenizer(rust, target, TOKENS, **config)
