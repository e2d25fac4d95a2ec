"""What is demanded of plugins of every kind."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from stabfw.components import Component
from stabfw.errors import PluginError
from stabfw.registry.contract import listed
from stabfw.testing.check import CheckError, NotApplicableError, require
from stabfw.testing.elsewhere import asked, imported
from stabfw.testing.subject import Subject


def check_registration(subject: Subject) -> None:
    """Its entry point loads and registers, under its own name, a component of its kind."""
    try:
        cls = subject.registry.load(subject.kind, subject.name)
    except PluginError as error:
        raise CheckError(str(error)) from error
    version = cls.behaviour_version
    require(
        isinstance(version, int) and version >= 1,
        f"{cls.__qualname__}.behaviour_version must be a whole number from 1, not {version!r}",
    )
    require(
        bool((cls.__doc__ or "").strip()),
        f"{cls.__qualname__} has no docstring; `stabfw plugins {subject.name}` shows it",
    )


def check_light_import(subject: Subject) -> None:
    """Its module is imported without torch, transformers, datasets or mlflow."""
    heavy = imported(subject).heavy
    module = subject.plugin.entry_point.module
    require(
        not heavy,
        f"importing {module} imports {listed(heavy)}: import them inside the functions that need "
        f"them. `python -X importtime -c 'import {module}'` shows where it happens",
    )


def check_config_round_trip(subject: Subject) -> None:
    """Its config survives JSON, refuses unknown fields, is frozen and describes its fields."""
    config_cls = subject.component_cls.config_cls
    name = config_cls.__qualname__
    try:
        config = config_cls.model_validate(subject.values())
    except NotApplicableError as error:
        if isinstance(error.__cause__, ValidationError):
            raise CheckError(f"{name} refuses the config: {_told(error.__cause__)}") from error
        raise
    text = config.model_dump_json()
    try:
        again = config_cls.model_validate_json(text)
    except ValidationError as error:
        raise CheckError(
            f"{name} does not take back what it dumped as JSON: {_told(error)}"
        ) from error
    require(again == config, f"{name} is another one after a round trip through JSON: {text}")
    try:
        config_cls.model_validate({**subject.values(), "no_such_field": 1})
    except ValidationError:
        pass
    else:
        raise CheckError(f'{name} accepts unknown fields: keep `extra="forbid"` in its config')
    require(
        bool(config_cls.model_config.get("frozen")),
        f"{name} can be changed after it was made: keep `frozen=True` in its config",
    )
    bare = [key for key, field in config_cls.model_fields.items() if not field.description]
    require(not bare, f"{name} has fields without a description: {listed(bare)}")
    config_cls.model_json_schema()


def check_fingerprint_is_json_and_stable(subject: Subject) -> None:
    """Its fingerprint is plain JSON and the same for a fresh component, in any process."""
    component = subject.make()
    first = _canonical(component.fingerprint(), subject)
    require(
        _canonical(component.fingerprint(), subject) == first
        and _canonical(subject.make().fingerprint(), subject) == first,
        f"fingerprint() of {subject} tells something else each time: {first[:200]}",
    )
    if type(component).fingerprint is not Component.fingerprint:
        elsewhere = _canonical(asked(subject, "fingerprint").value, subject)
        require(
            elsewhere == first,
            f"fingerprint() of {subject} differs in another process: {first[:200]} here, "
            f"{elsewhere[:200]} there. Sort what comes from sets",
        )


def _canonical(value: Any, subject: Subject) -> str:
    try:
        return json.dumps(dict(value), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckError(f"fingerprint() of {subject} is not JSON: {error}") from error


def _told(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg']} (got {item['input']!r})"
        for item in error.errors(include_url=False)
    )


CHECKS = (
    check_registration,
    check_light_import,
    check_config_round_trip,
    check_fingerprint_is_json_and_stable,
)
