"""The engine over an exported folder, and the reader that runs only what it knows."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch

from tests.conftest import byte_tokenizer
from tests.exporting.models import VOCABULARY, make
from tests.generation.test_torch import requests, tokens
from tunesmith.errors import ConfigError, DataError, ExportError
from tunesmith.exporting import graph as exporting
from tunesmith.generation import base, graph_impl
from tunesmith.generation.graph import GraphGenerator
from tunesmith.generation.graph_program_impl import Program, Unreadable
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Request, Sampling

SLOW = ("stories260K", pytest.param("babyllama105", marks=pytest.mark.slow))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph")
    exporting.export(make("qwen3", path / "base"), path / "out")
    return path / "out"


@pytest.fixture
def engine(folder):
    return GraphGenerator(folder)


@pytest.mark.shared
@pytest.mark.parametrize("name", SLOW)
def test_golden_answers_of_real_models(name, shared_data, tmp_path):
    source = shared_data / "models" / name / "hf"
    entries = json.loads((shared_data / "models" / "GOLDEN.json").read_text())[name]
    golden = [entry for entry in entries if "output_ids" in entry]
    exporting.export(source, tmp_path / "out")
    engine = base.build("graph", tmp_path / "out", Tokenizer.load(tmp_path / "out"))
    [length] = {len(entry["output_ids"]) for entry in golden}
    asked = requests([entry["prompt_ids"] for entry in golden], max_tokens=length)
    events = engine.generate(asked)
    assert list(tokens(events).values()) == [entry["output_ids"] for entry in golden]
    for entry, found in zip(golden, events.values(), strict=True):
        assert entry["text"].endswith(base.text(found))


def test_requests_are_answered_in_turn_and_cancelled(engine):
    assert "one request at a time" in engine.notes[0]
    asked = requests([(5, 6), (7,), (8,)], max_tokens=3)
    for request in asked:
        engine.submit(request)
    with pytest.raises(ConfigError, match="being answered already"):
        engine.submit(asked[0])
    engine.cancel("1")
    engine.cancel("nobody")
    events = [event for _ in range(10) for event in engine.step()]
    assert [event.id for event in events] == ["1", "0", "0", "0", "2", "2", "2"]
    assert [e.finish_reason for e in events if e.finish_reason] == ["cancelled", "length", "length"]
    assert engine.step() == []


def test_an_answer_ends_with_the_context_or_a_stop_token(engine):
    assert engine.context == 64
    found = engine.generate(requests([tuple(range(50))], max_tokens=100))["0"]
    assert (len(found), found[-1].finish_reason) == (14, "length")
    stop = found[3].token
    first = next(at for at, event in enumerate(found) if event.token == stop)
    again = engine.generate(requests([tuple(range(50))], stop_ids=(stop,)))["0"]
    assert (len(again), again[-1].finish_reason) == (first + 1, "stop")


def test_sampling_is_that_of_the_other_engines(engine, folder):
    from transformers import AutoModelForCausalLM

    from tunesmith.generation.torch import TorchGenerator

    hf = AutoModelForCausalLM.from_pretrained(folder).eval()
    how = {"temperature": 0.9, "seed": 3, "top_p": 0.95, "logprob": True, "top_logprobs": 2}
    asked = requests([(5, 6, 7), (9,)], repetition_penalty=1.2, **how)
    found, wanted = engine.generate(asked), TorchGenerator(hf).generate(asked)
    assert tokens(found) == tokens(wanted)
    for one, other in zip(found["0"], wanted["0"], strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [token for token, _ in one.top] == [token for token, _ in other.top]


def test_a_constraint_is_asked(engine):
    class Even:
        def mask(self, ids):
            return list(range(0, VOCABULARY, 2))

    found = engine.generate([Request("a", (5,), Sampling(max_tokens=9), constraint=Even())])["a"]
    assert all(event.token % 2 == 0 for event in found)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"ids": ()}, "D402"),
        ({"ids": (VOCABULARY,)}, "D402"),
        ({"ids": (1,) * 64}, "D401"),
        ({"adapter": "a"}, "G120"),
        ({"constraint": 1}, "G122"),
        ({"sampling": Sampling(stop=("x",))}, "C210"),
        ({"sampling": Sampling(top_p=2)}, "C210"),
    ],
)
def test_what_can_not_be_answered(engine, words, code):
    request = Request(**{"id": "a", "ids": (1,), "sampling": Sampling(), **words})
    with pytest.raises((ConfigError, DataError)) as caught:
        engine.submit(request)
    assert caught.value.code == code


def test_stop_strings_with_a_tokenizer(folder, tmp_path):
    byte_tokenizer(tmp_path)
    engine = GraphGenerator(folder, Tokenizer.load(tmp_path))
    asked = Request("a", (5, 6), Sampling(max_tokens=20))
    said = base.text(engine.generate([asked])["a"])
    stop = said[3:5]
    again = Request("a", (5, 6), Sampling(max_tokens=20, stop=(stop,)))
    assert base.text(engine.generate([again])["a"]) == said[: said.index(stop)]


# ---------------------------------------------------------------- the reader


def program(folder):
    return json.loads((folder / "decode.json").read_text())


def nodes(told):
    return told["graph_module"]["graph"]["nodes"]


def embedding(told):
    return next(node for node in nodes(told) if "embedding" in node["target"])


def refused(folder, told):
    """What is said about a program."""
    opened = graph_impl.open_folder(folder)
    tensors = {name: torch.zeros(1) for name in _wanted(program(folder))}
    with pytest.raises(Unreadable) as caught:
        Program(told, tensors)
    assert opened.decode.inputs[0].startswith("ids")
    return str(caught.value)


def _wanted(told):
    for spec in told["graph_module"]["signature"]["input_specs"]:
        [(_, said)] = spec.items()
        yield from (value for key, value in said.items() if key.endswith("_name"))


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.load",
        "torch.hub.load",
        "_operator.getitem",
        "math.sqrt",
        "#torch.higher_order_ops.cond",
        "linear.default",
        "os.system",
    ],
)
def test_operations_that_are_not_known_are_not_run(folder, target):
    told = program(folder)
    nodes(told)[0]["target"] = target
    assert repr(target) in refused(folder, told)


@pytest.mark.parametrize(
    "argument",
    [
        {"as_string": "/etc/passwd"},
        {"as_sym_int": {"as_name": "s0"}},
        {"as_graph": {"name": "g", "graph": {}}},
        {"as_custom_obj": {"name": "x", "class_fqn": "y"}},
        {"as_operator": "torch.load"},
        {"as_device": {"type": "meta", "index": None}},
        {"as_int": "__import__('os')"},
        {"as_ints": [1, "2"]},
        {"as_scalar_type": 99},
        {"as_tensor": {"name": "nobody"}},
        {"as_tensor": {"name": ["a"]}},
    ],
    ids=lambda argument: next(iter(argument)),
)
def test_arguments_that_are_not_known_are_refused(folder, argument):
    told = program(folder)
    embedding(told)["inputs"][1]["arg"] = argument
    assert refused(folder, told)


def test_programs_that_lack_something(folder):
    told = program(folder)
    for damage in ("nodes", "signature"):
        torn = copy.deepcopy(told)
        home = torn["graph_module"]
        (home["graph"] if damage == "nodes" else home).pop(damage)
        assert "not of the form" in refused(folder, torn)
    with pytest.raises(Unreadable, match="is missing"):
        Program(told, {})


@pytest.fixture
def damaged(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "out")


def unreadable(path):
    with pytest.raises(ExportError) as caught:
        GraphGenerator(path)
    assert caught.value.code == "X324"
    return caught.value.why


def test_a_damaged_folder_says_what_is_wrong(damaged):
    (damaged / "decode.json").write_text((damaged / "decode.json").read_text() + " ")
    assert "decode.json is not the file that was exported" in unreadable(damaged)
    (damaged / "decode.json").unlink()
    assert "decode.json" in unreadable(damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert unreadable(damaged)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "another version"),
        ({"weights": "../model.safetensors"}, "no name of a file in it"),
        ({"aliases": {"a": "nobody"}}, "nobody"),
        ({"programs": {}}, "prefill"),
        ({"context": "64"}, "is no size"),
        ({"context": 65}, "does not fit its cache"),
        ({"dtype": "object"}, "names no type"),
    ],
)
def test_a_manifest_that_is_not_one(damaged, change, said):
    manifest = json.loads((damaged / "graph.json").read_text())
    (damaged / "graph.json").write_text(json.dumps({**manifest, **change}))
    assert said in unreadable(damaged)


def test_another_version_of_torch_is_said(damaged):
    manifest = json.loads((damaged / "graph.json").read_text())
    (damaged / "graph.json").write_text(json.dumps({**manifest, "torch": "2.0.1"}))
    assert "made by torch 2.0.1, this is" in GraphGenerator(damaged).notes[0]


def test_a_program_that_fails_is_told(damaged):
    manifest = json.loads((damaged / "graph.json").read_text())
    for pair in manifest["cache"]:
        pair["keys"] = [1, 1, 64, 8]
    (damaged / "graph.json").write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match="can't be used") as caught:
        GraphGenerator(damaged).generate(requests([(5, 6)]))
    assert "its program fails" in caught.value.why
