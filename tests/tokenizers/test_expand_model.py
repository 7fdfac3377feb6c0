"""Models with new words: old logits untouched, new rows as told, and training goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.exporting.models import make
from tests.templates.conftest import train
from tunesmith.cli.main import main
from tunesmith.errors import ConfigError, DataError, EnvironmentFault, ExportError
from tunesmith.exporting import vocabulary
from tunesmith.templates.tokenizer import Tokenizer


def base_model(family: str, path: Path, tied: bool = True, dtype=torch.float32) -> Path:
    """A random model of 60 rows with a tokenizer of 52 ids: eight rows are padding."""
    from tokenizers import Tokenizer as Rust, models, pre_tokenizers

    make(family, path, tied=tied, dtype=dtype)
    letters = {chr(97 + i): i for i in range(26)} | {chr(65 + i): 26 + i for i in range(26)}
    rust = Rust(models.BPE(letters, []))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"x": "evil.py"}}))
    return path


def logits(path: Path, ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("init", ["mean", "random"])
def test_logits_over_the_old_vocabulary_are_unchanged(family, tied, init, tmp_path):
    base = base_model(family, tmp_path / "base", tied)
    report = vocabulary.expand(base, tmp_path / "out", ["cat", "Dog", "a"], init=init, multiple=16)
    assert (report.added, report.first_id, report.tokens) == (2, 52, 54)
    assert (report.rows_before, report.rows) == (60, 64)
    assert report.skipped == {"a token already": 1}
    ids = [0, 5, 51, 30, 7]
    before, after = logits(base, ids), logits(tmp_path / "out", ids)
    assert after.shape[-1] == 64
    assert torch.equal(before[:, :52], after[:, :52])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == 64
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    same = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert same == (tied or family == "gpt2")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_rows_are_means_or_draws(dtype, tmp_path):
    base = base_model("llama", tmp_path / "base", False, dtype)
    vocabulary.expand(base, tmp_path / "mean", ["cat"], multiple=1)
    old = AutoModelForCausalLM.from_pretrained(base)
    new = AutoModelForCausalLM.from_pretrained(tmp_path / "mean")
    assert new.dtype == dtype
    for find in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(old, find)().weight, getattr(new, find)().weight
        assert len(after) == 60  # there was room in the padding
        torch.testing.assert_close(
            after[52], before[[2, 0, 19]].float().mean(0).to(dtype), rtol=0, atol=0
        )
        assert torch.equal(after[53:], before[53:])
    drawn = []
    for seed in (1, 1, 2):
        vocabulary.expand(base, tmp_path / "r", ["cat"], init="random", seed=seed, replace=True)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "r")
        drawn.append(loaded.get_input_embeddings().weight[52].float())
        assert not torch.equal(loaded.get_output_embeddings().weight[52].float(), drawn[-1])
        assert torch.isfinite(loaded.get_input_embeddings().weight).all()
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert 0.005 < drawn[0].std() < 0.05  # initializer_range is 0.02


def test_transformers_reads_the_result_alike(tmp_path):
    base = base_model("llama", tmp_path / "base")
    vocabulary.expand(base, tmp_path / "out", ["cat", "词表"])
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = Tokenizer.load(tmp_path / "out")
    assert "auto_map" not in ours.config
    for text in ("a cat sat", "x词表y", "concatenate"):
        assert theirs.encode(text, add_special_tokens=False) == ours.encode_text(text)


@pytest.mark.parametrize("init", ["mean", "random"])
def test_training_goes_on_with_the_new_words(init, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("词表\n微型模型\nexpandable\nthe\n词表\n", encoding="utf-8")
    command = ["model", "expand-vocab", "builtin:tiny", "-o", "wide", "--words", "words.txt"]
    assert main([*command, "--init", init, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["skipped"] == {"twice in the list": 1, "a token already": 1}
    assert report["rows"] % 64 == 0
    Path("text.txt").write_text("微型模型有词表。\nan expandable word\n" * 20, encoding="utf-8")
    words = ["stage=pretrain", "tuner=full", "data.train=text.txt", "data.max_length=64"]
    more = ["train.max_steps=8", "train.dtype=float32", "optim.learning_rate=1e-3"]
    assert (
        main(["train", "model=wide", *words, *more, "output.name=on", "train.logging_steps=1"]) == 0
    )
    lines = Path("runs/on/metrics.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert losses[-1] < losses[0] - 1
    new = Tokenizer.load("runs/on/final").encode_text("微型模型有词表")
    assert {report["first_id"], report["first_id"] + 1} <= set(new)


def refused(code: str, call) -> str:
    with pytest.raises((ConfigError, DataError, ExportError)) as caught:
        call()
    assert caught.value.code == code
    return str(caught.value)


def test_what_can_not_be_expanded(tmp_path):
    base = base_model("llama", tmp_path / "base")
    out = tmp_path / "out"
    assert "1 a token already" in refused("X301", lambda: vocabulary.expand(base, out, ["a"]))
    assert not out.exists()
    refused("C223", lambda: vocabulary.expand(base, out, ["cat"], init="zero"))
    refused("C223", lambda: vocabulary.expand(base, out, ["cat"], multiple=0))
    refused("C212", lambda: vocabulary.expand(base, base, ["cat"], replace=True))
    out.mkdir()
    (out / "mine").touch()
    refused("C212", lambda: vocabulary.expand(base, out, ["cat"]))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {}}))
    refused("X302", lambda: vocabulary.expand(base, out, ["cat"], replace=True))
    (base / "config.json").unlink()
    with pytest.raises(EnvironmentFault):
        vocabulary.expand(base, out, ["cat"], replace=True)
    assert (out / "mine").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_tokenizer_of_another_model(tmp_path):
    base = make("llama", tmp_path / "base")
    train("bytes", base)
    refused("X303", lambda: vocabulary.expand(base, tmp_path / "out", ["cat"]))


def test_a_tokenizer_with_gaps(tmp_path):
    base = base_model("llama", tmp_path / "base")
    spec = json.loads((base / "tokenizer.json").read_text())
    spec["model"]["vocab"]["Z"] = 59
    (base / "tokenizer.json").write_text(json.dumps(spec))
    refused("X303", lambda: vocabulary.expand(base, tmp_path / "out", ["cat"]))
