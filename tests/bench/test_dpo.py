"""bench/dpo.py on its smallest model: both sides run, agree, and are compared."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.house.source import ROOT


@pytest.mark.slow
def test_both_sides_compute_the_same_and_a_busy_machine_is_told(tmp_path):
    pytest.importorskip("trl", reason="needs the extra `parity`: pip install 'tunesmith[parity]'")
    command = [sys.executable, str(ROOT / "bench" / "dpo.py"), "--size", "nano", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--steps", "3", "--batch", "2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["ours"]) == len(found["peers"]) == 1
    for ours, peer in zip(found["ours"], found["peers"], strict=True):
        assert len(ours["losses"]) == 3
        assert ours["losses"] == pytest.approx(peer["losses"], rel=5e-5)
        assert len(set(ours["losses"])) == 3  # they learn
        assert ours["load_before"] >= 0 < peer["pairs_per_second"]
    ratios = found["ratios"]
    assert ratios["speed_min"] <= ratios["speed"] <= ratios["speed_max"]
    assert found["load"]["quiet"] in (True, False)
