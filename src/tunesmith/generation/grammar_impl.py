"""Grammars over bytes, and what tokens they allow next.

A grammar is made of a few kinds of nodes; references make it recursive, so nested JSON needs no
bound. A state is the set of things that may still follow, each a node with what comes after it
(Brzozowski's derivatives, with the rest kept as a list). States are numbered and their steps
remembered, and the tokens allowed in a state are found once, over the trie of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Bytes:
    """One byte of a set."""

    allowed: frozenset[int]


@dataclass(frozen=True, eq=False)
class Series:
    """One part after the other."""

    parts: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Choice:
    """Any one of these."""

    options: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Repeat:
    """A part `least` to `most` times; `most` None: without end."""

    part: Any
    least: int = 0
    most: int | None = None


@dataclass(eq=False)
class Rule:
    """A node that is filled in later: what makes grammars recursive."""

    name: str
    node: Any = None


@dataclass(eq=False)
class Later:
    """A node that is made when a text first comes to it: of many only those that are reached."""

    make: Callable[[], Any]

    @cached_property
    def node(self) -> Any:
        return self.make()


EMPTY = Series(())


def text(literal: str) -> Any:
    """These characters, in UTF-8."""
    return Series(tuple(Bytes(frozenset([byte])) for byte in literal.encode()))


def maybe(node: Any) -> Any:
    return Choice((EMPTY, node))


def characters(ranges: Sequence[tuple[int, int]]) -> Any:
    """One character of these ranges of code points, ends included; surrogates are none."""
    options = []
    for first, last in ranges:
        for low, high in ((first, min(last, 0xD7FF)), (max(first, 0xE000), last)):
            options += _utf8(low, high) if low <= high else []
    return options[0] if len(options) == 1 else Choice(tuple(options))


def _utf8(low: int, high: int) -> list[Any]:
    """Sequences of byte ranges that spell the code points of a range."""
    for bound in (0x7F, 0x7FF, 0xFFFF):
        if low <= bound < high:
            return _utf8(low, bound) + _utf8(bound + 1, high)
    first, last = chr(low).encode(), chr(high).encode()
    return [Series(tuple(parts)) for parts in _spelled(list(first), list(last))]


def _spelled(first: list[int], last: list[int]) -> list[list[Bytes]]:
    """Byte strings of one length from `first` to `last`, as products of ranges."""
    span = lambda low, high: Bytes(frozenset(range(low, high + 1)))
    if len(first) == 1:
        return [[span(first[0], last[0])]]
    if first[0] == last[0]:
        return [[span(first[0], first[0]), *rest] for rest in _spelled(first[1:], last[1:])]
    least, most = [0x80] * (len(first) - 1), [0xBF] * (len(first) - 1)
    found, low, high = [], first[0], last[0]
    if first[1:] != least:
        found += [[span(low, low), *rest] for rest in _spelled(first[1:], most)]
        low += 1
    if last[1:] != most:
        found += [[span(high, high), *rest] for rest in _spelled(least, last[1:])]
        high -= 1
    if low <= high:
        found.append([span(low, high), *(span(0x80, 0xBF) for _ in least)])
    return found


# ---------------------------------------------------------------- states

Rest = Any
"""What is still to come: () at the end, else (node, what comes after it)."""


class Automaton:
    """The states of a grammar, numbered as they are met; 0 is the dead one, 1 the first."""

    def __init__(self, root: Any):
        self._rests: dict[tuple[int, int], Rest] = {}
        self._fewer: dict[int, Repeat] = {}
        self._kept: list[Any] = []  # ids of objects are names only while they live
        self._numbers: dict[frozenset[int], int] = {frozenset(): 0}
        self._states: list[list[Rest]] = [[]]
        self._steps: dict[tuple[int, int], int] = {}
        self._end: Rest = ()
        self.first = self._number([self._rest(root, self._end)])

    def step(self, state: int, byte: int) -> int:
        """The state after one more byte; 0 if nothing may begin so."""
        key = (state, byte)
        if key not in self._steps:
            after = [rest[1] for rest in self._states[state] if rest and byte in rest[0].allowed]
            self._steps[key] = self._number(after)
        return self._steps[key]

    def accepts(self, whole: bytes) -> bool:
        """Whether this is a text of the grammar."""
        state = self.first
        for byte in whole:
            state = self.step(state, byte)
        return self.complete(state)

    def complete(self, state: int) -> bool:
        """Whether the text may end here."""
        return any(not rest for rest in self._states[state])

    def _rest(self, node: Any, after: Rest) -> Rest:
        key = (id(node), id(after))
        if key not in self._rests:
            self._rests[key] = (node, after)
            self._kept.append((node, after))
        return self._rests[key]

    def _number(self, rests: list[Rest]) -> int:
        """The state of these, opened until each begins with a byte."""
        found: dict[int, Rest] = {}
        seen: set[int] = set()
        stack = list(rests)
        while stack:
            rest = stack.pop()
            if id(rest) in seen:
                continue
            seen.add(id(rest))
            if not rest or isinstance(rest[0], Bytes):
                found[id(rest)] = rest
            else:
                stack += self._opened(*rest)
        key = frozenset(found)
        if key not in self._numbers:
            self._numbers[key] = len(self._states)
            self._states.append(list(found.values()))
        return self._numbers[key]

    def _opened(self, node: Any, after: Rest) -> list[Rest]:
        """What a node that is no byte may begin with."""
        if isinstance(node, Rule | Later):
            return [self._rest(node.node, after)]
        if isinstance(node, Choice):
            return [self._rest(option, after) for option in node.options]
        if isinstance(node, Series):
            for part in reversed(node.parts):
                after = self._rest(part, after)
            return [after]
        return self._repeated(node, after)

    def _repeated(self, node: Repeat, after: Rest) -> list[Rest]:
        if node.most == 0:
            return [after]
        again = self._again(node)
        found = [self._rest(node.part, self._rest(again, after))]
        return found if node.least else [after, *found]

    def _again(self, node: Repeat) -> Repeat:
        """The same repetition, once less; the object is the same each time it is asked for."""
        if not node.least and node.most is None:
            return node
        if id(node) not in self._fewer:
            most = None if node.most is None else node.most - 1
            self._fewer[id(node)] = Repeat(node.part, max(node.least - 1, 0), most)
            self._kept.append(node)
        return self._fewer[id(node)]


# ---------------------------------------------------------------- tokens


@dataclass
class Trie:
    """Tokens by their bytes."""

    children: dict[int, Trie] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, spelled: Sequence[bytes | None]) -> Trie:
        """Of a vocabulary; None are tokens that spell nothing."""
        root = cls()
        for token, spelling in enumerate(spelled):
            if spelling:
                node = root
                for byte in spelling:
                    node = node.children.setdefault(byte, cls())
                node.tokens.append(token)
        return root


class Constraint:
    """What `Request.constraint` asks for: tokens that keep an answer within a grammar.

    Args:
        root: The grammar.
        spelled: Bytes of each token of the vocabulary.
        trie: The same as a trie.
        stops: Tokens that end an answer; allowed where the text may end.
    """

    def __init__(
        self, root: Any, spelled: Sequence[bytes | None], trie: Trie, stops: Sequence[int]
    ):
        self._automaton = Automaton(root)
        self._spelled, self._trie, self._stops = spelled, trie, list(stops)
        self._masks: dict[int, Tensor] = {}
        self._ids: list[int] = []
        self._states = [self._automaton.first]

    def mask(self, ids: Sequence[int]) -> Tensor:
        """Tokens allowed after these of the answer, int64; none if they broke the grammar."""
        same = 0
        for old, new in zip(self._ids, ids, strict=False):
            if old != new:
                break
            same += 1
        del self._ids[same:], self._states[same + 1 :]
        for id in ids[same:]:
            self._ids.append(id)
            self._states.append(self._after(self._states[-1], id))
        return self._allowed(self._states[-1])

    def accepts(self, answer: bytes) -> bool:
        """Whether a text is one of the grammar's."""
        return self._automaton.accepts(answer)

    def _after(self, state: int, id: int) -> int:
        spelling = self._spelled[id]
        if not spelling:
            return 0
        for byte in spelling:
            state = self._automaton.step(state, byte)
        return state

    def _allowed(self, state: int) -> Tensor:
        if state not in self._masks:
            found = list(self._stops) if self._automaton.complete(state) else []
            stack: list[tuple[Trie, int]] = [(self._trie, state)]
            step: Callable[[int, int], int] = self._automaton.step
            while stack:
                node, at = stack.pop()
                found += node.tokens
                for byte, child in node.children.items():
                    after = step(at, byte)
                    if after:
                        stack.append((child, after))
            self._masks[state] = torch.tensor(sorted(set(found)), dtype=torch.long)
        return self._masks[state]
