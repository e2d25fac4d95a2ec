"""The curves of a calibration or training to MLflow, as a run of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stabfw.tracking.reach import experiment_id, reaching

if TYPE_CHECKING:
    from stabfw.registry.events import FitEnd

# What MLflow takes at once.
_AT_ONCE = 1000


def publish_curves(event: FitEnd, experiment: str, uri: str) -> None:
    """Log the values of a fit by step.

    Args:
        event: The fit.
        experiment: Name of the experiment.
        uri: Tracking URI.

    Raises:
        RunError: If MLflow is not installed, cannot be reached or refuses.
    """
    with reaching(uri):
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        client = MlflowClient(tracking_uri=uri)
        tags = {
            "stabfw.kind": "fit",
            "stabfw.artefact": event.digest,
            "mlflow.source.name": "stabfw",
            "mlflow.source.type": "LOCAL",
        }
        run = client.create_run(
            experiment_id(client, uri, experiment), tags=tags, run_name=f"fit · {event.label}"
        ).info.run_id
        now = int(time.time() * 1000)
        points = [
            Metric(name, value, now, step)
            for step, values in event.curve.items()
            for name, value in values.items()
        ]
        points.append(Metric("seconds", event.seconds, now, 0))
        for begin in range(0, len(points), _AT_ONCE):
            client.log_batch(run, metrics=points[begin : begin + _AT_ONCE])
        client.set_terminated(run)
