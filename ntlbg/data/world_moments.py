"""Moments of the procedural world: videos to find things in, and rows that say when each is on screen and how well.

A video holds a few objects for very different lengths of time, among them an object that comes twice and others that
share its colour or its shape. Borders fall on any whole second, so between the representatives of any selection, and
often inside a group of two seconds.
"""

from itertools import pairwise

import numpy as np

from ntlbg.data.questions import with_article
from ntlbg.data.world import COLORS, EVENT_GAP, SHAPES, Event, VideoSpec, draw_distractor, draw_scenes


EVENTS = 8
SECONDS = (3, 30)  # of an event; drawn evenly in the logarithm
MOST_SHOWN = 0.75  # of the video: share of the time with an event on screen, at most
CLIP_SECONDS = 2.0  # of a clip with a saliency score, as in QVHighlights

# Queries name what is seen, as those of Charades-STA and QVHighlights do; the last is never used in training.
WORDINGS = {
    "train": ("{an_a} appears", "{an_a} is on screen", "{an_a} is shown", "{an_a} was seen", "the video shows {an_a}"),
    "heldout": ("{an_a} came on screen", "the video has {an_a}"),
}


def build_moment_video(seed: int, duration: int = 128) -> VideoSpec:
    """Draw a video from `seed`; `duration` in seconds, even, at least 64.

    Raises:
        ValueError: if `duration` is out of range.
    """
    if duration < 64 or duration % 2:
        raise ValueError(f"`duration` must be an even number of seconds, at least 64, but is {duration}")
    rng = np.random.default_rng([59, seed, duration])
    scenes = draw_scenes(rng, duration, None)
    events = _draw_events(rng, duration)
    distractors = tuple(draw_distractor(rng) for _ in range(rng.integers(2, 5)))
    return VideoSpec(seed, duration, scenes, events, distractors, kind="moments")


def _draw_events(rng: np.random.Generator, duration: int) -> tuple[Event, ...]:
    low, high = SECONDS
    lengths = np.round(np.exp(rng.uniform(np.log(low), np.log(high), EVENTS))).astype(int)
    while lengths.sum() > MOST_SHOWN * duration - EVENT_GAP * (EVENTS - 1):
        lengths[lengths.argmax()] -= 1
    free = duration - lengths.sum() - EVENT_GAP * (EVENTS - 1)
    gaps = np.diff(np.concatenate([[0], np.sort(rng.integers(free + 1, size=EVENTS))]))
    events, clock = [], 0
    for (color, shape), length, gap in zip(_draw_names(rng), lengths, gaps, strict=True):
        start = clock + int(gap)
        radius = float(rng.uniform(0.21, 0.29))
        x, y = rng.uniform(radius + 0.02, 0.98 - radius, size=2)
        angle, hue, value = rng.uniform((-0.2, -0.014, -0.1), (0.2, 0.014, 0.05))
        events.append(Event(start, start + int(length), color, shape, *map(float, (x, y, radius, angle, hue, value))))
        clock = start + int(length) + EVENT_GAP
    return tuple(events)


def _draw_names(rng: np.random.Generator) -> list[tuple[str, str]]:
    """One pair of colour and shape twice, not in a row; all from four colours and three shapes."""
    colors, shapes = rng.permutation(COLORS)[:4].tolist(), rng.permutation(SHAPES)[:3].tolist()
    pairs = [(color, shape) for color in colors for shape in shapes]
    names = [pairs[i] for i in rng.permutation(len(pairs))[: EVENTS - 1]]
    names.append(names[0])
    while True:
        shuffled = [names[i] for i in rng.permutation(EVENTS)]
        if all(a != b for a, b in pairwise(shuffled)):
            return shuffled


def saliency_scores(spec: VideoSpec, color: str, shape: str) -> dict:
    """The row's `saliency` for an object: scores 0 to 4 of three annotators for each clip of `CLIP_SECONDS` that shows
    any of it.

    4 times the share of the clip with the object on screen; what has only its colour or only its shape counts a
    quarter of that. The annotators round to the nearest, up and down.
    """
    clips, scores = [], []
    for clip in range(int(spec.duration / CLIP_SECONDS)):
        start, worth = clip * CLIP_SECONDS, 0.0
        for event in spec.events:
            shown = max(min(event.end, start + CLIP_SECONDS) - max(event.start, start), 0) / CLIP_SECONDS
            alike = (event.color == color) + (event.shape == shape)
            worth += 4 * shown * (0, 0.25, 1)[alike]
        if worth:
            clips.append(clip)
            scores.append([float(np.round(worth)), float(np.ceil(worth)), float(np.floor(worth))])
    return {"clip_len": CLIP_SECONDS, "clip_ids": clips, "scores": scores}


def moment_records(
    spec: VideoSpec, *, wording: str = "train", absent: int = 0, video_path: str | None = None
) -> list[dict]:
    """One record of the project's JSONL for each object of the video, with all its `spans`, and its `saliency`.

    Args:
        wording: "train" or "heldout".
        absent: at most so many more records about objects that are not in the video, though their colour and their
            shape are, with `spans: []` and the answer "never".

    Raises:
        ValueError: there is no such wording.
    """
    if wording not in WORDINGS:
        raise ValueError(f"`wording` must be one of {', '.join(WORDINGS)}, but is {wording!r}")
    rng = np.random.default_rng([61, spec.seed, spec.duration])
    present = list(dict.fromkeys((event.color, event.shape) for event in spec.events))
    colors, shapes = ({pair[part] for pair in present} for part in (0, 1))
    # Of a colour and a shape that are there: knowing the parts does not answer the query.
    others = [(c, s) for c in COLORS for s in SHAPES if c in colors and s in shapes and (c, s) not in present]
    missing = [others[i] for i in rng.permutation(len(others))[:absent]]
    records = []
    for number, (color, shape) in enumerate([*present, *missing]):
        texts = WORDINGS[wording]
        spans = [[float(e.start), float(e.end)] for e in spec.events if (e.color, e.shape) == (color, shape)]
        record = {
            "id": f"{spec.video_id}-moment-{number}",
            "video_id": spec.video_id,
            "question": texts[rng.integers(len(texts))].format(an_a=with_article(f"{color} {shape}")),
            "answer": ", ".join(f"{start:g} to {end:g} seconds" for start, end in spans) or "never",
            "answer_type": "moment",
            "duration": float(spec.duration),
            "spans": spans,
            "saliency": saliency_scores(spec, color, shape),
            "metadata": {"subject": f"{color} {shape}", "seed": spec.seed},
        }
        records.append(record if video_path is None else record | {"video_path": video_path})
    return records


__all__ = ["CLIP_SECONDS", "build_moment_video", "moment_records", "saliency_scores"]
