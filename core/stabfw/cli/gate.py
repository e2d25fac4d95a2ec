"""`stabfw gate`."""

from __future__ import annotations

from pathlib import Path

import click

from stabfw.errors import Exit


@click.command("gate", short_help="Judge a finished experiment by the gates of its spec.")
@click.argument("run", metavar="RUN_DIR_OR_SPEC", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the spec: other gates."
)
@click.option("--json", "as_json", is_flag=True, help="Print verdict.json instead of tables.")
@click.option("--markdown", is_flag=True, help="Print summary.md instead, for a comment.")
def command(run: Path, overrides: tuple[str, ...], as_json: bool, markdown: bool) -> Exit:
    """Say whether a finished run keeps to its gates: pass, fail, inconclusive, not measurable.

    Only stored answers are looked at; no model is loaded. `verdict.json`, `junit.xml` and
    `summary.md` are written into the directory of the run. Exit codes: 0 pass, 1 fail, 6 not
    measurable, 5 inconclusive; over all cells the first of these. 4 where cells are missing.

    \b
    Examples:
      stabfw gate runs/release
      stabfw gate runs/demo --set 'gates=[{metric: correct_loss_rate, at_most: 0.02}]'
      stabfw gate spec.yaml --markdown > comment.md
    """
    from stabfw.experiment import gate
    from stabfw.registry import Registry
    from stabfw.report.layout import SUMMARY, VERDICT

    from .rescore import spec_of
    from .run import conclude, verdict_code

    registry = Registry()
    done = gate(spec_of(run, registry, overrides), registry=registry)
    if not as_json and not markdown:
        return conclude(done)
    name = VERDICT if as_json else SUMMARY
    click.echo((done.directory / name).read_text(encoding="utf-8"), nl=False)
    return verdict_code(done)
