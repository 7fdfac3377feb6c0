"""The schema and the field docs say all there is, for every registered part."""

from __future__ import annotations

import dataclasses

from tunesmith import recipe, registry
from tunesmith.recipe.describe import _reachable
from tunesmith.recipe.reading import PARTS
from tunesmith.recipe.sections import OptimConfig, Recipe


def test_every_field_of_every_config_has_a_docstring():
    parts = [cls for name in PARTS for cls in recipe.part_configs(name).values()]
    missing = {
        f"{cls.__name__}.{field.name}"
        for cls in _reachable([Recipe, *parts]).values()
        for field in dataclasses.fields(cls)
        if not recipe.field_docs(cls).get(field.name)
    }
    assert missing == set()


def test_field_docs_reads_the_source():
    assert recipe.field_docs(OptimConfig)["learning_rate"] == "Peak learning rate."


def test_the_schema_knows_every_part():
    schema = recipe.schema()
    for section, kind in (("stage", "stages"), ("tuner", "tuners"), ("parallel", "parallel")):
        names, *refs = schema["properties"][section]["anyOf"]
        assert names["enum"] == sorted(registry.names(kind))
        assert len(refs) == len(names["enum"])
    assert set(schema["properties"]) == {*(f.name for f in dataclasses.fields(Recipe)), "extends"}
    rate = schema["$defs"]["OptimConfig"]["properties"]["learning_rate"]
    assert rate == {
        "type": "number",
        "default": 2e-4,
        "title": "Learning Rate",
        "description": "Peak learning rate.",
    }


def test_references_of_the_schema_lead_somewhere():
    schema = recipe.schema()

    def references(node):
        if isinstance(node, dict):
            yield from [node["$ref"]] if "$ref" in node else []
            node = list(node.values())
        for child in node if isinstance(node, list) else []:
            yield from references(child)

    found = set(references(schema))
    assert found
    assert all(ref.removeprefix("#/$defs/") in schema["$defs"] for ref in found)


def test_a_section_alone():
    assert recipe.schema("optim")["$ref"] == "#/$defs/OptimConfig"
