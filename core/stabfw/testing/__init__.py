"""The conformance kit: what every plugin has to keep to, as checks to run on one's own plugin.

Each check has a stable name, so a failure that is known and accepted can be listed by it, with a
reason. `stabfw check NAME` runs the checks in the terminal.

Example:
    In the tests of a distribution that offers an accelerator `my-method`::

        from stabfw.testing import parametrize_with_checks

        @parametrize_with_checks([("accelerator", "my-method", {"keep_ratio": 0.25})])
        def test_conformance(check):
            check()
"""

from stabfw.testing.check import Check, CheckError, CheckResult, NotApplicableError, Status
from stabfw.testing.run import BoundCheck, checks_for, parametrize_with_checks, results, run_checks

__all__ = [
    "BoundCheck",
    "Check",
    "CheckError",
    "CheckResult",
    "NotApplicableError",
    "Status",
    "checks_for",
    "parametrize_with_checks",
    "results",
    "run_checks",
]
