"""Runs on data sets by name and on rows of a function; what is recorded of them."""

from __future__ import annotations

import json

import pytest

from tests.compose.test_refusals import run, settings  # noqa: F401
from tunesmith import recipe
from tunesmith.cli.main import main
from tunesmith.errors import DataError

ROWS = [{"frage": f"Say {i}", "antwort": f"{i}"} for i in range(8)]


@pytest.fixture
def sets(tmp_path):
    """A folder as LLaMA-Factory has it."""
    folder = tmp_path / "sets"
    folder.mkdir()
    (folder / "german.json").write_text(json.dumps(ROWS))
    entry = {"file_name": "german.json", "columns": {"prompt": "frage", "response": "antwort"}}
    (folder / "dataset_info.json").write_text(json.dumps({"german": entry}))
    return folder


def test_a_name_is_recorded_as_the_file_it_means(settings, sets):  # noqa: F811
    settings["data"] = {"train": ["german"], "dataset_info": str(sets), "num_proc": 1}
    directory = run(settings)
    kept = recipe.load(str(directory.path / "resolved.yaml"), environ={})
    (source,) = kept.data.train
    assert (source.path, source.format) == (str(sets / "german.json"), "alpaca")
    assert source.columns["instruction"] == "frage"
    written = (directory.path / "recipe.yaml").read_text()
    assert "german" in written
    report = json.loads((directory.path / "data_report.json").read_text())
    assert report["train"]["items"] == 8


def test_rows_of_a_function_beside_the_recipe(settings, tmp_path):  # noqa: F811
    (tmp_path / "mine.py").write_text(
        "def rows():\n    return ({'prompt': f'Say {i}', 'completion': str(i)} for i in range(6))\n"
    )
    settings["data"]["train"] = "mine.py:rows"
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps(settings))
    loaded = recipe.load(file)
    assert loaded.data.train[0].path == f"{tmp_path}/mine.py:rows"
    from tunesmith import compose

    directory = compose.train(loaded)
    report = json.loads((directory.path / "data_report.json").read_text())
    assert report["train"]["items"] == 6


def test_names_and_info_files_are_found_beside_the_recipe(sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    file = tmp_path / "r.yaml"
    file.write_text("data: {train: sets/german}")
    assert recipe.load(file).data.train[0].path == str(sets / "german")
    file.write_text("data: {train: german, dataset_info: sets}")
    loaded = recipe.load(file)
    assert (loaded.data.train[0].path, loaded.data.dataset_info) == ("german", str(sets))


def test_unknown_names_and_offline_sets_leave_no_run(settings, tmp_path):  # noqa: F811
    pytest.importorskip("datasets", reason="what is on the hub is read by the extra `hub`")
    for train, code in (("belle_1n", "D132"), ("belle_1m", "D130")):
        settings["data"]["train"] = train
        with pytest.raises(DataError, match=code):
            run(settings)
    assert not (tmp_path / "runs" / "r").exists()


def test_names_are_inspected(sets, capsys):
    assert main(["data", "inspect", str(sets / "german"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["items"] == 8
    assert found["summary"]["sources"][0]["format"] == "alpaca"
