"""Old tokenizers are converted when they are met, or by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tokenizers import files
from tests.tokenizers.files import llama, write
from tunesmith.cli.main import main
from tunesmith.errors import RunError
from tunesmith.templates import base as templates
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.templates.tokenizers import convert


def test_loading_converts_into_the_cache_and_says_so(tmp_path, own_home):
    llama(tmp_path)
    before = sorted(tmp_path.iterdir())
    tokenizer = Tokenizer.load(tmp_path)
    assert sorted(tmp_path.iterdir()) == before  # the model's folder stays as it is
    assert tokenizer.path.parent == own_home / "tokenizers"
    assert "converted from tokenizer.model (SentencePiece BPE)" in tokenizer.notes[0]
    template = templates.load("auto", tmp_path)
    assert template.notes[0] == tokenizer.notes[0]
    assert tokenizer.encode_documents(["hello"]) == [
        [tokenizer.bos_id, tokenizer.rust.token_to_id("▁hello")]
    ]
    assert tokenizer.encode_batch(["hello"], "text") != tokenizer.encode_batch(["hello"], "start")


def test_the_cache_is_used_again_and_follows_every_file(tmp_path, own_home, monkeypatch):
    llama(tmp_path)
    first = Tokenizer.load(tmp_path).path
    with monkeypatch.context() as patch:
        patch.setattr(convert, "convert", lambda *_: pytest.fail("converted twice"))
        assert Tokenizer.load(tmp_path).path == first
    seen = {first}
    llama(tmp_path, "more")
    seen.add(Tokenizer.load(tmp_path).path)
    write(tmp_path, tokenizer_config={"add_bos_token": False})
    seen.add(Tokenizer.load(tmp_path).path)
    write(tmp_path, generation_config={"pad_token_id": 0})
    seen.add(Tokenizer.load(tmp_path).path)
    assert len(seen) == 4
    assert sorted(p.name for p in (own_home / "tokenizers").iterdir()) == sorted(
        p.name for p in seen
    )


def test_a_cache_that_can_not_be_written(tmp_path, own_home, monkeypatch):
    llama(tmp_path)
    (own_home / "tokenizers").write_text("a file")
    with pytest.raises(RunError) as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.code == "R221"


def test_a_tokenizer_json_is_taken_as_it_is(tiny_model, own_home):
    tokenizer = Tokenizer.load(tiny_model)
    assert tokenizer.path == tiny_model
    assert tokenizer.notes == ()
    assert not (own_home / "tokenizers").exists()


def test_training_with_an_old_tokenizer(tmp_path, own_home, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("old").mkdir()
    llama(Path("old"))
    Path("text.txt").write_text("hello world\n" * 20)
    config = "{model_type: llama, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2}"  # noqa: E501
    words = [f"model.config={config}", "model.tokenizer=old", "stage=pretrain", "tuner=full"]
    more = ["data.train=text.txt", "data.max_length=32", "train.max_steps=2", "output.name=r"]
    assert main(["train", *words, *more, "train.dtype=float32"]) == 0
    said = capsys.readouterr()
    assert (said.out + said.err).count("converted from tokenizer.model") == 1
    final = Tokenizer.load("runs/r/final")
    assert final.notes == ()
    assert final.encode_text("hello") == Tokenizer.load("old").encode_text("hello")


def test_convert_tokenizer_on_the_command_line(tmp_path, capsys):
    llama(tmp_path)
    assert main(["model", "convert-tokenizer", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "SentencePiece BPE"
    assert told["tokens"] == len(files.words("▁hello", "▁world"))
    assert (tmp_path / "tokenizer.json").is_file()
    assert main(["model", "convert-tokenizer", str(tmp_path)]) == 2
    assert "C212" in capsys.readouterr().err
    out = tmp_path / "out"
    model = str(tmp_path / "tokenizer.model")
    assert main(["model", "convert-tokenizer", model, "-o", str(out)]) == 0
    assert "SentencePiece BPE" in capsys.readouterr().out
    assert Tokenizer.load(out).hash == Tokenizer.load(tmp_path).hash
    assert main(["model", "convert-tokenizer", model, "-o", str(out), "--pattern", "x"]) == 2
    assert "C221" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.shared
def test_transformers_reads_what_we_write(shared_data, tmp_path):
    from transformers import AutoTokenizer

    for name, pattern in (("llama2", None), ("qwen1", None), ("baichuan1", None)):
        folder = tmp_path / name
        folder.mkdir()
        convert.convert(shared_data / "tokenizers" / name, pattern).save(folder)
        theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
        for text in ["Hello world", " 你好\n世界 3", "<|im_start|>user"]:
            assert theirs.encode(text, add_special_tokens=False) == ours.encode_text(text)
            assert theirs.encode(text)[:1] == ([ours.bos_id] if ours.adds_bos else
                                               ours.encode_text(text)[:1])  # fmt: skip


def test_merging_takes_an_old_tokenizer_along(tmp_path):
    from tunesmith.exporting import files_impl

    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    (base / "qwen.tiktoken").write_bytes(files.ranks(" the cat"))
    assert files_impl.write_tokenizer([tmp_path / "adapter", base], out)
    assert Tokenizer.load(out).hash == Tokenizer.load(base).hash
