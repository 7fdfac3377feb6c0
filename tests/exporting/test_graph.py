"""`export --to graph`: what is written, what it computes, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.exporting.models import VOCABULARY, logits, make, reload
from tests.generation.test_torch import requests, tokens
from tunesmith.errors import ConfigError, ExportError
from tunesmith.exporting import graph, graph_trace_impl
from tunesmith.generation.graph import GraphGenerator
from tunesmith.generation.torch import TorchGenerator

_SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "gemma3_text": {"head_dim": 8, "sliding_window": 6},
}
MORE = {
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 6},
    "qwen2": {},
    "gemma2": {"head_dim": 8, "sliding_window": 6},
    "phi3": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {},
    "olmo2": {},
    "cohere": {},
    "qwen3_moe": {
        "head_dim": 8, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2
    },
}  # fmt: skip
PROMPTS = [tuple((7 * i + 3 * n) % VOCABULARY for i in range(n)) for n in (1, 5, 64, 150)]


def saved(family, path, fields=None):
    """A random model of 256 positions, saved."""
    torch.manual_seed(0)
    words = {**_SMALL, **({**FAMILIES, **MORE}[family] if fields is None else fields)}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **words))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or name.endswith("bias"):
                parameter.normal_(0, 0.2)
    model.eval().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """(model directory, exported folder, report)"""
    folder = tmp_path_factory.mktemp("graph")
    base = saved("llama", folder / "base")
    return base, folder / "out", graph.export(base, folder / "out")


def agree(base, out):
    """The folder's greedy tokens are those of the plain engine."""
    asked = requests(PROMPTS, max_tokens=20)
    hf = AutoModelForCausalLM.from_pretrained(base).eval()
    wanted = tokens(TorchGenerator(hf).generate(asked))
    assert tokens(GraphGenerator(out).generate(asked)) == wanted
    assert len({tuple(answer) for answer in wanted.values()}) > 1


@pytest.mark.parametrize(
    "family", [*FAMILIES, *(pytest.param(family, marks=pytest.mark.slow) for family in MORE)]
)
def test_greedy_tokens_are_the_plain_engines(family, tmp_path):
    base = saved(family, tmp_path / "base")
    report = graph.export(base, tmp_path / "out")
    assert report.max_abs_diff < 1e-4
    agree(base, tmp_path / "out")


def test_learned_positions_end_where_the_model_does(tmp_path):
    """GPT-2 of 64 positions: a chunk of padding must not reach beyond them."""
    base = make("gpt2", tmp_path / "base")
    report = graph.export(base, tmp_path / "out", context=40)
    assert report.context == 40
    asked = requests(PROMPTS[:2], max_tokens=100)
    hf = AutoModelForCausalLM.from_pretrained(base)
    wanted = tokens(TorchGenerator(hf).generate(asked))
    found = tokens(GraphGenerator(tmp_path / "out").generate(asked))
    assert {id: len(answer) for id, answer in found.items()} == {"0": 39, "1": 35}
    assert found == {id: answer[: len(found[id])] for id, answer in wanted.items()}


def test_the_folder_is_a_model_directory_too(llama):
    base, out, _ = llama
    assert torch.equal(logits(reload(out)), logits(reload(base)))


def test_files_are_json_and_safetensors(llama):
    _, out, _ = llama
    names = {path.name for path in out.iterdir()}
    assert {path.rsplit(".", 1)[1] for path in names} == {"json", "safetensors"}
    manifest = json.loads((out / "graph.json").read_text())
    assert manifest["torch"] == torch.__version__
    inputs = manifest["programs"]["decode"]["inputs"]
    assert [i["name"] for i in inputs][:5] == ["ids", "begin", "last", "keys.0", "keys.1"]
    assert inputs[3] == {
        "name": "keys.0", "dtype": "float32", "shape": [1, 2, 256, 8], "written": True
    }  # fmt: skip
    assert manifest["programs"]["prefill"]["inputs"][0]["shape"] == [64]
    text = (out / "decode.json").read_text() + (out / "graph.json").read_text()
    assert "site-packages" not in text
    assert str(out.parent) not in text


def test_weights_are_there_once(llama, tmp_path):
    base = make("llama", tmp_path / "base", tied=True)
    graph.export(base, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "graph.json").read_text())
    assert manifest["aliases"] == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_nothing_is_unpickled_on_the_way(llama, monkeypatch):
    def never(*words, **named):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    monkeypatch.setattr(torch, "load", never)
    assert tokens(GraphGenerator(llama[1]).generate(requests([(5, 6)])))["0"]


