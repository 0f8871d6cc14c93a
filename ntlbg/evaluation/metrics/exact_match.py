"""Exact match but for case, spaces and closing punctuation."""

import evaluate
from datasets import Features, Value

from ntlbg.evaluation.answer_scores import exact_scores


class ExactMatch(evaluate.Metric):
    """See `ntlbg.evaluation.answer_scores.exact_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=exact_scores.__doc__,
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return exact_scores(predictions, references)
