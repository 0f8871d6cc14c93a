"""Whether an answer is right: exact match, or, of a question with options, the option it names, read strictly."""

import re
import string
from dataclasses import dataclass


@dataclass
class AnswerScores:
    """Sums over answered questions; add several with `+`."""

    answered: int = 0
    exact: int = 0
    with_options: int = 0
    right_options: int = 0
    unparsed: int = 0

    def __add__(self, other: "AnswerScores") -> "AnswerScores":
        return AnswerScores(*(mine + theirs for mine, theirs in zip(self.sums(), other.sums(), strict=True)))

    def sums(self) -> list[int]:
        return [self.answered, self.exact, self.with_options, self.right_options, self.unparsed]

    def metrics(self) -> dict[str, float]:
        """`exact_match`, and of questions with options `multiple_choice_accuracy` and `unparsed_answers`: those that
        name no option, and are wrong."""
        metrics = {"answered": self.answered}
        if self.answered:
            metrics["exact_match"] = self.exact / self.answered
        if self.with_options:
            metrics["multiple_choice_accuracy"] = self.right_options / self.with_options
            metrics["unparsed_answers"] = self.unparsed
        return metrics


def normalised(text: str) -> str:
    """Case, spaces and closing punctuation do not make an answer wrong."""
    return " ".join(text.split()).casefold().rstrip(".!?,;: ")


def parse_option(text: str, options: list[str]) -> int | None:
    r"""
    The number of the one option that `text` names, else None: its letter ("B", "(B)", "B."), its own words, or its
    letter and its own words ("B. a red car"). A sentence with a letter somewhere in it names nothing: a guess of ours
    would be counted as the model's.
    """
    text = " ".join(text.split())
    words = [normalised(option) for option in options]
    letters = string.ascii_uppercase[: len(options)]
    named = [number for number, option in enumerate(words) if option and option == normalised(text)]
    match = re.fullmatch(r"\(?([A-Za-z])(?:\)|[.:])*(?:\s+(.*))?", text)
    if match and match[1].upper() in letters:
        number = letters.index(match[1].upper())
        if match[2] is None:
            return number
        # "A dog" may be the letter and the words of option A, or the words of another one.
        if normalised(match[2]) == words[number]:
            named.append(number)
    return named[0] if len(named) == 1 else None


def score_answer(text: str, row: dict) -> AnswerScores:
    """One answer to one row of data; of a row with `options` its `answer_index` counts."""
    options = row.get("options")
    if not options:
        return AnswerScores(answered=1, exact=int(normalised(text) == normalised(row["answer"])))
    number = parse_option(text, options)
    right = int(number == row["answer_index"])
    return AnswerScores(1, right, 1, right, int(number is None))


__all__ = ["AnswerScores", "normalised", "parse_option", "score_answer"]