@pytest.mark.slow
def test_sixteen_bits(llama, tmp_path):
    report = graph.export(llama[0], tmp_path / "out", dtype="bfloat16", context=100)
    assert report.dtype == "bfloat16"
    assert load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"].dtype == (
        torch.bfloat16
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    found = GraphGenerator(tmp_path / "out").generate(requests([(5, 6)]))
    assert found["0"][-1].finish_reason == "length"
    again = graph.export(tmp_path / "out", tmp_path / "again")  # an exported folder is a model
    assert (again.dtype, report.notes) == ("bfloat16", [n for n in report.notes if "no tok" in n])
    assert "computes in bfloat16" in " ".join(again.notes)


# ---------------------------------------------------------------- refused


def left(folder):
    """What is in a folder beside the model."""
    return sorted(path.name for path in folder.iterdir() if path.name != "base")


@pytest.mark.parametrize(
    ("options", "code"),
    [({"context": 257}, "X323"), ({"context": 1}, "X323"), ({"dtype": "int8"}, "C211")],
)
def test_options_that_are_not_possible(llama, tmp_path, options, code):
    with pytest.raises((ExportError, ConfigError)) as caught:
        graph.export(llama[0], tmp_path / "out", **options)
    assert caught.value.code == code
    assert left(tmp_path) == []


def test_a_context_is_chosen_aloud(tmp_path):
    base = saved("llama", tmp_path / "base", {"max_position_embeddings": 10_000})
    report = graph.export(base, tmp_path / "out")
    assert report.context == 4096
    assert "context 4,096 (the model's is 10,000" in report.notes[0]


def test_what_is_there_stays(llama, tmp_path):
    base, out, _ = llama
    with pytest.raises(ConfigError, match="is there already"):
        graph.export(base, out)
    with pytest.raises(ConfigError, match="holds what is being exported"):
        graph.export(base, base, replace=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    graph.export(base, tmp_path / "out", replace=True)
    assert left(tmp_path) == ["out"]
    assert not (tmp_path / "out" / "old").exists()


@pytest.mark.parametrize(
    ("family", "fields", "why"),
    [
        ("mamba", {"state_size": 4, "num_hidden_layers": 2, "hidden_size": 32}, "attention"),
        ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "attention interface"),
    ],
)
def test_families_without_a_graph(tmp_path, family, fields, why):
    config = AutoConfig.for_model(family, vocab_size=VOCABULARY, **fields)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    with pytest.raises(ExportError, match=f"a {family} model has no graph here") as caught:
        graph.export(tmp_path / "base", tmp_path / "out")
    assert caught.value.code == "X320"
    assert why in caught.value.why
    assert left(tmp_path) == []


def test_quantised_models(llama, tmp_path):
    base = saved("llama", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="is quantised") as caught:
        graph.export(base, tmp_path / "out")
    assert caught.value.code == "X320"


def test_a_graph_that_computes_something_else(llama, tmp_path, monkeypatch):
    true = graph_trace_impl.trace

    def odd(hf, context):
        traced = true(hf, context)
        changed = {name: tensor * 0.7 for name, tensor in traced.constants.items()}
        return dataclasses.replace(traced, constants=changed)

    monkeypatch.setattr(graph_trace_impl, "trace", odd)
    with pytest.raises(ExportError, match="not what the model computes") as caught:
        graph.export(llama[0], tmp_path / "out")
    assert caught.value.code == "X322"
    assert left(tmp_path) == []


def test_a_family_that_can_not_be_traced(llama, tmp_path, monkeypatch):
    def broken(*words, **named):
        raise RuntimeError("data-dependent\nand more")

    monkeypatch.setattr(torch.export, "export", broken)
    with pytest.raises(ExportError, match="no graph can be made of a llama model") as caught:
        graph.export(llama[0], tmp_path / "out")
    assert (caught.value.code, caught.value.why) == ("X321", "RuntimeError: data-dependent")
    assert left(tmp_path) == []


def test_an_operation_that_is_not_run_here(llama, tmp_path, monkeypatch):
    true = graph_trace_impl.trace

    def odd(hf, context):
        traced = true(hf, context)
        nodes = traced.programs["decode"]["graph_module"]["graph"]["nodes"]
        nodes[0]["target"] = "torch.ops.aten.nonzero.default"
        return traced

    monkeypatch.setattr(graph_trace_impl, "trace", odd)
    with pytest.raises(ExportError, match="can't be run here") as caught:
        graph.export(llama[0], tmp_path / "out")
    assert caught.value.code == "X321"
    assert "nonzero" in caught.value.why
