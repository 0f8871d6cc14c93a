"""Questions of the procedural world as multiple choice.

The wrong options are what else the answer could be for somebody who has not seen the evidence:

- `retrieve`: colours or shapes that the video shows, so often that the right one does not stand out by how often it is
  shown (`_wrong_values`); then any.
- `count`, `scenes`: all numbers that are ever an answer but one. The nearest ones would leave the right one in the
  middle.
- `longest`: other backgrounds of the video, then any.
- `caption`: words said during other objects.
- `order`: the two objects that the question names, and no others. Two more would be struck out by the question's own
  words, and a chance of a quarter would be stated where it is a half.
"""

import zlib
from collections import Counter

import numpy as np

from ntlbg.data.questions import MAX_COUNT, SUFFIXES, Question
from ntlbg.data.world import BACKGROUNDS, COLORS, SCENES, SHAPES, VideoSpec
from ntlbg.data.world_captions import event_words


OPTIONS = 4


def options_of(question: Question, spec: VideoSpec) -> tuple[list[str], int]:
    """The options, distinct texts, and the place of the right one.

    They depend on the video and on what is asked alone, not on how it is put into words. `OPTIONS` of them, two for
    `order`.
    """
    form = question.template.split("/")[0]
    asked = zlib.crc32("|".join((form, *question.subject)).encode())
    rng = np.random.default_rng([67, spec.seed, spec.duration, asked])
    if question.kind == "order":
        wrong = [name for name in question.subject if name != question.answer]
    elif question.kind == "retrieve":
        wrong = _wrong_values(question, spec, rng)
    else:
        wrong = [value for tier in _tiers(question, spec) for value in _others(tier, question.answer, rng)]
    wrong = wrong[: OPTIONS - 1]
    options = [question.answer, *wrong]
    options = [options[at] for at in rng.permutation(len(options))]
    return options, options.index(question.answer)


def with_options(record: dict, question: Question, spec: VideoSpec) -> dict:
    """The record of `to_record` with `options` and `answer_index`; a wish for a short answer behind the question is
    left out, since a letter is asked for.
    """
    options, right = options_of(question, spec)
    text = record["question"]
    for suffix in SUFFIXES:
        text = text.removesuffix(suffix)
    return record | {"question": text, "options": options, "answer_index": right}


def _wrong_values(question: Question, spec: VideoSpec, rng: np.random.Generator) -> list[str]:
    """Colours or shapes, the preferred first.

    A video shows two of them once, with partners that it shows often (`world._draw_names`): these are asked about,
    and are not the answer. Where it shows no others once, an option shown once could be struck out, so there is none.
    Where it does, the answer is itself shown once in about one of four questions: so one of four options always is.
    """
    part, values = ("color", COLORS) if question.template.startswith("retrieve-colour") else ("shape", SHAPES)
    shown = Counter(getattr(event, part) for event in spec.events)
    often, once, never = (
        _others([value for value in values if min(shown[value], 2) == times], question.answer, rng)
        for times in (2, 1, 0)
    )
    if list(shown.values()).count(1) > 2 and shown[question.answer] > 1:
        often = [once.pop(0), *often]
    return [*often, *once, *never]


def _tiers(question: Question, spec: VideoSpec) -> list[list[str]]:
    """What wrong options of the other kinds are drawn from, the preferred first."""
    if question.kind == "count":
        return [[str(number) for number in range(MAX_COUNT + 1)]]
    if question.kind == "scenes":
        return [[str(number) for number in range(SCENES[0], SCENES[1] + 1)]]
    if question.kind == "longest":
        shown = [scene.background for scene in spec.scenes]
        return [shown, [name for name in BACKGROUNDS if name not in shown]]
    if question.kind == "caption":
        return [list(event_words(spec))]
    raise ValueError(f"there are no options for questions of kind {question.kind!r}")


def _others(values: list[str], right: str, rng: np.random.Generator) -> list[str]:
    """The wrong ones in any order."""
    wrong = [value for value in values if value != right]
    return [wrong[at] for at in rng.permutation(len(wrong))]


__all__ = ["OPTIONS", "options_of", "with_options"]
