"""Finding runs by id, prefix, path, `last` and through the index."""

from __future__ import annotations

import json

import pytest

from tunesmith.errors import RunError
from tunesmith.rundir import RunDir, names


def begun(run: RunDir, time: str) -> RunDir:
    run.update(created=time)
    return run


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("last", ("last", None)),
        ("run:last@best", ("last", "best")),
        ("a@step-100", ("a", "step-100")),
        ("runs/a@final", ("runs/a", "final")),
        ("a@b", ("a@b", None)),
        ("a@step-x", ("a@step-x", None)),
    ],
)
def test_selectors(spec, expected):
    assert names.split(spec) == expected


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("builtin:tiny", "tiny"),
        ("org/My Model-7B/", "my_model_7b"),
        ("run:last", "last"),
        ("C:\\models\\x", "x"),
        ("", ""),
        ("模型", ""),
        ("a" * 99, "a" * 24),
    ],
)
def test_slugs(text, slug):
    assert names.slug(text) == slug


def test_id_prefix_path_and_last(create, root):
    old = begun(create("2026-a"), "2026-01-01")
    new = begun(create("2026-b"), "2026-01-02")
    assert RunDir.find("2026-a")[0].path == old.path
    assert RunDir.find("2026-b@best")[1] == "best"
    assert RunDir.find("runs/2026-a")[0].path == old.path
    assert RunDir.find(str(new.path) + "/")[0].path == new.path
    assert RunDir.find("last")[0].path == new.path
    (root / "last").unlink()
    assert RunDir.find("last")[0].path == new.path
    create("2026-abc")
    assert RunDir.find("2026-a")[0].path == old.path  # the whole id beats a prefix
    with pytest.raises(RunError) as caught:
        RunDir.find("2026")
    assert caught.value.code == "R106"


def test_last_of_an_empty_folder_is_the_newest_of_the_index(create, tmp_path, monkeypatch):
    begun(create("newer"), "2026-01-02")
    begun(create("older"), "2026-01-01")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert RunDir.find("last")[0].id == "newer"
    assert RunDir.find("old")[0].id == "older"


def test_what_is_not_there(create, tmp_path):
    with pytest.raises(RunError) as caught:
        RunDir.find("last")
    assert caught.value.code == "R105"
    create("something")
    for spec in ("somethink", str(tmp_path), "step-100"):
        with pytest.raises(RunError) as caught:
            RunDir.find(spec)
        assert caught.value.code == "R105"
    with pytest.raises(RunError, match="did you mean `something`"):
        RunDir.find("somethink")


def test_the_index_forgets_what_is_gone(create, tmp_path):
    run, other = create("a"), create("b")
    index = tmp_path / "home" / "runs.jsonl"
    with index.open("a") as file:
        file.write('{"path": "/nowhere"}\n{"torn')
    assert names.indexed() == [run.path, other.path]
    names.forget(run.path)
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    assert lines == [{"path": str(other.path)}]
