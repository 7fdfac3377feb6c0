"""`tunesmith demo` keeps its promise: the gain is there, and it says so when it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tunesmith.cli import demo
from tunesmith.errors import GateFailed


@pytest.mark.slow
def test_demo_teaches_merges_and_exits_0(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith.cli.main", "demo", "--json", "--dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["exact_match_before"] == 0.0
    assert result["exact_match_after"] >= 0.8
    assert result["exact_match_merged"] >= result["exact_match_after"] - 0.05
    assert result["losses"][-1] < result["losses"][0] / 3
    assert os.path.isfile(os.path.join(result["merged"], "config.json"))


def test_a_missing_gain_fails_with_exit_6():
    with pytest.raises(GateFailed, match="G101") as caught:
        demo.gate(0.0, 0.2, 0.2)
    assert caught.value.exit_code == 6


def test_a_merge_that_loses_the_gain_fails():
    with pytest.raises(GateFailed, match="G102"):
        demo.gate(0.0, 0.9, 0.5)


def test_a_gain_passes():
    demo.gate(0.0, 0.9, 0.9)


def test_curve_falls_from_the_top_left():
    lines = demo.curve([4.0, 2.0, 0.0]).splitlines()
    assert len(lines) == 10
    assert lines[1].endswith("│██")
    assert lines[8].endswith("│████")


def test_share_counts_letter_for_letter():
    assert demo.share(["a", "b", "c "], ["a", "x", "c"]) == pytest.approx(1 / 3)
