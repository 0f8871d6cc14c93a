"""What is said in the procedural world, and questions that only this answers.

Somebody always says some word. What is said during an event has its seconds; the time between events is cut into
stretches as long as events are, with words of the same list. So no caption tells by its wording or by its length
whether anything is on screen, and the words have nothing to do with the pictures: which word belongs to an object
knows only who finds the moment and reads what is said there.
"""

import numpy as np

from ntlbg.data.questions import Question, asks_of
from ntlbg.data.world import EVENT_SECONDS, MEAN_EXTRA_SECONDS, VideoSpec


# At least as many as a video has events; nothing that a picture of the world shows.
WORDS = (
    "anchor", "apron", "barrel", "basket", "bottle", "brush", "bucket", "butter", "button", "camera", "candle",
    "carpet", "castle", "coffee", "cousin", "cradle", "dinner", "doctor", "engine", "feather", "finger", "fiddle",
    "garlic", "guitar", "hammer", "helmet", "honey", "insect", "jacket", "kettle", "ladder", "lantern", "letter",
    "lizard", "market", "mirror", "monkey", "mother", "needle", "napkin", "orchid", "otter", "paper", "pencil",
    "pepper", "pillow", "pocket", "rabbit", "ribbon", "saddle", "sailor", "salmon", "singer", "spoon", "summer",
    "teacher", "ticket", "tunnel", "turtle", "uncle", "violin", "wagon", "winter", "zipper",
)  # fmt: skip
SAID = "Somebody says: {word}."
PAUSE = 0.1  # seconds at the end of a caption, so that no moment lies in two

WORDINGS = {
    "train": (
        "Which word is said while the {a} is on screen?",
        "What does somebody say while the {a} is shown?",
        "While the {a} is on screen, which word is said?",
        "Tell me the word that is said while the {a} is there.",
    ),
    "heldout": ("Which word is said while the {a} is shown?", "What is said when the {a} is on screen?"),
}


def event_words(spec: VideoSpec) -> list[str]:
    """The word said during each of the video's events, all distinct, in the order of the events."""
    rng = np.random.default_rng([71, spec.seed, spec.duration])
    return [WORDS[at] for at in rng.permutation(len(WORDS))[: len(spec.events)]]


def caption_track(spec: VideoSpec) -> list[dict]:
    """The `subtitles` of the video's rows: cues of `start`, `end` (seconds) and `text` that fill it but for a `PAUSE`
    behind each."""
    rng = np.random.default_rng([73, spec.seed, spec.duration])
    stretches, clock = [], 0
    for event, word in zip(spec.events, event_words(spec), strict=True):
        stretches += [*_between(clock, event.start, rng), (event.start, event.end, word)]
        clock = event.end
    stretches += _between(clock, spec.duration, rng)
    return [
        {"start": float(start), "end": end - PAUSE, "text": SAID.format(word=word)} for start, end, word in stretches
    ]


def _between(start: int, end: int, rng: np.random.Generator) -> list[tuple[int, int, str]]:
    """Stretches as long as events, with a word each; no piece shorter than an event is left behind one."""
    low, high = EVENT_SECONDS
    found = []
    while start < end:
        stop = start + min(low + int(rng.exponential(MEAN_EXTRA_SECONDS)), high)
        stop = end if end - stop < low else stop
        found.append((start, stop, WORDS[rng.integers(len(WORDS))]))
        start = stop
    return found


def caption_questions(
    spec: VideoSpec,
    *,
    per_kind: int = 1,
    wording: str = "train",
    about: frozenset[tuple[str, str]] | None = None,
) -> list[Question]:
    """Up to `per_kind` questions of kind "caption": what is said while an object that is shown once is on screen.

    Args:
        wording: "train", "heldout" or "first", see `questions.phrase`.
        about: ask about these (colour, shape) pairs only.
    """
    rng = np.random.default_rng([79, spec.seed, spec.duration])
    names = [event.name for event in spec.events]
    once = [number for number, name in enumerate(names) if names.count(name) == 1]
    words, questions = event_words(spec), []
    pool = WORDINGS["train" if wording == "first" else wording]
    for number in rng.permutation(once):
        event, at = spec.events[number], 0 if wording == "first" else int(rng.integers(len(pool)))
        template = f"caption/{'heldout-' if wording == 'heldout' else ''}{at}"
        spans = ((event.start, event.end),)
        question = Question("caption", pool[at].format(a=event.name), words[number], template, spans, (event.name,))
        if len(questions) < per_kind and (about is None or asks_of(question, spec, about)):
            questions.append(question)
    return questions


__all__ = ["WORDS", "caption_questions", "caption_track", "event_words"]
