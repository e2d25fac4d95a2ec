"""`stabfw init`: a spec to start from."""

from __future__ import annotations

from pathlib import Path

import click

from stabfw.errors import StabfwError


@click.command(epilog="\b\nExample:\n  stabfw init\n  stabfw run spec.yaml")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default="spec.yaml")
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
def command(path: Path, force: bool) -> None:
    """Write a commented spec to PATH, spec.yaml by default.

    It runs offline on the embedded model.
    """
    from stabfw.spec.starter import STARTER

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(STARTER)
    except FileExistsError:
        raise StabfwError(
            f"{path} exists already. Overwrite it with --force, or name another file"
        ) from None
    except OSError as error:
        raise StabfwError(f"{path}: cannot be written: {error.strerror}") from error
    click.echo(f"Wrote {path}. Next: stabfw run {path}")
