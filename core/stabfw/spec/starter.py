"""The spec that `stabfw init` writes."""

from __future__ import annotations

from stabfw.spec.schema import SCHEMA_FILE

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

benchmarks: [{{type: shapes, limit: 60}}]

# The inputs as they are (`clean`) are always included. A list inside the list is a composition.
perturbations:
  - {{type: gaussian-noise, severity: 3}}
  - typos
  # - [{{type: gaussian-noise, severity: 1}}, typos]

seeds: [0]

controls:
  # How often the baseline disagrees with itself when only the batches change.
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
