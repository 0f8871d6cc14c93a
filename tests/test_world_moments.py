"""Moments of the procedural world: what a row says is on screen is, from border to border; no query tells when."""

import re
from itertools import pairwise

import numpy as np
import pytest

from ntlbg.data.qa_records import parse_row
from ntlbg.data.world import EVENT_GAP, build_video, split_seed
from ntlbg.data.world_builder import World
from ntlbg.data.world_moments import WORDINGS, build_moment_video, moment_records
from ntlbg.evaluation.highlight_scores import clip_scores, highlight_scores
from ntlbg.evaluation.span_scores import grounding_scores


@pytest.fixture(scope="module")
def videos():
    """(spec, records) of 150 videos, each with two objects that are not there."""
    specs = [build_moment_video(split_seed("validation", index)) for index in range(150)]
    return [(spec, moment_records(spec, absent=2)) for spec in specs]


def test_rows_name_every_moment_of_an_object_and_none_of_another(videos):
    for spec, records in videos:
        assert all(after.start - before.end >= EVENT_GAP for before, after in pairwise(spec.events))
        assert spec.events[-1].end <= spec.duration
        for record in map(parse_row, records):
            shown = {second for start, end in record["spans"] for second in range(int(start), int(end))}
            seen = {
                t for t in range(spec.duration) if (event := spec.event_at(t)) and event.name in record["question"]
            }
            assert shown == seen
            assert not re.search(r"\d", record["question"])
        absent = [record for record in records if not record["spans"]]
        assert 1 <= len(absent) <= 2  # a video may hold nearly all pairs of its colours and shapes
        assert {record["answer"] for record in absent} == {"never"}


def test_events_last_from_a_few_seconds_to_a_quarter_of_the_video_and_borders_lie_inside_groups(videos):
    events = [event for spec, _ in videos for event in spec.events]
    lengths = np.array([event.end - event.start for event in events])
    assert np.quantile(lengths, 0.1) <= 5
    assert np.quantile(lengths, 0.9) >= 14
    # A group is two seconds: about half of all borders are inside of one.
    assert 0.4 < np.mean([event.start % 2 for event in events]) < 0.6
    # No one span does for all: the best fixed one is nearly worthless.
    truths = [record["spans"] for _, records in videos for record in records if record["spans"]]
    assert max(grounding_scores([[s, s + 40.0]] * len(truths), truths)["miou"] for s in range(0, 88, 8)) < 0.15


def test_saliency_is_highest_where_the_object_is_all_of_a_clip(videos):
    for spec, records in videos[:40]:
        for record in records:
            if not record["spans"]:
                continue
            clips = clip_scores(record, 1)
            ((start, end), *_) = record["spans"]
            first, last = int(np.ceil(start / 2)), int(end // 2)
            assert (clips[first:last] == 4).all()
            truth = [max(min(end, 2 * c + 2) - max(start, 2 * c), 0) for c in range(spec.duration // 2)]
            assert highlight_scores([{"saliency": truth}], [record])["hit1_very_good"] == 1
            # What has only its colour or its shape is no highlight.
            others = [c for c in range(len(clips)) if not any(s < 2 * c + 2 and 2 * c < e for s, e in record["spans"])]
            assert clips[others].max() <= 1


def test_a_video_of_moments_is_another_than_the_one_of_questions_and_wordings_are_held_out():
    spec = build_moment_video(7)
    assert spec == build_moment_video(7) != build_moment_video(8)
    assert spec.video_id != build_video(7, 128).video_id
    assert not set(WORDINGS["train"]) & set(WORDINGS["heldout"])
    assert {record["question"] for record in moment_records(spec)}.isdisjoint(
        record["question"] for record in moment_records(spec, wording="heldout")
    )
    with pytest.raises(ValueError, match="at least 64, but is 33"):
        build_moment_video(0, 33)
    with pytest.raises(ValueError, match="`wording` must be one of train, heldout, but is 'dev'"):
        moment_records(spec, wording="dev")


def test_moments_are_a_builder_of_datasets(tmp_path):
    builder = World(cache_dir=tmp_path, config_name="grounding", seconds=64, train=1, validation=1, test=1, size=64)
    builder.download_and_prepare()
    rows = [parse_row(dict(row)) for row in builder.as_dataset("test")]
    assert {row["answer_type"] for row in rows} == {"moment"}
    assert all(row["spans"] and row["saliency"]["scores"] for row in rows)
    assert len({row["video_path"] for row in rows}) == 1
