"""`stabfw canary`."""

from __future__ import annotations

from pathlib import Path

import click

_COUNT = click.IntRange(0)


@click.command("canary", short_help="Export questions that flip easily, as a regression test.")
@click.argument("run", metavar="RUN_DIR_OR_SPEC", type=click.Path(path_type=Path))
@click.option("--flipped", default=50, show_default=True, type=_COUNT, help="Changed answers.")
@click.option(
    "--near-ties", default=25, show_default=True, type=_COUNT, help="Unchanged, but hesitant."
)
@click.option("--controls", default=25, show_default=True, type=_COUNT, help="Unchanged and sure.")
@click.option("--stack", "stacks", multiple=True, help="Only flips under this stack.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the spec.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory to write; an earlier export there is replaced.",
)
def command(
    run: Path,
    flipped: int,
    near_ties: int,
    controls: int,
    stacks: tuple[str, ...],
    overrides: tuple[str, ...],
    output: Path,
) -> None:
    """Export questions of a finished run that flip easily, with their pictures, for `custom`.

    A regression test to be run at every change, never an estimate: the questions are chosen by
    how they were answered on clean inputs. So many of each group are taken of each benchmark. All
    files are pinned by their hashes. Pictures leave only with `tracking.images: full`, and never
    those of a private benchmark.

    \b
    Examples:
      stabfw canary runs/demo -o canary --set tracking.images=full
      cd canary && stabfw run spec.yaml
    """
    from stabfw.experiment import canary
    from stabfw.registry import Registry
    from stabfw.report.canary import Wanted

    from .rescore import spec_of

    registry = Registry()
    spec = spec_of(run, registry, overrides)
    wanted = Wanted(flipped, near_ties, controls)
    found = canary(spec, output, wanted=wanted, stacks=stacks, registry=registry)
    told = ", ".join(f"{count} {group}" for group, count in found.items())
    click.echo(f"{output}: {told}. A regression test, never an estimate.")
    click.echo(f"run it  cd {output} && stabfw run spec.yaml")
