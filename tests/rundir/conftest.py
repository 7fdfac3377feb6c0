"""A folder of runs with a home of its own."""

import pytest

from tunesmith import recipe
from tunesmith.rundir import RunDir


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder `runs` of an empty current directory, and an empty index."""
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def create(root):
    """Makes a run."""
    made = recipe.from_dict({"model": "builtin:tiny", "stage": "sft"})

    def create(name: str | None = None, **options) -> RunDir:
        return RunDir.create("stage: sft\n", made, root=root, name=name, **options)

    return create
