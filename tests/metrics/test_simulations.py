"""The simulations behind docs/statistics.md run, whatever they find in a handful of trials."""

from __future__ import annotations

import runpy
import sys

import pytest


@pytest.mark.slow
def test_every_simulation_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["simulations", "--trials", "4"])
    runpy.run_module("simulations", run_name="__main__")
    printed = capsys.readouterr().out
    for table in ("one-sided 95 %", "upper bound 95 %", "| metric |", "worst slice"):
        assert table in printed
    assert "nan" not in printed
