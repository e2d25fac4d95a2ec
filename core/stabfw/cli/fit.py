"""`stabfw fit`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("fit", short_help="Calibrate or train the accelerators of a stack.")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--stack", required=True, metavar="NAME", help="A stack of the spec.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the spec.")
def command(spec: Path, stack: str, overrides: tuple[str, ...]) -> None:
    """Fit what has to be fitted in one stack of SPEC, and say where the result is kept.

    `stabfw run` does the same when it has to. What is in the store is not fitted again.

    \b
    Examples:
      stabfw fit spec.yaml --stack awq
      stabfw fit spec.yaml --stack awq --set calibration.seed=1
    """
    from rich.console import Console

    from stabfw.experiment import fit
    from stabfw.registry import Observers, Registry
    from stabfw.spec import load_spec

    from .progress import ProgressObserver

    registry = Registry()
    loaded = load_spec(spec, registry, overrides)
    observers = Observers(registry)
    progress = ProgressObserver(Console(stderr=True))
    observers.add(progress, "progress")
    try:
        found = fit(loaded, stack, registry=registry, observers=observers)
    finally:
        progress.close()
    if not found:
        click.echo(f"stack '{stack}' has nothing to fit")
    for item in found:
        click.echo(f"{item.label}: {'fitted' if item.computed else 'in the store already'}")
        click.echo(f"  sha256  {item.digest}")
        click.echo(f"  file    {item.path}")
