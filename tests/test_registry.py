"""The file name is the name, and an unknown name gets the nearest and all."""

from __future__ import annotations

import importlib.metadata

import pytest

from tunesmith import registry
from tunesmith.errors import ConfigError


@pytest.mark.parametrize("kind", ["stages", "tuners", "parallel"])
def test_every_name_loads_a_class_with_a_config_of_that_kind(kind):
    assert registry.names(kind)
    for name in registry.names(kind):
        part = registry.load(kind, name)
        assert part.__name__.lower().startswith(name.replace("_", ""))
        assert part.Config().kind == name


def test_formats_are_modules_that_detect_and_parse():
    for name in registry.names("formats"):
        module = registry.load("formats", name)
        assert callable(module.detect)
        assert callable(module.parse)


def test_unknown_name_offers_the_nearest():
    with pytest.raises(ConfigError) as caught:
        registry.load("stages", "sftt")
    assert caught.value.code == "C110"
    assert "did you mean `sft`?" in caught.value.fix
    assert "pretrain" in caught.value.fix


def test_class_names():
    assert registry.class_name("prefix_tuning", "Tuner") == "PrefixTuningTuner"


def test_entry_points_add_names(monkeypatch):
    """A third-party package's stage is found, listed, and loaded from where it says."""
    entry = importlib.metadata.EntryPoint("toy", "collections:OrderedDict", "tunesmith.stages")
    real = registry.entry_points

    def with_toy(group):
        return [*real(group=group), *([entry] if group == "tunesmith.stages" else [])]

    monkeypatch.setattr(registry, "entry_points", with_toy)
    registry.names.cache_clear()
    try:
        assert "toy" in registry.names("stages")
        assert registry.load("stages", "toy").__name__ == "OrderedDict"
    finally:
        registry.names.cache_clear()
