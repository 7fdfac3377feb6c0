"""`data tokenize`, and training on what it wrote without the text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tunesmith.cli.main import main
from tunesmith.data import corpus
from tunesmith.templates.tokenizer import Tokenizer

TEXT = "There was a miller.\nHe had a daughter.\n\nshort\n\nThe smith sang all his life.\n"


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def tokenizer() -> Tokenizer:
    from importlib.resources import files

    return Tokenizer.load(Path(str(files("tunesmith") / "assets" / "tiny")))


@pytest.mark.parametrize("kind", ["megatron", "bin"])
def test_a_corpus_decodes_to_its_text(book, tmp_path, capsys, kind):
    prefix = tmp_path / "c" / "book"
    words = ["data", "tokenize", book, "-o", str(prefix), "--to", kind]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["left_out"]) == (2, 1)
    made = corpus.open_corpus(prefix)
    rust = tokenizer()
    texts = []
    for start, length in zip(made.start_D, made.length_D, strict=True):
        ids = made.ids_T[start : start + length].tolist()
        assert ids[-1] == rust.eos_id
        texts.append(rust.decode(ids[:-1]))
    paragraphs = TEXT.strip().split("\n\n")
    assert texts == [paragraphs[0], paragraphs[2]]
    assert found["tokens"] == len(made.ids_T)
    assert main(words) == 2  # nothing is replaced
    assert "error[C212]" in capsys.readouterr().err
    assert main([*words, "--yes", "--no-append-eos", "--min-chars", "0"]) == 0
    again = corpus.open_corpus(prefix)
    assert len(again.length_D) == 3
    assert rust.eos_id not in again.ids_T


def test_rows_of_json_are_documents_and_conversations_are_none(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "one\n\ntwo, and more"}) + "\n")
    assert main(["data", "tokenize", str(path), "-o", str(tmp_path / "c"), "--to", "bin"]) == 0
    assert len(corpus.open_corpus(tmp_path / "c").length_D) == 1
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    capsys.readouterr()
    assert main(["data", "tokenize", str(path), "-o", str(tmp_path / "d"), "--to", "bin"]) == 3
    assert "error[D205]" in capsys.readouterr().err
    path.write_text(json.dumps({"text": "short"}) + "\n")
    assert main(["data", "tokenize", str(path), "-o", str(tmp_path / "d"), "--to", "bin"]) == 3
    assert "error[D203]" in capsys.readouterr().err


def losses(directory) -> list[float]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [found["loss"] for line in lines if "loss" in (found := json.loads(line))]


def train(tmp_path, name, *words):
    common = ["tuner=full", "train.max_steps=2", "train.logging_steps=1", "data.max_length=32",
              f"output.dir={tmp_path / 'runs'}", f"output.name={name}"]  # fmt: skip
    code = main(["train", "model=builtin:tiny", *common, *words])
    return code, tmp_path / "runs" / name


def test_a_store_trains_as_its_text_does(tmp_path, capsys):
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(8)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = str(tmp_path / "tokens")
    words = ["data", "tokenize", str(path), "data.max_length=32", "-o", out]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 8
    assert main(words) == 2
    text_code, text_run = train(tmp_path, "text", "stage=sft", f"data.train={path}")
    path.unlink()
    code, run = train(tmp_path, "tokens", "stage=sft", f"data.train={out}")
    assert (text_code, code) == (0, 0)
    assert losses(run) == losses(text_run)
    assert main(["data", "check", out]) == 0
    assert "OK     all 8 rows" in capsys.readouterr().out
    assert train(tmp_path, "short", f"data.train={out}", "data.max_length=8")[0] == 3
    assert "error[D214]" in capsys.readouterr().err


def test_a_corpus_is_trained_on_in_blocks(tmp_path, capsys):
    lines = [f"The miller sold {i} sacks of flour to the smith." for i in range(40)]
    book = tmp_path / "b.txt"
    book.write_text("\n\n".join(lines))
    prefix = tmp_path / "b"
    assert main(["data", "tokenize", str(book), "-o", str(prefix), "--to", "megatron"]) == 0
    book.unlink()
    words = ["stage=pretrain", f"data.train={prefix}", "data.packing=blocks",
             "data.eval.split=90,10"]  # fmt: skip
    code, run = train(tmp_path, "blocks", *words)
    assert code == 0
    assert all(np.isfinite(losses(run)))
    report = json.loads((run / "data_report.json").read_text())
    assert report["train"]["sources"][0]["format"] == "corpus"
    assert "blocks" in capsys.readouterr().err
    code, _ = train(tmp_path, "wrong", "stage=sft", "data.train=builtin:demo/train.jsonl",
                    "data.packing=blocks")  # fmt: skip
    assert code == 2
    assert "error[C191]" in capsys.readouterr().err


def test_a_major_finding_stops_a_training(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    row = json.dumps({"prompt": "a", "completion": "b"}) + "\n"
    path.write_text(row * 24)
    code, run = train(tmp_path, "stopped", f"data.train={path}")
    assert code == 6
    assert "error[G110]" in capsys.readouterr().err
    assert not run.exists()
    code, _ = train(tmp_path, "warned", f"data.train={path}", "data.on_finding=warn")
    assert code == 0
    assert "MAJOR 23 of 24 rows equal an earlier one" in capsys.readouterr().err


def test_a_mixture_is_trained(tmp_path, capsys):
    for name in "ab":
        rows = [{"prompt": f"{name}{i}", "completion": f"{i}"} for i in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    sources = f"data.train=[{tmp_path / 'a.jsonl'}, {tmp_path / 'b.jsonl'}]"
    mixture = ["data.mix_strategy=interleave_over", "data.interleave_probs=[0.8, 0.2]"]
    code, run = train(tmp_path, "mixed", sources, *mixture, "data.packing=pack")
    assert code == 0
    assert len(losses(run)) == 2
    assert train(tmp_path, "wrong", sources, "data.interleave_probs=[0.8, 0.2]")[0] == 3
    assert "error[D210]" in capsys.readouterr().err


def test_a_corpus_of_another_tokenizer_is_refused_and_one_without_record_is_said(
    book, tmp_path, capsys, trained_tokenizer
):
    prefix = tmp_path / "c" / "book"
    assert main(["data", "tokenize", book, "-o", str(prefix), "--to", "megatron"]) == 0
    record = prefix.with_name("book_tokenizer.json")
    assert json.loads(record.read_text())["tokenizer"] == tokenizer().hash
    assert main(["data", "check", str(prefix)]) == 0
    assert "nothing beside it says" not in capsys.readouterr().err
    other = ["data", "inspect", str(prefix), "--model", str(trained_tokenizer)]
    assert main(other) == 3
    found = capsys.readouterr().err
    assert "error[D310]" in found
    assert "made with the tokenizer of builtin:tiny" in found
    record.unlink()
    assert main(["data", "check", str(prefix)]) == 0
    assert "nothing beside it says which tokenizer made it" in capsys.readouterr().err
    record.write_text("[]")
    assert main(["data", "check", str(prefix)]) == 3
    assert "error[D212]" in capsys.readouterr().err


@pytest.fixture
def trained_tokenizer(tmp_path):
    """The embedded tokenizer under another fingerprint: one more special token."""
    import shutil
    from importlib.resources import files

    folder = tmp_path / "other"
    shutil.copytree(str(files("tunesmith") / "assets" / "tiny"), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["additional_special_tokens"] = ["<|another|>"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_equal_rows_are_held_out_together(tmp_path, capsys):
    rows = [{"prompt": f"Ask {i}?", "completion": f"Answer {i}."} for i in range(30)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    code, run = train(tmp_path, "held", f"data.train={path}", "data.eval.count=9")
    assert code == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "30 of 60 rows equal an earlier one; they stand on its side" in said
    assert "so that 8 rows are held out where 9 were asked for" in said
    report = json.loads((run / "data_report.json").read_text())
    assert (report["train"]["items"], report["eval"]["items"]) == (52, 8)


def test_check_and_train_judge_alike(tmp_path, capsys):
    lines = [f"The miller sold {i % 4} sacks of flour." for i in range(40)]
    book = tmp_path / "b.txt"
    book.write_text("\n\n".join(lines))
    for name in "ab":
        prefix = tmp_path / name
        assert main(["data", "tokenize", str(book), "-o", str(prefix), "--to", "megatron"]) == 0
    words = ["stage=pretrain", f"data.train=0.3 {tmp_path / 'a'} 0.7 {tmp_path / 'b'}"]
    capsys.readouterr()
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model: builtin:tiny\nstage: pretrain\ndata: {packing: blocks}\n")
    assert main(["data", "check", str(recipe), *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    (checked,) = [one for one in found if one["check"] == "duplicates"]
    assert checked["level"] == "MINOR"
    code, _ = train(tmp_path, "blend", *words, "data.packing=blocks")
    assert code == 0
    assert f"MINOR {checked['text']}" in " ".join(capsys.readouterr().err.split())
