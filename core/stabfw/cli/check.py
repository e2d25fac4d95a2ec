"""`stabfw check`: whether plugins keep to the contracts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from stabfw.components import Kind, Model
from stabfw.errors import Exit, UnknownPluginError
from stabfw.registry import Registry
from stabfw.registry.contract import did_you_mean, listed
from stabfw.testing import CheckResult, Status, results

from .config import parsed_config

_SIGNS = {
    Status.OK: ("✓", "green"),
    Status.FAILED: ("✗", "red"),
    Status.NOT_APPLICABLE: ("–", "bright_black"),
}


@click.command()
@click.argument("names", nargs=-1, metavar="[KIND/]NAME...")
@click.option("--all", "everything", is_flag=True, help="Check every installed plugin.")
@click.option(
    "--config",
    metavar="JSON",
    help="Parameters to check it with, such as '{\"keep_ratio\": 0.25}'.",
)
@click.option(
    "--model",
    "model_name",
    default="tiny-llava",
    show_default=True,
    help="Model that accelerators are tried on; it is loaded in float32.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    names: Sequence[str], everything: bool, config: str | None, model_name: str, as_json: bool
) -> int:
    """Check plugins against the contracts: ✓ kept, ✗ not kept, – does not apply.

    The exit code is 3 if a check fails.

    \b
    Example:
      stabfw check my-method
      stabfw check accelerator/fastv --config '{"keep_ratio": 0.25}'
      stabfw check --all
    """
    if everything == bool(names):
        raise click.UsageError("name the plugins to check, or give --all")
    registry = Registry()
    plugins = _every(registry) if everything else [p for n in names for p in _named(registry, n)]
    values = parsed_config(config)
    if values and len(plugins) != 1:
        raise click.UsageError(
            f"--config is for one plugin, but these are {len(plugins)}; write KIND/NAME"
        )
    model = _model(registry, model_name, plugins)
    reports, counts = [], Counter[Status]()
    for kind, name in plugins:
        label = _label(registry, kind, name)
        if not as_json:
            click.secho(label, bold=True)
        found = []
        for result in results(kind, name, values, registry=registry, model=model):
            counts[result.status] += 1
            found.append(asdict(result))
            if not as_json:
                _print(result)
        reports.append({"kind": kind, "name": name, "plugin": label, "checks": found})
    if as_json:
        click.echo(json.dumps(reports, indent=2))
    else:
        click.echo(
            f"\n{counts[Status.OK]} ok, {counts[Status.FAILED]} failed, "
            f"{counts[Status.NOT_APPLICABLE]} not applicable"
        )
    return Exit.PLUGIN if counts[Status.FAILED] else Exit.OK


def _print(result: CheckResult) -> None:
    sign, colour = _SIGNS[result.status]
    click.secho(f"  {sign} {result.name}", fg=colour, nl=not result.message)
    if result.message:
        click.echo(f": {result.message}")


def _every(registry: Registry) -> list[tuple[Kind, str]]:
    return [(kind, name) for kind in Kind for name in registry.names(kind)]


def _named(registry: Registry, text: str) -> list[tuple[Kind, str]]:
    wanted, _, name = text.rpartition("/")
    if wanted and wanted not in list(Kind):
        raise click.UsageError(f"'{wanted}' is not a kind of plugin; kinds are {listed(Kind)}")
    kinds = [Kind(wanted)] if wanted else list(Kind)
    found = [(kind, name) for kind in kinds if name in registry.names(kind)]
    if not found:
        known = sorted({name for kind in kinds for name in registry.names(kind)})
        raise UnknownPluginError(
            f"unknown {wanted or 'plugin'} '{name}'{did_you_mean(name, known)} "
            f"(installed: {listed(known)})"
        )
    return found


def _model(registry: Registry, name: str, plugins: Sequence[tuple[Kind, str]]) -> Model[Any] | None:
    if all(kind is not Kind.ACCELERATOR for kind, _ in plugins):
        return None
    cls = registry.load(Kind.MODEL, name)
    model = cls(cls.config_cls())
    assert isinstance(model, Model)
    return model


def _label(registry: Registry, kind: Kind, name: str) -> str:
    declared = [str(p) for p in registry.plugins() if (p.kind, p.name) == (kind, name)]
    return " and ".join(declared)
