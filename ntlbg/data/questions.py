"""Questions about the videos of `ntlbg.data.world`: wording, answer, and where in time the evidence lies.

Five kinds. `retrieve`, `order` and `count` ask about events; `scenes` and `longest` about the video as a whole.
Answers of the first three come from the event list alone, never from the scenes.
"""

from dataclasses import dataclass, field

import numpy as np

from ntlbg.data.world import BACKGROUNDS, COLORS, LONGEST_MARGIN, SHAPES, VideoSpec


KINDS = ("retrieve", "order", "count", "scenes", "longest")
GLOBAL_KINDS = ("scenes", "longest")
MAX_COUNT = 4
GROUP_SECONDS = 2

# Wordings seen in training, and wordings kept for testing (in new arrangements of the same words).
WORDINGS = {
    "retrieve-colour": (
        (
            "What colour was the {shape}?",
            "Which colour did the {shape} have?",
            "What was the colour of the {shape}?",
            "The {shape} that appeared: what colour was it?",
            "Tell me the colour of the {shape}.",
            "There was one {shape}. Which colour was it?",
            "Name the colour of the only {shape}.",
        ),
        ("Which colour was the {shape} that appeared?", "Tell me what colour the {shape} was."),
    ),
    "retrieve-shape": (
        (
            "What shape was the {color} object?",
            "Which shape did the {color} object have?",
            "What was the shape of the {color} thing?",
            "The {color} object that appeared: what shape was it?",
            "Tell me the shape of the {color} object.",
            "There was one {color} thing. Which shape was it?",
            "Name the shape of the only {color} object.",
        ),
        ("Which shape was the {color} thing that appeared?", "Tell me what shape the {color} object was."),
    ),
    "order": (
        (
            "Which came first, the {a} or the {b}?",
            "Which appeared first: the {a} or the {b}?",
            "What was seen first, the {a} or the {b}?",
            "Did the {a} or the {b} come first?",
            "Of the {a} and the {b}, which appeared earlier?",
            "Which was earlier, the {a} or the {b}?",
            "Which one was shown first, the {a} or the {b}?",
        ),
        ("Which was seen earlier, the {a} or the {b}?", "Of the {a} and the {b}, which came first?"),
    ),
    "count": (
        (
            "How many times did {an_a} appear?",
            "How often did {an_a} appear?",
            "How many times was {an_a} seen?",
            "How often was {an_a} shown?",
            "Tell me how many times {an_a} appeared.",
            "Count how many times {an_a} came.",
            "On how many occasions did {an_a} come?",
        ),
        ("How often was {an_a} seen?", "Count how often {an_a} appeared."),
    ),
    "scenes": (
        (
            "How many scenes does the video have?",
            "How many different scenes were there?",
            "Count the scenes of the video.",
            "How many places does the video show?",
            "Tell me how many scenes there are.",
            "How many different backgrounds were seen?",
            "How many different places were there?",
            "Count the places of the video.",
            "Tell me how many different places there are.",
            "Count the different backgrounds of the video.",
            "How many scenes were there?",
        ),
        ("How many scenes does the video show?", "Count the different places of the video."),
    ),
    "longest": (
        (
            "Which background was on screen longest?",
            "Where does most of the video take place?",
            "Which place was shown for the longest time?",
            "Which scene lasts longest?",
            "What background was seen most of the time?",
            "In which place is the video most of the time?",
            "Tell me which place was shown longest.",
            "Name the background that was on screen longest.",
            "Which of the different scenes lasts longest?",
        ),
        ("Which place was on screen longest?", "Which background was shown most of the time?"),
    ),
}
PREFIXES = ("In this video, ", "Watch closely. ", "Question: ", "Please answer: ", "Look at the video: ")
SUFFIXES = (" Answer with one word.", " Answer briefly.", " Keep it short.")


@dataclass(frozen=True)
class Question:
    """One question about one video.

    Attributes:
        kind: one of `KINDS`.
        text: the wording.
        answer: what the model should say.
        template: which wording it is, such as "count/3" or "count/heldout-0".
        spans: evidence in seconds, one (start, end) per event or scene, in order of time; empty for a count of 0.
        subject: what is asked about, such as ("red circle", "blue square").
    """

    kind: str
    text: str
    answer: str
    template: str
    spans: tuple[tuple[int, int], ...]
    subject: tuple[str, ...] = field(default=())

    @property
    def is_global(self) -> bool:
        """Whether the whole video is the evidence."""
        return self.kind in GLOBAL_KINDS


