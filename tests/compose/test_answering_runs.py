"""Who answers for a run that is still training, and how early a missing model is told."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tunesmith.compose.answering import answering
from tunesmith.errors import RunError
from tunesmith.rundir import lock


def test_a_run_that_is_still_training_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "20260101-0000-sft-a-abcd"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"id": run.name, "state": "running", "base": None}))
    with pytest.raises(RunError, match="R107") as caught:
        answering(str(run))
    assert "tunesmith resume" in str(caught.value)
    with lock.held(run):
        with pytest.raises(RunError, match="R107") as caught:
            answering(str(run))
        told = str(caught.value)
        assert "still training" in told
        assert "resume" not in told
        (run / "final").mkdir()
        _, said = answering(str(run))
        assert said == (f"{run.name} is still training: final, the best it has saved, answers",)
    assert answering(str(run)) == (str(run), ())


@pytest.mark.parametrize(
    "words", [["nothing"], ["no.gguf"], ["builtin:tiny", "--adapter", "a=no-such-run"]]
)
def test_serve_tells_a_missing_model_before_torch_is_loaded(words, tmp_path):
    program = (
        "import sys; from tunesmith.cli.main import main; "
        f"print(main(['serve', *{words!r}]), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert "E201" in done.stderr
