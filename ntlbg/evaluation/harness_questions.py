"""What a harness's task asks about a video: the bare question of its document, and the one answer its parser reads.

Tasks are known by the fields of their documents, not by their names, so that copies and subsets of a task are read as
the task itself is. An answer is reduced to what it says plainly; what says nothing plainly is `None`, never a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ntlbg.data.converters.published_files import bare_options, split_question
from ntlbg.data.qa_records import LETTERS, BadRow
from ntlbg.evaluation.option_reading import option_letter


# LongVideoBench has five columns for two to five options.
_LVB_OPTIONS = tuple(f"option{number}" for number in range(5))
_NO_OPTION = "N/A"

_NUMBER = r"\d{1,6}(?:\.\d{1,9})?"
_TIME = rf"(?:\d{{1,3}}(?::[0-5]\d){{1,2}}(?:\.\d{{1,9}})?|{_NUMBER})"
_UNIT = r"\s*(?:seconds|second|secs|sec|s)?\b"
_SPANS = (
    re.compile(rf"\[\s*({_TIME}){_UNIT}\s*,\s*({_TIME}){_UNIT}\s*\]"),
    re.compile(rf"(?<![\d.:])({_TIME}){_UNIT}\s*(?:-|–|—|to|until|and)\s*({_TIME})(?![\d:])", re.IGNORECASE),
    re.compile(rf"\bstart\D{{0,40}}?({_TIME})(?![\d:]).{{0,60}}?\bend\D{{0,40}}?({_TIME})(?![\d:])", re.I | re.DOTALL),
)


@dataclass(frozen=True)
class TaskQuestion:
    """
    One document of a task.

    Args:
        query: the bare question, which frames are chosen for.
        kind: what its parser reads: "letter", "span" or "text" (anything).
        options: their texts without letters, of kind "letter".
        unread: what is handed to the parser in the place of an answer that says nothing plainly.
    """

    query: str
    kind: str = "text"
    options: tuple[str, ...] = ()
    unread: str = ""

    def reduced(self, text: str) -> str | None:
        """What the parser should read of a model's answer: one capital letter, or "2.0 - 7.5 seconds"; None where the
        answer says neither."""
        if self.kind == "letter":
            return option_letter(text, self.options)
        if self.kind == "span":
            span = span_of(text)
            return None if span is None else f"{span[0]:.1f} - {span[1]:.1f} seconds"
        return text


def task_question(doc: dict, prompt: str) -> TaskQuestion:
    """
    Args:
        doc: a document of LongVideoBench, Video-MME, MLVU, Charades-STA or TimeLens as lmms-eval has them; or of
            another task, whose answers are left as they are.
        prompt: what the task asks the model.
    """
    question = doc.get("question")
    if _LVB_OPTIONS[0] in doc and "correct_choice" in doc:
        options = [doc.get(name) for name in _LVB_OPTIONS]
        options = tuple(option for option in options if option not in (None, _NO_OPTION))
        # Its parser draws an option where it finds no letter. A letter beyond the options is wrong; five leave none.
        unread = LETTERS[len(options)] if len(options) < len(_LVB_OPTIONS) else ""
        return TaskQuestion(question, "letter", options, unread)
    for moment, truth in (("caption", "timestamp"), ("query", "span")):
        if isinstance(doc.get(moment), str) and truth in doc:
            return TaskQuestion(doc[moment], "span")
    if not isinstance(question, str) or not question.strip():
        return TaskQuestion(prompt)
    try:
        listed = doc.get("options", doc.get("candidates"))
        bare, options = (question, bare_options(listed)) if isinstance(listed, list) else split_question(question)
    except (BadRow, AttributeError):
        return TaskQuestion(question)
    # A variant of a task may ask openly and keep the options in its documents.
    asked = all(isinstance(option, str) and option in prompt for option in options)
    if len(options) < 2 or not asked:
        return TaskQuestion(question)
    return TaskQuestion(bare, "letter", tuple(options))


def span_of(text: str) -> tuple[float, float] | None:
    """The first span of seconds that an answer names, as two numbers or two clock times; None where it names none, or
    one that ends before it starts."""
    for pattern in _SPANS:
        if match := pattern.search(text):
            start, end = (_seconds(match[number]) for number in (1, 2))
            return (start, end) if start <= end else None
    return None


def _seconds(text: str) -> float:
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


__all__ = ["TaskQuestion", "span_of", "task_question"]
