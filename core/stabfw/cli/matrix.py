"""Which accelerators work on which models, before any of them is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from stabfw.cli.tables import terminal
from stabfw.components import Kind, LoadRequest, ModelInfo
from stabfw.errors import DataError, Exit, SpecError, blaming
from stabfw.registry import Registry


@dataclass(frozen=True)
class Pair:
    """What is known of an accelerator, with its default config, on a model.

    Attributes:
        accelerator: Its name.
        model: The model's name.
        fidelity: How close it is to the authors' implementation; empty if it does not work.
        reason: Why it does not work; empty if it does.
    """

    accelerator: str
    model: str
    fidelity: str
    reason: str


def show(registry: Registry, models: Sequence[str], as_json: bool) -> int:
    """Print the matrix.

    Args:
        registry: Where accelerators and models come from.
        models: Which ones, as TYPE or TYPE=SOURCE; none for a typical one of each kind.
        as_json: Whether to print JSON.
    """
    pairs = list(_pairs(registry, dict(_models(registry, models))))
    if as_json:
        click.echo(json.dumps([asdict(pair) for pair in pairs], indent=2))
        return Exit.OK
    columns = list(dict.fromkeys(pair.model for pair in pairs))
    reasons: dict[str, int] = {}
    table = Table(header_style="bold")
    for name in ("accelerator", *columns):
        table.add_column(escape(name))
    rows: dict[str, list[str]] = {}
    for pair in pairs:
        cell = pair.fidelity
        if pair.reason:
            cell = f"no ({reasons.setdefault(pair.reason, len(reasons) + 1)})"
        rows.setdefault(pair.accelerator, []).append(cell)
    for name, cells in rows.items():
        table.add_row(escape(name), *map(escape, cells))
    console = terminal()
    console.print(table)
    for reason, number in reasons.items():
        console.print(escape(f"({number}) {reason}"), highlight=False, soft_wrap=True)
    return Exit.OK


def _models(
    registry: Registry, wanted: Sequence[str]
) -> Iterable[tuple[str, tuple[LoadRequest, ModelInfo]]]:
    if not wanted:
        for name in registry.names(Kind.MODEL):
            typical = _class(registry, Kind.MODEL, name).typical
            if typical is not None:
                yield name, _known(registry, name, dict(typical))
    for text in wanted:
        name, _, source = text.partition("=")
        yield text, _known(registry, name, {"source": source} if source else {})


def _known(registry: Registry, name: str, config: dict[str, Any]) -> tuple[LoadRequest, ModelInfo]:
    cls = _class(registry, Kind.MODEL, name)
    try:
        model = cls(cls.config_cls(**config))
    except ValidationError as error:
        raise SpecError(
            f"--model {name}: {error.errors()[0]['msg']}; say which one: --model {name}=SOURCE"
        ) from error
    with blaming(str(registry.find(Kind.MODEL, name)), "outline()"):
        try:
            request = model.request()
            return request, model.describe(request)
        except DataError:
            known: tuple[LoadRequest, ModelInfo] | None = model.outline()
            if known is None:
                raise
            return known


def _pairs(registry: Registry, models: dict[str, tuple[LoadRequest, ModelInfo]]) -> Iterable[Pair]:
    for name in registry.names(Kind.ACCELERATOR):
        cls = _class(registry, Kind.ACCELERATOR, name)
        try:
            accelerator = cls(cls.config_cls())
        except ValidationError as error:
            missing = ", ".join(str(e["loc"][0]) for e in error.errors() if e["loc"])
            for model in models:
                yield Pair(name, model, "", f"{name} has no default for: {missing}")
            continue
        for model, (request, info) in models.items():
            with blaming(str(registry.find(Kind.ACCELERATOR, name)), "supports()"):
                reason = accelerator.supports(info, request) or ""
                fidelity = "" if reason else accelerator.fidelity_on(info).value
            yield Pair(name, model, fidelity, reason)


def _class(registry: Registry, kind: Kind, name: str) -> Any:
    # What the registry loads for a kind is of that kind.
    return registry.load(kind, name)
