"""A SentencePiece model: what is in the file, and the same as a `tokenizers` tokenizer.

Field numbers: sentencepiece_model.proto of github.com/google/sentencepiece. GGUF files hold the
same pieces, scores and types, so they become a `Model` too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer as Rust,
    decoders,
    models,
    normalizers,
    pre_tokenizers as pre,
)

from tunesmith.templates.tokenizers import protobuf
from tunesmith.templates.tokenizers.faults import unsupported

SPACE = "▁"
_PRIVATE = 0x10F000
_ALL = 1_000_000
_BARRED = 100.0
"""A control token scores lower than the worst piece by so much: several pieces are better."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
_KINDS = {UNIGRAM: "unigram", BPE: "BPE", 3: "word", 4: "character"}


class Piece(NamedTuple):
    text: str
    score: float = 0.0
    type: int = NORMAL


@dataclass(frozen=True)
class Model:
    """A SentencePiece model; defaults are those of its format."""

    pieces: Sequence[Piece]
    kind: int = UNIGRAM
    byte_fallback: bool = False
    charsmap: bytes = b""
    """Normalisation rules, compiled by SentencePiece (nmt_nfkc and the like); empty: identity."""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    whitespace_as_suffix: bool = False
    ids: dict[str, int] = field(default_factory=lambda: {"unk": 0, "bos": 1, "eos": 2, "pad": -1})

    def unknown(self) -> int | None:
        """Id of the piece for what is unknown."""
        id = self.ids["unk"]
        if 0 <= id < len(self.pieces) and self.pieces[id].type == UNKNOWN:
            return id
        return next((id for id, p in enumerate(self.pieces) if p.type == UNKNOWN), None)

    def named(self) -> dict[str, str]:
        """`bos_token` … → its piece, of those that are there."""
        found = {}
        for name, id in self.ids.items():
            if 0 <= id < len(self.pieces) and self.pieces[id].type in (UNKNOWN, CONTROL):
                found[f"{name}_token"] = self.pieces[id].text
        return found


def read(data: bytes) -> Model:
    """Reads a `tokenizer.model`.

    Raises:
        ValueError: it is none.
    """
    pieces: list[Piece] = []
    settings: dict[str, Any] = {}
    ids = {"unk": 0, "bos": 1, "eos": 2, "pad": -1}
    for number, value in protobuf.fields(data):
        if number == 1:
            pieces.append(_piece(protobuf.raw(value)))
        elif number == 2:
            _trainer(protobuf.raw(value), settings, ids)
        elif number == 3:
            _normalizer(protobuf.raw(value), settings)
    if not pieces:
        raise ValueError("there are no pieces in it")
    return Model(pieces, ids=ids, **settings)


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in protobuf.fields(data):
        if number == 1:
            text = protobuf.raw(value).decode("utf-8")
        elif number == 2:
            score = protobuf.number32(value)
        elif number == 3:
            kind = protobuf.signed(value)
    return Piece(text, score, kind)


def _trainer(data: bytes, settings: dict[str, Any], ids: dict[str, int]) -> None:
    names = {40: "unk", 41: "bos", 42: "eos", 43: "pad"}
    for number, value in protobuf.fields(data):
        if number == 3:
            settings["kind"] = protobuf.signed(value)
        elif number == 24:
            settings["whitespace_as_suffix"] = protobuf.flag(value)
        elif number == 35:
            settings["byte_fallback"] = protobuf.flag(value)
        elif number in names:
            ids[names[number]] = protobuf.signed(value)


def _normalizer(data: bytes, settings: dict[str, Any]) -> None:
    flags = {3: "add_dummy_prefix", 4: "remove_extra_whitespaces", 5: "escape_whitespaces"}
    for number, value in protobuf.fields(data):
        if number == 2:
            settings["charsmap"] = protobuf.raw(value)
        elif number in flags:
            settings[flags[number]] = protobuf.flag(value)


# ---------------------------------------------------------------- as a tokenizer


def convert(model: Model, *, legacy: bool = True) -> tuple[Rust, list[str]]:
    """The tokenizer that gives the same ids, and what is not quite the same.

    Args:
        model: What to convert.
        legacy: Whether the space in front of a text is put after each special token too, as
            Llama's tokenizer.json has it; else only at the beginning, as transformers does for
            `"legacy": false`.

    Raises:
        EnvironmentFault: E223, a feature that `tokenizers` can't express.
    """
    _check(model)
    notes: list[str] = []
    rust = Rust(_bpe(model, notes) if model.kind == BPE else _unigram(model))
    defined = [piece.text for piece in model.pieces if piece.type == USER_DEFINED]
    before = _before(model, defined)
    symbols = [text for text in defined if not _is_alone(text, model)]
    first = model.add_dummy_prefix and not legacy and not symbols
    steps = list(before)
    if model.add_dummy_prefix and not first:
        steps += dummy_prefix(symbols)
    if not first:
        steps.append(normalizers.Replace(" ", SPACE))
    rust.normalizer = normalizers.Sequence(steps)
    if first:
        rust.pre_tokenizer = pre.Metaspace(SPACE, prepend_scheme="first", split=False)
    elif _splits(model):
        rust.pre_tokenizer = pre.Split(SPACE, "merged_with_next")
    # What was put in front is taken off; where spaces are removed, all in front are.
    spaces = _ALL if model.remove_extra_whitespaces else int(model.add_dummy_prefix)
    strip = [decoders.Strip(" ", spaces, 0)] if spaces else []
    rust.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    # Symbols are looked for in normalised text, as SentencePiece does.
    control = [piece.text for piece in model.pieces if piece.type in (CONTROL, UNKNOWN)]
    rust.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    rust.add_tokens([AddedToken(text, normalized=True) for text in symbols])
    return rust, notes


