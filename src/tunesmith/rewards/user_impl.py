"""A user's own reward: `rewards.py:function`, called with lists of texts by parameter name."""

from __future__ import annotations

import inspect
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, RunError
from tunesmith.rewards.answer_impl import Answer

PARAMETERS = ("prompts", "completions", "references", "finished")
"""What a function may ask for by name: lists with an entry for each answer."""


def is_function(path: str) -> bool:
    """Whether a path names a function of a Python file."""
    file, colon, name = path.rpartition(":")
    return bool(colon) and file.endswith(".py") and name.isidentifier()


def find(path: str) -> Path:
    """The file of a function, before its code is run.

    Raises:
        ConfigError: C225, there is no such file.
    """
    file = Path(path.rpartition(":")[0]).expanduser()
    if not file.is_file():
        raise _refused(path, f"there is no file {file}")
    return file


def function(path: str) -> Callable[[Sequence[Answer]], Any]:
    """Runs the file and takes its function.

    Raises:
        ConfigError: C225, the file fails, has no such function, or the function asks for more.
    """
    file, name = find(path), path.rpartition(":")[2]
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)  # as `python rewards.py` would
    try:
        made = runpy.run_path(str(file), run_name=file.stem).get(name)
    except Exception as error:
        raise _refused(path, f"{type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    if not callable(made):
        raise _refused(path, f"{file.name} has no function `{name}`")
    wanted = _wanted(path, made)
    return lambda answers: _call(path, made, wanted, answers)


def _wanted(path: str, made: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(made).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    foreign = [p.name for p in named if p.name not in PARAMETERS and p.default is p.empty]
    if foreign:
        raise _refused(path, f"it asks for `{foreign[0]}`; there are {', '.join(PARAMETERS)}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return PARAMETERS
    return tuple(p.name for p in named if p.name in PARAMETERS)


def _call(path: str, made: Any, wanted: tuple[str, ...], answers: Sequence[Answer]) -> Any:
    given = {
        "prompts": [one.prompt for one in answers],
        "completions": [one.text for one in answers],
        "references": [one.reference for one in answers],
        "finished": [one.finished for one in answers],
    }
    try:
        return list(made(**{name: given[name] for name in wanted}))
    except Exception as error:
        raise RunError(
            "R240",
            f"the reward {path} failed: {type(error).__name__}: {error}",
            where=path,
            why=f"answer 0 of {len(answers)}: {answers[0].text[:200]!r}" if answers else "",
            fix="mend the function, then: tunesmith resume",
        ) from error


def _refused(path: str, why: str) -> ConfigError:
    fix = "write rewards.py:function with parameters completions, references, prompts"
    return ConfigError("C225", f"the reward {path}: {why}", where="stage.rewards", fix=fix)
