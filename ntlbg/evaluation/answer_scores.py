"""Scores of answers as texts: multiple choice (also in rotations of the options), exact match, and a judge's verdict.

An answer is reduced to an option strictly, by `ntlbg.evaluation.option_reading`: what names none is wrong and counted,
never guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from ntlbg.errors import InputError
from ntlbg.evaluation.option_reading import option_number
from ntlbg.evaluation.predictions import BadPrediction, checked, paired, shown
from ntlbg.training.answer_scoring import normalised


# judge(question, answer, reference) -> a share in [0, 1] of how right the answer is
Judge = Callable[[str, str, str], float]


def check_text(prediction: Any) -> str:
    """The text of an answer; "" and None are answers without words.

    Raises:
        BadPrediction: something else.
    """
    if prediction is None:
        return ""
    if not isinstance(prediction, str):
        raise BadPrediction(f"an answer should be text, but is {shown(prediction)}")
    return prediction


def rotations(row: dict) -> list[dict]:
    """
    A question asked once with each option in the first place (circular options, VNBench, arXiv 2406.09367).

    Args:
        row: with `id`, `options` and `answer_index`, as `qa_records.parse_row` gives it.

    Returns:
        as many rows as options; ids end in `#<rotation>`, and `metadata.rotation_of` is the row's id: the `group` of
        `choice_scores`.
    """
    options, right = row["options"], row["answer_index"]
    turned = []
    for by in range(len(options)):
        turned.append(
            {
                **row,
                "id": f"{row['id']}#{by}",
                "options": options[by:] + options[:by],
                "answer_index": (right - by) % len(options),
                "metadata": {**row.get("metadata", {}), "rotation_of": row["id"]},
            }
        )
    return turned


def choice_scores(predictions: Sequence[Any], references: Sequence[dict]) -> dict[str, float]:
    """
    Multiple choice.

    Args:
        predictions: (n,) texts.
        references: (n,) with `options`, `answer_index` and optionally `group`: rotations of one question share it; ""
            is none.

    Returns:
        `accuracy` over single answers; `unparsed`, the share that names no option; `answered`; and if any reference
        has a group `circular_accuracy`, over questions: right only if right in all rotations, and `questions`.

    Raises:
        BadPrediction: a prediction is no text. InputError: a reference is malformed, or rotations are missing.
    """
    paired(predictions, references)
    answers = checked(predictions, check_text)
    if not answers:
        raise InputError("there is nothing to score; give at least one prediction")
    groups: dict[str, list[tuple[bool, dict]]] = defaultdict(list)
    right = unparsed = 0
    for number, (answer, row) in enumerate(zip(answers, references, strict=True), start=1):
        options, index = row.get("options"), row.get("answer_index")
        if not options or not isinstance(index, int) or not 0 <= index < len(options):
            raise InputError(f"reference {number} should have 'options' and an 'answer_index' among them")
        named = option_number(answer, options)
        right += named == index
        unparsed += named is None
        if row.get("group"):
            groups[row["group"]].append((named == index, row))
    scores = {"accuracy": right / len(answers), "unparsed": unparsed / len(answers), "answered": len(answers)}
    if not groups:
        return scores
    if single := sum(not row.get("group") for row in references):
        raise InputError(f"{single} references have no 'group', but others do; score the two kinds apart")
    for name, members in groups.items():
        first = members[0][1]["options"]
        expected = sorted(tuple(first[by:] + first[:by]) for by in range(len(first)))
        if sorted(tuple(row["options"]) for _, row in members) != expected:
            raise InputError(
                f"the group {name!r} has {len(members)} answers, which are not one for each rotation of its "
                f"{len(first)} options; ask what `rotations` makes of a row"
            )
    whole = sum(all(correct for correct, _ in members) for members in groups.values())
    return scores | {"circular_accuracy": whole / len(groups), "questions": len(groups)}


def exact_scores(predictions: Sequence[Any], references: Sequence[str]) -> dict[str, float]:
    """
    `exact_match`, the share of answers that are the reference but for case, spaces and closing punctuation, and
    `answered`.

    Raises:
        BadPrediction: a prediction is no text. InputError: there is none.
    """
    paired(predictions, references)
    answers = checked(predictions, check_text)
    if not answers:
        raise InputError("there is nothing to score; give at least one prediction")
    same = sum(normalised(one) == normalised(other) for one, other in zip(answers, references, strict=True))
    return {"exact_match": same / len(answers), "answered": len(answers)}


def judged_scores(predictions: Sequence[Any], references: Sequence[dict], judge: Judge) -> dict[str, float]:
    """
    Open answers by a judge of the caller's own, e.g. a language model.

    Args:
        predictions: (n,) texts; one without words scores 0 and is not shown to the judge.
        references: (n,) with `question` and `answer`.
        judge: judge(question, answer, reference answer) -> share in [0, 1], or None where it came to no verdict.

    Returns:
        `judged`, the mean over all answers, those without verdict as 0; `no_verdict`, their share; `answered`.

    Raises:
        BadPrediction: a prediction is no text. InputError: the judge is none, or gives something else.
    """
    paired(predictions, references)
    if not callable(judge):
        raise InputError(f"'judge' should be a function of question, answer and reference, but is {shown(judge)}")
    answers = checked(predictions, check_text)
    if not answers:
        raise InputError("there is nothing to score; give at least one prediction")
    total, silent = 0.0, 0
    for answer, row in zip(answers, references, strict=True):
        if not answer.strip():
            continue
        verdict = judge(row["question"], answer, row["answer"])
        if verdict is None:
            silent += 1
        elif isinstance(verdict, int | float) and 0 <= verdict <= 1:
            total += verdict
        else:
            raise InputError(f"the judge should give a share in [0, 1] or None, but gave {shown(verdict)}")
    return {"judged": total / len(answers), "no_verdict": silent / len(answers), "answered": len(answers)}


__all__ = ["Judge", "check_text", "choice_scores", "exact_scores", "judged_scores", "rotations"]
