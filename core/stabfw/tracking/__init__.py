"""Numbers to MLflow: an observer that publishes curves of fits, and results at the end.

MLflow is imported only when there is something to publish. Whatever goes wrong there costs the
experiment a warning, nothing else.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from stabfw.registry import hookimpl

if TYPE_CHECKING:
    from stabfw.registry.events import FitEnd, RunEnd
    from stabfw.tracking.links import Published

log = logging.getLogger(__name__)


@hookimpl
def stabfw_fit_end(event: FitEnd) -> None:
    """Publish the curves of a calibration or training if the spec names a tracking URI."""
    from stabfw.errors import StabfwError
    from stabfw.spec import ExperimentSpec
    from stabfw.tracking.curves import publish_curves

    assert isinstance(event.spec, ExperimentSpec)
    if event.spec.tracking.uri is None or not event.curve:
        return
    try:
        publish_curves(event, event.spec.name, event.spec.tracking.uri)
    except StabfwError as error:
        log.warning("the curves of %s are not published: %s", event.label, error)


@hookimpl
def stabfw_run_end(event: RunEnd) -> None:
    """Publish the results if the spec names a tracking URI."""
    from stabfw.errors import StabfwError
    from stabfw.report.results import Results
    from stabfw.spec import ExperimentSpec
    from stabfw.tracking.links import links

    assert isinstance(event.results, Results)
    assert isinstance(event.spec, ExperimentSpec)
    tracking = event.spec.tracking
    if tracking.uri is None:
        return
    try:
        published = publish_run(event.results, event.directory, tracking.uri, tracking.images)
    except (StabfwError, OSError) as error:
        log.warning("not published: %s; run `stabfw sync %s` later", error, event.directory)
        return
    log.info("published to MLflow at %s; `stabfw ui` shows it", tracking.uri)
    for text, address in links(published):
        log.info("  %s: %s", text, address)


def publish_run(
    results: object, directory: Path, uri: str, images: str, traces: int | None = None
) -> Published:
    """Publish results and note in the run's directory where they went.

    Args:
        results: The `Results`.
        directory: The directory of the run.
        uri: Tracking URI of MLflow.
        images: Whether pictures may leave the store: `none`, `thumbnails` or `full`.
        traces: How many single answers to send at most; by default as many as take seconds.

    Returns:
        Where they are.

    Raises:
        RunError: If MLflow is not installed, cannot be reached or refuses.
        OSError: If the note cannot be written.
    """
    from stabfw.components.files import write_atomic
    from stabfw.report.layout import PUBLISHED
    from stabfw.report.results import Results
    from stabfw.tracking.publish import TRACES, publish

    assert isinstance(results, Results)
    note = directory / PUBLISHED
    # Without a note the next run publishes; with an old one it would take it for done.
    note.unlink(missing_ok=True)
    most = TRACES if traces is None else traces
    published = publish(results, directory, uri, images, traces=most)
    if published.missing_traces:
        log.warning(
            "%d answers did not arrive in MLflow; run `stabfw sync %s` to send them again",
            published.missing_traces,
            directory,
        )
    write_atomic(note, published.dump().encode())
    return published
