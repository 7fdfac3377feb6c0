"""What a run shows on a terminal."""

from __future__ import annotations

from pathlib import Path

from tunesmith.cli import progress

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


def test_the_end_says_how_long_it_took(capsys, tmp_path):
    summary = {"state": "done", "path": Path(tmp_path), "last_eval": None, "elapsed_s": 64.2}
    progress.Terminal().done(summary)
    assert capsys.readouterr().err.startswith("done in 1:04 · saved")
