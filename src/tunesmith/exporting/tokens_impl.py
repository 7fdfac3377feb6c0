"""New words in a tokenizer, as added tokens: text without them keeps its ids.

Many tokenizers put a space in front of a text, and of every section between added tokens. After a
new word that would be wrong, so the space is put at the beginning by a rule that knows the words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer as Rust, pre_tokenizers

from tunesmith.errors import ExportError
from tunesmith.exporting.words_impl import SCRIPTS
from tunesmith.templates.tokenizer import Tokenizer

_UNSPACED = pre_tokenizers.Split(Regex(f"[{''.join(SCRIPTS.values())}]"), "removed")
_HEAD, _TAIL = "(?=(?:", r")\z"


@dataclass(frozen=True)
class Extended:
    """A tokenizer with new words, and how the old one spelled them."""

    rust: Rust
    pieces: dict[int, list[int]]
    """New id → ids of the old tokenizer for the same text."""
    skipped: dict[str, list[str]]
    """Reason → words that were not added."""
    notes: list[str]


def extend(old: Tokenizer, words: Sequence[str]) -> Extended:
    """Adds words under the ids after the last one.

    Raises:
        ExportError: X303, the ids of the tokenizer have gaps, so that there is no end to add at.
    """
    skipped: dict[str, list[str]] = {}
    wanted = list(dict.fromkeys(words))
    if len(wanted) < len(words):
        skipped["twice in the list"] = [w for w in wanted if words.count(w) > 1]
    spelled = dict(zip(wanted, old.encode_batch(wanted, "text"), strict=True))
    unknown = [old.unk_id]
    new = [
        word
        for word in wanted
        if word not in old.added and (len(spelled[word]) > 1 or spelled[word] == unknown)
    ]
    known = [word for word in wanted if word not in new]
    if known:
        skipped["a token already"] = known
    rust, notes = _build(old, new)
    odd = [word for word in new if not _is_one(rust, word)]
    if odd:  # rare: build again without them, so that ids have no gaps
        skipped["not read or written back as one token"] = odd
        new = [word for word in new if word not in set(odd)]
        rust, notes = _build(old, new)
    pieces = {old.vocab_size + n: spelled[word] for n, word in enumerate(new)}
    for id, word in zip(pieces, new, strict=True):
        if rust.token_to_id(word) != id:
            raise ExportError(
                "X303",
                f"the ids of the tokenizer have gaps: {word!r} would be {rust.token_to_id(word)}, "
                f"not {id}",
                where=str(old.path),
                fix="fill the gaps with reserved tokens in tokenizer.json",
            )
    return Extended(rust, pieces, skipped, notes)


def _is_one(rust: Rust, word: str) -> bool:
    ids = rust.encode(word, add_special_tokens=False).ids
    return ids == [rust.token_to_id(word)] and rust.decode(ids) == word


def _build(old: Tokenizer, words: Sequence[str]) -> tuple[Rust, list[str]]:
    spec = json.loads(old.rust.to_str())
    notes = _prefix_once(spec, words) if words else []
    rust = Rust.from_str(json.dumps(spec))
    # A word of a script with spaces is no part of a longer word; `cat` is not in `concatenate`.
    rust.add_tokens(
        [AddedToken(word, normalized=True, single_word=_has_spaces(word)) for word in words]
    )
    return rust, notes


def _has_spaces(word: str) -> bool:
    """Whether a word is of a script that puts spaces between words."""
    return "".join(part for part, _ in _UNSPACED.pre_tokenize_str(word)) == word


def _prefix_once(spec: dict[str, Any], words: Sequence[str]) -> list[str]:
    """Moves the space in front of a text into the normalizer, where it spares the new words.

    They are normalised too before they are looked for, and must come out as they stand in a text.
    """
    steps: list[dict[str, Any]] = []
    given = _steps(spec.get("normalizer"))
    while given:
        step = given.pop(0)
        if step.get("type") != "Prepend":
            steps.append(step)
            continue
        space, known, unless = step["prepend"], "", ""
        following = given[0].get("pattern", {}).get("Regex", "") if given else ""
        if following.startswith(rf"\A{re.escape(space)}{_HEAD}"):
            # Ours from before: what it spared is spared again.
            known, _, rest = following.partition(_HEAD)[2].rpartition(_TAIL)
            unless = rest.removesuffix(")").removeprefix("|")
            given.pop(0)
        steps += _prefix(known, words, list(steps), space, unless)
    notes = []
    pre = _steps(spec.get("pre_tokenizer"), "pretokenizers")
    for at, step in enumerate(pre):  # the steps themselves are changed
        kind = step.get("type")
        if kind == "Metaspace" and step.get("prepend_scheme") == "always" and not at:
            char = step["replacement"]
            steps += _prefix("", words, list(steps), char, unless=f"[ {re.escape(char)}]")
            step["prepend_scheme"] = "never"
        elif kind == "ByteLevel" and step.get("add_prefix_space") and not at:
            steps += _prefix("", words, list(steps), " ", unless=" ")
            step["add_prefix_space"] = False
        elif step.get("prepend_scheme") == "always" or step.get("add_prefix_space"):
            notes.append("this tokenizer puts a space after each new word inside a text")
    if steps:
        spec["normalizer"] = {"type": "Sequence", "normalizers": steps}
    return notes


def _steps(node: dict[str, Any] | None, name: str = "normalizers") -> list[dict[str, Any]]:
    if node is None:
        return []
    return list(node[name]) if node.get("type") == "Sequence" else [node]


def _prefix(
    known: str, words: Sequence[str], before: list[dict[str, Any]], space: str, unless: str = ""
) -> list[dict[str, Any]]:
    """The steps that put `space` in front of a text that is not one of the words alone.

    Args:
        known: Symbols that are spared already, as an expression.
        words: The new ones.
        before: Steps that have changed a text when this one sees it.
        space: What to put in front.
        unless: An expression: texts that begin so get nothing.
    """
    empty = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    normalizer = {"type": "Sequence", "normalizers": before}
    seen = Rust.from_str(json.dumps({**empty, "normalizer": normalizer})).normalizer
    spared = [re.escape(seen.normalize_str(word) if before else word) for word in words]
    inner = "|".join(filter(None, [known, *dict.fromkeys(spared)]))
    pattern = rf"\A{re.escape(space)}{_HEAD}{inner}{_TAIL}" + (f"|{unless})" if unless else ")")
    return [
        {"type": "Prepend", "prepend": space},
        {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""},
    ]
