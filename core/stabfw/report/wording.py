"""How numbers and names read on a page."""

from __future__ import annotations

from stabfw.metrics.stability import MetricValue
from stabfw.report.results import Comparison, ForesightRule, Metrics, Role

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"

KINDS = {
    "negative": ("lost", "right → wrong"),
    "positive": ("repaired", "wrong → right"),
    "wrong_churn": ("still wrong", "wrong → other wrong"),
    "right_churn": ("still right", "right → other right"),
}

#: What a judge says of free answers, and how far it can be relied on.
JUDGED = {
    "free_divergence": "text differs",
    "judged_divergence": "means something else",
    "judge_order_disagreement": "orders contradict",
    "judge_score_order_disagreement": "ratings depend on order",
    "judge_self_disagreement": "another verdict when asked again",
    "judge_unreadable": "no verdict read",
}

_HARM = {
    "divergence_ratio": "of the answers change",
    "negative_flip_rate": "of the answers turn from right to wrong",
    "correct_loss_rate": "of the baseline's right answers are lost",
}

ESTIMANDS = {
    "matched": (
        "the baseline ran with the same dtype, attention and batch plan as the stack, "
        "so only the acceleration differs"
    ),
    "deployed": (
        "the baseline ran as it is served today, so everything that shipping the stack "
        "would change is part of the difference"
    ),
    "elsewhere": (
        "both sides were answered elsewhere, so everything that differed between the two runs is "
        "part of the difference"
    ),
}


def number(value: float | None, digits: int = 2) -> str:
    """Write a number with a real minus sign; a dash for None."""
    if value is None:
        return NOTHING
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def plain(value: float | None) -> str:
    r"""Write a number with four decimals, or two digits where these would all be zero.

    Example:
        >>> plain(0.25), plain(2.3e-05), plain(0.0)
        ('0.2500', '2.3e−05', '0.0000')
    """
    if value is not None and 0 < abs(value) < 0.0005:
        return f"{value:.1e}".replace("-", MINUS)
    return number(value, 4)


def percent(value: float | None) -> str:
    r"""Write a share in per cent with one decimal; a dash for None.

    Example:
        >>> percent(0.1234)
        '12.3\u202f%'
    """
    return NOTHING if value is None else f"{number(value * 100, 1)}\N{NARROW NO-BREAK SPACE}%"


def points(value: float | None) -> str:
    """Write a difference of shares in percentage points, with its sign; a dash for None."""
    if value is None:
        return NOTHING
    text = number(value * 100, 1)
    return text if text.startswith(MINUS) or text == "0.0" else f"+{text}"


def interval(metric: MetricValue | None) -> str:
    """Write an interval in per cent, without the sign; empty where there is none."""
    if metric is None or metric.low is None or metric.high is None:
        return ""
    return f"[{number(metric.low * 100, 1)}, {number(metric.high * 100, 1)}]"


def p_value(value: float | None) -> str:
    """Write a p-value; small ones as a bound."""
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else number(value, 3)


def foresight_rule(rule: ForesightRule) -> str:
    """Say what a threshold of the margin keeps to.

    Example:
        >>> foresight_rule(ForesightRule(margin="baseline")).partition(",")[0]
        "Where the lead of the baseline's first token over the next reaches the threshold"
    """
    whose = "accelerated model" if rule.margin == "variant" else "baseline"
    return (
        f"Where the lead of the {whose}'s first token over the next reaches the threshold, "
        f"at most {rule.at_most * 100:.4g}\N{NARROW NO-BREAK SPACE}% {_HARM[rule.metric]}: with "
        f"confidence {rule.confidence:.4g}, fitted on "
        f"{rule.fit_share * 100:.4g}\N{NARROW NO-BREAK SPACE}% of the pictures and "
        "checked on the others."
    )


def is_control(comparison: Comparison) -> bool:
    """Say whether a comparison is there to put others into proportion, never to be judged."""
    return comparison.condition.role is not Role.STACK


def value_of(comparison: Comparison, name: str, among: Metrics | None = None) -> float | None:
    """Return the value of a metric, None where it is absent or undefined.

    Args:
        comparison: A cell beside its baseline.
        name: The metric.
        among: Where it is looked for instead of among the comparison's metrics, such as a floor.
    """
    metric = (comparison.metrics if among is None else among).get(name)
    return None if metric is None else metric.value


def badness(comparison: Comparison) -> tuple[float, float]:
    """Sort key: loss of right answers where that can be read, then divergence."""
    lost = value_of(comparison, "correct_loss_rate") if comparison.label_preserved else None
    return lost or 0.0, value_of(comparison, "divergence_ratio") or 0.0


def verdict(comparison: Comparison) -> str:
    """Say what a comparison shows in one sentence, without judging whether it is acceptable.

    Args:
        comparison: A cell beside its baseline.

    Returns:
        A sentence such as "12.3 % of answers changed; …".
    """
    metrics, floor = comparison.metrics, comparison.floor.get("divergence_ratio")
    changed = metrics.get("divergence_ratio")
    lost = metrics.get("correct_loss_rate")
    if changed is None or changed.value is None:
        return "No instance could be compared."
    parts = [f"{percent(changed.value)} of the answers changed {interval(changed)}".rstrip()]
    if floor is not None and floor.value is not None:
        parts.append(f"the baseline against itself changes {percent(floor.value)}")
    if comparison.label_preserved and lost is not None and lost.value is not None:
        parts.append(f"{percent(lost.value)} of the right ones were lost {interval(lost)}".rstrip())
        delta = value_of(comparison, "accuracy_delta")
        parts.append(f"accuracy moved by {points(delta)} points")
    return "; ".join(parts) + "."


def beyond_floor(comparison: Comparison) -> bool | None:
    """Say whether the divergence lies beyond the noise floor; None where that is not known."""
    excess = comparison.metrics.get("excess_divergence")
    if excess is None or excess.low is None:
        return None
    return excess.low > 0
