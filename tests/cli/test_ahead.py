"""`--lookup`, `--draft` and `--beams` of chat, generate and serve: the same answers, sooner, or the
likeliest ones."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.conftest import byte_tokenizer
from tunesmith.cli.main import main

STORY = "Once upon a time"
REPEATS = "Tom has a red ball. Lily has a blue ball. " * 6


@pytest.fixture(scope="module")
def story(shared_data):
    return shared_data / "models" / "stories260K" / "hf"


@pytest.fixture(scope="module")
def draft(story, tmp_path_factory):
    """The story model without its last layers: it guesses some tokens right and some wrong."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("draft") / "small"
    shutil.copytree(story, folder)
    model = AutoModelForCausalLM.from_pretrained(story, dtype=torch.float32)
    model.model.layers = model.model.layers[:4]
    model.config.num_hidden_layers = 4
    if model.config.to_dict().get("layer_types"):
        model.config.layer_types = model.config.layer_types[:4]
    model.save_pretrained(folder)
    return folder


def said(capsys, *words):
    capsys.readouterr()
    assert main(["generate", *map(str, words)]) == 0
    shown = capsys.readouterr()
    return shown.out, shown.err


def tokens_a_pass(told):
    return float(told.split("guesses: ")[1].split(" ")[0])


@pytest.mark.shared
@pytest.mark.parametrize("prompt", [STORY, REPEATS, "One day, a girl named Sue", "The big dog"])
def test_greedy_answers_are_the_same_with_guesses(prompt, story, draft, capsys):
    words = [story, "--raw", "-p", prompt, "--max-tokens", "120"]
    plain, told = said(capsys, *words)
    assert "guesses" not in told
    for more in (["--lookup", "4"], ["--lookup", "12"], ["--draft", draft]):
        out, told = said(capsys, *words, *more)
        assert out == plain
        assert tokens_a_pass(told) >= 1.0


@pytest.mark.shared
def test_guesses_are_often_right(story, draft, capsys):
    words = [story, "--raw", "-p", REPEATS, "--max-tokens", "150"]
    assert tokens_a_pass(said(capsys, *words, "--lookup", "6")[1]) > 1.3
    assert tokens_a_pass(said(capsys, *words, "--draft", story)[1]) > 4  # itself: always right
    assert tokens_a_pass(said(capsys, *words, "--draft", draft)[1]) > 1.0


@pytest.mark.shared
def test_sampled_answers_and_forms_are_the_same_with_guesses(story, draft, tmp_path, capsys):
    (tmp_path / "schema.json").write_text('{"enum": [["Lily", "Lily", "Lily"], ["Tom", "Tom"]]}')
    for how in (["--temperature", "1", "--seed", "5"], ["--schema", tmp_path / "schema.json"]):
        words = [story, "--raw", "-p", STORY, "--max-tokens", "60", *how]
        plain, _ = said(capsys, *words)
        assert said(capsys, *words, "--lookup", "4")[0] == plain
        assert said(capsys, *words, "--draft", draft)[0] == plain


@pytest.mark.shared
def test_a_file_with_guesses_is_the_file_without(story, draft, tmp_path, capsys):
    rows = [{"prompt": f"{name} had a {thing}."} for name in ("Tim", "Sue") for thing in "cat dog"]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [story, "--raw", "--input", source, "--max-tokens", "50"]
    plain, _ = said(capsys, *words)
    out, told = said(capsys, *words, "--draft", draft)
    assert out == plain
    assert tokens_a_pass(told) > 1.0


@pytest.mark.shared
def test_beams_are_those_of_transformers(story, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = [story, "--raw", "-p", STORY, "--max-tokens", "20", "--beams", "3", "--json"]
    found = json.loads(said(capsys, *words)[0])
    model = AutoModelForCausalLM.from_pretrained(story, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(story)
    ids = tokenizer(STORY, return_tensors="pt")
    out = model.generate(
        **ids, max_new_tokens=20, num_beams=3, num_return_sequences=3, do_sample=False,
        early_stopping=False, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    begin = ids["input_ids"].shape[1]
    theirs = [tokenizer.decode(row, skip_special_tokens=True) for row in out.sequences]
    ours = [STORY + beam["answer"] for beam in found["beams"]]
    assert ours == theirs
    scores = [beam["score"] for beam in found["beams"]]
    assert scores == pytest.approx(out.sequences_scores.tolist(), abs=1e-4)
    assert found["answer"] == found["beams"][0]["answer"]
    assert found["answer_tokens"] == out.sequences.shape[1] - begin


def test_beams_in_files_and_chats(tiny_model, tmp_path, capsys, monkeypatch):
    import io

    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    words = [tiny_model, "--max-tokens", "5", "--beams", "2"]
    found = [json.loads(line) for line in said(capsys, *words, "--input", source)[0].splitlines()]
    assert [line["prompt"] for line in found] == ["a", "b"]
    assert [len(line["beams"]) for line in found] == [2, 2]
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nexit\n"))
    assert main(["chat", *map(str, words)]) == 0
    shown = capsys.readouterr()
    assert found[0]["answer"].strip() in shown.out
    assert "the best of 2 beams" in shown.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--beams", "2", "--temperature", "1"], "G133"),
        (["--beams", "2", "--seed", "1"], "G133"),
        (["--beams", "2", "--repetition-penalty", "1.2"], "G133"),
        (["--beams", "2", "--window", "20"], "G133"),
        (["--beams", "2", "--lookup", "4"], "G133"),
        (["--beams", "2", "--engine", "compiled"], "G133"),
        (["--length-penalty", "1"], "G133"),
        (["--lookup", "4", "--window", "20"], "G132"),
        (["--lookup", "4", "--engine", "compiled"], "G132"),
        (["--draft", "other.gguf"], "G132"),
        (["--draft", "nowhere/at/all"], "E201"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_by_name(words, code, tiny_model, capsys):
    assert main(["generate", str(tiny_model), "-p", "a", *words]) == 2
    told = capsys.readouterr().err
    assert code in told
    assert code == "E201" or words[-2] in told or words[0] in told


def test_files_of_llama_cpp_take_no_guesses_and_no_beams(capsys):
    assert main(["generate", "model.gguf", "-p", "a", "--lookup", "4"]) == 2
    assert "G132" in capsys.readouterr().err
    assert main(["generate", "model.gguf", "-p", "a", "--beams", "4"]) == 2
    assert "G133" in capsys.readouterr().err


def test_a_draft_with_another_tokenizer_is_refused(tiny_model, tmp_path, capsys):
    """Even if it knows as many tokens."""
    other = shutil.copytree(tiny_model, tmp_path / "other")
    file = other / "tokenizer.json"
    spec = json.loads(file.read_text())
    vocabulary = spec["model"]["vocab"]
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(spec))
    assert main(["generate", str(tiny_model), "-p", "a", "--draft", str(other)]) == 2
    assert "G131" in capsys.readouterr().err


def test_a_family_without_the_interface_takes_no_guesses(tmp_path, capsys):
    from tests.generation.test_torch import FAMILIES, build

    build(FAMILIES["mamba"]).save_pretrained(tmp_path)
    byte_tokenizer(tmp_path)
    assert main(["generate", str(tmp_path), "--raw", "-p", "a", "--lookup", "4"]) == 2
    told = capsys.readouterr().err
    assert "G132" in told
    assert "mamba" in told
    assert main(["generate", str(tmp_path), "--raw", "-p", "a", "--beams", "4"]) == 2
    assert "C210" in capsys.readouterr().err
