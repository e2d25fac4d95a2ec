"""Content keys: canonical JSON and what differs between two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(value: object) -> str:
    """Write a value as JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: object) -> str:
    """Hash a JSON-compatible value.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def changed_fields(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Tell in which dotted fields two nested mappings differ.

    Example:
        >>> changed_fields({"model": {"dtype": "float32"}}, {"model": {"dtype": "bfloat16"}})
        {'model.dtype': ('float32', 'bfloat16')}
    """
    left, right = dict(_leaves(ours)), dict(_leaves(theirs))
    return {
        name: (left.get(name), right.get(name))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    }


def _leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, (list, tuple)) and value:
        items = enumerate(value)  # type: ignore[assignment]
    else:
        return [(prefix, value)]
    return [
        leaf
        for key, child in items
        for leaf in _leaves(child, f"{prefix}.{key}" if prefix else str(key))
    ]
