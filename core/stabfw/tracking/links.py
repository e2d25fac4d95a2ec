"""What was published, and the pages of MLflow's interface that are worth opening."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from urllib.parse import quote

BASE_URL = "http://127.0.0.1:5000"
VIEW_KEY = "stabfw"


@dataclass(frozen=True)
class Published:
    """Where the results of an experiment are in MLflow.

    Attributes:
        uri: Tracking URI.
        name: The experiment's name.
        experiment_id: Its id in MLflow.
        parent: Id of the run that stands for the whole experiment.
        runs: Run ids of the cells, by the name of the cell's directory.
        compared: Run ids of the stacks' cells.
        worst: Run id of the stack that lost the largest share of right answers, if any.
        worst_base: Run id of its baseline.
        worst_label: Its name.
        traces: Whether single answers can be compared in "Evaluation runs".
        created: Number of runs that were new.
        updated: Number of runs that were there and changed.
        missing_traces: Number of answers that were sent and did not arrive.
    """

    uri: str
    name: str
    experiment_id: str
    parent: str
    runs: Mapping[str, str]
    compared: tuple[str, ...] = ()
    worst: str = ""
    worst_base: str = ""
    worst_label: str = ""
    traces: bool = False
    created: int = 0
    updated: int = 0
    missing_traces: int = 0

    def dump(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Published:
        """Read what `dump` wrote.

        Raises:
            ValueError: If it is something else.
        """
        document = json.loads(text)
        names = {f.name for f in fields(cls)}
        if not isinstance(document, dict) or document.keys() != names:
            raise ValueError("not a record of what stabfw published")
        return cls(**document | {"compared": tuple(document["compared"])})


def links(published: Published, base_url: str = BASE_URL) -> list[tuple[str, str]]:
    """Return the pages worth opening, the most useful first.

    The bare address of MLflow opens an empty overview, so these lead past it.

    Args:
        published: What was published.
        base_url: Address of the MLflow server.

    Returns:
        Pairs of (what it shows, address).
    """
    experiment = f"{base_url.rstrip('/')}/#/experiments/{published.experiment_id}"
    found = [("Every cell with its numbers", f"{experiment}/runs?viewStateShareKey={VIEW_KEY}")]
    found.append(("Report", f"{experiment}/runs/{published.parent}/artifacts/report.html"))
    if published.worst:
        flips = f"{experiment}/runs/{published.worst}/artifacts/flips.html"
        found.append((f"Changed answers, {published.worst_label}", flips))
    if published.worst_base and published.traces:
        pair = f"selectedRunUuid={published.worst_base}&compareToRunUuid={published.worst}"
        found.append(("The same answer by answer", f"{experiment}/evaluation-runs?{pair}"))
    if len(published.compared) > 1:
        runs = quote(json.dumps(list(published.compared), separators=(",", ":")))
        experiments = quote(json.dumps([published.experiment_id]))
        page = f"{base_url.rstrip('/')}/#/compare-runs?runs={runs}&experiments={experiments}"
        found.append(("Stacks against each other", page))
    return found
