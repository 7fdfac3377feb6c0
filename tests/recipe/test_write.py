"""Recipes as data: dump loads back equal, digests, and what may change on resume."""

from __future__ import annotations

import yaml
from hypothesis import given, strategies as st

from tunesmith import recipe
from tunesmith.recipe import yaml12
from tunesmith.recipe.sections import DataConfig, ModelConfig, Recipe, Source
from tunesmith.recipe.typed import free
from tunesmith.recipe.write import dump

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
configs = st.dictionaries(
    st.text(min_size=1).filter(lambda key: key != "<<"),
    scalars | st.lists(scalars, max_size=3),
    max_size=4,
)


def loaded_back(text: str):
    return free(yaml12.parse(text, "r.yaml"))


@given(config=configs, system=st.text(), path=st.text(min_size=1))
def test_dump_loads_back_equal(config, system, path):
    made = Recipe(
        model=ModelConfig(config=config),
        data=DataConfig(train=(Source(path, columns={"prompt": system}),), system=system),
    )
    assert loaded_back(dump(made)) == recipe.to_dict(made)


def test_a_loaded_recipe_is_dumped_and_loaded_equal(tmp_path):
    made = recipe.load(
        None, ["learning_rate=3e-5", "adam_epsilon=1e-12", "save_steps=no", "data.train=[a, b]"]
    )
    path = tmp_path / "resolved.yaml"
    path.write_text(recipe.dump(made, recipe.origins(made)), encoding="utf-8")
    again = recipe.load(path, environ={})
    assert again == made
    assert recipe.digest(again) == recipe.digest(made)


def test_readers_of_yaml_1_1_see_the_same():
    made = recipe.load(None, ["learning_rate=1e-5", "save_steps=no", "model.path=on"])
    assert yaml.safe_load(recipe.dump(made)) == recipe.to_dict(made)


def test_origins_stand_behind_the_values():
    made = recipe.load(None, ["learning_rate=1e-5"])
    lines = recipe.dump(made, recipe.origins(made)).splitlines()
    line = next(line for line in lines if "learning_rate:" in line and "min_" not in line)
    assert line.split() == ["learning_rate:", "1.0e-05", "#", "command", "line"]


def test_the_digest_is_of_values_not_of_origins():
    one = recipe.load(None, ["optim.learning_rate=1e-4"])
    two = recipe.from_dict({"optim": {"learning_rate": 0.0001}})
    three = recipe.from_dict({"optim": {"learning_rate": 0.0002}, "output": {"dir": "x"}})
    assert recipe.digest(one) == recipe.digest(two) != recipe.digest(three)
    excluded = ("optim.learning_rate", "output")
    assert recipe.digest(one, exclude=excluded) == recipe.digest(three, exclude=excluded)


def differing(old: list[str], new: list[str]) -> list[str]:
    before, after = recipe.load(None, old), recipe.load(None, new)
    return recipe.differences(recipe.to_dict(before), recipe.to_dict(after))


def test_what_may_change_on_resume():
    free_keys = ["save_steps=7", "logging_steps=3", "eval.steps=5", "output.dir=x", "report_to=[]"]
    assert differing([], [*free_keys, "save_total_limit=9", "logging_first_step=no"]) == []
    assert differing([], ["seed=1", "learning_rate=1"]) == ["optim.learning_rate", "train.seed"]
    assert "tuner.kind" in differing(["tuner.r=4"], ["tuner=full"])


def test_the_length_may_change_only_without_a_decay():
    longer = ["num_train_epochs=9", "max_steps=50"]
    keys = ["train.max_steps", "train.num_train_epochs"]
    assert differing([], longer) == keys
    constant = ["lr_scheduler_type=constant"]
    assert differing(constant, [*constant, *longer]) == []
    assert differing(constant, longer) == ["optim.lr_scheduler_type", *keys]
    share = [*constant, "warmup_steps=0.1"]
    assert differing(share, [*share, *longer]) == keys
    fixed = [*constant, "warmup_steps=10"]
    assert differing(fixed, [*fixed, *longer]) == []
