"""Which option an answer names: the one reader of the metrics, of the benchmark on rows and of the harness's tasks.

An answer counts where it plainly is one option. Two letters, a letter with another option's words, or a negation
beside it name none; a guess of ours would be counted as the model's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ntlbg.data.qa_records import LETTERS
from ntlbg.training.answer_scoring import parse_option


# "(B) ...", "[B] ...", "B. ...", "B) ...", "B: ...", or a first line that is the letter alone
_MARKED = re.compile(r"[(\[]([A-Z])[)\]]|([A-Z])(?:[.):](?=\s|$)|(?=[ \t]*\n))")
_ANNOUNCED = re.compile(r"\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*[\"'(\[]*(?=\w)", re.IGNORECASE)
_LETTER = re.compile(
    r"([A-Z])(?![\w'])[\"')\]]*(?:\s+is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answer|option|choice|one))?)?"
)
_CLAUSE_END = re.compile(
    r"[\"')\]]*(?:\s*$|\s*[.,;:!][\"')\]]*(?:\s|$)|[ \t]*\n|\s+(?:because|since)\b)", re.IGNORECASE
)
_BETWEEN = re.compile(r"[\"')\]]*[\s.:,–—-]*")
_SENTENCE_END = re.compile(r"[.!?]\s|\n")

# Words that take an answer back, or say it of something else.
_NEGATION = re.compile(
    r"\b(?:not|no|nor|never|none|neither|cannot|nothing|without|wrong|incorrect\w*|false|mistake\w*|untrue|unlike\w*"
    r"|impossible|invalid|rul(?:e|es|ed|ing)\s+(?:\w+\s+){0,3}out|eliminat\w*|exclud\w*|discard\w*|dismiss\w*|reject\w*|avoid\w*"
    r"|doubt\w*|unsure|uncertain|except|instead|rather|than|if|unless|whether|(?:all|anything|everything)\s+but)\b"
    r"|n't\b",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\W*(?:(?:is|was|seems|looks|would\s+be)\s+)?(?:(?:clearly|probably|definitely)\s+)?"
    r"(?:not|no|wrong|incorrect|false|n't|isn't|wasn't|cannot|can't)\b",
    re.IGNORECASE,
)
_NAMED_LETTER = re.compile(r"(?<![\w'])(?:\(([A-Za-z])\)|([A-Z]))(?![\w'])")
# "A man ..." at the start of a sentence, and "I think ..." anywhere, name no option.
_ARTICLE = re.compile(
    r"(?:(?:^|[.!?:;,\n\"(])\s*A|(?<![\w'])I)\s+"
    r"(?!(?:is|was|and|or|are|but|because|seems|looks|would|could|can|should|has|does|fits|matches)\b)[a-z]"
)


def option_number(text: str, options: Sequence[str]) -> int | None:
    """
    The number of the one option that an answer names, counted from 0; None where it names none, or several.

    It is named by the whole answer, as `parse_option` reads it; by a letter marked as one at its start ("B. she ...",
    "(B)", "B" on a line of its own); or by a letter or an option's own words after "answer", "option" or "choice" and
    at the end of their clause ("The answer is (B)."). What stands beside it may be the option's own words or an
    explanation, without another option's letter or words; and without a negation, but for an explanation behind a
    marked letter, which may deny anything but the letter itself.

    Args:
        text: the answer.
        options: their texts, without letters.
    """
    number = parse_option(text, list(options))
    if number is not None:
        return number
    text, options = _plain(text), [_plain(option) for option in options]
    number = parse_option(text, options)
    if number is not None:
        return number
    patterns = [_pattern(option) for option in options]
    if match := _MARKED.match(text):
        number = _number(match[1] or match[2], options)
        return number if number is not None and _explains(text[match.end() :], number, options, patterns) else None
    first, _, rest = text.partition("\n")
    number = parse_option(first, options)
    if number is not None:
        return None if _contradicts(rest, number, patterns) else number
    return _announced(text, patterns)


def option_letter(text: str, options: Sequence[str]) -> str | None:
    """The capital letter of `option_number`'s option, of which there are at most 26."""
    number = option_number(text, options)
    return None if number is None else LETTERS[number]


