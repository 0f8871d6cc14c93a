"""Multiple choice, read strictly; with circular options, right only if right in every rotation."""

import evaluate
from datasets import Features, List, Value

from ntlbg.evaluation.answer_scores import choice_scores


class MultipleChoice(evaluate.Metric):
    """See `ntlbg.evaluation.answer_scores.choice_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=choice_scores.__doc__,
            features=Features(
                {
                    "predictions": Value("string"),
                    "references": {
                        "options": List(Value("string")),
                        "answer_index": Value("int64"),
                        "group": Value("string"),
                    },
                }
            ),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return choice_scores(predictions, references)
