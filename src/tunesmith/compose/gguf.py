"""A GGUF file as a model to talk to: its own template and tokenizer, llama.cpp for the weights.

The template runs in our sandbox and its tokens are made by our tokenizer, so the ids that llama.cpp
sees are those that training on this template makes (ADR 0019).
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.compose.source import missing_model

SUFFIX = ".gguf"


@dataclass
class Opened:
    """What `compose.model.Loaded` has, without weights of ours, and the engine."""

    tokenizer: Any
    template: Any
    generator: Any
    description: str
    system: str | None = None
    path: Path | None = None


def named(spec: str) -> bool:
    """Whether a model's name is that of a GGUF file."""
    return spec.lower().endswith(SUFFIX)


def load(spec: str, *, slots: int = 1) -> Opened:
    """Opens a GGUF file.

    Args:
        spec: Its path.
        slots: Requests answered at once, at most.

    Raises:
        EnvironmentFault: E201, no such file; E221 to E223, its tokenizer.
        MissingExtra: E401, `xllamacpp` is not installed.
        ConfigError: G170, llama.cpp can't load it.
    """
    from tunesmith.generation.llamacpp import LlamacppGenerator
    from tunesmith.templates import base as templates
    from tunesmith.templates.tokenizers import convert

    file = Path(spec).expanduser()
    if not file.is_file():
        raise missing_model(spec)
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-gguf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = convert.convert(file)
    made.save(folder)
    template = templates.load("auto", folder)
    template.notes = (*made.notes, *template.notes)
    generator = LlamacppGenerator(file, template.tokenizer, max_rows=slots)
    return Opened(template.tokenizer, template, generator, f"{spec} (llama.cpp)")
