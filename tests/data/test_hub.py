"""Sets of the hub, with stand-ins for the functions that ask the network."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from tunesmith.data import encode, hub, read
from tunesmith.errors import DataError, MissingExtra, RunError
from tunesmith.recipe.sections import Source

ROWS = [{"instruction": f"{i}", "output": "yo"} for i in range(5)]
COMMIT = "0123456789abcdef"


@pytest.fixture
def network(monkeypatch):
    """A hub with one set; `asked` holds what it was asked."""
    datasets = pytest.importorskip("datasets")
    import huggingface_hub

    state = SimpleNamespace(asked=[], rows=ROWS, error=None)

    def answer(*args, **options):
        state.asked.append((args, options))
        if state.error is not None:
            raise state.error
        return iter(state.rows)

    class Api:
        def dataset_info(self, repo, revision=None):
            return SimpleNamespace(sha=COMMIT)

    monkeypatch.setattr(datasets, "load_dataset", answer)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return state


def fetch(tmp_path, source, said=None):
    said = [] if said is None else said
    return hub.fetched(source, None, tmp_path, lambda topic, text: said.append(text))


@pytest.mark.parametrize(
    ("path", "repo", "inside", "is_file"),
    [
        ("hf:org/set", "org/set", "", False),
        ("hf:org/set/python", "org/set", "python", False),
        ("hf:org/set/a/b.jsonl.gz", "org/set", "a/b.jsonl.gz", True),
        ("hf:squad", "squad", "", False),
    ],
)
def test_addresses(path, repo, inside, is_file):
    at = hub.address(path)
    assert (at.repo, at.inside, at.is_file) == (repo, inside, is_file)


def test_a_set_is_fetched_once(tmp_path, network):
    said = []
    source = Source("hf:org/set", subset="en", split="test", weight=0.5)
    first = fetch(tmp_path, source, said)
    assert [row.value for row in read.rows(first.path)] == ROWS
    assert (first.weight, first.split, first.subset) == (0.5, None, None)
    (asked,) = network.asked
    assert asked[0] == ("org/set",)
    options = {"name": "en", "split": "test", "data_dir": None, "revision": COMMIT}
    assert options.items() <= asked[1].items()
    assert not asked[1]["streaming"]
    network.error = AssertionError("asked again")
    assert fetch(tmp_path, source, said) == first
    assert f"5 rows of commit {COMMIT[:12]}" in said[1]
    assert f"commit {COMMIT[:12]}" in said[2]
    assert encode.detect(first) == "alpaca"


def test_only_the_first_rows_are_streamed(tmp_path, network):
    found = fetch(tmp_path, Source("hf:org/set", max_samples=2))
    assert len(list(read.rows(found.path))) == 2
    assert network.asked[0][1]["streaming"]
    whole = fetch(tmp_path, Source("hf:org/set"))
    assert len(list(read.rows(whole.path))) == 5


def test_other_splits_subsets_and_revisions_are_other_copies(tmp_path, network):
    sources = [
        Source("hf:org/set"),
        Source("hf:org/set/part"),
        Source("hf:org/set", split="test"),
        Source("hf:org/set", subset="test"),
        Source("hf:org/set", revision="test"),
    ]
    assert len({fetch(tmp_path, source).path for source in sources}) == len(sources)


@pytest.mark.parametrize("asked_for", [None, "v1.0"])
def test_the_commit_that_was_read_is_found_again(tmp_path, network, asked_for):
    source = Source("hf:org/set", revision=asked_for)
    first = fetch(tmp_path, source)
    pinned = hub.pinned(source, None, tmp_path)
    assert pinned.revision == COMMIT
    network.error = AssertionError("asked again")
    assert fetch(tmp_path, pinned) == first
    assert hub.pinned(pinned, None, tmp_path) == pinned


def test_a_commit_that_nobody_tells_is_not_pinned(tmp_path, network, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    def offline(self, repo, revision=None):
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", offline)
    source = Source("hf:org/set")
    fetch(tmp_path, source)
    assert hub.pinned(source, None, tmp_path) == source
    assert hub.pinned(Source("hf:org/set/a.jsonl"), None, tmp_path).revision is None


def test_a_copy_that_was_cut_is_made_again(tmp_path, network):
    source = Source("hf:org/set")
    path = fetch(tmp_path, source).path
    with open(path, "ab") as stream:
        stream.write(b"{}\n")
    assert len(list(read.rows(fetch(tmp_path, source).path))) == 5
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_values_that_json_lacks(tmp_path, network):
    import datetime

    network.rows = [
        {"a": datetime.date(2024, 1, 2), "image": b"x", "messages": []},
        "text",
        {"b": "\ud800"},
    ]
    path = fetch(tmp_path, Source("hf:org/set")).path
    bad = []
    first, second = read.rows(path, on_bad=bad.append)
    assert first.value == {"a": "2024-01-02", "image": "<bytes>", "messages": []}
    assert second.value == {"text": "text"}
    assert [error.code for error in bad] == ["D109"]


def response(status=404):
    """What the hub's errors look at of an answer."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


