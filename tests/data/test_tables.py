"""Tables: what is spoilt is the record, not a line of it."""

from __future__ import annotations

import pytest

from tunesmith.data import read
from tunesmith.errors import DataError


def test_a_bad_line_spoils_the_record_it_stands_in(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'a,b\n1,"first\ncaf\xe9\nthird"\n2,two\n3,"\xe9\n\n"\n4,n\0l\n5,"five\n5"\n')
    bad = []
    found = [(row.value["a"], row.line) for row in read.rows(path, on_bad=bad.append)]
    assert found == [("2", 5), ("5", 10)]
    places = [(one.code, one.where.removeprefix(str(path))) for one in bad]
    assert places == [("D103", ":3"), ("D103", ":6"), ("D109", ":9")]
    path.write_bytes(b"caf\xe9,b\n1,2\n3,4\n")
    with pytest.raises(DataError, match="D103"):  # names of columns can't be left out
        list(read.rows(path, on_bad=bad.append))
