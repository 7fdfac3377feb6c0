"""What to do with rows that no format fits: their columns, and what stands in these, suggest it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

QUESTIONS = ("question", "prompt", "query", "instruction", "ask",
             "frage", "aufgabe", "pregunta", "domanda", "pergunta", "вопрос", "问题", "提问",
             "指令", "質問")  # fmt: skip
ANSWERS = ("answer", "response", "output", "completion", "reply", "summary",
           "antwort", "réponse", "reponse", "respuesta", "risposta", "resposta", "ответ", "回答",
           "答案", "答复", "回复")  # fmt: skip


SHORTEST = 4
"""Letters a name needs to be taken for a slip of another: `q` and `a` are near everything."""

ALIKE = 0.8
"""How near two names must be for one to be a slip of the other, 1 being the same."""


def fix(value: Mapping[str, Any] | str, usual: Collection[str] = ()) -> str:
    """One line of advice for a row.

    Args:
        value: The row.
        usual: Names that formats know columns by.
    """
    general = _mapped({"prompt": "NAME", "completion": "NAME"})
    if isinstance(value, str):
        return "a line of plain text is a document: format: text (or --format text)"
    if len(value) == 1:
        ((name, held),) = value.items()
        if ";" in name or "\t" in name or "|" in name:
            return "the first line does not name each column once: name them, separated by commas"
        if isinstance(held, list) and held and isinstance(held[0], dict):
            return f"the rows stand under `{name}`: write that array alone, or one row a line"
    asked = [name for name in value if _is(name, QUESTIONS) and isinstance(value[name], str)]
    said = [
        name
        for name in value
        if _is(name, ANSWERS) and isinstance(value[name], str) and name not in asked
    ]
    if len(asked) == 1 and len(said) == 1:
        return _mapped({"prompt": asked[0], "completion": said[0]})
    if len(asked) == 1 and len(said) == 2:
        pair = {"prompt": asked[0], "chosen": said[0], "rejected": said[1]}
        return f"{_mapped(pair)}; the better answer as chosen"
    return _slip(value, usual) or general


def turns(value: Mapping[str, Any] | str) -> str:
    """Advice where a column holds turns under keys that no format knows; else empty."""
    columns = value if isinstance(value, Mapping) else {}
    for name in columns:
        held = columns[name]
        if isinstance(held, list) and held and isinstance(held[0], dict) and len(held[0]) == 2:
            speaker, said = held[0]
            return _mapped({"messages": name, "role_tag": speaker, "content_tag": said})
        if isinstance(held, str) and held.lstrip().startswith("["):
            return f"`{name}` is a list written as text: write the list itself"
    return ""


def _mapped(columns: Mapping[str, str]) -> str:
    """How columns are mapped in a recipe and on the command line."""
    recipe = ", ".join(f"{role}: {name}" for role, name in columns.items())
    words = ",".join(f"{role}={name}" for role, name in columns.items())
    return f"map the columns: {{{recipe}}} (or --columns {words})"


def alike(name: str, words: Sequence[str]) -> list[str]:
    """The word that a name is nearly equal to, or none."""
    return difflib.get_close_matches(name, words, n=1, cutoff=ALIKE)


def _slip(value: Mapping[str, Any], usual: Collection[str]) -> str:
    """Advice if columns are called nearly as usual ones are."""
    known = sorted(name for name in usual if len(name) >= SHORTEST and name not in value)
    near = []
    for name in value:
        if name not in usual and len(name) >= SHORTEST:
            near += [f"`{name}`: did you mean `{other}`?" for other in alike(name, known)]
    return f"{'; '.join(near)}  rename the column, or map it" if near else ""


def _is(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name.lower() for word in words)
