"""Fixtures for all tests: deterministic, offline, one thread, a home of their own."""

import os
from pathlib import Path

import pytest

# Before torch is imported anywhere: tests must not depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory):
    """Caches and the run index go to a temporary home."""
    os.environ["TUNESMITH_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and data sets; skips where it is not beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("TUNESMITH_TEST_DATA", beside))
    if not path.is_dir():
        pytest.skip("real material not found: set TUNESMITH_TEST_DATA")
    return path
