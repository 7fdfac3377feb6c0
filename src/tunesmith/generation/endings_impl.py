"""Whether what a grammar begins can ever end; what can't is taken out of it.

A schema may demand another of itself within itself, without end: no text is ever of it, and a model
held to it would write until it is cut off. The nodes that can end are the least fixpoint of: bytes
can; a series if all its parts can; a choice if one of its options can; a repetition if it may be
left out or its part can. Found in one pass over the edges, as marking of productive symbols in a
context-free grammar is (Hopcroft, Motwani, Ullman: Introduction to Automata Theory, 7.1.2).
"""

from __future__ import annotations

from typing import Any

from tunesmith.generation.grammar_impl import EMPTY, Bytes, Choice, Repeat, Rule, Series


def ending(root: Any) -> set[int]:
    """Ids of the nodes under `root` that some finite text is of."""
    nodes = _under(root)
    parents: dict[int, list[int]] = {}
    needed: dict[int, int] = {}
    for node in nodes:
        needed[id(node)] = _needed(node)
        for part in _parts(node):
            parents.setdefault(id(part), []).append(id(node))
    found = {key for key, count in needed.items() if count == 0}
    fresh = list(found)
    while fresh:
        for parent in parents.get(fresh.pop(), ()):
            needed[parent] -= 1
            if needed[parent] == 0 and parent not in found:
                found.add(parent)
                fresh.append(parent)
    return found


def without_dead_ends(root: Any, can_end: set[int]) -> Any:
    """The same texts by a grammar in which whatever was begun can be ended.

    Args:
        root: A node that can end.
        can_end: Of `ending`.
    """
    nodes = _under(root)
    if all(id(node) in can_end for node in nodes):
        return root
    now: dict[int, Any] = {id(node): node for node in nodes if isinstance(node, Rule)}
    for node in nodes:
        now[id(node)] = _without(node, can_end, now)
    for node in nodes:
        if isinstance(node, Rule):
            node.node = now[id(node.node)]
    return now[id(root)]


def _without(node: Any, can_end: set[int], now: dict[int, Any]) -> Any:
    """One node, of parts that were looked at before; rules stay the objects they are."""
    if isinstance(node, Series):
        parts = tuple(now[id(part)] for part in node.parts)
        same = all(new is old for new, old in zip(parts, node.parts, strict=True))
        return node if same else Series(parts)
    if isinstance(node, Choice):
        options = tuple(now[id(option)] for option in node.options if id(option) in can_end)
        return Choice(options)
    if isinstance(node, Repeat):
        if id(node.part) not in can_end:
            return EMPTY
        return Repeat(now[id(node.part)], node.least, node.most)
    return node


def _needed(node: Any) -> int:
    """How many of its parts must be able to end before it can."""
    if isinstance(node, Series):
        return len(node.parts)
    if isinstance(node, Bytes):
        return 0 if node.allowed else 1
    if isinstance(node, Repeat):
        return 1 if node.least else 0
    return 1 if isinstance(node, Choice | Rule) else 0


def _parts(node: Any) -> tuple[Any, ...]:
    if isinstance(node, Series):
        return node.parts
    if isinstance(node, Choice):
        return node.options
    if isinstance(node, Repeat):
        return (node.part,)
    return (node.node,) if isinstance(node, Rule) else ()


def _under(root: Any) -> list[Any]:
    """All nodes, parts before what they are parts of (but for rules, which lead in circles)."""
    seen, found = {id(root)}, []
    stack = [(root, iter(_parts(root)))]
    while stack:
        node, parts = stack[-1]
        part = next((part for part in parts if id(part) not in seen), None)
        if part is None:
            found.append(node)
            stack.pop()
        else:
            seen.add(id(part))
            stack.append((part, iter(_parts(part))))
    return found