def with_article(name: str) -> str:
    """`name` behind "a" or "an"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def phrase(form: str, rng: np.random.Generator, *, wording: str = "train", free: bool = True, **slots: str):
    """Put a question into words.

    Args:
        form: a key of `WORDINGS`.
        wording: "train", "heldout" (wordings never used in training) or "first" (always the same one).
        free: now and then add a prefix or a suffix and spell "color".
        slots: what fills the wording: shape, color, a, b, an_a.

    Returns:
        (text, template id).
    """
    train, heldout = WORDINGS[form]
    if wording == "first":
        return train[0].format(**slots), f"{form}/0"
    if wording not in ("train", "heldout"):
        raise ValueError(f'`wording` must be "train", "heldout" or "first", but is {wording!r}')
    pool = train if wording == "train" else heldout
    number = int(rng.integers(len(pool)))
    text = pool[number].format(**slots)
    if free:
        if rng.random() < 0.3:
            prefix = PREFIXES[rng.integers(len(PREFIXES))]
            text = prefix + (text if prefix.endswith(". ") else text[0].lower() + text[1:])
        if rng.random() < 0.3:
            text += SUFFIXES[rng.integers(len(SUFFIXES))]
        if rng.random() < 0.25:
            text = text.replace("colour", "color")
    return text, f"{form}/{'' if wording == 'train' else 'heldout-'}{number}"


def ask(spec: VideoSpec, kind: str, rng: np.random.Generator, *, wording: str = "train", free: bool = True):
    """One question of `kind` about the video, or None where the video has no such question with a clear answer."""
    if kind == "retrieve":
        return _ask_retrieve(spec, rng, wording, free)
    if kind == "order":
        return _ask_order(spec, rng, wording, free)
    if kind == "count":
        return _ask_count(spec, rng, wording, free)
    if kind == "scenes":
        text, template = phrase("scenes", rng, wording=wording, free=free)
        return Question(kind, text, str(len(spec.scenes)), template, tuple((s.start, s.end) for s in spec.scenes))
    if kind == "longest":
        lengths = sorted((s.end - s.start for s in spec.scenes), reverse=True)
        if lengths[0] - lengths[1] < LONGEST_MARGIN * spec.duration:
            return None
        text, template = phrase("longest", rng, wording=wording, free=free)
        scene = max(spec.scenes, key=lambda s: s.end - s.start)
        return Question(kind, text, scene.background, template, tuple((s.start, s.end) for s in spec.scenes))
    raise ValueError(f"unknown kind of question {kind!r}; pass one of {', '.join(KINDS)}")


def make_questions(
    spec: VideoSpec,
    rng: np.random.Generator,
    *,
    kinds: tuple[str, ...] = KINDS,
    per_kind: int = 1,
    wording: str = "train",
    free: bool = True,
    about: frozenset[tuple[str, str]] | None = None,
) -> list[Question]:
    """Up to `per_kind` different questions of every kind (never the same subject twice), in the order of `kinds`.

    Deterministic given the state of `rng`. Kinds the video has no clear question of are left out; a global kind has
    one. With `about`, only questions that ask about one of these (colour, shape) pairs, see `asks_of`.
    """
    questions = []
    for kind in kinds:
        seen = set()
        # Of what is drawn few questions are about given pairs.
        for _ in range((4 if about is None else 60) * per_kind):
            question = ask(spec, kind, rng, wording=wording, free=free)
            if question is None or len(seen) == per_kind:
                break
            if about is not None and not asks_of(question, spec, about):
                continue
            if frozenset(question.subject) not in seen:
                seen.add(frozenset(question.subject))
                questions.append(question)
    return questions


def asks_of(question: Question, spec: VideoSpec, pairs: frozenset[tuple[str, str]]) -> bool:
    """Whether a question about events asks about one of the (colour, shape) pairs, shown in the video or not."""
    if question.is_global:
        return False
    shown = [event.name for event in spec.events if (event.start, event.end) in question.spans]
    return any(f"{color} {shape}" in (*shown, *question.subject) for color, shape in pairs)


def _ask_retrieve(spec, rng, wording, free):
    by_shape = {s: [e for e in spec.events if e.shape == s] for s in SHAPES}
    by_color = {c: [e for e in spec.events if e.color == c] for c in COLORS}
    choices = [("retrieve-colour", found[0]) for found in by_shape.values() if len(found) == 1]
    choices += [("retrieve-shape", found[0]) for found in by_color.values() if len(found) == 1]
    if not choices:
        return None
    form, event = choices[rng.integers(len(choices))]
    text, template = phrase(form, rng, wording=wording, free=free, shape=event.shape, color=event.color)
    answer, subject = (event.color, event.shape) if form == "retrieve-colour" else (event.shape, event.color)
    return Question("retrieve", text, answer, template, ((event.start, event.end),), (subject,))


def _by_name(spec):
    found = {}
    for event in spec.events:
        found.setdefault(event.name, []).append(event)
    return found


def _ask_order(spec, rng, wording, free):
    single = [found[0] for found in _by_name(spec).values() if len(found) == 1]
    if len(single) < 2:
        return None
    first, second = (single[i] for i in sorted(rng.choice(len(single), size=2, replace=False)))
    a, b = (first, second) if rng.random() < 0.5 else (second, first)
    text, template = phrase("order", rng, wording=wording, free=free, a=a.name, b=b.name)
    spans = ((first.start, first.end), (second.start, second.end))
    return Question("order", text, first.name, template, spans, (a.name, b.name))


def _ask_count(spec, rng, wording, free):
    found = _by_name(spec)
    by_count = {n: [name for name, events in found.items() if len(events) == n] for n in range(1, MAX_COUNT + 1)}
    # Objects never shown whose colour and whose shape were: knowing the parts does not answer the question.
    colors, shapes = ({getattr(e, part) for e in spec.events} for part in ("color", "shape"))
    by_count[0] = [
        f"{c} {s}"
        for c in COLORS
        for s in SHAPES
        if c in colors and s in shapes and (c, s) not in spec.withheld and f"{c} {s}" not in found
    ]
    possible = [n for n in range(MAX_COUNT + 1) if by_count[n]]
    count = possible[rng.integers(len(possible))]
    name = by_count[count][rng.integers(len(by_count[count]))]
    text, template = phrase("count", rng, wording=wording, free=free, an_a=with_article(name))
    spans = tuple((e.start, e.end) for e in found.get(name, ()))
    return Question("count", text, str(count), template, spans, (name,))


def span_groups(question: Question, total: int, *, group_seconds: int = GROUP_SECONDS) -> list[np.ndarray]:
    """The groups each span touches: one int64 array per span, indices below `total`."""
    return [
        np.arange(start // group_seconds, min((end - 1) // group_seconds + 1, total)) for start, end in question.spans
    ]


def oracle_groups(question: Question, total: int, k: int) -> np.ndarray:
    """The frames a selector that knows the answer would take: (min(k, total),) sorted int64.

    The middle of every span (of event or scene) while there is room, then the group farthest in time from those taken,
    again and again.
    """
    chosen = list(dict.fromkeys(int(groups[len(groups) // 2]) for groups in span_groups(question, total)))[:k]
    return fill_evenly(chosen, total, k)


def fill_evenly(chosen: list[int], total: int, k: int) -> np.ndarray:
    """Add to `chosen` groups the ones farthest in time from those taken until there are min(k, total); sorted
    int64.
    """
    if not chosen:
        return uniform_groups(total, k)
    taken = list(chosen)
    distance = np.abs(np.arange(total)[:, None] - np.array(taken)).min(1)
    while len(taken) < min(k, total):
        best = int(distance.argmax())
        taken.append(best)
        distance = np.minimum(distance, np.abs(np.arange(total) - best))
    return np.sort(np.array(taken))


def uniform_groups(total: int, k: int) -> np.ndarray:
    """The middles of min(k, total) equal parts of the video: sorted int64."""
    k = min(k, total)
    return ((np.arange(k) + 0.5) * total / k).astype(np.int64)


def answerable(question: Question, groups: np.ndarray, total: int) -> bool:
    """Whether the chosen groups hold the answer.

    Events: every span is seen. Scenes: every scene is seen. Longest: giving each moment to the nearest chosen group
    makes the right scene the longest.
    """
    spans = span_groups(question, total)
    if question.kind != "longest":
        return all(np.isin(span, groups).any() for span in spans)
    edges = np.concatenate([[0], (groups[1:] + groups[:-1] + 1) / 2, [total]])
    share = np.diff(edges)
    seen = [share[np.isin(groups, span)].sum() for span in spans]
    return int(np.argmax(seen)) == int(np.argmax([len(span) for span in spans]))


def to_record(question: Question, spec: VideoSpec, number: int, video_path: str | None = None) -> dict:
    """The question as a record of the project's JSONL format. A question about the whole has no spans: no moment
    answers it alone."""
    record = {
        "id": f"{spec.video_id}-{number}",
        "video_id": spec.video_id,
        "question": question.text,
        "answer": question.answer,
        "answer_type": question.kind,
        "duration": float(spec.duration),
        "spans": [] if question.is_global else [list(map(float, span)) for span in question.spans],
        "metadata": {"template": question.template, "subject": list(question.subject), "seed": spec.seed},
    }
    if video_path is not None:
        record["video_path"] = video_path
    return record


def all_words() -> list[str]:
    """Every text a question or answer can hold, for building a tokenizer in which each word is one token."""
    texts = ["system", "user", "assistant", "red circle", *PREFIXES, *SUFFIXES]
    texts += [str(n) for n in range(10)]
    for word in (*COLORS, *SHAPES, *BACKGROUNDS):
        texts += [word, f" {word}"]
    for train, heldout in WORDINGS.values():
        for text in (*train, *heldout):
            text = text.format(shape="star", color="red", a="red star", b="red star", an_a="a red star or an object")
            for variant in (text, text[0].lower() + text[1:]):
                texts += [variant, f" {variant}", variant.replace("colour", "color")]
    return texts


__all__ = [
    "GLOBAL_KINDS",
    "KINDS",
    "Question",
    "answerable",
    "ask",
    "asks_of",
    "fill_evenly",
    "make_questions",
    "oracle_groups",
    "phrase",
    "span_groups",
    "to_record",
    "uniform_groups",
]
