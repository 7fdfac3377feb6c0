"""Errors say what, where, why and fix in at most eight lines, and survive a process border."""

from __future__ import annotations

import pickle

import pytest

from tunesmith import errors
from tunesmith.errors import ConfigError, DataError, MissingExtra, TunesmithError

FAMILIES = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, TunesmithError) and cls is not TunesmithError
]


def test_message_has_its_parts_in_order():
    error = ConfigError("C102", "unknown key `x`", where="r.yaml:1:1", why="a\nb", fix="do y")
    assert str(error).splitlines() == [
        "error[C102]: unknown key `x`",
        "  --> r.yaml:1:1",
        "  a",
        "  b",
        "  fix: do y",
    ]


def test_at_most_eight_lines():
    error = DataError("D100", "what", where="here", why="\n".join("0123456789"), fix="fix")
    assert len(str(error).splitlines()) <= 8


def test_missing_extra_names_the_command():
    error = MissingExtra("datasets", "hub", "reading parquet")
    assert error.code == "E401"
    assert error.exit_code == 4
    assert "pip install 'tunesmith[hub]'" in str(error)
    assert isinstance(error, ImportError)


@pytest.mark.parametrize("error", [
    MissingExtra("datasets", "hub", "reading parquet"),
    DataError("D101", "what", where="file:1", why="why", fix="fix"),
], ids=lambda error: error.code)  # fmt: skip
def test_errors_cross_process_borders(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda cls: cls.__name__)
def test_every_family_is_drawn_and_has_an_exit_code(family):
    assert family.__name__ in errors.__doc__
    assert 1 <= family.exit_code <= 6
