"""All mistakes of a recipe are told at once, each with its place and its nearest name."""

from __future__ import annotations

import pickle

import pytest

from tunesmith import recipe
from tunesmith.cli.main import main
from tunesmith.errors import ConfigError, ConfigErrors, TunesmithError

WRONG = """\
model: builtin:tyni
tuner: {kind: lora, rank: 16, alpha: 3}
data:
  train: [{path: x.jsonl, wieght: 2.0, max_samples: 0}, {weight: 1.0}]
  max_length: 1
train: {max_step: 3, dtype: fp16, dtype: auto}
optim:
  learnin_rate: 1e-4
  lr: 3
  warmup_steps: -1
log: {report_to: [mlflo]}
outputs: x
"""


def found(text: str, *overrides: str) -> list[TunesmithError]:
    with open("r.yaml", "w", encoding="utf-8") as file:
        file.write(text)
    with pytest.raises(ConfigErrors) as caught:
        recipe.load("r.yaml", overrides)
    return list(caught.value.errors)


def test_every_mistake_is_told_in_the_order_of_the_file(here):
    errors = found(WRONG, "tuner.r=x", "learningrate=3", "nonsense")
    told = [(e.code, e.where.split()[0].removeprefix("r.yaml:")) for e in errors]
    assert told == [
        ("C103", "2:21"),
        ("C103", "2:31"),
        ("C102", "4:27"),
        ("C105", "4:40"),
        ("C114", "4:57"),
        ("C105", "5:3"),
        ("C102", "6:9"),
        ("C104", "6:29"),
        ("C106", "6:35"),
        ("C102", "8:3"),
        ("C103", "9:3"),
        ("C105", "10:3"),
        ("C102", "12:1"),
        ("C112", "command"),
        ("C102", "command"),
        ("C104", "command"),
    ]
    by_place = {e.where.split()[0].removeprefix("r.yaml:"): e.fix for e in errors}
    assert by_place["2:21"] == "write tuner.r"
    assert by_place["2:31"] == "write tuner.lora_alpha"
    assert by_place["6:29"] == "write float16"
    assert by_place["8:3"].startswith("did you mean `learning_rate`?")


def test_train_tells_model_template_and_reports_with_the_rest_in_one_exit(here, capsys):
    (here / "r.yaml").write_text(WRONG.replace("  max_length: 1\n", ""))
    assert main(["train", "r.yaml"]) == 2
    told = capsys.readouterr().err
    assert "did you mean `builtin:tiny`?" in told
    assert "r.yaml:1:1      model: builtin:tyni" in told
    assert "error[C195]: no tracker called `mlflo`" in told
    assert "r.yaml:10:7" in told
    assert told.rstrip().endswith("14 mistakes; nothing was done")
    assert not (here / "runs").exists()


def test_config_check_tells_what_is_not_said_and_a_wrong_template(here, capsys):
    (here / "r.yaml").write_text("data: {template: chatmi}\noptim: {learning_rate: fast}\n")
    assert main(["config", "check", "r.yaml"]) == 2
    told = capsys.readouterr().err
    for line in (
        "does not say `model`",
        "does not say `data.train`",
        "no template called `chatmi`",
        "--> r.yaml:1:8",
        "`optim.learning_rate` wants a number",
    ):
        assert line in told


def test_one_mistake_is_an_error_of_its_own(here):
    (here / "r.yaml").write_text("optim: {lr: 1}\n")
    with pytest.raises(ConfigError) as caught:
        recipe.load("r.yaml")
    assert type(caught.value) is ConfigError
    assert caught.value.code == "C103"


def test_what_an_unknown_kind_makes_unknowable_is_not_called_a_mistake(here):
    (here / "r.yaml").write_text("tuner: {kind: qlora, bits: 4}\n")
    with pytest.raises(ConfigError) as caught:
        recipe.load("r.yaml", ["learning_rate=1e-4"])
    assert caught.value.code == "C110"
    assert caught.value.fix.startswith("write lora")


def test_beside_a_secret_nothing_else_is_shown(here):
    errors = found("api_key: abc\nhf_token: hf_abcdefghijklmnopqrstuvwxyz\nlr: 3\n")
    assert [e.code for e in errors] == ["C107", "C107"]
    assert "abc" not in "".join(map(str, errors))


def test_several_errors_cross_process_borders():
    errors = ConfigErrors([ConfigError("C102", "one", where="a"), ConfigError("C104", "two")])
    again = pickle.loads(pickle.dumps(errors))
    assert str(again) == str(errors)
    assert str(errors).splitlines()[-1] == "2 mistakes; nothing was done"
    assert (again.code, again.exit_code) == ("C102", 2)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("train: {dtype: bf16}", "write bfloat16"),
        ("model: {dtype: torch.float16}", "write float16"),
        ("optim: {lr_scheduler_type: warmup_stable_decay}", "write wsd"),
        ("optim: {lr_scheduler_type: cosin}", "did you mean `cosine`?"),
        ("stage: rm", "write reward"),
        ("train: {learning_rate: 1}", "write it as `optim.learning_rate`"),
        ("tuner: {r: 8, dropout: 0.1}", "write tuner.lora_dropout"),
        ("train: {epochs: 3}", "write train.num_train_epochs"),
    ],
)
def test_words_of_other_tools(here, text, fix):
    (here / "r.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        recipe.load("r.yaml")
    assert fix in caught.value.fix
