"""A JSON Schema of specs, with which editors complete and check them."""

from __future__ import annotations

import logging
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema

from stabfw.components import Kind
from stabfw.errors import PluginError
from stabfw.registry import Registry
from stabfw.spec.compose import SELECTED, selected
from stabfw.spec.models import ExperimentSpec

log = logging.getLogger(__name__)

#: Where editors look for the schema, as the first line of a spec says.
SCHEMA_FILE = ".stabfw/spec.schema.json"


def json_schema(registry: Registry) -> dict[str, Any]:
    """Describe valid specs, with the parameters of all installed plugins.

    Every plugin is imported. A broken one is left out, with a warning that says why.

    Returns:
        A JSON Schema, draft 2020-12.
    """
    schema = ExperimentSpec.model_json_schema()
    for kind, base in SELECTED.items():
        choices = _choices(registry, kind)
        schema["$defs"] |= {f"{kind}.{name}": choice for name, choice in choices.items()}
        refs = [{"$ref": f"#/$defs/{kind}.{name}"} for name in choices]
        schema["$defs"][base.__name__] = {
            "description": f"The {kind}'s name, or its `type` and parameters.",
            "anyOf": [{"enum": list(choices)}, *refs],
        }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _choices(registry: Registry, kind: Kind) -> dict[str, Any]:
    choices = {}
    for name in registry.names(kind):
        try:
            config = selected(SELECTED[kind], registry.load(kind, name).config_cls, name)
            template = f"#/$defs/{kind}.{name}/$defs/{{model}}"
            choices[name] = config.model_json_schema(ref_template=template)
        except (PluginError, PydanticInvalidForJsonSchema) as error:
            log.warning("left out of the schema: %s '%s': %s", kind, name, error)
    return choices
