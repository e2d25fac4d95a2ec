"""`stabfw import`."""

from __future__ import annotations

from pathlib import Path

import click

from stabfw.errors import DataError
from stabfw.imports import FORMATS, read_log, write_answers


@click.command("import", short_help="Read a log of another harness.")
@click.argument("log", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    help="Which harness wrote it; told from the file by default.",
)
@click.option("--task", help="Which task of a directory; of a file, what to call its task.")
@click.option("--filter", "filter_", help="Whose answers, where the harness used several filters.")
@click.option("--metric", help="Which of its metrics says what is correct, or `exact`.")
@click.option(
    "--correct-from", type=float, help="From which value of the metric an answer is correct."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write; NAME.answers.jsonl here by default.",
)
def command(
    log: Path,
    format_: str | None,
    task: str | None,
    filter_: str | None,
    metric: str | None,
    correct_from: float | None,
    output: Path | None,
) -> None:
    """Turn the LOG of another harness into answers that `stabfw compare` reads.

    LOG is a file with one sample a line of lm-evaluation-harness or lmms-eval (--log_samples), a
    file that an evaluation of VLMEvalKit wrote, or the directory that the harness wrote.

    \b
    Examples:
      stabfw import out/model --task pope -o before.jsonl
      stabfw import out/model-awq --task pope -o after.jsonl
      stabfw compare before.jsonl after.jsonl --report report
    """
    answers = read_log(
        log,
        format=format_,
        task=task,
        filter=filter_,
        metric=metric,
        correct_from=correct_from,
    )
    target = output or Path(f"{Path(str(answers.about['log'])).stem}.answers.jsonl")
    if target.exists() and target.samefile(answers.name):
        raise DataError(f"{target}: that is the log itself; choose another file with -o")
    try:
        write_answers(answers, target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror}") from error
    about = answers.about
    right = sum(row.correct for row in answers.rows)
    click.echo(
        f"{target}: {len(answers.rows)} answers to {about['task']}, {right} correct by "
        f"{about['metric']}; the log proves "
        f"{' and '.join(answers.parts) or 'nothing of what was asked'}"
    )
    if left_out := about.get("left_out"):
        click.echo(f"left out, since they have no {about['metric']}: {left_out}")
