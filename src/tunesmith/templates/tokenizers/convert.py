"""A tokenizer of whatever kind a folder has, converted to tokenizer.json; on the fly into a cache.

tokenizer.model, *.model    SentencePiece, or tiktoken's ranks under that name (Llama 3, GLM-4)
*.tiktoken                  tiktoken's ranks
vocab.json + merges.txt     byte-level BPE as in GPT-2
*.gguf                      the vocabulary of a GGUF file, where it is named itself
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Rust

from tunesmith import platform
from tunesmith.errors import EnvironmentFault, RunError
from tunesmith.templates.tokenizers import (
    bytelevel,
    chatglm1,
    gguf,
    patterns,
    sentencepiece,
    special,
)
from tunesmith.templates.tokenizers.faults import no_pattern, unreadable

TARGET = "tokenizer.json"
_GLOBS = ("*.model", "*.model.v[0-9]*", "*.tiktoken")


@dataclass(frozen=True)
class Converted:
    """A tokenizer in the form that every library reads."""

    rust: Rust
    config: dict[str, Any]
    """tokenizer_config.json."""
    chat_template: str | None
    source: Path
    kind: str
    """What it was: `SentencePiece BPE`, `tiktoken ranks` …"""
    notes: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and the chat template."""
        self.rust.save(str(folder / TARGET))
        text = json.dumps(self.config, ensure_ascii=False, indent=2) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")


