"""The errors of conversion: one place, so that they read alike."""

from __future__ import annotations

from pathlib import Path

from tunesmith.errors import EnvironmentFault

_ANOTHER = "use a model whose tokenizer can be written as tokenizer.json; this one can't be trained"


def unreadable(file: Path, error: object) -> EnvironmentFault:
    """E221: the file is torn, or is not what its name says."""
    return EnvironmentFault(
        "E221",
        f"{file.name} can't be read: {str(error)[:160]}",
        where=str(file),
        fix="fetch the file anew",
    )


def unsupported(what: str) -> EnvironmentFault:
    """E223: there is no tokenizer.json that computes the same."""
    return EnvironmentFault("E223", f"{what} can't be written as tokenizer.json", fix=_ANOTHER)


def no_pattern(where: str, known: str) -> EnvironmentFault:
    """E222: nothing says how text is split before ranks are looked up."""
    return EnvironmentFault(
        "E222",
        "nothing says how this tokenizer splits text",
        where=where,
        why="The rule stands in the model's code, not in its files; a wrong one gives wrong ids.",
        fix=f"tunesmith model convert-tokenizer DIR --pattern NAME; known: {known}",
    )


def conflict(where: str, content: str, told: int, found: object) -> EnvironmentFault:
    """E224: two files give a token different ids."""
    return EnvironmentFault(
        "E224",
        f"the token {content!r} has id {told} in one file and {found} in another",
        where=where,
        fix="the files belong to different versions of the model: fetch them anew",
    )
