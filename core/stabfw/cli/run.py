"""`stabfw run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stabfw.errors import Exit, IncompleteError

if TYPE_CHECKING:
    from stabfw.experiment import Run


@click.command("run", short_help="Run an experiment, or what is left of it.")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the spec: batch_size=4."
)
@click.option("--quiet", "-q", is_flag=True, help="Print the results only.")
def command(spec: Path, overrides: tuple[str, ...], quiet: bool) -> Exit:
    """Run the experiment in SPEC and print which answers changed.

    Answers that are in the store are reused. An interrupted run goes on where it stopped when
    the same command is given again. With `gates` in the spec, the exit code is their verdict.

    \b
    Examples:
      stabfw run spec.yaml
      stabfw run spec.yaml --set benchmarks.0.limit=100 --set execution.executor=process
    """
    from rich.console import Console

    from stabfw.experiment import run
    from stabfw.registry import Observers, Registry
    from stabfw.spec import load_spec

    from .progress import ProgressObserver

    registry = Registry()
    loaded = load_spec(spec, registry, overrides)
    observers = Observers(registry)
    progress = ProgressObserver(Console(stderr=True))
    if not quiet:
        observers.add(progress, "progress")
    try:
        done = run(loaded, registry=registry, observers=observers)
    except KeyboardInterrupt:
        click.echo("Whole batches are kept; the same command goes on from there.", err=True)
        raise
    finally:
        progress.close()

    return conclude(done)


def conclude(done: Run) -> Exit:
    """Print results, verdicts and where everything is, and return the exit code.

    Raises:
        IncompleteError: As `verdict_code`.
    """
    from .tables import print_gates, print_results, terminal

    console = terminal()
    print_results(console, done.results)
    print_gates(console, done.results)
    click.echo(f"report   {done.directory / 'report.html'}")
    click.echo(f"changes  stabfw show {done.directory}")
    for text, address in _links(done.directory):
        click.echo(f"{text}: {address}")
    return verdict_code(done)


def verdict_code(done: Run) -> Exit:
    """Return the exit code of the verdict.

    Raises:
        IncompleteError: Some cells failed, or some instances could not be asked. That goes before
            any verdict, which would be about the rest.
    """
    from stabfw.report.gates import exit_code

    if failed := [f for f in done.results.failures if f.status == "failed"]:
        raise IncompleteError(
            f"{len(failed)} cells failed, so the results are partial; mend the cause and give the "
            "same command again, only the failed cells are computed"
        )
    if done.unjudged:
        raise IncompleteError(
            f"{done.unjudged}; give the same command again, the judge goes on where it stopped"
        )
    if any(cell.unanswered for cell in done.results.cells):
        raise IncompleteError(
            "some instances could not be asked, as the notes say; mend the data and give the same "
            "command again"
        )
    return exit_code(done.results)


def _links(directory: Path) -> list[tuple[str, str]]:
    """MLflow's pages on the run, if it was published; `stabfw ui` serves them."""
    from stabfw.report.layout import PUBLISHED
    from stabfw.tracking.links import Published, links

    note = directory / PUBLISHED
    if not note.exists():
        return []
    return [("MLflow", "start it with `stabfw ui`"), *links(Published.parse(note.read_text()))]
