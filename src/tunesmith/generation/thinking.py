"""An answer's thoughts, `<think>…</think>` at its beginning, apart from what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

OPENING, CLOSING = "<think>", "</think>"
PROMPT_END = 16
"""So many last tokens of a prompt are read to see whether it opens thoughts."""


class Parts(NamedTuple):
    """Text that is certain now."""

    thought: str
    said: str


class ThinkingSplit:
    """Splits the text of one answer as it comes.

    Only a `<think>` that begins the answer (or follows white space there) opens thoughts: an answer
    that talks about the mark keeps it. White space around thoughts and before what follows them
    belongs to neither. Thoughts that are not closed are all there is.

    Args:
        begun: The prompt has opened the thoughts already; see `begins`.
    """

    def __init__(self, *, begun: bool = False):
        self._thinking = begun
        self._open = begun
        """Whether it is known if there are thoughts."""
        self._held = ""
        self._blank = begun
        """Whether white space that comes now is dropped."""

    def step(self, text: str) -> Parts:
        """Parts of the answer that its next piece of text makes certain."""
        self._held += text
        if not self._open and not self._opened():
            return Parts("", "")
        thought = self._thought() if self._thinking else ""
        said = "" if self._thinking else self._release(len(self._held))
        return Parts(thought, said)

    def finish(self) -> Parts:
        """What was held back, when no text follows."""
        held, self._held = self._held, ""
        if self._thinking:
            return Parts(held.rstrip(), "")
        return Parts("", "" if self._blank and not held.strip() else held)

    def _opened(self) -> bool:
        """Whether the answer's beginning is known; the mark is taken away if it is there."""
        begin = self._held.lstrip()
        if begin.startswith(OPENING):
            self._held, self._thinking, self._blank = begin[len(OPENING) :], True, True
        elif OPENING.startswith(begin):
            return False
        self._open = True
        return True

    def _thought(self) -> str:
        """Thoughts up to their end, without what may be the beginning of the mark."""
        end = self._held.find(CLOSING)
        if end >= 0:
            thought = self._release(end).rstrip()
            self._held = self._held[len(CLOSING) :]
            self._thinking, self._blank = False, True
            return thought
        text = self._held.rstrip()
        keep = next((n for n in range(len(CLOSING) - 1, 0, -1) if text.endswith(CLOSING[:n])), 0)
        return self._release(len(text[: len(text) - keep].rstrip()))

    def _release(self, end: int) -> str:
        """Takes the held text up to `end`, without leading white space where that is dropped."""
        text, self._held = self._held[:end], self._held[end:]
        if self._blank:
            text = text.lstrip()
            self._blank = not text
        return text


def begins(prompt: str) -> bool:
    """Whether a prompt's last mark opens thoughts, as some templates write it for the answer."""
    return prompt.rstrip().endswith(OPENING)


def begun_by(tokenizer: Any, prompt_ids: Sequence[int]) -> bool:
    """`begins` of a prompt's ids."""
    return begins(tokenizer.decode(list(prompt_ids[-PROMPT_END:]), skip_special=False))


def hidden_marks(tokenizer: Any) -> dict[int, str]:
    """Marks that are control tokens, which decoded text leaves out."""
    ids = {tokenizer.added.get(mark): mark for mark in (OPENING, CLOSING)}
    return {id: mark for id, mark in ids.items() if id in tokenizer.special_ids}


class AfterThoughts:
    """A constraint on what an answer says, whose prompt has opened thoughts: they are free, but
    must come to their end.

    Args:
        rule: What is said; its `mask` gets the ids after the thoughts.
        tokenizer: Tells what ids spell together.
        spelled: What each token spells; None for control tokens.
        stops: Tokens that end an answer.
    """

    def __init__(
        self,
        rule: Any,
        tokenizer: Any,
        spelled: Sequence[bytes | None],
        stops: Sequence[int],
    ):
        self._rule, self._tokenizer = rule, tokenizer
        self._spelled, self._stops = spelled, frozenset(stops)
        self._mark = next((i for i, m in hidden_marks(tokenizer).items() if m == CLOSING), None)
        self._thoughts: list[int] | None = None
        """The answer up to the end of thoughts, once it has come to it."""
        self._free: dict[str, Tensor] = {}
        """Tokens allowed within thoughts, by how much of their end is written."""

    def mask(self, ids: Sequence[int]) -> Tensor | None:
        """Tokens allowed after these; None: all."""
        thoughts = self._thoughts
        if thoughts is None or list(ids[: len(thoughts)]) != thoughts:  # a guess may be wrong
            thoughts = self._thoughts = self._ended(ids)
        if thoughts is not None:
            return self._rule.mask(ids[len(thoughts) :])
        said = self._text(ids)
        lengths = range(len(CLOSING) - 1, 0, -1)
        begun = next((CLOSING[:n] for n in lengths if said.endswith(CLOSING[:n])), "")
        if begun not in self._free:
            self._free[begun] = self._after(begun.encode())
        return self._free[begun]

    def _ended(self, ids: Sequence[int]) -> list[int] | None:
        if self._mark is not None:
            return list(ids[: ids.index(self._mark) + 1]) if self._mark in ids else None
        return list(ids) if self._text(ids).rstrip().endswith(CLOSING) else None

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids[-PROMPT_END:]), skip_special=True)

    def _after(self, begun: bytes) -> Tensor:
        """All tokens but those that end the answer, or say more in one breath with the mark."""
        import torch

        pairs = enumerate(self._spelled)
        mark = CLOSING.encode()
        return torch.tensor(
            [
                id
                for id, text in pairs
                if id not in self._stops and not (begun + (text or b"")).partition(mark)[2].strip()
            ]
        )


def split(answer: str, *, begun: bool = False) -> Parts:
    """A whole answer: its thoughts, and what it says."""
    parts = ThinkingSplit(begun=begun)
    first, last = parts.step(answer), parts.finish()
    return Parts(first.thought + last.thought, first.said + last.said)
