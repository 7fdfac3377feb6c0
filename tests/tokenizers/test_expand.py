"""New words: one token each, old text untouched, old logits untouched, and training goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.exporting.models import make
from tests.templates.conftest import KINDS, train
from tunesmith.cli.main import main
from tunesmith.errors import ConfigError, DataError, ExportError
from tunesmith.exporting import tokens_impl, vocabulary, words_impl
from tunesmith.templates.tokenizer import Tokenizer

WORDS = ["词表", "微型模型", "天气", "hyperword", "天气预报"]
OLD = ["the world question, a test of words.", " two  spaces", "你好，世界。", "</s> end", "hyper word"]


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory) -> tuple[Tokenizer, tokens_impl.Extended, Tokenizer]:
    """A tokenizer, what became of it, and that read anew."""
    old = Tokenizer.load(train(request.param, tmp_path_factory.mktemp(request.param)))
    made = tokens_impl.extend(old, WORDS)
    folder = tmp_path_factory.mktemp("new")
    vocabulary._write_tokenizer(old, made.rust, folder)
    return old, made, Tokenizer.load(folder)


def test_each_word_is_one_token_under_the_next_id(pair):
    old, made, new = pair
    added = [word for word in WORDS if word not in made.skipped.get("a token already", ())]
    assert len(added) >= 4
    assert list(made.pieces) == list(range(old.vocab_size, old.vocab_size + len(added)))
    for id, word in zip(made.pieces, added, strict=True):
        assert new.encode_text(word) == [id]
        assert new.decode([id]) == word
        assert made.pieces[id] == old.encode_batch([word], "text")[0]


def test_words_are_found_in_text_and_nothing_is_put_between(pair):
    _, made, new = pair
    ids = new.encode_text("今天天气预报好，词表")
    spelled = [new.decode([id]) for id in ids if id in made.pieces]
    assert spelled == ["天气预报", "词表"]  # the longest
    text = new.decode(ids)
    assert " 好" not in text
    assert " 词" not in text


def test_a_word_with_spaces_around_it_is_no_part_of_another(pair):
    old, _, new = pair
    assert new.encode_text("hyperwords") == old.encode_text("hyperwords")


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.sampled_from(OLD), st.text(max_size=40)))
def test_old_text_keeps_its_ids(pair, text):
    old, _, new = pair
    if not any(word in text for word in WORDS):
        assert new.encode_text(text) == old.encode_text(text)
        for place in ("start", "token", "text"):
            assert new.encode_batch([text], place) == old.encode_batch([text], place)


def test_expanding_twice(pair, tmp_path):
    old, made, new = pair
    again = tokens_impl.extend(new, ["新词语", *WORDS])
    assert list(again.pieces) == [old.vocab_size + len(made.pieces)]
    for text in ["新词语", *WORDS]:
        assert len(again.rust.encode(text, add_special_tokens=False).ids) == 1 or text in OLD
    assert again.rust.encode(OLD[0]).ids == old.rust.encode(OLD[0]).ids


# ---------------------------------------------------------------- the model


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
    assert main(["train", "model=wide", *words, *more, "output.name=on", "train.logging_steps=1"]) == 0
    lines = Path("runs/on/metrics.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert losses[-1] < losses[0] - 1
    new = Tokenizer.load("runs/on/final").encode_text("微型模型有词表")
    assert {report["first_id"], report["first_id"] + 1} <= set(new)


# ---------------------------------------------------------------- words of a corpus


CORPUS = "今天天气很好，天气预报说明天天气也好。The weather is fine.\n天气预报：人工智能。\n人工智能\n"


def test_words_of_a_corpus_are_of_its_script(tmp_path):
    (tmp_path / "a.txt").write_text(CORPUS, encoding="utf-8")
    found = words_impl.train(tmp_path / "a.txt", 40, "cjk")
    assert "天气" in found
    assert "人工智能" in found
    assert all("\u4e00" <= char <= "\u9fff" for word in found for char in word)
    assert len(found) == len(set(found)) <= 40
    assert found == words_impl.train(tmp_path / "a.txt", 40, "cjk")
    rows = [json.dumps({"messages": [{"role": "user", "content": line}]}) for line in [CORPUS] * 2]
    (tmp_path / "b.jsonl").write_text("\n".join(rows), encoding="utf-8")
    assert "天气" in words_impl.train(tmp_path / "b.jsonl", 40, "cjk")


def test_rare_characters_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("天气" * 5000 + "鱻", encoding="utf-8")
    found = words_impl.train(tmp_path / "a.txt", 100, "cjk")
    assert "鱻" not in found
    assert {"天", "气", "天气"} <= set(found)


def test_expanding_by_a_corpus(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(CORPUS * 5, encoding="utf-8")
    command = ["model", "expand-vocab", "builtin:tiny", "-o", "wide", "--corpus", "a.txt"]
    assert main([*command, "--vocab-size", "40"]) == 0
    said = capsys.readouterr()
    assert "pieces found in a.txt (cjk)" in said.err
    assert "new ones by mean" in said.out
    assert len(Tokenizer.load("wide").encode_text("人工智能")) == 1


@pytest.mark.shared
def test_the_lists_that_llms_tool_shipped(shared_data, tmp_path, monkeypatch):
    """6,000 words on Llama 2's real tokenizer, converted on the way; random rows under it."""
    folder = shared_data / "instruct" / "llms_tool" / "expand_vocab"
    words = words_impl.read_words(folder / "common-word-6000.txt")
    old = Tokenizer.load(shared_data / "tokenizers" / "llama2")
    made = tokens_impl.extend(old, words)
    assert len(made.pieces) + sum(map(len, made.skipped.values())) == len(words)
    assert len(made.pieces) > 5900
    text = (shared_data / "instruct" / "misc" / "seed_tasks.jsonl").read_text("utf-8")[:20000]
    for line in text.splitlines():
        assert made.rust.encode(line).ids == old.rust.encode(line).ids
    for word in words[:300]:
        assert len(made.rust.encode(word, add_special_tokens=False).ids) == 1


# ---------------------------------------------------------------- refusals


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


def test_words_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["model", "expand-vocab", "builtin:tiny", "-o", "wide"]
    cases = {
        "C222": [],
        "D101": ["--words", "none.txt"],
        "C223": ["--corpus", "a.txt", "--script", "latin"],
        "D203": ["--corpus", "a.txt"],
        "D102": ["--words", "empty.txt"],
        "D103": ["--words", "utf16.txt"],
    }
    Path("a.txt").write_text("no ideographs")
    Path("empty.txt").write_text("\n \n")
    Path("utf16.txt").write_bytes("词".encode("utf-16"))
    for code, words in cases.items():
        assert main([*command, *words]) in (2, 3)
        assert f"error[{code}]" in capsys.readouterr().err
    assert main([*command, "--corpus", "a.txt", "--vocab-size", "0"]) == 2
    assert "C223" in capsys.readouterr().err
    assert not Path("wide").exists()


def test_adapters_are_merged_first(tmp_path, capsys):
    from tests.exporting.models import train as train_adapter

    base = make("llama", tmp_path / "base")
    train_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], r=2)
    (tmp_path / "w.txt").write_text("cat")
    words = ["--words", str(tmp_path / "w.txt"), "-o", str(tmp_path / "out")]
    assert main(["model", "expand-vocab", str(tmp_path / "adapter"), *words]) == 1
    said = capsys.readouterr().err
    assert "X302" in said
    assert "tunesmith merge" in said
