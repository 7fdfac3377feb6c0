"""Lines, text columns and whole files."""

from __future__ import annotations

import pytest

from tests.data.formats.parsing import parse
from tunesmith.data.formats import base
from tunesmith.errors import DataError
from tunesmith.types import (
    Document,
)


def test_text():
    assert parse("a line") == Document("a line")
    assert parse({"text": "a"}) == parse({"content": "a", "url": "b"}) == Document("a")
    for value, code in (({"text": ""}, "D122"), ({"text": 5}, "D122"), ({"other": "x"}, "D121")):
        with pytest.raises(DataError, match=code):
            parse(value, name="text")


def test_document():
    assert base.load("document").WHOLE_FILES
    assert parse("a\nb", name="document") == Document("a\nb")
    with pytest.raises(DataError, match="D122"):
        parse({"text": "a"}, name="document")


def test_a_completion_alone_is_text():
    """As in Wikipedia sets for pretraining."""
    assert parse({"completion": "a", "source": "b"}) == Document("a")
