"""Loading recipes: layers, precedence, origins, shorthands, paths, Python recipes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith import recipe
from tunesmith.errors import ConfigError, TunesmithError
from tunesmith.recipe.sections import Holdout, Source

FULL = """\
model: {path: builtin:tiny, dtype: auto}
stage: sft
tuner: {kind: lora, r: 16, lora_alpha: 32, target_modules: all-linear}
data:
  train: [{path: some/train.jsonl, weight: 2}]
  eval:  {fraction: 0.05}
train: {num_train_epochs: 3, save_steps: no, dtype: auto}
optim: {learning_rate: 2e-4, warmup_steps: 0.03}
eval:  {steps: 50, load_best_model_at_end: no}
parallel: single
log: {report_to: []}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes files into a folder that is the current one."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "recipe.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    return write


def refused(*arguments, **options) -> TunesmithError:
    with pytest.raises(TunesmithError) as caught:
        recipe.load(*arguments, **options)
    return caught.value


def test_the_recipe_of_the_specification(write):
    loaded = recipe.load(write(FULL))
    assert loaded.optim.learning_rate == 2e-4
    assert loaded.train.save_steps == "no"
    assert loaded.eval.load_best_model_at_end is False
    assert loaded.data.train == (Source("some/train.jsonl", weight=2.0),)
    assert loaded.data.eval == Holdout(fraction=0.05)
    assert (loaded.stage.kind, loaded.parallel.kind) == ("sft", "single")
    assert (loaded.tuner.kind, loaded.tuner.r) == ("lora", 16)
    assert loaded.log.report_to == ()


@pytest.mark.parametrize(
    ("text", "train"),
    [
        ("a.jsonl", ("a.jsonl",)),
        ("[a.jsonl, b.jsonl]", ("a.jsonl", "b.jsonl")),
        ("{path: a.jsonl}", ("a.jsonl",)),
        ("[a.jsonl, {path: b.jsonl}]", ("a.jsonl", "b.jsonl")),
        ("[]", ()),
    ],
)
def test_strings_stand_for_sources(write, text, train):
    loaded = recipe.load(write(f"data: {{train: {text}, eval: {text}}}"))
    assert tuple(source.path for source in loaded.data.train) == train
    assert tuple(source.path for source in loaded.data.eval) == train


def test_precedence_and_origins(write, monkeypatch):
    write("optim: {learning_rate: 1e-3, weight_decay: 0.1, adam_beta1: 0.8}\n", "base/base.yaml")
    path = write("extends: base/base.yaml\noptim:\n  learning_rate: 2e-3\n")
    monkeypatch.setenv("TUNESMITH__OPTIM__WEIGHT_DECAY", "0.2")
    monkeypatch.setenv("TUNESMITH__OPTIM__ADAM_BETA2", "0.9")
    loaded = recipe.load(path, ["optim.adam_beta2=0.95", "tuner.r=4"])
    optim = loaded.optim
    assert (optim.learning_rate, optim.weight_decay) == (2e-3, 0.2)
    assert (optim.adam_beta1, optim.adam_beta2, loaded.tuner.r) == (0.8, 0.95, 4)
    origins = recipe.origins(loaded)
    assert origins["optim.learning_rate"] == "recipe.yaml:3:3"
    assert origins["optim.adam_beta1"] == "base/base.yaml:1:49"
    assert origins["optim.weight_decay"] == "environment"
    assert origins["optim.adam_beta2"] == "command line"
    assert origins["optim.adam_epsilon"] == "default"
    assert set(origins) == set(recipe.flatten(recipe.to_dict(loaded)))
    assert recipe.load(path, environ={}).optim.weight_decay == 0.1


def test_origins_look_through_shorthands(write):
    loaded = recipe.load(write("stage: sft\nmodel: builtin:tiny\ndata:\n  train: a.jsonl\n"))
    origins = recipe.origins(loaded)
    assert origins["stage.kind"] == "recipe.yaml:1:1"
    assert origins["model.path"] == "recipe.yaml:2:1"
    assert origins["data.train.0.path"] == "recipe.yaml:4:3"
    assert origins["data.train.0.weight"] == "default"


