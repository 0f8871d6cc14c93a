"""The procedural benchmark cannot be won without finding the evidence: what each leak would give is measured here.

Guessers learn on other videos (or know what they are said to know) and are scored where the generator draws new ones.
Nothing is rendered. A margin is four standard errors of a share at chance unless its test says why it is another.
"""

from collections import Counter, defaultdict
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest

from ntlbg.data.questions import Question, oracle_groups, span_groups, uniform_groups
from ntlbg.data.world import VideoSpec
from ntlbg.data.world_captions import PAUSE, SAID, WORDS, caption_track, event_words
from ntlbg.data.world_dataset import split_questions
from ntlbg.data.world_options import options_of


KINDS = ("retrieve", "order", "count", "scenes", "longest", "caption")
K, GROUPS = 8, 128  # of videos of 256 seconds
CHI_SQUARE = {1: 10.8, 3: 16.3}  # by degrees of freedom; even places exceed it once in a thousand times


class Row(NamedTuple):
    spec: VideoSpec
    question: Question
    options: list[str]
    right: int

    @property
    def kind(self) -> str:
        return self.question.kind


def rows_of(split: str, videos: int) -> list[Row]:
    return [
        Row(spec, question, *options_of(question, spec))
        for spec, questions in split_questions(split, videos, per_kind=2, captions=True)
        for question in questions
    ]


@pytest.fixture(scope="module")
def known():
    """Rows to learn from."""
    return rows_of("train", 1000)


@pytest.fixture(scope="module")
def rows():
    """Rows to be right about."""
    return rows_of("validation", 1000)


def score(rows, worth) -> dict[str, tuple[float, float, float]]:
    """By kind: the share that taking the option of highest worth(row, option) gets right (ties by lot), chance, and
    four standard errors."""
    hits, chance = defaultdict(list), defaultdict(list)
    for row in rows:
        values = [worth(row, option) for option in row.options]
        best = [number for number, value in enumerate(values) if value == max(values)]
        hits[row.kind].append((row.right in best) / len(best))
        chance[row.kind].append(1 / len(row.options))
    return {kind: (np.mean(hits[kind]), np.mean(chance[kind]), 2 / np.sqrt(len(hits[kind]))) for kind in sorted(hits)}


def at_chance(rows, worth):
    for kind, (share, chance, margin) in score(rows, worth).items():
        assert share < chance + min(margin, 0.06), (kind, share, chance)


def test_the_right_option_stands_in_every_place_equally_often(rows):
    places = defaultdict(Counter)
    for row in rows:
        places[row.kind, len(row.options)][row.right] += 1
    assert {kind for kind, _ in places} == set(KINDS)
    for (kind, size), counts in places.items():
        expected = counts.total() / size
        found = sum((counts[place] - expected) ** 2 / expected for place in range(size))
        assert found < CHI_SQUARE[size - 1], (kind, dict(counts))


def test_options_that_are_offered_most_are_not_right_most(known, rows):
    offered = Counter((row.kind, option) for row in known for option in row.options)
    for sign in (1, -1):
        at_chance(rows, lambda row, option, s=sign: s * offered[row.kind, option])


def test_the_answers_of_other_videos_tell_nothing(known, rows):
    """Neither what is the answer most often, nor what is when this subject is asked about."""
    answers = Counter((row.kind, row.question.answer) for row in known)
    by_subject = Counter((row.kind, row.question.subject, row.question.answer) for row in known)
    at_chance(rows, lambda row, option: answers[row.kind, option])
    at_chance(rows, lambda row, option: by_subject[row.kind, row.question.subject, option])


def test_the_length_of_an_option_tells_nothing(rows):
    at_chance(rows, lambda row, option: len(option))
    at_chance(rows, lambda row, option: -len(option))


def parts_of(row):
    part = "color" if row.question.template.startswith("retrieve-colour") else "shape"
    return Counter(getattr(event, part) for event in row.spec.events)


def test_to_know_what_the_video_shows_is_not_to_know_the_answer(rows):
    """The right option is not the one that is shown among others that are not. Of four, at most one in eight need be
    filled up with something not shown; a longest scene of three has two others beside it."""

    def shown(row, option):
        if row.kind == "retrieve":
            return parts_of(row)[option] > 0
        if row.kind == "longest":
            return option in {scene.background for scene in row.spec.scenes}
        if row.kind == "caption":
            return option in event_words(row.spec)
        return 0

    found = score(rows, shown)
    assert found["retrieve"][0] < 0.25 + 0.04
    assert found["longest"][0] < 1 / 3
    assert found["caption"][0] == 0.25


def test_to_know_how_often_everything_is_shown_strikes_out_next_to_nothing(known, rows):
    """Somebody who knows how often each colour and each shape is shown, but not which go together, and has learned on
    other videos which counts are right, alone and among which others. What is left comes from videos that show too
    little for four options alike. Options drawn evenly from all that is shown give .12 more than chance away."""

    def alone(row, option):
        return row.question.template.split("/")[0], min(parts_of(row)[option], 4)

    def among(row, option):
        counts = parts_of(row)
        return *alone(row, option), min(counts[option], 6), *sorted(min(counts[other], 6) for other in row.options)

    known, rows = ([row for row in some if row.kind == "retrieve"] for some in (known, rows))
    for key in (alone, among):
        right, offered = Counter(), Counter()
        for row in known:
            right[key(row, row.question.answer)] += 1
            offered.update(key(row, option) for option in row.options)
        found = score(
            rows, lambda row, option, k=key, r=right, o=offered: r[k(row, option)] / max(o[k(row, option)], 1)
        )
        assert found["retrieve"][0] < 0.25 + 0.06, (key.__name__, found)


