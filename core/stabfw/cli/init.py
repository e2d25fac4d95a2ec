"""`stabfw init`: a spec to start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stabfw.errors import StabfwError

if TYPE_CHECKING:
    from stabfw.components import Benchmark


@click.command(
    epilog="\b\nExamples:\n  stabfw init\n  stabfw init mine.yaml --data data/questions.jsonl\n"
    "  stabfw run mine.yaml"
)
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default="spec.yaml")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Your own questions: a table (.jsonl, .csv, .tsv, .parquet) or a directory of pictures.",
)
@click.option(
    "--benchmark", default="custom", show_default=True, help="The benchmark that reads --data."
)
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
def command(path: Path, data: Path | None, benchmark: str, force: bool) -> None:
    """Write a commented spec to PATH, spec.yaml by default.

    It runs offline on the embedded model. With --data it asks your own questions, and names the
    columns that were found.
    """
    from stabfw.spec.starter import STARTER

    text, found = (STARTER, "") if data is None else _about(data, benchmark)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise StabfwError(
            f"{path} exists already. Overwrite it with --force, or name another file"
        ) from None
    except OSError as error:
        raise StabfwError(f"{path}: cannot be written: {error.strerror}") from error
    click.echo(f"{found}Wrote {path}. Next: stabfw run {path}")


def _about(data: Path, name: str) -> tuple[str, str]:
    """The spec about a user's data, and what was found there."""
    from collections import Counter

    from stabfw.components import Kind
    from stabfw.registry import Registry
    from stabfw.spec.starter import starter

    benchmark: type[Benchmark[Any]] = Registry().load(Kind.BENCHMARK, name)  # type: ignore[assignment]
    suggested = benchmark.suggest(data)
    if suggested is None:
        raise StabfwError(f"benchmark '{name}' brings its own data: leave --data out")
    config = benchmark.config_cls.model_validate(suggested)
    kinds: Counter[str] = Counter()
    pictures = set()
    for instance in benchmark(config).instances(benchmark.splits[0]):
        kinds[instance.kind.value] += 1
        pictures |= {image.digest for image in instance.images}
    told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    found = f"Found {kinds.total():,} questions ({told}) about {len(pictures):,} pictures.\n"
    return starter(name, config, suggested), found
