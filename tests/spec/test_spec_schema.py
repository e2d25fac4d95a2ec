from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import Site, importable, registry_of
from ruamel.yaml import YAML
from stabfw.registry import Registry
from stabfw.spec import load_spec
from stabfw.spec.schema import json_schema
from stabfw.spec.starter import STARTER


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    site.demo()
    with importable(site):
        yield site


def conforms(value: Any, schema: Any, root: Any) -> bool:
    """Whether a value fits a JSON Schema, as far as keywords occur in ours."""
    known = {
        "$defs", "$ref", "$schema", "additionalProperties", "anyOf", "const", "default",
        "description", "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "items",
        "maximum", "minItems", "minLength", "minimum", "pattern", "patternProperties",
        "properties", "propertyNames", "required", "title", "type",
    }  # fmt: skip
    assert set(schema) <= known, set(schema) - known
    types = {
        "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
        "integer": int, "number": (int, float),
    }  # fmt: skip
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return conforms(value, target, root)
    if "anyOf" in schema and not any(conforms(value, each, root) for each in schema["anyOf"]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "type" in schema:
        number = schema["type"] in ("integer", "number")
        if not isinstance(value, types[schema["type"]]) or (number and isinstance(value, bool)):
            return False
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if value < schema.get("minimum", value) if isinstance(value, int | float) else False:
        return False
    if value > schema.get("maximum", value) if isinstance(value, int | float) else False:
        return False
    if isinstance(value, list):
        return len(value) >= schema.get("minItems", 0) and all(
            conforms(item, schema.get("items", {}), root) for item in value
        )
    if isinstance(value, dict):
        if not set(schema.get("required", ())) <= set(value):
            return False
        for key, item in value.items():
            if key in schema.get("properties", {}):
                fits = [schema["properties"][key]]
            else:
                patterns = schema.get("patternProperties", {}).items()
                fits = [sub for pattern, sub in patterns if re.search(pattern, key)]
            if not fits and schema.get("additionalProperties", True) is False:
                return False
            if not all(conforms(item, sub, root) for sub in fits):
                return False
    return True


def valid(text: str, registry: Registry) -> bool:
    schema = json.loads(json.dumps(json_schema(registry)))
    return conforms(YAML(typ="safe", pure=True).load(text), schema, schema)


GOOD = """\
stabfw: 1
name: demo
models: [toy, {type: toy, name: big}]
stacks:
  a: [quant, {type: prune, layer: 1}]
benchmarks: [{type: cards, limit: 5}]
perturbations: [noise, {type: noise, severity: 1}, [noise, swap]]
calibration: {benchmark: cards}
controls: {noise_floor: false}
tracking: {uri: null}
"""


def test_accepts_what_the_spec_accepts(site: Site, tmp_path: Path) -> None:
    registry = registry_of(site)
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD)
    spec = load_spec(path, registry)
    assert valid(GOOD, registry)
    assert valid(json.dumps(spec.dump()), registry)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: demo", "nmae: demo"),
        ("[toy,", "[tiy,"),
        ("[quant,", "[prune, cards,"),
        ("layer: 1", "layer: -1"),
        ("layer: 1", "laier: 1"),
        ("  a: [quant", "  a/b: [quant"),
        ("limit: 5", "limit: five"),
        ("[noise, swap]", "[]"),
        ("noise_floor: false", "noise_floor: 3"),
    ],
)
def test_refuses_what_the_spec_refuses(site: Site, old: str, new: str) -> None:
    assert old in GOOD
    assert not valid(GOOD.replace(old, new, 1), registry_of(site))


def test_broken_plugins_are_left_out_with_a_warning(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.module("broken", "raise ValueError('boom')")
    site.distribution("broken-dist", {"stabfw.accelerators": {"broken": "broken"}})
    registry = registry_of(site)
    assert valid(GOOD, registry)
    assert not valid(GOOD.replace("quant", "broken"), registry)
    assert "accelerator plugin 'broken' (broken-dist 1.0, broken) cannot be imported" in caplog.text


def test_the_starter_fits_the_schema_and_loads(tmp_path: Path) -> None:
    registry = Registry()
    path = tmp_path / "spec.yaml"
    path.write_text(STARTER)
    spec = load_spec(path, registry)
    assert [model.type for model in spec.models] == ["tiny-llava"]
    assert valid(STARTER, registry)
