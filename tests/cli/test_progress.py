"""What a run shows on a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.cli import output, progress
from tunesmith.cli.main import main

LINE = {
    "step": 1, "loss": 2.5, "learning_rate": 1e-4, "grad_norm": 1.0, "tokens_per_second": None,
    "memory_gb": 0.5, "elapsed_s": 61.0, "eta_s": None,
}  # fmt: skip


def decode(ids: list[int]) -> str:
    return "".join(chr(ord("a") + id % 26) for id in ids)


def test_the_example_shows_where_training_begins(capsys):
    ids = list(range(1000))
    weights = [0.0] * 600 + [1.0] * 400
    progress.Terminal().example(ids, weights, decode)
    shown = capsys.readouterr().err
    assert shown.startswith("example abcdef")
    assert "[[" in shown
    assert shown.rstrip().endswith("…")
    parts = progress.excerpt(ids, weights)
    assert sum(len(part) for part, _ in parts) == progress.EXCERPT


def test_a_short_example_is_shown_whole(capsys):
    progress.Terminal().example([0, 1, 2], [0.0, 1.0, 1.0], decode)
    assert capsys.readouterr().err == "example a[[bc]]\n"


def test_what_is_not_known_yet_is_a_dash(capsys):
    shown = progress.Terminal()
    shown.metrics(LINE)
    shown.metrics({**LINE, "step": 2, "tokens_per_second": 1500.0, "eta_s": 90.0})
    _, first, second = capsys.readouterr().err.splitlines()
    assert first.split()[5:9] == ["–", "0.5G", "1:01", "–"]
    assert second.split()[5:9] == ["1.5k", "0.5G", "1:01", "1:30"]


def test_pairs_show_how_far_they_are_from_their_reference(capsys, monkeypatch):
    monkeypatch.setattr(output, "columns", lambda: 100)
    shown, kl = progress.Terminal(), {"kl/chosen": 1.26, "kl/rejected": -30.5}
    for step in range(1, 30):
        shown.metrics({**LINE, "step": step, **kl})
    shown.metrics({"step": 30, "eval_loss": 0.5} | {f"eval_{k}": v for k, v in kl.items()})
    *rows, last = capsys.readouterr().err.splitlines()[1:]
    assert all("  KL +1.3 -30.5" in row and len(row) <= 100 for row in rows)
    assert last.endswith("KL +1.26 chosen, -30.50 rejected (nats, k1)")


def test_pairs_before_the_first_step_tie(capsys):
    line = {"eval_loss": 0.6931, "eval_rewards/accuracies": 0.0, "eval_rewards/chosen": 0.0,
            "eval_rewards/rejected": 0.0, "eval_kl/chosen": 0.0,
            "eval_kl/rejected": 0.0}  # fmt: skip
    shown = progress.Terminal()
    shown.metrics({"step": 0, **line})
    shown.metrics({"step": 5, **line, "eval_rewards/chosen": 0.1, "eval_rewards/accuracies": 0.75})
    shown.metrics({"step": 0, **line, "eval_rewards/chosen": 1e-4, "eval_rewards/accuracies": 0.44})
    first, second, rounded = capsys.readouterr().err.splitlines()
    assert "right way round" not in rounded
    assert "all pairs tie, the model is its reference" in first
    assert "right way round" not in first
    assert "75% of pairs the right way round" in second


def test_the_end_says_which_lines_were_crossed(capsys, tmp_path):
    said = "KL went beyond its line of 30.9 nats from step 24 on"
    for state in ("done", "stopped"):
        progress.Terminal().done({"state": state, "step": 30, "path": tmp_path, "remarks": [said]})
        assert f"health  {said}\n" in capsys.readouterr().err


def test_the_end_says_how_long_it_took(capsys, tmp_path):
    summary = {"state": "done", "path": Path(tmp_path), "last_eval": None, "elapsed_s": 64.2}
    progress.Terminal().done(summary)
    assert capsys.readouterr().err.startswith("done in 1:04 · saved")


@pytest.mark.parametrize(("columns", "bars"), [(None, 16), (120, 16), (84, 4), (80, 0)])
def test_a_row_fits_the_terminal(capsys, monkeypatch, columns, bars):
    monkeypatch.setattr(output, "columns", lambda: columns)
    shown = progress.Terminal()
    for step in range(1, 30):
        shown.metrics({**LINE, "step": step, "loss": 1.0 + step % 7})
    row = capsys.readouterr().err.splitlines()[-1]
    assert sum(letter in progress.BARS for letter in row) == bars
    assert len(row) <= (columns or 1000)


def test_quiet_prints_only_where_the_run_is(tmp_path, tiny_model, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "Say", "completion": "so"}
    Path("rows.jsonl").write_text("\n".join(json.dumps(row | {"prompt": f"{i}"}) for i in range(4)))
    words = ["train", f"model={tiny_model}", "data.train=rows.jsonl", "train.max_steps=1"]
    assert main([*words, "--quiet", "output.name=q"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'runs' / 'q'}\n"
    assert captured.err == ""
    assert main([*words, "--json", "output.name=j"]) == 0
    assert [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()] == [1]
