"""Evidence recall@k: which annotated pieces of evidence have a chosen frame."""

import evaluate
from datasets import Features, List, Value

from ntlbg.evaluation.span_scores import evidence_scores


class EvidenceRecall(evaluate.Metric):
    """See `ntlbg.evaluation.span_scores.evidence_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=evidence_scores.__doc__,
            features=Features({"predictions": List(Value("float64")), "references": List(List(Value("float64")))}),
        )

    def _compute(
        self, predictions: list, references: list, k: int | None = None, tolerance: float = 0.0
    ) -> dict[str, float]:
        return evidence_scores(predictions, references, k, tolerance)
