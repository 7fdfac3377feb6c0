"""An answer's thoughts, `<think>…</think>` at its beginning, apart from what it says."""

from __future__ import annotations

from typing import NamedTuple

OPENING, CLOSING = "<think>", "</think>"


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


def split(answer: str, *, begun: bool = False) -> Parts:
    """A whole answer: its thoughts, and what it says."""
    parts = ThinkingSplit(begun=begun)
    first, last = parts.step(answer), parts.finish()
    return Parts(first.thought + last.thought, first.said + last.said)
