"""Open answers by a judge of the caller's own: compute(..., judge=function)."""

import evaluate
from datasets import Features, Value

from ntlbg.evaluation.answer_scores import Judge, judged_scores


class JudgedAnswer(evaluate.Metric):
    """See `ntlbg.evaluation.answer_scores.judged_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=judged_scores.__doc__,
            features=Features(
                {
                    "predictions": Value("string"),
                    "references": {"question": Value("string"), "answer": Value("string")},
                }
            ),
        )

    def _compute(self, predictions: list, references: list, judge: Judge) -> dict[str, float]:
        return judged_scores(predictions, references, judge)
