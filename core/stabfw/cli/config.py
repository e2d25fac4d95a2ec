"""Parameters of a plugin on the command line, as `--config JSON`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click


def parsed_config(config: str | None) -> Mapping[str, Any]:
    """Read the JSON object that `--config` gives; nothing means no parameters."""
    if config is None:
        return {}
    try:
        values = json.loads(config)
    except ValueError as error:
        raise click.BadParameter(f"not valid JSON: {error}", param_hint="--config") from None
    if not isinstance(values, dict):
        raise click.BadParameter("must be a JSON object", param_hint="--config")
    return values
