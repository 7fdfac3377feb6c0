"""`tunesmith doctor`: findings, exit codes, and a report without secrets."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from tunesmith.cli import checkup
from tunesmith.cli.main import main


def test_a_sound_installation(capsys):
    assert main(["doctor", "--quick", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"] is True
    found = {finding["name"]: finding for finding in shown["findings"]}
    assert found["torch"]["status"] == "ok"
    assert "float32" in found["dtypes"]["detail"]
    assert found["optional: gguf"]["fix"] in ("", "pip install 'tunesmith[gguf]'")


@pytest.mark.parametrize(
    ("version", "wanted", "expected"),
    [
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.12.0", "==2.13.0", False),
        ("5.23.1", ">=5.23,<5.24", True),
        ("5.24.0", ">=5.23,<5.24", False),
        ("5.9", ">=5.23", False),
        ("1.16.4", "==1.16.*", True),
        ("3.0rc1", ">=3", True),
        ("1.0", "", True),
        ("1.0", "!=1.0", False),
    ],
)
def test_ranges(version, wanted, expected):
    assert checkup.fits(version, wanted) is expected


def test_wrong_versions_are_found(monkeypatch, capsys):
    found = {"torch": "2.1.0", "transformers": None}
    real = checkup.installed
    monkeypatch.setattr(checkup, "installed", lambda name: found.get(name, real(name)))
    findings = {finding.name: finding for finding in checkup.versions()}
    assert findings["torch"].status == "warn"
    assert findings["torch"].fix == "pip install 'torch==2.13.0'"
    assert findings["transformers"].status == "fail"
    assert main(["doctor", "--quick"]) == 6
    captured = capsys.readouterr()
    assert "FAIL  transformers" in captured.out
    assert "checks failed: transformers" in captured.err


def test_a_home_that_cannot_be_written(monkeypatch):
    monkeypatch.setenv("TUNESMITH_HOME", "/proc/nowhere")
    found = {finding.name: finding for finding in checkup.places()}
    assert (found["home"].status, found["home"].fix) == ("fail", "set TUNESMITH_HOME")


def test_the_report_holds_no_secrets(tmp_path, own_home, monkeypatch, capsys):
    secret = "hf_abcdefghijklmnopqrst"
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("HF_ENDPOINT", f"https://user:{secret}@mirror")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("TUNESMITH_API_KEY", "hush")
    (own_home / "log.txt").write_text(f"Authorization: {secret} {Path.home()}/x\n")
    report = tmp_path / "doctor.json"
    assert main(["doctor", "--quick", "--report", str(report)]) == 0
    text = report.read_text()
    assert secret not in text
    assert "hush" not in text
    shown = json.loads(text)
    assert shown["environment"]["HF_TOKEN"] == shown["environment"]["TUNESMITH_API_KEY"] == "(set)"
    assert shown["log"] == ["Authorization: (removed) ~/x"]
    assert shown["machine"]["cores"] >= 1
    assert "report:" in capsys.readouterr().err


@pytest.mark.slow
def test_the_embedded_model_works_offline():
    if not (Path(str(files("tunesmith"))) / "assets" / "tiny" / "config.json").is_file():
        pytest.skip("this installation has no embedded model")
    found = list(checkup.embedded_model())
    assert [(finding.name, finding.status) for finding in found] == [
        ("embedded model loads", "ok"),
        ("embedded model generates", "ok"),
        ("embedded model trains", "ok"),
    ], found


def test_a_broken_embedded_model_is_told(monkeypatch):
    monkeypatch.setattr(
        checkup, "MODEL_CHECK", "print('[\"loads\", \"x\"]')\nraise ValueError('no')"
    )
    monkeypatch.setattr(checkup.Path, "is_file", lambda self: True)
    monkeypatch.setattr(checkup, "_share_probe", lambda home: None)
    found = list(checkup.embedded_model())
    assert [finding.status for finding in found] == ["ok", "fail"]
    assert found[1].detail == "ValueError: no"