@pytest.mark.parametrize("kind", ["retrieve", "order", "count", "caption"])
def test_evidence_is_anywhere_in_time(rows, kind):
    middles = [sum(span) / 2 / row.spec.duration for row in rows if row.kind == kind for span in row.question.spans]
    shares = np.histogram(middles, bins=8, range=(0, 1))[0] / len(middles)
    # Four standard errors, and half a second at the ends, where no event's middle can lie.
    assert np.abs(shares - 1 / 8).max() < 4 * np.sqrt(1 / 8 * 7 / 8 / len(middles)) + 0.01, shares


def recall(rows, choose) -> float:
    """Share of the spans of questions about events that the chosen groups touch."""
    seen = []
    for row in rows:
        if not row.question.is_global:
            chosen = set(choose(row).tolist())
            seen += [not chosen.isdisjoint(span.tolist()) for span in span_groups(row.question, GROUPS)]
    return float(np.mean(seen))


def test_selectors_that_do_not_know_the_question_see_no_more_than_even_steps(rows):
    rng = np.random.default_rng(0)
    even = recall(rows, lambda row: uniform_groups(GROUPS, K))
    step = GROUPS // K
    jittered = recall(rows, lambda row: np.arange(K) * step + rng.integers(step, size=K))
    scattered = recall(rows, lambda row: rng.choice(GROUPS, size=K, replace=False))
    assert 0.1 < even < 0.35
    assert jittered < even + 0.03
    assert scattered < even + 0.03


def test_to_know_when_all_events_are_without_the_question_shows_no_more_than_its_share_of_them(rows):
    """A selector that finds every event but not the question's beats even steps: that is where evidence is. But no
    group shows two events, so K groups show K of the 18, and no way to choose among them is better than another."""

    def middles(events):
        return np.array([(event.start + event.end - 1) // 4 for event in events])

    def evenly(events):
        return [events[at] for at in uniform_groups(len(events), K)]

    rng = np.random.default_rng(0)
    ways = {
        "any": lambda events: [events[at] for at in rng.choice(len(events), size=K, replace=False)],
        "first": lambda events: events[:K],
        "last": lambda events: events[-K:],
        "even": evenly,
        "longest": lambda events: sorted(events, key=lambda event: event.start - event.end)[:K],
        "shortest": lambda events: sorted(events, key=lambda event: event.end - event.start)[:K],
    }
    limit = np.mean([K / len(row.spec.events) for row in rows])
    for name, way in ways.items():
        found = recall(rows, lambda row, way=way: middles(way(row.spec.events)))
        assert abs(found - limit) < 0.03, (name, found, limit)
    assert recall(rows, lambda row: oracle_groups(row.question, GROUPS, K)) > 0.99
    assert limit < 0.5


def test_what_is_seen_does_not_tell_what_is_said(known, rows):
    said = Counter()
    for row in known:
        if row.kind == "caption":
            (name,) = row.question.subject
            said.update((part, row.question.answer) for part in (name, *name.split()))
    asked = [row for row in rows if row.kind == "caption"]
    at_chance(asked, lambda row, option: said[row.question.subject[0], option])
    for part in (0, 1):
        at_chance(asked, lambda row, option, at=part: said[row.question.subject[0].split()[at], option])


def test_what_is_said_does_not_tell_which_of_it_is_asked_for(rows):
    """Nor does when it is said, how long, or how often."""
    cues = {row.spec.seed: caption_track(row.spec) for row in rows if row.kind == "caption"}

    def spoken(row, option):
        return [cue for cue in cues[row.spec.seed] if cue["text"] == SAID.format(word=option)]

    measures = (
        lambda found: len(found),
        lambda found: found[0]["start"],
        lambda found: max(cue["end"] - cue["start"] for cue in found),
        lambda found: abs(found[0]["start"] - 128),
    )
    asked = [row for row in rows if row.kind == "caption"]
    for measure in measures:
        for sign in (1, -1):
            at_chance(asked, lambda row, option, m=measure, s=sign: s * m(spoken(row, option)))


def test_captions_do_not_tell_whether_anything_is_on_screen(known):
    """They are always there, alike in form and words, and about as long during events as between them."""
    during, between, words = [], [], ([], [])
    for spec in {row.spec.seed: row.spec for row in known}.values():
        track, starts = caption_track(spec), {event.start for event in spec.events}
        assert track[0]["start"] == 0
        assert all(np.isclose(b["start"] - a["end"], PAUSE) for a, b in pairwise(track))
        assert np.isclose(track[-1]["end"] + PAUSE, spec.duration)
        for cue in track:
            here = cue["start"] in starts
            (during if here else between).append(cue["end"] - cue["start"])
            words[not here].append(cue["text"])
    forms = {SAID.format(word=word) for word in WORDS}
    assert set(words[0]) == set(words[1]) == forms
    lengths = np.arange(1, 17) - PAUSE
    shares = [np.array([np.mean(np.isclose(some, length)) for length in lengths]) for some in (during, between)]
    # The distance d of the two distributions: the length of a caption tells which it is in at most (1 + d) / 2 of the
    # cases. It is not 0, as the last stretch before an event has to end with it.
    assert np.abs(shares[0] - shares[1]).sum() / 2 < 0.15, shares
