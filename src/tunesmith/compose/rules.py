"""What a request is held to while it is answered: masks of a form, shared by all who ask for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TRIED = 48
"""Tokens of the answer that is tried out."""
TRIED_S = 0.5
"""Seconds it may take: what is left is made when an answer comes to it."""
WINDOW = 96
"""Last tokens that are looked at for the beginning of a call."""


class Form:
    """A grammar with the masks that were made of it, for any number of requests."""

    def __init__(self, constraint: Any):
        self._constraint = constraint
        self._lock = threading.Lock()
        self._seen: set[int] = set()
        self.bytes = 0
        """Memory of its masks."""

    def mask(self, ids: Sequence[int]) -> Tensor:
        """Tokens allowed after these."""
        with self._lock:
            found: Tensor = self._constraint.mask(ids)
        if id(found) not in self._seen:
            self._seen.add(id(found))
            self.bytes += found.nbytes
        return found

    def try_out(self, spelled: Sequence[bytes | None], stops: Sequence[int]) -> None:
        """Writes an answer, which makes the masks that most answers will need."""
        ids: list[int] = []
        end = time.monotonic() + TRIED_S
        while len(ids) < TRIED and time.monotonic() < end:
            allowed = [token for token in self.mask(ids).tolist() if token not in stops]
            if not allowed:
                return
            # What ends strings and lists leads on; letters lead nowhere new.
            ids.append(min(allowed, key=lambda token: _leads(spelled[token] or b"")))


def _leads(spelling: bytes) -> tuple[bool, int]:
    return not spelling.endswith((b'"', b"}", b"]", b",", b":")), len(spelling)


class Rule:
    """A constraint of one request: all of its answer is within the form."""

    def __init__(self, form: Form):
        self.form = form

    def mask(self, ids: Sequence[int]) -> Tensor | None:
        """Tokens allowed after these; None: all."""
        return self.form.mask(ids)


class Marked(Rule):
    """Calls after a control token; or, beside it, an answer of another form."""

    def __init__(self, form: Form, marker: int, beside: Form | None):
        super().__init__(form)
        self.marker, self.beside = marker, beside

    def mask(self, ids: Sequence[int]) -> Tensor | None:
        import torch

        if not ids:
            first = torch.tensor([self.marker])
            return torch.cat([first, self.beside.mask(ids)]) if self.beside else first
        if ids[0] == self.marker or self.beside is None:
            return self.form.mask(ids[1:])
        return self.beside.mask(ids)


class Begun(Rule):
    """Free text, until a call begins; from there on calls of the form.

    Args:
        form: What follows the beginning.
        marker: The control token that begins a call; None: `begins` does.
        begins: The text that begins a call; empty: `{` as the answer's first character.
        tokenizer: Tells what ids spell together.
        spelled: What each token spells.
    """

    def __init__(
        self,
        form: Form,
        marker: int | None,
        begins: str,
        tokenizer: Any,
        spelled: Sequence[bytes | None],
    ):
        super().__init__(form)
        self.marker, self.begins = marker, begins
        self._tokenizer, self._spelled = tokenizer, spelled
        self._before: list[int] | None = None
        """The answer up to where the form begins, once it does."""

    def mask(self, ids: Sequence[int]) -> Tensor | None:
        before = self._before
        if before is None or list(ids[: len(before)]) != before:  # a guess may have been wrong
            before = self._before = self._found(ids)
        if before is not None:
            return self.form.mask(ids[len(before) :])
        return None if self.marker is not None else self._safe(ids)

    def _found(self, ids: Sequence[int]) -> list[int] | None:
        """The answer up to the form, if it has come to it."""
        if self.marker is not None:
            return list(ids[: ids.index(self.marker) + 1]) if self.marker in ids else None
        if not self.begins:
            return [] if self._text(ids[:WINDOW]).lstrip().startswith("{") else None
        ends = self._text(ids[-WINDOW:]).rstrip().endswith(self.begins)
        return list(ids) if ends else None

    def _safe(self, ids: Sequence[int]) -> Tensor | None:
        """All tokens but those that would begin a call in a way the form can't go on from."""
        import torch

        said = self._text(ids[-WINDOW:])
        if not self.begins:
            if said.strip():
                return None
            other = self._but(lambda spelling: spelling.lstrip().startswith(b"{"))
            return torch.cat([other, self.form.mask(ids)]).unique()
        begun = next(
            (n for n in range(len(self.begins) - 1, 0, -1) if said.endswith(self.begins[:n])), 0
        )
        rest = self.begins[begun:].encode()
        size = len(rest)
        if not begun:
            return None
        return self._but(lambda text: text.startswith(rest) and bool(text[size:].strip()))

    def _but(self, barred: Callable[[bytes], bool]) -> Tensor:
        import torch

        pairs = enumerate(self._spelled)
        return torch.tensor([id for id, text in pairs if text is None or not barred(text)])

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special=True)
