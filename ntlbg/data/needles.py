"""Needles in long videos: short events at given depths of a world video, each asked about by what only it has.

A world video holds two shapes and two colours that occur once. These four events are taken out and put back, for as
long as a needle lasts, where a needle shall be; whatever else would be on screen near it is left out. So all other
events of the video, of the same shapes and colours in other pairs, are there to be mistaken for it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ntlbg.data.questions import Question, phrase
from ntlbg.data.world import EVENT_GAP, Event, VideoSpec, build_video


NEEDLES = 4  # in one video


def needle_video(
    seed: int, duration: int, depths: Sequence[float], needle_seconds: int
) -> tuple[VideoSpec, list[Question]]:
    """
    A video with `NEEDLES` needles.

    Args:
        seed: of the world video; see `split_seed`.
        duration: seconds, even, at least 128.
        depths: where each needle starts, as a share of the time it can start in: 0 at the beginning, 1 so that it ends
            with the video.
        needle_seconds: how long each lasts.

    Returns:
        what happens, and a question to each needle, in the order of `depths`.

    Raises:
        ValueError: not as many depths as needles, depths outside [0, 1], or needles that would meet.
    """
    if len(depths) != NEEDLES or not all(0 <= depth <= 1 for depth in depths):
        raise ValueError(f"`depths` should be {NEEDLES} shares of the video in [0, 1], but they are {list(depths)}")
    if needle_seconds < 1:
        raise ValueError(f"`needle_seconds` should be 1 at least, but it is {needle_seconds}")
    starts = [round(depth * (duration - needle_seconds)) for depth in depths]
    if min(np.diff(sorted(starts))) < needle_seconds + EVENT_GAP:
        raise ValueError(
            f"needles of {needle_seconds} seconds at the depths {list(depths)} of {duration} seconds would meet; give "
            "depths further apart"
        )
    spec = build_video(seed, duration)
    shapes, colors = (Counter(getattr(event, part) for event in spec.events) for part in ("shape", "color"))
    single = [event for event in spec.events if shapes[event.shape] == 1 or colors[event.color] == 1]
    rng = np.random.default_rng([61, seed, duration])
    chosen = [single[index] for index in rng.permutation(len(single))[:NEEDLES]]
    needles = [
        dataclasses.replace(event, start=start, end=start + needle_seconds)
        for event, start in zip(chosen, starts, strict=True)
    ]
    hay = [event for event in spec.events if event not in chosen and not any(_near(event, one) for one in needles)]
    events = tuple(sorted((*hay, *needles), key=lambda event: event.start))
    questions = []
    for needle in needles:
        by_shape = shapes[needle.shape] == 1
        form = "retrieve-colour" if by_shape else "retrieve-shape"
        text, template = phrase(form, rng, wording="heldout", shape=needle.shape, color=needle.color)
        answer, subject = (needle.color, needle.shape) if by_shape else (needle.shape, needle.color)
        questions.append(Question("retrieve", text, answer, template, ((needle.start, needle.end),), (subject,)))
    return dataclasses.replace(spec, events=events), questions


def _near(event: Event, needle: Event) -> bool:
    return event.start < needle.end + EVENT_GAP and event.end > needle.start - EVENT_GAP
