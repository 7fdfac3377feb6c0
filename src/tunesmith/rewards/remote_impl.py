"""Rewards from a service: a POST of JSON lists, answered with a list of scores.

Request `{"prompts": […], "completions": […], "references": […]}`, answer `{"scores": […]}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any
from urllib.request import Request, urlopen

from tunesmith.errors import RunError
from tunesmith.rewards.answer_impl import Answer

SECONDS = 120.0
"""A service may load a model before its first answer."""


def service(url: str) -> Callable[[Sequence[Answer]], Any]:
    """Scores by a service. Nothing is tried again: a reward must not depend on luck."""

    def score(answers: Sequence[Answer]) -> Any:
        body = {
            "prompts": [one.prompt for one in answers],
            "completions": [one.text for one in answers],
            "references": [one.reference for one in answers],
        }
        head = {"Content-Type": "application/json"}
        request = Request(url, json.dumps(body).encode(), head)
        try:
            with urlopen(request, timeout=SECONDS) as reply:
                return list(json.load(reply)["scores"])
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            raise RunError(
                "R242",
                f"{url} gave no scores: {type(error).__name__}: {error}",
                where="stage.rewards",
                fix='let it answer {"scores": […]}, then: tunesmith resume',
            ) from error

    return score
