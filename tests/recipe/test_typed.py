"""Types, names and ranges: each error says what is allowed and where the value stands."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tunesmith import recipe
from tunesmith.errors import ConfigError
from tunesmith.recipe import yaml12
from tunesmith.recipe.foreign import TODAY
from tunesmith.recipe.sections import Recipe
from tunesmith.recipe.typed import build, hints


def refused(text: str, tmp_path) -> ConfigError:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        recipe.load(path)
    return caught.value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {max_steps: many}", "a whole number or null, found `many`"),
        ("train: {max_steps: 2.5}", "a whole number or null"),
        ("train: {seed: true}", "a whole number"),
        ("train: {seed: '3'}", "write the number without quotes"),
        ("train: {seed: 1e3}", "write 1000"),
        ("train: {seed: 1_000}", "write 1000"),
        ("train: {save_steps: often}", "a whole number, `epoch` or `no`"),
        ("train: {dtype: bf16}", "`auto`, `float32`, `bfloat16` or `float16`"),
        ("data: {packing: packs}", "did you mean `pack`?"),
        ("data: {shuffle: maybe}", "true or false"),
        ("data: {shuffle: 2}", "true or false"),
        ("data: {shuffle:}", "true or false, found nothing"),
        ("optim: {learning_rate: fast}", "a number, found `fast`"),
        ("optim: {learning_rate: [1]}", "found a list"),
        ("optim: {learning_rate: .inf}", "give a finite number"),
        ("optim: {learning_rate: .nan}", "give a finite number"),
        ("optim: 3", "keys and values"),
        ("stage: [sft]", "wants a name"),
        ("stage: {kind: [sft]}", "wants a name"),
        ("stage: {kind: {sft: 1}}", "wants a name"),
        ("data: {eval: 0.05}", "write {fraction: 0.05}"),
        ("data: {eval: 100}", "write {count: 100}"),
        ("data: {train: [3, [a]]}", "keys and values"),
        ("data: {train: }", "for an empty list write []"),
        ("model: {config: llama}", "a mapping or null"),
        ("- model: x", "a mapping of sections"),
    ],
)
def test_wrong_values(text, says, tmp_path):
    error = refused(text, tmp_path)
    assert error.code == "C104"
    assert says in str(error)
    assert "r.yaml:1:" in error.where


@pytest.mark.parametrize("word", ["true", "yes", "on", "1", "True", "YES"])
def test_words_for_true(word):
    assert recipe.load(None, [f"data.shuffle={word}"]).data.shuffle is True


@pytest.mark.parametrize("word", ["false", "no", "off", "0", "False", "Off"])
def test_words_for_false_are_not_judged_by_truthiness(word):
    assert recipe.load(None, [f"data.shuffle={word}"]).data.shuffle is False


def test_python_values_are_as_strict():
    for section, key, value in (
        ("train", "seed", "3"),
        ("train", "seed", True),
        ("train", "save_steps", False),
        ("data", "shuffle", 1),
        ("optim", "learning_rate", "1e-4"),
        ("data", "system", 3),
    ):
        with pytest.raises(ConfigError) as caught:
            recipe.from_dict({section: {key: value}})
        assert caught.value.code == "C104"


def test_an_unknown_key_as_in_the_specification(tmp_path):
    error = refused("stage: sft\noptim:\n  learnin_rate: 1e-4\n", tmp_path)
    assert error.code == "C102"
    assert error.what == "unknown key `learnin_rate` in section `optim`"
    assert error.where.endswith("r.yaml:3:3      learnin_rate: 1e-4")
    assert error.fix.startswith("did you mean `learning_rate`?")
    assert error.fix.endswith("all keys: tunesmith config schema optim")


def test_a_key_of_another_section_is_sent_there(tmp_path):
    assert "`optim.learning_rate`" in refused("learning_rate: 1e-4", tmp_path).fix
    assert "`data.shuffle`" in refused("train: {shuffle: no}", tmp_path).fix
    assert "`model.dtype` or `train.dtype`" in refused("dtype: float32", tmp_path).fix


@pytest.mark.parametrize("name", sorted(TODAY))
def test_names_of_other_tools_are_answered_with_todays_key(name, tmp_path):
    if name in hints(Recipe):
        pytest.skip("a section of ours")
    error = refused(f"{name}: 1", tmp_path)
    assert error.code == "C103"
    assert TODAY[name] in error.fix


def test_todays_keys_exist():
    """What the table recommends is a key of a section or of some stage, tuner or backend."""
    known = {f"{s}.{key}" for s in hints(Recipe) for key in _keys(s)}
    for old, new in TODAY.items():
        key = new.split(" ")[0].rstrip(":")
        if new.startswith("nothing") or "." not in key or key.startswith("stage."):
            continue
        assert key in known, old


def _keys(section: str) -> list[str]:
    if section in ("stage", "tuner", "parallel"):
        return [k for cls in recipe.part_configs(section).values() for k in hints(cls)]
    return list(hints(hints(Recipe)[section]))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.per_device_train_batch_size=0", "at least 1, found 0"),
        ("train.num_train_epochs=0", "above 0"),
        ("train.save_total_limit=0", "at least 1"),
        ("data.max_length=1", "at least 2"),
        ("optim.learning_rate=-1e-4", "at least 0, found -0.0001"),
        ("optim.adam_beta1=1.0", "at least 0 and below 1"),
        ("optim.adam_epsilon=0", "above 0"),
        ("data.eval.fraction=1.0", "above 0 and below 1"),
        ("data.eval.fraction=0", "above 0 and below 1"),
        ("data.eval.count=0", "at least 1"),
        ("data.eval={}", "a fraction or a count"),
        ("data.eval={fraction: 0.1, count: 3}", "a fraction or a count"),
        ("data.train=[{path: x, weight: -1}]", "at least 0"),
        ("model={path: x, config: {model_type: llama}}", "exclude each other"),
        ("output.name=../x", "can't be the name"),
        ("output.name=a@best", "can't be the name"),
        ("optim.min_learning_rate=1", "larger than optim.learning_rate"),
    ],
)
def test_values_out_of_range(override, says):
    with pytest.raises(ConfigError) as caught:
        recipe.load(None, [override])
    assert caught.value.code == "C105"
    assert says in caught.value.what
    assert caught.value.where.startswith("command line")


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError) as caught:
        recipe.load(None, ["data.train=[{weight: 1}]"])
    assert caught.value.code == "C114"
    assert "`path`" in caught.value.what


@pytest.mark.parametrize(
    "text",
    [
        "model: {path: x, hf_token: abc}",
        "token: abc",
        "log: {wandb_api_key: abc}",
        "model: {config: {model_type: llama, password: abc}}",
        "output: {name: hf_abcdefghijklmnopqrstuvwx}",
    ],
)
def test_secrets_are_refused_and_not_shown(text, tmp_path):
    error = refused(text, tmp_path)
    assert error.code == "C107"
    assert "abc" not in str(error)


def test_keys_that_only_sound_secret_are_fine():
    loaded = recipe.from_dict({"model": {"config": {"pad_token": "<pad>", "eos_token_id": 2}}})
    assert loaded.model.config["eos_token_id"] == 2


def test_what_a_config_class_refuses_gets_a_place():
    @dataclass(frozen=True)
    class Part:
        r: int = 8

        def __post_init__(self):
            if self.r < 1:
                raise ValueError("r must be at least 1")

    hints.cache_clear()
    Part.__annotations__["r"] = int
    with pytest.raises(ConfigError) as caught:
        build(Part, yaml12.parse("r: 0", "r.yaml"), "tuner")
    assert (caught.value.code, caught.value.where.split()[0]) == ("C105", "r.yaml:1:1")