def find(folder: Path) -> Path | None:
    """The file of a folder that can be converted; vocab.json stands for itself and merges.txt.

    Raises:
        EnvironmentFault: E225, there are several and none is called tokenizer.model.
    """
    if (folder / "tokenizer.model").is_file():
        return folder / "tokenizer.model"
    found = sorted(path for pattern in _GLOBS for path in folder.glob(pattern) if path.is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise EnvironmentFault(
            "E225",
            f"several files could be the tokenizer: {names}",
            where=str(folder),
            fix="tunesmith model convert-tokenizer FILE -o FOLDER, then model.tokenizer=FOLDER",
        )
    if found:
        return found[0]
    pair = folder / "vocab.json", folder / "merges.txt"
    return pair[0] if all(path.is_file() for path in pair) else None


def has_tokenizer(folder: Path) -> bool:
    """Whether there is a tokenizer.json, or what can be converted to one."""
    return (folder / TARGET).is_file() or find(folder) is not None


def convert(path: Path, pattern: str | None = None) -> Converted:
    """Converts the tokenizer of a folder, or one file of it.

    Args:
        path: Folder, or the file itself; the other files of its folder are read too.
        pattern: Name of the rule that splits text (`patterns.PATTERNS`), where no file tells it.

    Raises:
        EnvironmentFault: E201, there is nothing to convert; E221 to E225, see docs/errors.md.
    """
    source = path if path.is_file() else find(path)
    if source is None:
        raise missing(path)
    given = special.read(source.parent)
    head = _head(source)
    if head.startswith(gguf.MAGIC):
        given = special.Given()  # other tokenizers may lie around it
        rust, settings, notes, named = gguf.convert(source, pattern)
        given.chat_template = settings.pop("chat_template", None)
        kind, defaults, llama = "GGUF", named, False
    elif source.name == "vocab.json":
        rust, kind, notes = _vocabulary(source, given, pattern)
        settings, defaults, llama = given.config, _gpt2_names(rust), False
    elif bytelevel.looks_like_ranks(head):
        rust, kind, defaults = _ranks(source, given, pattern)
        settings, notes, llama = given.config, [], False
        if "bos_token" in defaults:
            settings = {"add_bos_token": True, **settings}
    else:
        model = _sentencepiece(source)
        if given.config.get("add_prefix_space") is False:
            model = dataclasses.replace(model, add_dummy_prefix=False)
        legacy = given.config.get("legacy") is not False
        if chatglm1.is_one(model):
            rust, notes = chatglm1.convert(model, given)
        else:
            _chatglm(model, given)
            rust, notes = sentencepiece.convert(model, legacy=legacy)
        kind = "SentencePiece " + ("BPE" if model.kind == sentencepiece.BPE else "Unigram")
        settings, defaults, llama = given.config, model.named(), model.byte_fallback
    notes = [*notes, *special.apply(rust, given, defaults, str(source))]
    notes += special.add_ends(rust, given, settings, llama=llama)
    return Converted(rust, special.config(given), given.chat_template, source, kind, tuple(notes))


def _head(source: Path) -> bytes:
    try:
        with source.open("rb") as stream:
            return stream.read(512)
    except OSError as error:
        raise unreadable(source, error) from None


def _sentencepiece(source: Path) -> sentencepiece.Model:
    try:
        return sentencepiece.read(source.read_bytes())
    except (ValueError, OSError) as error:
        raise unreadable(source, f"no SentencePiece model ({error})") from None


def _chatglm(model: sentencepiece.Model, given: special.Given) -> None:
    """What stands in the code of ChatGLM 2 and 3: tokens after the pieces."""
    if given.kind != "chatglmtokenizer":
        return
    if not given.added:
        for id, text in enumerate(
            ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"), len(model.pieces)
        ):
            given.added[id] = special.AddedToken(text, special=True, normalized=False)


def _ranks(
    source: Path, given: special.Given, pattern: str | None
) -> tuple[Rust, str, dict[str, str]]:
    name = _pattern(source, given, pattern)
    ranks = bytelevel.read_ranks(source)
    rust = bytelevel.from_ranks(ranks, patterns.PATTERNS[name])
    taken = {token.content for token in given.added.values()}
    for id, content in patterns.code_tokens(name, len(ranks)).items():
        if id not in given.added and content not in taken:
            given.added[id] = special.AddedToken(content, special=True, normalized=False)
    return rust, f"tiktoken ranks, split as {name}", dict(patterns.CODE_NAMED.get(name, {}))


def _vocabulary(
    source: Path, given: special.Given, pattern: str | None
) -> tuple[Rust, str, list[str]]:
    tokens, merges = bytelevel.read_vocabulary(source, source.parent / "merges.txt")
    told = pattern or given.config.get("tokenizer_class") or given.model.get("model_type")
    name = patterns.named(pattern) if pattern else _told(given)
    notes = []
    if name is None:
        if told:
            raise no_pattern(f"{source.parent} ({told})", patterns.known())
        name = "gpt2"
        notes.append("no file says how text is split: as in GPT-2")
    space = bool(given.config.get("add_prefix_space"))
    rust = bytelevel.build(tokens, merges, patterns.PATTERNS[name], add_prefix_space=space)
    return rust, f"byte-level BPE, split as {name}", notes


def _pattern(source: Path, given: special.Given, pattern: str | None) -> str:
    """The rule for ranks: as told, by class or model type, or by the name of the file."""
    told = pattern or given.config.get("tokenizer_class") or given.model.get("model_type")
    name = patterns.named(pattern) if pattern else _told(given)
    if name is None and not told:
        name = patterns.named(source.name.removesuffix(".tiktoken"))
    if name is None:
        raise no_pattern(f"{source} ({told})" if told else str(source), patterns.known())
    return name


def _told(given: special.Given) -> str | None:
    by_class = patterns.named(given.kind.removesuffix("fast")) or patterns.named(given.kind)
    return by_class or patterns.named(str(given.model.get("model_type") or ""))


def _gpt2_names(rust: Rust) -> dict[str, str]:
    end = "<|endoftext|>"
    if rust.token_to_id(end) is None:
        return {}
    return {"bos_token": end, "eos_token": end, "unk_token": end}


def missing(path: Path) -> EnvironmentFault:
    """E201: a folder without a tokenizer of any kind."""
    return EnvironmentFault(
        "E201",
        f"there is no tokenizer.json in `{path}`, nor a file that becomes one",
        where="model.tokenizer",
        why="Looked for tokenizer.model, *.tiktoken, and vocab.json with merges.txt.",
        fix="fetch the tokenizer's files, or name a folder that has them: model.tokenizer=FOLDER",
    )


# ---------------------------------------------------------------- on the fly


def ready(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder itself if it has a tokenizer.json; else one in the cache, converted now or before.

    Returns:
        A folder with tokenizer.json, and what to say about it.

    Raises:
        EnvironmentFault: As `convert`.
        RunError: R221, the cache can't be written.
    """
    if (folder / TARGET).is_file():
        return folder, ()
    source = find(folder)
    if source is None:
        raise missing(folder)
    target = platform.home() / "tokenizers" / _key(source)
    if not (target / TARGET).is_file():
        _install(convert(folder), target)
    facts = json.loads((target / "source.json").read_text(encoding="utf-8"))
    said = f"the tokenizer was converted from {source.name} ({facts['kind']}): {target}"
    return target, (said, *facts["notes"])


def _install(made: Converted, target: Path) -> None:
    """Writes aside and renames: a folder of that name is whole."""
    aside = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        made.save(aside)
        facts = {"source": made.source.name, "kind": made.kind, "notes": made.notes}
        (aside / "source.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
        try:
            aside.rename(target)
        except OSError:
            if not (target / TARGET).is_file():  # another process was faster
                raise
    except OSError as error:
        raise RunError(
            "R221",
            f"the converted tokenizer can't be written: {error.strerror or error}",
            where=str(target),
            fix="free space, or set TUNESMITH_HOME to a folder on another disk",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _key(source: Path) -> str:
    """Hash of everything a conversion depends on: the files, this code, and `tokenizers`."""
    digest = hashlib.sha256(_code_hash().encode())
    names = [source.name, "merges.txt"] if source.name == "vocab.json" else [source.name]
    for name in [*names, *special.FILES]:
        file = source.parent / name
        if file.is_file():
            digest.update(f"\n{name} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


@cache
def _code_hash() -> str:
    digest = hashlib.sha256(importlib.metadata.version("tokenizers").encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
