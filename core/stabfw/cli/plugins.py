"""`stabfw plugins`: what is installed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from stabfw.components import Kind
from stabfw.errors import Exit, PluginError, UnknownPluginError
from stabfw.registry import PluginInfo, Registry
from stabfw.registry.contract import did_you_mean, listed


@click.command(
    epilog="\b\nExample:\n  stabfw plugins\n  stabfw plugins fastv\n  stabfw plugins --matrix"
)
@click.argument("name", required=False)
@click.option(
    "--matrix", is_flag=True, help="Show which accelerators work on which models, and how faithful."
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="TYPE[=SOURCE]",
    help="Models of the matrix, such as hf-vlm=DIRECTORY; by default a typical one of each kind.",
)
@click.option("--check", is_flag=True, help="Import each plugin and say which ones are broken.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    name: str | None, matrix: bool, models: tuple[str, ...], check: bool, as_json: bool
) -> int:
    """List installed plugins, or show the parameters of the one called NAME.

    Plugins are imported only with --check, --matrix or NAME.
    """
    registry = Registry()
    if matrix or models:
        from stabfw.cli.matrix import show

        return show(registry, models, as_json)
    if name is None:
        return _list(registry, check, as_json)
    return _show(registry, name, as_json)


def _list(registry: Registry, check: bool, as_json: bool) -> int:
    plugins = registry.plugins()
    rows = [
        {
            "kind": str(plugin.kind or "observer"),
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            **_status(registry, plugin, check),
        }
        for plugin in plugins
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        columns = ("kind", "name", "distribution", "version", "status")
        click.echo(_table(columns, [[row[column] for column in columns] for row in rows]))
    reasons = sorted({row["reason"] for row in rows if row["reason"]})
    for reason in reasons:
        click.echo(f"\n{reason}", err=True)
    return Exit.PLUGIN if check and reasons else Exit.OK


def _status(registry: Registry, plugin: PluginInfo, check: bool) -> dict[str, str]:
    try:
        registry.find(plugin.kind, plugin.name)
    except PluginError as error:
        return {"status": "conflict", "reason": str(error)}
    if not check:
        return {"status": "installed", "reason": ""}
    try:
        if plugin.kind:
            registry.load(plugin.kind, plugin.name)
        else:
            registry.load_observer(plugin.name)
    except PluginError as error:
        return {"status": "broken", "reason": str(error)}
    return {"status": "ok", "reason": ""}


def _show(registry: Registry, name: str, as_json: bool) -> int:
    kinds = [kind for kind in Kind if name in registry.names(kind)]
    if not kinds:
        if name in registry.names(None):
            click.echo(f"{registry.find(None, name)} has no parameters")
            return Exit.OK
        everything = sorted({plugin.name for plugin in registry.plugins()})
        raise UnknownPluginError(
            f"unknown plugin '{name}'{did_you_mean(name, everything)} "
            f"(installed: {listed(everything)})"
        )
    shown = [_description(registry, kind, name) for kind in kinds]
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return Exit.OK
    click.echo("\n\n".join(map(_text, shown)))
    return Exit.OK


def _description(registry: Registry, kind: Kind, name: str) -> dict[str, Any]:
    component = registry.load(kind, name)
    schema = component.config_cls.model_json_schema()
    return {
        "kind": str(kind),
        "name": name,
        "plugin": str(registry.find(kind, name)),
        "description": inspect.cleandoc(component.__doc__ or ""),
        "parameters": [
            {
                "name": field,
                "type": _type(about),
                "required": field in schema.get("required", ()),
                "default": about.get("default"),
                "description": about.get("description", ""),
            }
            for field, about in schema.get("properties", {}).items()
        ],
    }


def _type(schema: Mapping[str, Any]) -> str:
    if options := schema.get("enum") or schema.get("anyOf"):
        return " | ".join(_type(o) if isinstance(o, dict) else json.dumps(o) for o in options)
    if reference := schema.get("$ref"):
        return str(reference).rpartition("/")[2]
    text = str(schema.get("type", "any"))
    if isinstance(items := schema.get("items"), dict):
        text += f" of {_type(items)}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return " ".join([text, *bounds])


def _text(entry: Mapping[str, Any]) -> str:
    lines = [entry["plugin"]]
    if entry["description"]:
        lines += ["", entry["description"]]
    lines += ["", "Parameters:" if entry["parameters"] else "It has no parameters."]
    for parameter in entry["parameters"]:
        default = "required"
        if not parameter["required"]:
            default = f"default {json.dumps(parameter['default'], ensure_ascii=False)}"
        lines.append(f"  {parameter['name']}: {parameter['type']} ({default})")
        if parameter["description"]:
            lines.append(f"      {parameter['description']}")
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)
