"""Running checks: as results, or as tests of pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stabfw.components import Kind, Model
from stabfw.registry import Registry
from stabfw.registry.contract import did_you_mean
from stabfw.testing import accelerators, benchmarks, every, metrics, models, perturbations
from stabfw.testing.bench import Bench
from stabfw.testing.check import Check, CheckResult, NotApplicableError, Status
from stabfw.testing.subject import Subject

if TYPE_CHECKING:
    import pytest

#: Accelerators are tried on it unless another model is given.
DEFAULT_MODEL = "tiny-llava"

_OF_KIND: Mapping[Kind, tuple[Callable[[Subject], None], ...]] = {
    Kind.MODEL: models.CHECKS,
    Kind.ACCELERATOR: accelerators.CHECKS,
    Kind.BENCHMARK: benchmarks.CHECKS,
    Kind.PERTURBATION: perturbations.CHECKS,
    Kind.METRIC: metrics.CHECKS,
}


def checks_for(kind: Kind | str) -> list[Check]:
    """All checks for plugins of a kind, in the order in which they are run.

    Example:
        >>> [check.name for check in checks_for("metric")][:2]
        ['check_registration', 'check_light_import']
    """
    functions = (*every.CHECKS, *_OF_KIND[Kind(kind)])
    return [Check(function.__name__, function) for function in functions]


def run_checks(
    kind: Kind | str,
    name: str,
    config: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    expected_failures: Mapping[str, str] | None = None,
    model: Model[Any] | None = None,
) -> list[CheckResult]:
    """Run all checks on one plugin.

    Args:
        kind: Kind of the component.
        name: Name of the plugin.
        config: Values of its config; the defaults where not given.
        registry: Where plugins come from; by default what is installed.
        expected_failures: Reasons why checks, by name, are known to fail.
        model: What an accelerator is tried on; by default the built-in `tiny-llava`. It is loaded
            in float32, several times, so choose a small one.

    Returns:
        One result a check.

    Raises:
        ValueError: If `expected_failures` names a check that does not exist.
    """
    return list(results(kind, name, config, registry, expected_failures, model))


def results(
    kind: Kind | str,
    name: str,
    config: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    expected_failures: Mapping[str, str] | None = None,
    model: Model[Any] | None = None,
) -> Iterator[CheckResult]:
    """Like `run_checks`, but yield each result as soon as there is one."""
    expected = dict(expected_failures or {})
    checks = checks_for(kind)
    _refuse_unknown(expected, [check.name for check in checks])
    registry = registry or Registry()
    bench = Bench(model or _default_model(registry))
    subject = Subject(Kind(kind), name, dict(config or {}), registry, bench)
    try:
        for check in checks:
            yield _result(check, subject, expected.get(check.name))
    finally:
        bench.close()


@dataclass(frozen=True)
class BoundCheck:
    """A check together with the plugin to run it on; call it."""

    check: Check
    subject: Subject

    def __call__(self) -> None:
        """Run the check; what does not apply becomes a skipped test with the reason."""
        import pytest

        try:
            self.check.function(self.subject)
        except NotApplicableError as reason:
            pytest.skip(str(reason))


def parametrize_with_checks(
    plugins: Sequence[tuple[Kind | str, str, Mapping[str, Any] | None]],
    expected_failures: Mapping[str, Mapping[str, str]] | None = None,
    registry: Registry | None = None,
    model: Model[Any] | None = None,
) -> pytest.MarkDecorator:
    """Make a test for each check of each plugin; the test takes `check` and calls it.

    Ids are readable, such as `fastv-check_attach_reversible`. An expected failure that passes
    fails the test. The model is loaded once for consecutive checks that need it the same way.

    Args:
        plugins: Kind, name and config (None for the defaults) of each.
        expected_failures: By plugin, reasons why checks, by name, are known to fail.
        registry: Where plugins come from; by default what is installed.
        model: What accelerators are tried on; by default the built-in `tiny-llava`.

    Raises:
        ValueError: If `expected_failures` names a plugin or check that does not exist.

    Example:
        ::

            @parametrize_with_checks(
                [("accelerator", "my-method", {"keep_ratio": 0.25})],
                expected_failures={"my-method": {"check_deterministic": "atomic additions"}},
            )
            def test_conformance(check):
                check()
    """
    import pytest

    expected = expected_failures or {}
    _refuse_unknown(expected, [name for _, name, _ in plugins])
    registry = registry or Registry()
    bench = Bench(model or _default_model(registry))
    cases = []
    for kind, name, config in plugins:
        subject = Subject(Kind(kind), name, dict(config or {}), registry, bench)
        checks = checks_for(kind)
        reasons = expected.get(name, {})
        _refuse_unknown(reasons, [check.name for check in checks])
        for check in checks:
            reason = reasons.get(check.name)
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            case_id = f"{_label(subject, plugins)}-{check.name}"
            cases.append(pytest.param(BoundCheck(check, subject), id=case_id, marks=marks))
    return pytest.mark.parametrize("check", cases)


def _result(check: Check, subject: Subject, expected: str | None) -> CheckResult:
    try:
        check.function(subject)
    except NotApplicableError as reason:
        return CheckResult(check.name, Status.NOT_APPLICABLE, str(reason))
    except Exception as error:
        if expected is not None:
            return CheckResult(check.name, Status.EXPECTED, expected)
        told = (
            str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        )
        return CheckResult(check.name, Status.FAILED, told)
    if expected is not None:
        message = f"it was expected to fail ({expected}): take it off the list"
        return CheckResult(check.name, Status.UNEXPECTED_PASS, message)
    return CheckResult(check.name, Status.OK)


def _default_model(registry: Registry) -> Model[Any] | None:
    if DEFAULT_MODEL not in registry.names(Kind.MODEL):
        return None
    cls = registry.load(Kind.MODEL, DEFAULT_MODEL)
    made = cls(cls.config_cls())
    assert isinstance(made, Model)
    return made


def _label(
    subject: Subject, plugins: Sequence[tuple[Kind | str, str, Mapping[str, Any] | None]]
) -> str:
    same = [(kind, config) for kind, name, config in plugins if name == subject.name]
    label = subject.name
    if len({Kind(kind) for kind, _ in same}) > 1:
        label = f"{subject.kind}/{label}"
    if sum(Kind(kind) is subject.kind for kind, _ in same) > 1 and subject.config:
        label += f"({','.join(f'{key}={value}' for key, value in subject.config.items())})"
    return label


def _refuse_unknown(names: Mapping[str, object], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(
                f"expected_failures names '{name}', which is not among those checked"
                f"{did_you_mean(name, known)}"
            )
