"""Whether a validation computes the metric that is to decide, asked before a training and not in its tenth epoch."""

from typing import Any

from monai_synth.errors import ConfigError

# The mean signed error: neither the lowest nor the highest is the best.
_SIGNED = ("me_hu",)


def require_metric(evaluator: Any, metric: str, *, decides: bool = True) -> None:
    """Stop where a validation will not give a metric; an engine that does not say what it computes passes.

    Args:
        evaluator: the validation engine; a ``SynthesisEvaluator`` names the metrics that it was given.
        metric: name of the metric.
        decides: whether it chooses a model or an end, which a signed error cannot.

    Raises:
        ConfigError: with the metrics that there are.
    """
    known = getattr(evaluator, "metric_names", ()) or (metric,)
    usable = [name for name in known if not (decides and name in _SIGNED)]
    if metric not in usable:
        why = "is signed, and 0 is its best" if metric in known else "is not computed by this validation"
        raise ConfigError(
            f"The metric {metric!r} {why}; there {'is' if len(usable) == 1 else 'are'} {', '.join(usable)}. Name one "
            "of them, in a bundle with --key_metric, or give the evaluator another metric (additional_metrics)."
        )


def metric_value(evaluator: Any, metric: str) -> float:
    """Value of a metric after a validation.

    Raises:
        ConfigError: if the validation did not give it, with those that it gave.
    """
    values = evaluator.state.metrics
    if metric not in values:
        raise ConfigError(
            f"The validation gave no metric {metric!r}, but {', '.join(values) or 'none'}. Name one of them, in a "
            "bundle with --key_metric."
        )
    return float(values[metric])
