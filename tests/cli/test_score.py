"""`tunesmith score`: runs and classifiers, files in their order, going on after an interruption."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.rows import lines, write
from tunesmith import compose, recipe
from tunesmith.cli.main import main
from tunesmith.compose import score_file, scoring
from tunesmith.errors import ExportError

WORDS = ["hill", "lamp", "coin", "fern", "tide", "wolf", "kite", "mill", "a long way round"]


@pytest.fixture(scope="module")
def pairs() -> list[dict]:
    return [
        {"prompt": f"{a}?", "chosen": f"{b} yes", "rejected": f"{a} no"}
        for a in WORDS
        for b in WORDS
    ]


@pytest.fixture(scope="module")
def runs(tiny_model, pairs, tmp_path_factory):
    """Two short reward runs by the tuner's name, evaluated on the rows they trained on."""
    folder = tmp_path_factory.mktemp("reward")
    data = write(folder / "pairs.jsonl", pairs)

    def train(tuner):
        return compose.train(
            recipe.from_dict(
                {
                    "model": {"path": str(tiny_model)},
                    "stage": "reward",
                    "tuner": tuner,
                    "data": {"train": data, "eval": data, "num_proc": 1, "max_length": 64,
                             "on_finding": "warn"},
                    "train": {"max_steps": 4, "per_device_train_batch_size": 8,
                              "dtype": "float32", "save_steps": 2},
                    "optim": {"learning_rate": 1e-2},
                    "output": {"dir": str(folder / "runs"), "name": tuner},
                }
            )
        )  # fmt: skip

    return {tuner: train(tuner) for tuner in ("full", "lora")}


