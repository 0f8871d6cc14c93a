"""Temporal grounding: mean IoU and R@1 at .3, .5 and .7."""

import evaluate
from datasets import Features, List, Value

from ntlbg.evaluation.span_scores import grounding_scores


class TemporalGrounding(evaluate.Metric):
    """See `ntlbg.evaluation.span_scores.grounding_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=grounding_scores.__doc__,
            features=Features({"predictions": List(Value("float64")), "references": List(List(Value("float64")))}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return grounding_scores(predictions, references)