def dummy_prefix(symbols: Sequence[str]) -> list[Any]:
    """Puts the space in front of a text.

    Symbols are looked for in normalised text, and are normalised themselves before: with the space
    they would be found only after one. So it is taken off a text that is a symbol and no more.
    """
    if not symbols:
        return [normalizers.Prepend(SPACE)]
    known = "|".join(map(re.escape, symbols))
    alone = Regex(rf"\A{SPACE}(?=(?:{known})\z)")
    return [normalizers.Prepend(SPACE), normalizers.Replace(alone, "")]


def _check(model: Model) -> None:
    if model.kind not in (UNIGRAM, BPE):
        raise unsupported(f"a SentencePiece model of kind {_KINDS.get(model.kind, model.kind)}")
    if model.whitespace_as_suffix:
        raise unsupported("SentencePiece's treat_whitespace_as_suffix")
    if not model.escape_whitespaces:
        raise unsupported("SentencePiece's escape_whitespaces=false")


def _is_alone(symbol: str, model: Model) -> bool:
    """Whether a symbol needs no search: one character that no merge or piece goes across."""
    if len(symbol) != 1 or symbol == SPACE:
        return False
    return model.kind == BPE or not any(
        symbol in piece.text for piece in model.pieces if piece.type == NORMAL
    )


def _by_rules(rules: Any) -> list[Any]:
    """SentencePiece's rules, kept from losing characters.

    `Precompiled` looks up a character together with the marks on it, and if only the character has
    a rule the marks are lost (Hugging Face's spm_precompiled). So characters and
    marks that have a common form are composed first, and the others are held apart.
    """
    apart = chr(_PRIVATE)
    composed = [normalizers.NFC()] if rules.normalize_str("e\u0301") == "\u00e9" else []
    return [
        *composed,
        normalizers.Replace(Regex(r"(?<=.)(?=\p{M})|(?<=\r)(?=\n)"), apart),
        rules,
        normalizers.Replace(apart, ""),
    ]


def _before(model: Model, defined: Sequence[str]) -> list[Any]:
    """Normalisation that comes before the space in front.

    SentencePiece's rules leave user-defined symbols alone. Those that they would change (a line
    break, which becomes a space) stand behind a private character while the rules are applied.
    """
    steps: list[Any] = []
    if model.charsmap:
        rules = normalizers.Precompiled(model.charsmap)
        changed = [text for text in defined if rules.normalize_str(text) != text]
        changed.sort(key=len, reverse=True)
        shields = {text: chr(_PRIVATE + n) for n, text in enumerate(changed, 1)}
        steps += [normalizers.Replace(text, shield) for text, shield in shields.items()]
        steps += _by_rules(rules)
        steps += [normalizers.Replace(shield, text) for text, shield in shields.items()]
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"\A +"), ""))
        steps.append(normalizers.Replace(Regex(rf"[ {SPACE}]+\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    return steps


def _splits(model: Model) -> bool:
    """Whether no piece goes on after a space, so that words can be encoded (and cached) apart."""
    return not any(
        SPACE in piece.text[1:] for piece in model.pieces if piece.type in (NORMAL, USER_DEFINED)
    )


def _bpe(model: Model, notes: list[str]) -> models.BPE:
    """BPE's merges from its scores: two pieces merge if together they are one, the best first."""
    ids = {piece.text: id for id, piece in enumerate(model.pieces)}
    merging = {p.text for p in model.pieces if p.type in (NORMAL, UNUSED)}
    ranked = []
    unreachable = 0
    for piece in model.pieces:
        if piece.text not in merging or len(piece.text) < 2:
            continue
        halves = [(piece.text[:i], piece.text[i:]) for i in range(1, len(piece.text))]
        found = [(a, b) for a, b in halves if a in merging and b in merging]
        unreachable += not found
        ranked += [(-piece.score, ids[a], ids[b], a, b) for a, b in found]
    ranked.sort()
    _note_oddities(model, unreachable, notes)
    unknown = model.unknown()
    return models.BPE(
        ids,
        [(a, b) for *_, a, b in ranked],
        unk_token=None if unknown is None else model.pieces[unknown].text,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _note_oddities(model: Model, unreachable: int, notes: list[str]) -> None:
    if unreachable:
        notes.append(f"{unreachable} pieces can't be built from smaller ones and are never used")
    unused = sum(piece.type == UNUSED for piece in model.pieces)
    if unused:
        notes.append(f"{unused} pieces marked as unused are used where a merge makes them")
    scores = Counter(p.score for p in model.pieces if p.type == NORMAL and len(p.text) > 1)
    shared = sum(count for count in scores.values() if count > 1)
    if shared > len(model.pieces) // 100:
        notes.append(
            f"{shared} pieces share their score with others: where two of them compete, "
            "SentencePiece takes the left one, tokenizer.json the one with the smaller id"
        )


def _unigram(model: Model) -> models.Unigram:
    """Unigram; what is no normal piece gets a score so low that text does not spell it."""
    lowest = min((p.score for p in model.pieces if p.type == NORMAL), default=0.0)
    vocabulary = [
        (piece.text, piece.score if piece.type in (NORMAL, USER_DEFINED) else lowest - _BARRED)
        for piece in model.pieces
    ]
    return models.Unigram(vocabulary, model.unknown(), model.byte_fallback)
