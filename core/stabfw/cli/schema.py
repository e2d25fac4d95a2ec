"""`stabfw schema`: completion and checks in editors."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import click

from stabfw.errors import StabfwError
from stabfw.registry import Registry
from stabfw.spec.schema import SCHEMA_FILE, json_schema


@click.command(epilog="\b\nExample:\n  stabfw schema")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default=SCHEMA_FILE,
    show_default=True,
    help="File to write; - is standard output.",
)
@click.option(
    "--verdict", is_flag=True, help="The schema of verdict.json instead, on standard output."
)
def command(output: str, verdict: bool) -> None:
    """Write the JSON Schema of specs, with the parameters of all installed plugins.

    An editor with a YAML language server then completes specs and marks mistakes. Write it again
    after installing a plugin.
    """
    if verdict:
        from stabfw.report.gates import verdict_schema

        click.echo(json.dumps(verdict_schema(), indent=2))
        return
    logging.basicConfig(format="%(levelname)s: %(message)s")
    text = json.dumps(json_schema(Registry()), indent=2) + "\n"
    if output == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StabfwError(f"{output}: cannot be written: {error.strerror}") from error
    click.echo(f"Wrote {output}. Put this on top of a spec:")
    click.echo(f"# yaml-language-server: $schema={output}")
