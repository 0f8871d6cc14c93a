"""QVHighlights: mAP and R1 of moments, HIT@1 and mAP of saliency, as Moment-DETR scores them."""

import evaluate
from datasets import Features, List, Value

from ntlbg.evaluation.highlight_scores import highlight_scores


class MomentHighlights(evaluate.Metric):
    """See `ntlbg.evaluation.highlight_scores.highlight_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=highlight_scores.__doc__,
            features=Features(
                {
                    "predictions": {"windows": List(List(Value("float64"))), "saliency": List(Value("float64"))},
                    "references": {
                        "spans": List(List(Value("float64"))),
                        "duration": Value("float64"),
                        "saliency": {
                            "clip_len": Value("float64"),
                            "clip_ids": List(Value("int64")),
                            "scores": List(List(Value("float64"))),
                        },
                    },
                }
            ),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return highlight_scores(predictions, references)
