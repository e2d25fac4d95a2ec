"""`lengths`: a metric that has the length of every answer recorded, in ways right and wrong."""

from typing import Literal

import numpy as np
from pydantic import Field
from stabfw.components import Metric, MetricConfig, MetricValue
from stabfw.registry import hookimpl


class LengthsConfig(MetricConfig):
    unit: float = Field(1, gt=0, description="Recorded lengths are multiples of it.")
    longer_than: int = Field(0, ge=0, description="Only answers longer than it are counted.")
    fault: Literal["", "missing", "wide", "infinite", "old"] = Field("", description="What is bad.")
    unable: bool = Field(False, description="Whether it cannot record.")


class Lengths(Metric[LengthsConfig]):
    """Letters of the answers."""

    config_cls = LengthsConfig

    def extras(self):
        return {"letters": 1, "first two": 2}

    def recorded_by(self):
        return {"unit": self.config.unit, "fault": self.config.fault}

    def cannot_record(self, info):
        return f"a {info.family} is too shy" if self.config.unable else None

    def record(self, model, patch):
        seen = {}

        def generate(original, encoded, options):
            told = original(encoded, options)
            for instance_id, prediction in zip(encoded.instance_ids, told, strict=True):
                letters = [ord(letter) for letter in prediction.text[:2]]
                seen[instance_id] = {
                    "letters": np.array(len(prediction.text) / self.config.unit),
                    "first two": np.array(letters + [np.nan] * (2 - len(letters))),
                }
            if self.config.fault == "missing":
                seen.pop(encoded.instance_ids[-1])
            if self.config.fault == "wide":
                seen[encoded.instance_ids[0]]["letters"] = np.zeros(2)
            if self.config.fault == "infinite":
                seen[encoded.instance_ids[0]]["letters"] = np.array(np.inf)
            return told

        def take():
            nonlocal seen
            told, seen = seen, {}
            return told

        patch.wrap(model, "generate", generate)
        return take

    def compute(self, pairs):
        if self.config.fault == "old":
            return {"letters": 0.0}
        before, after = (side.extras["letters"] for side in (pairs.base, pairs.variant))
        assert pairs.base.extras["first two"].shape == (len(pairs), 2)
        known = (before > self.config.longer_than) & np.isfinite(after)
        change = (after - before)[known]
        mean = float(change.mean()) if len(change) else float("nan")
        low, high = (mean - 1, mean + 1) if len(change) else (None, None)
        second = pairs.base.extras["first two"][:, 1]
        return [
            MetricValue("change", mean, low, high, len(change), "guessed"),
            MetricValue("second", float(np.nansum(second)), None, None, len(pairs), "none"),
        ]


@hookimpl
def stabfw_register_metrics(register):
    register("lengths", Lengths)
