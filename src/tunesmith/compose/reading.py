"""Reads a recipe that is to be worked on: all that is wrong with it is told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith import recipe as recipes
from tunesmith.compose import source
from tunesmith.errors import TunesmithError
from tunesmith.recipe.sections import Recipe


def read(path: str | None, overrides: Sequence[str] = (), *, model: bool = True) -> Recipe:
    """The recipe of a file with overrides, complete enough to be trained. Needs no torch.

    Args:
        path: As `recipe.load` takes it.
        overrides: `key=value` changes.
        model: Look whether the model is there.

    Raises:
        ConfigError: C100-C114, C195; DataError: D301; EnvironmentFault: E201, E212; ConfigErrors
            if several things are wrong.
    """
    also = [recipes.said, _template, _reports]
    return recipes.load(path, overrides, also=[*also, _model] if model else also)


def _template(sections: Mapping[str, Any]) -> None:
    from tunesmith.templates import base as templates

    if "data" in sections:
        try:
            templates.check(sections["data"].template)
        except TunesmithError as error:
            error.where = error.where or "data.template"
            raise


def _reports(sections: Mapping[str, Any]) -> None:
    from tunesmith.training import report

    if "log" in sections:
        report.check(sections["log"].report_to)


def _model(sections: Mapping[str, Any]) -> None:
    if "model" in sections and "output" in sections and sections["model"].path is not None:
        source.language_model(sections["model"].path, sections["output"].dir)
