"""`tunesmith export`, and the folder it makes in `chat`, `generate`, `serve` and plain torch."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exporting.models import make, reload, train
from tests.generation.test_torch import requests, tokens
from tunesmith.cli.main import main
from tunesmith.generation.graph import GraphGenerator
from tunesmith.generation.torch import TorchGenerator

FEW = ("--max-tokens", "8")


@pytest.fixture(scope="module")
def graph(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "graph"
    assert main(["export", str(tiny_model), "--to", "graph", "-o", str(out)]) == 0
    return out


def test_what_is_printed(tiny_model, tmp_path, capsys):
    words = ["export", str(tiny_model), "--to", "graph", "-o", str(tmp_path / "out")]
    assert main([*words, "--context", "70"]) == 0
    shown = capsys.readouterr().out
    assert "llama in float32 · 70 tokens of context" in shown
    assert "from the model, whose largest is" in shown
    assert f"tunesmith chat {tmp_path / 'out'}" in shown
    assert main(words) == 2
    assert "C212" in capsys.readouterr().err
    assert main([*words, "--yes", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["context"], report["chunk"]) == (512, 64)


def test_generate_answers_as_the_model_does(graph, tiny_model, capsys):
    said = []
    for model in (graph, tiny_model):
        assert main(["generate", str(model), "-p", "hello there", *FEW]) == 0
        shown = capsys.readouterr()
        said.append(shown.out)
    assert said[0] == said[1]
    assert main(["generate", str(graph), "-p", "hello", *FEW]) == 0
    assert "one request at a time" in capsys.readouterr().err


def test_chat_talks_to_it(graph, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\nexit\n"))
    assert main(["chat", str(graph), *FEW]) == 0
    assert "(exported graph)" in capsys.readouterr().err


def test_a_schema_holds(graph, tmp_path, capsys):
    (tmp_path / "s.json").write_text('{"type": "string", "enum": ["yes", "no"]}')
    words = ["generate", str(graph), "-p", "hi", "--max-tokens", "40"]
    assert main([*words, "--schema", str(tmp_path / "s.json")]) == 0
    assert json.loads(capsys.readouterr().out) in ("yes", "no")


@pytest.mark.parametrize(
    "words",
    [
        ("--engine", "torch"),
        ("--window", "100"),
        ("--beams", "2"),
        ("--lookup", "3"),
        ("--dtype", "float32"),
        ("--quantize", "bnb4"),
    ],
    ids=lambda words: words[0],
)
def test_options_it_can_not_honour(graph, capsys, words):
    assert main(["generate", str(graph), "-p", "hi", *words]) == 2
    shown = capsys.readouterr().err
    assert "G172" in shown
    assert words[0] in shown


def test_it_is_offered_by_a_server(graph):
    from tunesmith.compose import serving
    from tunesmith.compose.answering import Engine
    from tunesmith.errors import ConfigError, ServeError

    [offer] = serving.offers(str(graph), "g", {}, slots=4)
    assert offer.context == 512
    assert offer.forms is not None
    assert offer.generator is not None
    assert tokens(offer.generator.generate(requests([(5, 6)])))["0"]
    with pytest.raises(ConfigError, match="--window is not possible"):
        serving.offers(str(graph), "g", {}, slots=4, engine=Engine(window=9))
    with pytest.raises(ServeError, match="an exported graph is served without adapters"):
        serving.offers(str(graph), "g", {"a": "b"}, slots=4)


def test_an_adapter_is_merged_first(tmp_path, capsys):
    base = make("llama", tmp_path / "base")
    train(base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
    words = ["export", str(tmp_path / "adapter"), "--to", "graph", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    assert "1 adapter(s) merged into" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "adapter"), "-o", str(tmp_path / "merged")]) == 0
    asked = requests([(5, 6, 7)], max_tokens=12)
    found = tokens(GraphGenerator(tmp_path / "out").generate(asked))
    merged = TorchGenerator(reload(tmp_path / "merged"))
    assert found == tokens(merged.generate(asked))
    assert found != tokens(TorchGenerator(reload(base)).generate(asked))
    manifest = json.loads((tmp_path / "out" / "graph.json").read_text())
    assert manifest["made_of"] == {"model": "base", "merged": ["adapter"]}


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_virtual_tokens_are_refused_by_name(tiny_model, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Say {i}", "completion": f"{i}"} for i in range(4)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"model={tiny_model}", "data.train=rows.jsonl", "data.num_proc=1", f"tuner={kind}"]
    words += ["train.max_steps=1", "train.save_steps=1", "output.name=short"]
    assert main(["train", *words]) == 0
    for spec in ("short", "short@step-1"):
        capsys.readouterr()
        assert main(["export", spec, "--to", "graph", "-o", "out"]) == 1
        shown = capsys.readouterr().err
        assert "X320" in shown
        assert f"{kind} tuning" in shown
    assert not Path("out").exists()


def test_without_tunesmith(graph, tmp_path):
    """The snippet of docs/export.md, in a process where tunesmith can't be imported."""
    page = Path(__file__).parents[2] / "docs" / "export.md"
    [snippet] = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    script = tmp_path / "plain.py"
    script.write_text("import sys; sys.modules['tunesmith'] = None\n" + snippet, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(graph)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = tokens(GraphGenerator(graph).generate(requests([(1,)], max_tokens=20)))["0"]
    assert json.loads(done.stdout) == [1, *wanted]