def line_error():
    """An error of the hub's HTTP library, as without a route."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]("no route to host")


def refusals():
    from huggingface_hub import errors

    return {
        "D131.*gated(.|\n)*HF_TOKEN": errors.GatedRepoError("x", response=response(403)),
        "D131.*no data set `org/set`": errors.RepositoryNotFoundError("x", response=response()),
        "D131.*no revision `v9`": errors.RevisionNotFoundError("x", response=response()),
        "D131.*Unknown split(.|\n)*split:": ValueError('Unknown split "x".\nmore'),
        "D131.*Dataset scripts(.|\n)*hf:org/set/FILE": RuntimeError("Dataset scripts are no more"),
        "D130.*hf:org/set is not here(.|\n)*hf download org/set --repo-type": (
            errors.OfflineModeIsEnabled("x")
        ),
        "D130.*can't be reached": line_error(),
    }


@pytest.mark.parametrize("pattern", refusals())
def test_what_the_hub_refuses(tmp_path, network, pattern):
    network.error = refusals()[pattern]
    with pytest.raises(DataError, match=pattern) as caught:
        fetch(tmp_path, Source("hf:org/set", revision="v9"))
    assert len(str(caught.value).splitlines()) <= 3
    assert not list(tmp_path.rglob("*.jsonl"))


def test_offline_for_real(tmp_path, monkeypatch):
    """Nothing is stood in for: the libraries themselves are told to stay offline."""
    pytest.importorskip("datasets")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for path in ("hf:org/set", "hf:org/set/a.jsonl"):
        with pytest.raises(DataError, match=r"D130(.|\n)*hf download org/set"):
            hub.fetched(Source(path), str(tmp_path / "cache"), tmp_path, lambda *_: None)


def test_offline_with_the_set_in_the_cache_of_datasets(tmp_path, network, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    class Api:
        def dataset_info(self, repo, revision=None):
            raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    said = []
    found = fetch(tmp_path, Source("hf:org/set", revision="v1"), said)
    assert len(list(read.rows(found.path))) == 5
    assert network.asked[0][1]["revision"] == "v1"
    assert "commit unknown" in said[-1]


def test_a_full_disk_is_no_answer_of_the_hub(tmp_path, network):
    network.error = OSError(28, "No space left on device")
    with pytest.raises(RunError, match=r"R221.*the copy of a data set.*No space"):
        fetch(tmp_path, Source("hf:org/set"))


def test_a_home_that_can_not_be_written(tmp_path, network):
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(RunError, match=r"R221(.|\n)*data"):
        fetch(tmp_path, Source("hf:org/set"))


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"datasets(.|\n)*tunesmith\[hub\]"):
        fetch(tmp_path, Source("hf:org/set"))


def test_one_file_needs_no_package(tmp_path, monkeypatch):
    import huggingface_hub

    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(ROWS[0]))
    asked = {}

    def download(repo, inside, **options):
        asked.update(options, repo=repo, inside=inside)
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = hub.fetched(Source("hf:org/set/x/a.jsonl", revision="v1"), "c", tmp_path, lambda *_: 0)
    assert found.path == str(file)
    expected = {"repo": "org/set", "inside": "x/a.jsonl", "revision": "v1", "cache_dir": "c"}
    assert expected.items() <= asked.items()


@pytest.mark.parametrize("first", [None, 2])
def test_the_real_loader(tmp_path, monkeypatch, first):
    """`datasets` itself, on a repository that lies here: only the commit is stood in for."""
    pytest.importorskip("datasets")
    import huggingface_hub

    class Api:
        def dataset_info(self, repo, revision=None):
            return SimpleNamespace(sha=COMMIT)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "org" / "set" / "part"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "test.jsonl").write_text(json.dumps(ROWS[0]))
    source = Source("hf:org/set/part", max_samples=first)
    found = hub.fetched(source, str(tmp_path / "cache"), tmp_path / "home", lambda *_: None)
    assert [row.value for row in read.rows(found.path)] == ROWS[:first]
    other = Source("hf:org/set/part", split="validation", max_samples=first)
    with pytest.raises(DataError, match=r"D131.*validation(.|\n)*split:"):
        hub.fetched(other, str(tmp_path / "cache"), tmp_path / "home", lambda *_: None)
