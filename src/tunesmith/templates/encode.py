"""Pieces to ids: each prompt and each completion is one text, and content stays content.

A segment (one prompt, or one completion) is tokenised on its own, because that is where inference
cuts: what the model will be sent is then, id for id, the beginning of what it was trained on. In a
segment whose content spells a special token, markup and content are told apart by piece.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.templates.pieces import EncodedTurn, Piece, Turn, join
from tunesmith.templates.tokenizer import Place, Tokenizer

_Key = tuple[Place, frozenset[str] | None]
_Part = list[int] | tuple[_Key, int]
"""Ids already known, or where in which batch they will be."""


class SegmentEncoder:
    """Encodes many segments with few calls; holds nothing that a call could change.

    Args:
        tokenizer: The tokenizer.
        markup: All text a template may write; see `Tokenizer.markup_only`.
    """

    def __init__(self, tokenizer: Tokenizer, markup: str):
        self.tokenizer = tokenizer
        self.controls = tokenizer.markup_only(markup)
        self._control = _any_of(self.controls)
        self.control_pattern = self._control.pattern
        self._added = _any_of(tokenizer.added)
        self._breaks = _any_of(tokenizer.breaks)
        self._endings = tokenizer.breaks
        self._simple = tokenizer.seamless and not tokenizer.strips_after
        alone = tokenizer.encode_batch(self._endings, "start")
        self._alone = {token: ids for token, ids in zip(self._endings, alone, strict=True)}
        """Ids of an added token that is a text of its own, as most end markers are."""

    def spells_control(self, text: str) -> bool:
        """Whether content contains the string of a token that only markup may produce."""
        return self._control.search(text) is not None

    def find_control(self, text: str, start: int) -> re.Match[str] | None:
        """The first control token at or after `start`."""
        return self._control.search(text, start)

    def blank_controls(self, text: str) -> str:
        """The text, as long as before, with control tokens overwritten: to look for words in."""
        return self._control.sub(lambda found: "\0" * len(found.group()), text)

    def encode_turns(self, sequences: Sequence[Sequence[Turn]]) -> list[list[EncodedTurn]]:
        """Ids of every turn of every sequence; all text goes through few batched calls."""
        segments = []
        for turns in sequences:
            previous: tuple[Piece, ...] = ()
            for turn in turns:
                segments.append((turn.prompt, previous))
                previous = turn.prompt if join(turn.prompt) else previous
                segments.append((turn.completion, previous))
                previous = turn.completion if join(turn.completion) else previous
        ids = iter(self.encode_segments(segments))
        ends: dict[str, int] = {}
        made = []
        for turns in sequences:
            encoded = []
            for turn in turns:
                prompt_ids, completion_ids = next(ids), next(ids)
                end = turn.completion[-1] if turn.completion else None
                count = self._end_tokens(end.text, ends) if end and end.markup else 0
                rest = turn.weight, count, turn.prompt_weight, turn.answered
                encoded.append(EncodedTurn(prompt_ids, completion_ids, *rest))
            made.append(encoded)
        return made

    def encode_segments(
        self, segments: Sequence[tuple[tuple[Piece, ...], tuple[Piece, ...]]]
    ) -> list[list[int]]:
        """Ids of each segment, given the segment before it (empty at the start of a sequence)."""
        texts: dict[_Key, list[str]] = {}
        plans = [self._plan(pieces, previous, texts) for pieces, previous in segments]
        ids = {key: self.tokenizer.encode_batch(batch, *key) for key, batch in texts.items()}
        return [_assembled(plan, ids) for plan in plans]

    def _plan(
        self,
        pieces: tuple[Piece, ...],
        previous: tuple[Piece, ...],
        texts: dict[_Key, list[str]],
    ) -> list[_Part]:
        text = join(pieces)
        if not text:
            return []
        strips = False
        place: Place = "start"
        if previous and not self._simple:
            place, strips = self._after(previous)
        if any(not piece.markup and self.spells_control(piece.text) for piece in pieces):
            place = self._after(previous)[0] if previous else "start"
            return self._plan_apart(pieces, place, strips, texts)
        if strips:
            text = text.lstrip()
        if self._simple or place != "text":
            return [_put(texts, (place, None), text)]
        # Only what precedes the first added token that breaks continues the text before.
        found = self._breaks.search(text)
        cut = found.start() if found else len(text)
        plan: list[_Part] = [_put(texts, ("text", None), text[:cut])] if cut else []
        if text[cut:] in self._alone:
            plan.append(self._alone[text[cut:]])
        elif found:
            plan.append(_put(texts, ("start", None), text[cut:]))
        return plan

    def _plan_apart(
        self,
        pieces: tuple[Piece, ...],
        place: Place,
        strips: bool,
        texts: dict[_Key, list[str]],
    ) -> list[_Part]:
        """Splits at the added tokens of markup; the text between is encoded with them disabled."""
        plan: list[_Part] = []
        text = ""

        def flush(strip_end: bool) -> None:
            nonlocal text
            text = text.lstrip() if strips else text
            text = text.rstrip() if strip_end else text
            if text:
                plan.append(_put(texts, (place, self.controls), text))
            text = ""

        for piece in pieces:
            at = 0
            for found in self._added.finditer(piece.text) if piece.markup else ():
                token = found.group()
                text += piece.text[at : found.start()]
                flush(token in self.tokenizer.strips_before)
                plan.append([self.tokenizer.added[token]])
                place = "token" if token in self._endings else "text"
                strips = token in self.tokenizer.strips_after
                at = found.end()
            text += piece.text[at:]
        flush(False)
        return plan

    def _after(self, previous: tuple[Piece, ...]) -> tuple[Place, bool]:
        """Where a segment stands after another one, and whether its first spaces are swallowed."""
        text = join(previous)
        last = next(piece for piece in reversed(previous) if piece.text)
        if not last.markup and self.spells_control(last.text):
            return "text", False
        if not text.endswith(self._endings):
            return "text", False
        strips = self.tokenizer.strips_after
        return "token", bool(strips) and text.endswith(tuple(strips))

    def _end_tokens(self, text: str, known: dict[str, int]) -> int:
        if text not in known:
            known[text] = len(self.tokenizer.encode_batch([text], "text")[0])
        return known[text]


def _assembled(plan: list[_Part], ids: dict[_Key, list[list[int]]]) -> list[int]:
    if len(plan) == 1 and isinstance(plan[0], tuple):
        key, index = plan[0]
        return ids[key][index]
    whole: list[int] = []
    for part in plan:
        whole += part if isinstance(part, list) else ids[part[0]][part[1]]
    return whole


def _put(texts: dict[_Key, list[str]], key: _Key, text: str) -> _Part:
    batch = texts.setdefault(key, [])
    batch.append(text)
    return key, len(batch) - 1


def _any_of(tokens: Sequence[str] | frozenset[str] | dict[str, int]) -> re.Pattern[str]:
    """Matches any of these strings, the longest where several begin at one place."""
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