def test_another_kind_replaces_the_part_and_the_same_kind_keeps_it(write):
    path = write("tuner: {kind: lora, r: 3}")
    assert recipe.load(path, ["tuner=full"]).tuner.kind == "full"
    assert recipe.load(path, ["tuner=lora"]).tuner.r == 3
    assert recipe.load(path, ["tuner.r=5", "tuner=lora"]).tuner.r == 5
    assert recipe.load(write("tuner: {r: 3}"), ["tuner=lora"]).tuner.r == 3


def test_a_model_path_replaces_a_config_with_its_tokenizer(write):
    path = write("model: {config: {model_type: llama, hidden_size: 8}, tokenizer: builtin:bpe}")
    loaded = recipe.load(path, ["model=builtin:tiny", "model.dtype=float32"])
    assert (loaded.model.path, loaded.model.config) == ("builtin:tiny", None)
    assert (loaded.model.tokenizer, loaded.model.dtype) == (None, "float32")
    deeper = recipe.load(path, ["model.config.hidden_size=16"])
    assert deeper.model.config == {"model_type": "llama", "hidden_size": 16}
    assert deeper.model.tokenizer == "builtin:bpe"


def test_a_leaf_alone_is_enough_where_it_is_unique(write):
    loaded = recipe.load(
        write(FULL), ["learning_rate=1e-4", "r=2", "stage=pretrain", "packing=pack"]
    )
    assert (loaded.optim.learning_rate, loaded.tuner.r) == (1e-4, 2)
    assert (loaded.stage.kind, loaded.data.packing) == ("pretrain", "pack")


def test_a_leaf_of_several_sections_is_refused_with_all_of_them(write):
    error = refused(write(FULL), ["dtype=float32"])
    assert error.code == "C111"
    assert "model.dtype, train.dtype" in error.fix


@pytest.mark.parametrize("text", ["learning_rate", "=3", "a b=3", "optim.=3"])
def test_what_is_not_an_override(text):
    assert refused(None, [text]).code == "C112"


def test_an_override_that_looks_like_yaml_is_text_where_text_is_wanted():
    for text in ("[draft] be: brief", "{name}", "no", "a: b # c", "1.0"):
        assert recipe.load(None, [f"data.system={text}"]).data.system == text
    assert recipe.load(None, ['data.system="quoted"']).data.system == "quoted"
    assert recipe.load(None, ["data.system="]).data.system is None


def test_an_unknown_kind_lists_the_known_ones():
    error = refused(None, ["tuner=lorra"])
    assert error.code == "C110"
    assert "did you mean `lora`" in error.fix
    assert error.where == "command line      tuner=lorra"


def test_extends_in_a_circle(write):
    write("extends: b.yaml", "a.yaml")
    write("extends: a.yaml", "b.yaml")
    error = refused("a.yaml")
    assert error.code == "C109"
    assert "a.yaml → b.yaml → a.yaml" in error.what


@pytest.mark.parametrize("name", ["sft-lora", "sft-lora.yaml", "chain/2-sft"])
def test_extends_a_recipe_that_ships(write, name):
    mine = recipe.load(write(f"extends: {name}\noptim:\n  learning_rate: 7e-3\n"))
    theirs = recipe.load(name.removesuffix(".yaml"))
    assert mine.optim.learning_rate == 7e-3
    assert mine.tuner == theirs.tuner
    assert mine.stage == theirs.stage


def test_extends_a_file_that_is_not_there(write):
    error = refused(write("extends: nowhere.yaml"))
    assert (error.code, error.where.split()[0]) == ("C100", "recipe.yaml:1:10")


def test_an_empty_section_changes_nothing(write):
    write("optim: {weight_decay: 0.1}\n", "base.yaml")
    loaded = recipe.load(write("extends: base.yaml\noptim:\n  # learning_rate: 1\nlog:\n"))
    assert loaded.optim.weight_decay == 0.1