def score(model, data, out, *words) -> int:
    return main(["score", str(model), str(data), "-o", str(out), "--dtype", "float32", *words])


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_accuracy_and_means_are_those_of_evaluation(tuner, runs, pairs, tmp_path, capsys):
    run = runs[tuner]
    data = write(tmp_path / "pairs.jsonl", pairs)
    assert score(run.path, data, tmp_path / "out.jsonl", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    told = [line for line in run.metrics() if "eval_loss" in line][-1]
    assert found["rows"] == len(pairs) == len(lines(tmp_path / "out.jsonl"))
    assert found["accuracy"] == told["eval_rewards/accuracies"]
    for side in ("chosen", "rejected"):
        assert found[side] == pytest.approx(told[f"eval_rewards/{side}"], abs=1e-5)


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_a_checkpoint_scores_as_it_was_then(tuner, runs, pairs, tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", pairs[:9])
    places = [f"{runs[tuner].path}@step-{step}" for step in (2, 4)] + [runs[tuner].path]
    for number, place in enumerate(places):
        assert score(place, data, tmp_path / f"{number}.jsonl") == 0
    early, late, final = (lines(tmp_path / f"{number}.jsonl") for number in range(3))
    assert early != late
    for a, b in zip(late, final, strict=True):
        assert a["chosen"] == pytest.approx(b["chosen"], abs=1e-5)


def test_sides_are_encoded_as_in_training(runs, pairs):
    """The ids that are scored are those of the pair's two examples, cut to fit the same way."""
    from tunesmith.types import Conversation, Message, Preference

    scorer = scoring.load(str(runs["full"].path), dtype="float32")
    say = lambda role, text: (Message.of(role, text),)
    for rounds in (0, 6):  # of which not all fit
        past = (say("user", "far?") + say("assistant", "not so far")) * rounds
        prompt = Conversation(past + say("user", "how far?"))
        answers = say("assistant", "yes"), say("assistant", "no!")
        pair = Preference(prompt, *answers)
        (encoded,) = scorer.stage.encode([pair])
        found = [scorer.encode(side) for side in score_file.sides(pair).values()]
        assert encoded.examples
        assert [one.examples[0].ids_T.tolist() for one in found] == [
            example.ids_T.tolist() for example in encoded.examples
        ]
        assert sum(one.truncated for one in found) == encoded.truncated


def test_chats_and_texts_get_one_score(runs, tmp_path, capsys):
    talk = [{"role": "user", "content": "hill?"}, {"role": "assistant", "content": "lamp yes"}]
    chats = write(tmp_path / "chats.jsonl", [{"messages": talk}])
    pair = write(
        tmp_path / "pairs.jsonl", [{"prompt": "hill?", "chosen": "lamp yes", "rejected": "no"}]
    )
    texts = write(tmp_path / "texts.jsonl", [{"text": "lamp yes"}, {"text": "no"}])
    run = runs["full"].path
    for name, data in (("chats", chats), ("pairs", pair), ("texts", texts)):
        assert score(run, data, tmp_path / f"{name}.out") == 0
    assert lines(tmp_path / "chats.out")[0]["score"] == pytest.approx(
        lines(tmp_path / "pairs.out")[0]["chosen"], abs=1e-5
    )
    assert [set(line) for line in lines(tmp_path / "texts.out")] == [{"score"}] * 2
    assert "without a chat template" in capsys.readouterr().err


def test_bad_rows_keep_their_place(runs, pairs, tmp_path, capsys):
    rows = [*pairs[:3], {"prompt": "x", "chosen": "y"}, {**pairs[4], "rejected": ""}, pairs[5]]
    data = tmp_path / "pairs.jsonl"
    write(data, rows)
    data.write_text(data.read_text() + "{not json\n" + json.dumps(pairs[6]) + "\n")
    assert score(runs["full"].path, data, tmp_path / "out.jsonl", "--json") == 0
    found = lines(tmp_path / "out.jsonl")
    assert [line["chosen"] is None for line in found] == [
        *(False, False, False),
        *(True, True, False),
        *(True, False),
    ]
    assert found[3]["where"].endswith(":4")
    assert "rejected" in found[3]["problem"]
    told = capsys.readouterr()
    assert json.loads(told.out)["not_scored"] == 3
    assert "3 rows could not be scored" in told.err


def test_it_goes_on_where_it_was_interrupted(runs, pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(score_file, "CHUNK", 8)
    data = write(tmp_path / "pairs.jsonl", pairs)
    run = str(runs["full"].path)
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert score(run, data, whole, "--json") == 0
    wanted = json.loads(capsys.readouterr().out)
    real, calls = scoring.Scorer.scores, []

    def interrupted(self, examples):
        calls.append(len(examples))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, examples)

    monkeypatch.setattr(scoring.Scorer, "scores", interrupted)
    assert score(run, data, out) == 130
    assert not out.exists()
    (part,) = tmp_path.glob("out.jsonl.*.part")
    part.write_text(part.read_text() + '{"chosen": 99.0, "rej')  # a line that was being written
    assert score(run, data, out, "--json") == 0
    told = capsys.readouterr()
    assert "24 lines are there from before" in told.err
    assert out.read_bytes() == whole.read_bytes()
    assert {**json.loads(told.out), "output": ""} == {**wanted, "output": ""}
    assert not list(tmp_path.glob("*.part"))


def test_what_another_model_began_is_not_gone_on_with(runs, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(score_file, "CHUNK", 8)
    data = write(tmp_path / "pairs.jsonl", pairs)
    keys = set()
    for name in ("full", "lora"):
        scorer = scoring.load(str(runs[name].path), dtype="float32")
        keys.add(score_file._key(scorer, data))
    write(tmp_path / "pairs.jsonl", pairs[1:])
    keys.add(score_file._key(scorer, data))
    assert len(keys) == 3


def test_a_file_that_is_there_is_kept(runs, pairs, tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", pairs[:1])
    assert score(runs["full"].path, data, tmp_path / "pairs.jsonl") == 2
    assert "error[C197]" in capsys.readouterr().err
    assert lines(tmp_path / "pairs.jsonl") == pairs[:1]


@pytest.mark.parametrize("text", ["", '{"odd": 1}\n', "{torn\n"])
def test_data_without_a_row_to_score_leaves_nothing(text, runs, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(text)
    assert score(runs["full"].path, tmp_path / "rows.jsonl", tmp_path / "out.jsonl") == 3
    assert "error[D" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_run_from_scratch_scores_at_any_checkpoint(tiny_model, pairs, tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", pairs[:9])
    shape = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
             "num_hidden_layers": 1, "num_attention_heads": 4}  # fmt: skip
    run = compose.train(
        recipe.from_dict(
            {
                "model": {"config": shape, "tokenizer": str(tiny_model)},
                "stage": "reward",
                "tuner": "full",
                "data": {"train": data, "num_proc": 1},
                "train": {"max_steps": 2, "dtype": "float32", "save_steps": 1},
                "output": {"dir": str(tmp_path / "runs"), "name": "scratch"},
            }
        )
    )
    for name, place in (("last", run.path), ("step-2", f"{run.path}@step-2")):
        assert score(place, data, tmp_path / f"{name}.jsonl") == 0
    last, step = lines(tmp_path / "last.jsonl"), lines(tmp_path / "step-2.jsonl")
    for a, b in zip(last, step, strict=True):
        assert a["chosen"] == pytest.approx(b["chosen"], abs=1e-5)


def test_a_language_model_has_no_scores(tiny_model, tmp_path):
    with pytest.raises(ExportError) as caught:
        scoring.load(str(tiny_model))
    assert caught.value.code == "X310"


def test_a_classifier_of_several_labels_is_refused(tiny_model, tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny_model, num_labels=3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    with pytest.raises(ExportError) as caught:
        scoring.load(str(tmp_path))
    assert caught.value.code == "X311"


def test_a_classifier_that_transformers_saved_scores_as_there(tiny_model, tmp_path):
    """Untied: no output head is in the file, and none is needed."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(5)
    config = AutoConfig.from_pretrained(tiny_model, num_labels=1, tie_word_embeddings=False)
    theirs = AutoModelForSequenceClassification.from_config(config).eval()
    theirs.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "model")
    scorer = scoring.load(str(tmp_path / "model"), dtype="float32")
    from tunesmith.types import Document

    encoded = scorer.encode(Document("the hill and the lamp")).examples
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(encoded[0].ids_T).long()[None]).logits
    assert scorer.scores(encoded) == pytest.approx([float(wanted)], abs=1e-5)


def test_scores_are_computed_in_the_type_the_weights_are_stored_in(runs, monkeypatch):
    """Where sixteen bits are faster, too: scores are those of the weights."""
    from tunesmith import platform

    choose = platform.choose_dtype
    monkeypatch.setattr(
        platform, "choose_dtype", lambda dtype: "bfloat16" if dtype == "auto" else choose(dtype)
    )
    monkeypatch.setattr(platform, "device", lambda: "cpu")
    for run in runs.values():
        assert scoring.load(str(run.path)).model.hf.dtype == torch.float32


def test_float32_scores_are_not_rounded_where_the_base_is_stored_in_sixteen_bits(
    tiny_model, pairs, tmp_path
):
    """As PEFT has them: the adapter beside a base in float32, nothing merged into 16 bits."""
    from transformers import AutoModelForCausalLM

    stored = tmp_path / "stored"
    shutil.copytree(tiny_model, stored)
    AutoModelForCausalLM.from_pretrained(stored, dtype=torch.bfloat16).save_pretrained(stored)
    data = write(tmp_path / "pairs.jsonl", pairs[:32])
    run = compose.train(
        recipe.from_dict(
            {
                "model": {"path": str(stored)},
                "stage": "reward",
                "tuner": {"kind": "lora", "r": 4, "target_modules": "all-linear"},
                "data": {"train": data, "eval": data, "num_proc": 1, "on_finding": "warn"},
                "train": {"max_steps": 4, "dtype": "float32", "per_device_train_batch_size": 8},
                "optim": {"learning_rate": 3e-2},
                "output": {"dir": str(tmp_path / "runs"), "name": "lora"},
            }
        )
    )
    told = [line for line in run.metrics() if "eval_loss" in line][-1]
    assert score(run.path, data, tmp_path / "out.jsonl") == 0
    mean = sum(line["chosen"] for line in lines(tmp_path / "out.jsonl")) / 32
    assert mean == pytest.approx(told["eval_rewards/chosen"], abs=1e-5)
