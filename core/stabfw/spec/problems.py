"""What is wrong with a spec, in words for its author."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from stabfw.errors import PluginError
from stabfw.registry.contract import did_you_mean, listed

#: Stands in a location after a key, where the key itself and not its value is wrong.
KEY = "[key]"

Location = tuple[int | str, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        message: What, and what to do.
        location: Keys and indices that lead to it.
        line: Its line in the file from 1, where that does not follow from the location.
        column: Its column from 1, likewise.
        cause: The plugin's error, if there is one.
    """

    message: str
    location: Location = ()
    line: int | None = None
    column: int = 1
    cause: PluginError | None = None


def dotted(location: Location) -> str:
    """Write a location as `stacks.fastv[0].layer`."""
    parts = [f"[{p}]" if isinstance(p, int) else f".{p}" for p in location if p != KEY]
    return "".join(parts).removeprefix(".")


def problems(error: ValidationError) -> list[Problem]:
    """Put what pydantic found into words."""
    found = error.errors(include_url=False)
    locations = [item["loc"] for item in found]
    return [
        Problem(_worded(item), _place(item), cause=item.get("ctx", {}).get("cause"))
        for item in found
        # Items that are wrong are not counted, so their list seems too short as well.
        if not (item["type"] == "too_short" and any(_below(x, item["loc"]) for x in locations))
    ]


def detail(
    location: Location, kind: str, message: str, value: object, cause: PluginError | None = None
) -> InitErrorDetails:
    """One error of a validator, at a part of the validated value."""
    custom = PydanticCustomError(kind, "{message}", {"message": message, "cause": cause})
    return InitErrorDetails(type=custom, loc=location, input=value)


def failure(*details: InitErrorDetails) -> ValidationError:
    """An error for a validator to raise; unlike others, it can be about several parts."""
    return ValidationError.from_exception_data("spec", list(details))


def hinted(error: ValidationError, model: type[BaseModel]) -> ValidationError:
    """The same errors, but unknown fields come with those that exist."""
    details = []
    for item in error.errors(include_url=False):
        message, context = item["msg"], item.get("ctx", {})
        if item["type"] == "extra_forbidden" and len(item["loc"]) == 1:
            fields = [field.alias or name for name, field in model.model_fields.items()]
            hint = did_you_mean(str(item["loc"][0]), fields)
            message = f"unknown field{hint or f' (known: {listed(fields)})'}"
        elif item["type"] == "extra_forbidden" and message.startswith("Extra inputs"):
            message = "unknown field"
        custom = PydanticCustomError(item["type"], "{message}", {**context, "message": message})
        details.append(InitErrorDetails(type=custom, loc=item["loc"], input=item["input"]))
    return ValidationError.from_exception_data(error.title, details)


def _worded(item: Any) -> str:
    value, context = item["input"], item.get("ctx", {})
    match item["type"]:
        case "missing":
            return "is missing"
        case "list_type" | "tuple_type":
            message = "must be a list"
        case "dict_type" | "mapping_type" | "model_type" | "model_attributes_type":
            message = "must be a mapping"
        case "too_short":
            count = context.get("min_length", 1)
            return f"must have at least {count} item{'' if count == 1 else 's'}"
        case "string_type" if isinstance(value, int | float):
            message = "must be text: put it in quotes"
        case "string_pattern_mismatch":
            message = f"must match {context.get('pattern')}"
        case _:
            message = (
                str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
            )
            if not message.startswith("Input should"):
                return message
            message = message.replace("Input should", "must", 1)
    if isinstance(value, list | tuple | Mapping):
        return f"{message} (got a {'mapping' if isinstance(value, Mapping) else 'list'})"
    return f"{message} (got {json.dumps(value, default=repr, ensure_ascii=False)})"


def _place(item: Any) -> Location:
    location: Location = item["loc"]
    return (*location, KEY) if item["type"] == "extra_forbidden" else location


def _below(location: Location, parent: Location) -> bool:
    return len(location) > len(parent) and location[: len(parent)] == parent