def test_paths_are_found_beside_the_recipe_then_here(write, tmp_path):
    for name in ("sub/near.jsonl", "both.jsonl", "sub/both.jsonl", "here.jsonl", "sub/t.jinja"):
        write("x", name)
    files = "near.jsonl, both.jsonl, here.jsonl, nowhere.jsonl, builtin:chats"
    path = write(f"model: org/name\ndata: {{train: [{files}], template: t.jinja}}", "sub/r.yaml")
    loaded = recipe.load(path, ["data.eval=both.jsonl"])
    assert [source.path for source in loaded.data.train] == [
        str(tmp_path / "sub/near.jsonl"),
        str(tmp_path / "sub/both.jsonl"),
        str(tmp_path / "here.jsonl"),
        "nowhere.jsonl",
        "builtin:chats",
    ]
    assert loaded.data.eval[0].path == str(tmp_path / "both.jsonl")
    assert loaded.data.template == str(tmp_path / "sub/t.jinja")


@pytest.mark.parametrize("name", ["t.toml", "chat_template.json"])
def test_templates_are_found_beside_the_recipe(write, tmp_path, name):
    write("x", f"sub/{name}")
    loaded = recipe.load(write(f"model: org/name\ndata: {{template: {name}}}", "sub/r.yaml"))
    assert loaded.data.template == str(tmp_path / "sub" / name)
    assert loaded.model.path == "org/name"


def test_a_recipe_in_python(write):
    write("RATE = 3e-4\n", "beside.py")
    path = write(
        "from beside import RATE\n"
        "from tunesmith.recipe.sections import OptimConfig, Recipe\n"
        "def make():\n"
        "    return Recipe(stage='pretrain', optim=OptimConfig(learning_rate=RATE))\n"
        "def wrong():\n    return 3\n"
        "def broken():\n    return 1 / 0\n",
        "mine.py",
    )
    loaded = recipe.load(f"{path}:make", ["optim.weight_decay=0.1"])
    assert (loaded.stage.kind, loaded.optim.learning_rate) == ("pretrain", 3e-4)
    assert loaded.optim.weight_decay == 0.1
    assert recipe.origins(loaded)["optim.learning_rate"] == "mine.py:make"
    assert recipe.origins(loaded)["optim.adam_beta1"] == "default"
    for name in ("wrong", "broken", "missing"):
        assert refused(f"{path}:{name}").code == "C113"
    assert refused("nowhere.py:make").code == "C100"


def test_a_bare_name_may_be_a_shipped_recipe(write):
    for name in ("tiny-sft-lora", "tiny-sft-lora.yaml"):
        loaded = recipe.load(name)
        assert loaded.tuner.kind == "lora"
        assert recipe.origins(loaded)["stage.kind"].startswith("recipes/tiny-sft-lora.yaml:")
    assert recipe.load(write("stage: pretrain", "tiny-sft-lora.yaml")).stage.kind == "pretrain"
    assert refused("elsewhere/tiny-sft-lora.yaml").code == "C100"
    error = refused("dop-lora")
    assert error.code == "C100"
    assert "did you mean `dpo-lora`?" in error.fix
    assert all(name in error.fix for name in ("chain/5-ppo", "sft-lora"))


def test_plain_data_round_trips():
    loaded = recipe.from_dict(
        {"stage": "sft", "data": {"train": ["a.jsonl"], "eval": {"count": 5}}}
    )
    assert recipe.from_dict(recipe.to_dict(loaded)) == loaded
    changed = replace(loaded, data=replace(loaded.data, max_length=7))
    assert recipe.from_dict(recipe.to_dict(changed)).data.max_length == 7


def test_a_recipe_must_say_model_and_data():
    for data, missing in (
        ({}, "model"),
        ({"model": {"config": {"model_type": "llama"}}}, "model.tokenizer"),
        ({"model": "builtin:tiny"}, "data.train"),
    ):
        with pytest.raises(ConfigError) as caught:
            recipe.complete(recipe.from_dict(data))
        assert caught.value.code == "C114"
        assert f"`{missing}`" in caught.value.what
    recipe.complete(recipe.from_dict({"model": "builtin:tiny", "data": {"train": "a.jsonl"}}))
