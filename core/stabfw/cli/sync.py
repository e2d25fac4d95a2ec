"""`stabfw sync`: publish results that are on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stabfw.errors import DataError
from stabfw.report.layout import RESULTS, SPEC
from stabfw.report.serialise import load_results


@click.command("sync", epilog="Example: stabfw sync runs/demo")
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN_DIR_OR_SPEC...", type=click.Path(path_type=Path)
)
@click.option("--uri", help="Tracking URI of MLflow, instead of the spec's.")
@click.option(
    "--images",
    type=click.Choice(["none", "thumbnails", "full"]),
    help="Whether pictures go with single answers, instead of what the spec says.",
)
@click.option(
    "--traces",
    type=click.IntRange(0),
    help="How many single answers to send at most, so that they can be compared in MLflow.",
)
def command(
    runs: tuple[Path, ...], uri: str | None, images: str | None, traces: int | None
) -> None:
    """Publish the results of finished runs to MLflow.

    For when MLflow was away while the experiment ran, or to publish to another one. Publishing
    twice changes nothing.
    """
    from stabfw.tracking import publish_run
    from stabfw.tracking.links import links

    for run in runs:
        directory = _directory(run)
        tracking = _tracking(directory)
        published = publish_run(
            load_results(directory / RESULTS),
            directory,
            uri or tracking.get("uri") or "sqlite:///mlflow.db",
            images or tracking.get("images") or "none",
            traces,
        )
        click.echo(
            f"{published.name}: {published.created} runs new, {published.updated} brought up "
            f"to date, {len(published.runs) + 1} in all"
        )
        for text, address in links(published):
            click.echo(f"  {text}\n    {address}")


def _directory(run: Path) -> Path:
    if run.is_dir():
        return run
    if not run.exists():
        raise DataError(f"{run}: no such directory or spec; runs are below `runs/`")
    from stabfw.registry import Registry
    from stabfw.spec import load_spec

    spec = load_spec(run, Registry())
    return spec.runs / spec.name


def _tracking(directory: Path) -> dict[str, Any]:
    """Return what the spec that the run was made from says of MLflow; no plugin is needed."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(directory / SPEC)
    except (OSError, YAMLError):
        return {}
    found = document.get("tracking") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}
