"""`tunesmith model convert-tokenizer` where there is nothing to convert."""

from __future__ import annotations

import pytest

from tunesmith.cli.model_tokenizer import convert_tokenizer
from tunesmith.errors import ConfigError


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_tokenizer_json_alone_is_said_to_be_one(tmp_path, elsewhere):
    (tmp_path / "tokenizer.json").write_text("{}")
    out = tmp_path / "out" if elsewhere else None
    with pytest.raises(ConfigError, match="nothing to convert") as found:
        convert_tokenizer(tmp_path, out, yes=True)
    assert found.value.code == "C212"
    assert not (tmp_path / "out").exists()
