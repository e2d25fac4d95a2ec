"""The spec that `stabfw init` writes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from stabfw.spec.schema import SCHEMA_FILE

_BENCHMARKS = "benchmarks: [{type: shapes, limit: 60}]\n"

STARTER = f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
# `stabfw schema` writes the file above: editors then complete names and show what they mean.
# `stabfw plugins` lists what can be named here, `stabfw plugins NAME` its parameters.
stabfw: 1
name: first-look

# A bare name is short for {{type: NAME}}. `tiny-llava` is embedded, so this runs offline.
models: [tiny-llava]

# What is compared with the model alone. A stack is a list: its members work together.
stacks:
  fastv-50: [{{type: fastv, layer: 1, keep_ratio: 0.5}}]
  # Needs more packages: pip install "stabfw[hqq]"
  # hqq-4bit: [{{type: hqq, bits: 4}}]
  # hqq+fastv: [{{type: hqq, bits: 4}}, {{type: fastv, layer: 1, keep_ratio: 0.5}}]

{_BENCHMARKS}
# The inputs as they are (`clean`) are always included. A list inside the list is a composition.
perturbations:
  - {{type: gaussian-noise, severity: 3}}
  - typos
  # - [{{type: gaussian-noise, severity: 1}}, typos]

seeds: [0]

controls:
  # How often the baseline disagrees with itself when only the batches change; `stacks: true` asks
  # the same of each stack.
  noise_floor: {{repeats: 3}}

generation: {{max_new_tokens: 16}}
batch_size: 8

# Paths are relative to the directory in which stabfw is started.
store: .stabfw/store
runs: runs

tracking:
  uri: null  # "sqlite:///mlflow.db" logs to MLflow; needs pip install "stabfw[mlflow]"
  images: none  # thumbnails, full: show pictures in reports and MLflow
"""


def starter(name: str, config: BaseModel, suggested: Mapping[str, Any]) -> str:
    """Make the same spec about a user's own data.

    Args:
        name: Name of the benchmark that reads it.
        config: Its config.
        suggested: The fields that the spec sets; all others are there as comments.

    Example:
        >>> class Config(BaseModel):
        ...     path: str
        >>> "path: a.csv" in starter("mine", Config(path="a.csv"), {"path": "a.csv"})
        True
    """
    lines = ["benchmarks:", f"  - type: {name}"]
    lines += [f"    {key}: {_flow(value)}" for key, value in suggested.items()]
    for key, field in type(config).model_fields.items():
        if key not in suggested:
            about = textwrap.wrap(field.description or "", 90)
            lines += ["", *(f"    # {line}" for line in about)]
            lines += [f"    # {key}: {_flow(getattr(config, key))}"]
    text = "\n".join(lines) + "\n"
    return STARTER.replace(_BENCHMARKS, text).replace("name: first-look", "name: my-data", 1)


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.width = 10_000
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    yaml.dump(value, text)
    return text.getvalue().removesuffix("...\n").strip()