def _plain(text: str) -> str:
    """Without the marks of Markdown, and with straight apostrophes."""
    return re.sub(r"[*`_]", "", text).replace("’", "'").strip()


def _number(letter: str, options: Sequence) -> int | None:
    number = LETTERS.index(letter)
    return number if number < len(options) else None


def _pattern(option: str) -> re.Pattern:
    """Where an option's words stand in a text, whatever their case and spaces."""
    words = r"\s+".join(map(re.escape, option.rstrip(".!?,;: \n\t").split()))
    return re.compile(rf"(?<!\w){words}(?!\w)" if words else r"(?!)", re.IGNORECASE)


def _announced(text: str, patterns: list[re.Pattern]) -> int | None:
    named = []
    for announcement in _ANNOUNCED.finditer(text):
        number, end = _named_at(text, announcement.end(), patterns)
        if number is not None:
            named.append((number, announcement.start(), end))
    if len({number for number, _, _ in named}) != 1:
        return None
    number, start, end = named[0]
    before, after = text[:start], text[end:]
    sentence = _SENTENCE_END.split(before)[-1]
    if _NEGATION.search(sentence) or _letters(before, patterns) - {number} or _contradicts(after, number, patterns):
        return None
    return number


def _named_at(text: str, start: int, patterns: list[re.Pattern]) -> tuple[int | None, int]:
    """What is announced at `start`, a letter or an option's words, and where it ends."""
    if letter := _LETTER.match(text, start):
        number = _number(letter[1], patterns)
        if number is not None:
            own = patterns[number].match(text, _BETWEEN.match(text, letter.end(1)).end())
            if own or _CLAUSE_END.match(text, letter.end()):
                return number, letter.end()
    matches = [(number, pattern.match(text, start)) for number, pattern in enumerate(patterns)]
    ends = [(number, match.end()) for number, match in matches if match and _CLAUSE_END.match(text, match.end())]
    longest = max((end for _, end in ends), default=start)
    ends = [(number, end) for number, end in ends if end == longest]
    return ends[0] if len(ends) == 1 else (None, start)


def _explains(rest: str, number: int, options: list[str], patterns: list[re.Pattern]) -> bool:
    """Whether what follows a marked letter is the beginning of its option's words, or does not contradict it."""
    said = " ".join(rest.split()).casefold()
    others = [pattern for other, pattern in enumerate(patterns) if other != number]
    if " ".join(options[number].split()).casefold().startswith(said):
        return not any(pattern.fullmatch(rest.strip()) for pattern in others)
    # An explanation may deny all kinds of things; the letter itself is taken back right behind it.
    return not (_TAKEN_BACK.match(rest) or _names_another(rest, number, patterns))


def _contradicts(rest: str, number: int, patterns: list[re.Pattern]) -> bool:
    """Whether a text names another option than `number`, or holds a negation, outside of that option's own words."""
    return bool(_NEGATION.search(patterns[number].sub(" ", rest))) or _names_another(rest, number, patterns)


def _names_another(rest: str, number: int, patterns: list[re.Pattern]) -> bool:
    own = [match.span() for match in patterns[number].finditer(rest)]
    for other, pattern in enumerate(patterns):
        if other != number:
            for match in pattern.finditer(rest):
                if not any(start <= match.start() and match.end() <= end for start, end in own):
                    return True
    return bool(_letters(patterns[number].sub(" ", rest), patterns) - {number})


def _letters(text: str, patterns: list[re.Pattern]) -> set[int]:
    """The options whose letters stand in a text."""
    text = _ARTICLE.sub(" ", text)
    numbers = {_number((match[1] or match[2]).upper(), patterns) for match in _NAMED_LETTER.finditer(text)}
    return numbers - {None}


__all__ = ["option_letter", "option_number"]
