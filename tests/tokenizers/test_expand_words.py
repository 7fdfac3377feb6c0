"""Words for a vocabulary: of a corpus, of a list, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.exporting.models import make
from tunesmith.cli.main import main
from tunesmith.exporting import tokens_impl, words_impl
from tunesmith.templates.tokenizer import Tokenizer

CORPUS = (
    "今天天气很好，天气预报说明天天气也好。The weather is fine.\n天气预报：人工智能。\n人工智能\n"
)


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


@pytest.mark.slow
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
