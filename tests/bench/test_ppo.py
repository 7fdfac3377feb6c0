"""bench/ppo.py on the embedded model: it runs, and its last line is what it measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.house.source import ROOT


@pytest.mark.slow
def test_the_share_of_sampling_is_measured(tmp_path):
    command = [sys.executable, str(ROOT / "bench" / "ppo.py"), "--updates", "6", "--batch", "2"]
    done = subprocess.run(
        [*command, "--tokens", "8"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bench"] == "ppo"
    assert found["rounds"] == 1  # of three: the first warms up, the last has no end
    assert 0 < found["sampling_share"] < 1
    assert 0 < found["sampling_cpu_share"] < 1
    assert found["answers_per_second"] > 0 < found["answers_per_cpu_second"]
