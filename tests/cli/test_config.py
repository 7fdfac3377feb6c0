"""`tunesmith config`."""

from __future__ import annotations

import json

from tunesmith.cli.main import main

RECIPE = "model: builtin:tiny\ndata: {train: a.jsonl}\noptim:\n  learning_rate: 3e-4\n"


def write(tmp_path, text: str = RECIPE) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_check(tmp_path, capsys):
    assert main(["config", "check", write(tmp_path), "tuner=full"]) == 0
    assert "(sft · full · single)" in capsys.readouterr().out
    assert main(["config", "check", write(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert main(["config", "check", write(tmp_path, "model: builtin:tiny\n")]) == 2
    assert "error[C114]" in capsys.readouterr().err


def test_check_knows_the_chat_templates(tmp_path, capsys):
    assert main(["config", "check", write(tmp_path), "data.template=aquila@original"]) == 0
    assert main(["config", "check", write(tmp_path), "data.template=chatmi"]) == 2
    assert "did you mean `chatml`?" in capsys.readouterr().err


def test_check_knows_the_reports(tmp_path, capsys):
    assert main(["config", "check", write(tmp_path), "log.report_to=mlflow"]) == 2
    assert "error[C195]" in capsys.readouterr().err


def test_the_error_of_the_specification(tmp_path, capsys):
    path = write(tmp_path, RECIPE.replace("learning", "learnin"))
    assert main(["config", "check", path]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    first, where, fix = captured.err.splitlines()
    assert first == "error[C102]: unknown key `learnin_rate` in section `optim`"
    assert where == f"  --> {path}:4:3      learnin_rate: 3e-4"
    assert fix.startswith("  fix: did you mean `learning_rate`?")


def test_show(tmp_path, capsys):
    path = write(tmp_path)
    assert main(["config", "show", path, "--json", "r=4"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["optim.learning_rate"] == {"value": 3e-4, "origin": f"{path}:4:3"}
    assert shown["tuner.r"] == {"value": 4, "origin": "command line"}
    assert shown["optim.adam_beta1"]["origin"] == "default"
    assert main(["config", "show", path, "--changed"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["config", "show", path]) == 0
    assert "adam_beta1: 0.9" in capsys.readouterr().out


def test_schema(capsys):
    assert main(["config", "schema", "optim"]) == 0
    shown = capsys.readouterr().out
    assert "learning_rate" in shown
    assert "Peak learning rate." in shown
    assert main(["config", "schema"]) == 0
    assert "tuner (kind: lora):" in capsys.readouterr().out
    assert main(["config", "schema", "stage", "--json"]) == 0
    assert "SftConfig" in json.loads(capsys.readouterr().out)["$defs"]
    assert main(["config", "schema", "optin"]) == 2
    assert "did you mean `optim`?" in capsys.readouterr().err
