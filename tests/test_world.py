"""The procedural world: its videos are what they say, its questions have the answers they claim and leak nothing."""

import json
from collections import Counter
from itertools import pairwise

import av
import numpy as np
import pytest

from ntlbg.data.questions import (
    KINDS,
    WORDINGS,
    answerable,
    asks_of,
    make_questions,
    oracle_groups,
    span_groups,
    to_record,
    uniform_groups,
)
from ntlbg.data.world import EVENT_GAP, MIN_EVENTS, SPLITS, WITHHELD_PAIRS, build_video, split_seed
from ntlbg.data.world_dataset import demo_video, split_questions, write_split
from ntlbg.data.world_render import Renderer, render_frame
from ntlbg.data.world_video import round_trip, write_video
from ntlbg.training.tiny_vision import dense_video


@pytest.fixture(scope="module")
def asked():
    """(spec, questions) of 600 videos."""
    return split_questions("validation", 600, per_kind=2)


@pytest.mark.parametrize("duration", [128, 256, 600, 640])
def test_events_never_meet_and_scenes_tile_the_video(duration):
    for seed in range(60):
        spec = build_video(seed, duration)
        assert len(spec.events) >= MIN_EVENTS
        assert all(b.start - a.end >= EVENT_GAP for a, b in pairwise(spec.events))
        assert all(a.name != b.name for a, b in pairwise(spec.events))
        assert spec.events[0].start >= 0
        assert spec.events[-1].end <= duration
        assert all(2 <= e.end - e.start <= 16 for e in spec.events)
        assert [s.start for s in spec.scenes] == [0, *(s.end for s in spec.scenes[:-1])]
        assert spec.scenes[-1].end == duration
        assert min(s.end - s.start for s in spec.scenes) >= duration / 8 - 2
        assert len({s.background for s in spec.scenes}) == len(spec.scenes)


def test_a_seed_is_a_video_and_splits_share_none():
    assert build_video(5, 256) == build_video(5, 256)
    assert build_video(5, 256) != build_video(6, 256)
    bounds = sorted(SPLITS.values())
    assert all(a[1] <= b[0] for a, b in pairwise(bounds))
    assert split_seed("test", 3) == SPLITS["test"][0] + 3
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        split_seed("dev", 0)
    with pytest.raises(ValueError, match="even number of seconds"):
        build_video(0, 100)


def test_events_are_spread_evenly_over_the_video():
    middles = np.array([(e.start + e.end) / 512 for seed in range(400) for e in build_video(seed).events])
    shares = np.histogram(middles, bins=8, range=(0, 1))[0] / len(middles)
    assert np.abs(shares - 1 / 8).max() < 0.02


def test_answers_are_true_second_by_second(asked):
    for spec, questions in asked[:150]:
        shown = [spec.event_at(t) for t in range(spec.duration)]
        appearances = [
            e for e, before in zip(shown, [None, *shown[:-1]], strict=True) if e is not None and e != before
        ]
        backgrounds = Counter(spec.scene_at(t).background for t in range(spec.duration))
        for question in questions:
            if question.kind == "retrieve":
                part, other = ("shape", "color") if "colour" in question.template else ("color", "shape")
                (event,) = [e for e in appearances if getattr(e, part) == question.subject[0]]
                assert getattr(event, other) == question.answer
            elif question.kind == "order":
                assert next(e.name for e in appearances if e.name in question.subject) == question.answer
            elif question.kind == "count":
                assert sum(e.name == question.subject[0] for e in appearances) == int(question.answer)
            elif question.kind == "scenes":
                assert len(backgrounds) == int(question.answer)
            else:
                assert backgrounds.most_common(1)[0][0] == question.answer


def test_spans_hold_the_evidence_and_nothing_else(asked):
    for spec, questions in asked[:100]:
        for question in questions:
            if question.is_global:
                assert [s.start for s in spec.scenes] == [start for start, _ in question.spans]
                continue
            evidence = {int(group) for span in span_groups(question, 128) for group in span}
            for group in range(128):
                events = [spec.event_at(2 * group), spec.event_at(2 * group + 1)]
                asked_for = any(e is not None and set(question.subject) & {e.name, e.color, e.shape} for e in events)
                assert (group in evidence) == asked_for


def test_answers_are_balanced(asked):
    answers = {kind: Counter() for kind in KINDS}
    for _, questions in asked:
        for q in questions:
            answers[q.kind][str(q.subject.index(q.answer)) if q.kind == "order" else q.answer] += 1
    assert set(answers["count"]) == set("01234")
    assert set(answers["scenes"]) == set("34567")
    assert len(answers["longest"]) == 8
    assert len(answers["retrieve"]) == 14
    for kind, limit in {"order": 0.55, "count": 0.26, "scenes": 0.25, "longest": 0.19, "retrieve": 0.12}.items():
        assert answers[kind].most_common(1)[0][1] / answers[kind].total() < limit, (kind, answers[kind])


def test_the_question_alone_tells_nothing(asked):
    """The most frequent answer given the subject, learned on half of the videos, is at chance on the other half."""
    known, hits, total = {}, Counter(), Counter()
    for number, (_, questions) in enumerate(asked):
        for q in questions:
            answer = str(q.subject.index(q.answer)) if q.kind == "order" else q.answer
            key = (q.kind, q.subject, q.template.split("/")[0])
            if number < len(asked) // 2:
                known.setdefault(key, Counter())[answer] += 1
            elif key in known:
                hits[q.kind] += known[key].most_common(1)[0][0] == answer
                total[q.kind] += 1
    chance = {"retrieve": 1 / 6, "order": 1 / 2, "count": 1 / 5, "scenes": 1 / 5, "longest": 1 / 8}
    for kind, level in chance.items():
        assert total[kind] > 50, f"too few questions of kind {kind} to say anything"
        assert hits[kind] / total[kind] < level + 0.1, kind


def test_the_frame_in_the_middle_tells_next_to_nothing_about_events(asked):
    events = [(q, s) for s, questions in asked for q in questions if not q.is_global and q.answer != "0"]
    seen = np.mean([answerable(q, np.array([64]), 128) for q, _ in events])
    assert seen < 0.05


def test_oracle_frames_hold_the_answer_and_even_ones_only_that_of_global_questions(asked):
    found = {kind: [] for kind in KINDS}
    for _, questions in asked:
        for q in questions:
            groups = oracle_groups(q, 128, 8)
            assert len(set(groups.tolist())) == 8
            assert (np.diff(groups) > 0).all()
            assert answerable(q, groups, 128)
            found[q.kind].append(answerable(q, uniform_groups(128, 8), 128))
    assert np.mean(found["scenes"]) > 0.99
    assert np.mean(found["longest"]) > 0.99
    assert np.mean(found["retrieve"]) < 0.4
    assert np.mean(found["order"]) < 0.2
    assert np.mean(found["count"]) < 0.4


def test_heldout_wordings_are_new_arrangements_of_known_words():
    def words(text):
        return set(text.replace("?", " ").replace(".", " ").replace(",", " ").replace(":", " ").split())

    known = {w for train, _ in WORDINGS.values() for text in train for w in words(text)}
    for train, heldout in WORDINGS.values():
        assert not set(train) & set(heldout)
        for text in heldout:
            assert words(text) <= known, words(text) - known


def test_questions_are_deterministic_and_never_ask_twice():
    spec = build_video(9, 600)
    first = make_questions(spec, np.random.default_rng(1), per_kind=4)
    assert first == make_questions(spec, np.random.default_rng(1), per_kind=4)
    subjects = [(q.kind, frozenset(q.subject)) for q in first]
    assert len(set(subjects)) == len(subjects)


def test_a_frame_shows_the_same_at_any_size():
    spec = build_video(2)
    t = spec.events[0].start
    large, small = render_frame(spec, t, 224).astype(float), render_frame(spec, t, 112).astype(float)
    shrunk = large.reshape(112, 2, 112, 2, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 6


def test_an_mp4_holds_the_pictures_at_their_times(tmp_path):
    spec = build_video(3, 128)
    write_video(spec, tmp_path / "v.mp4", fps=2, size=64)
    renderer = Renderer(spec, 64)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        frames = [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in container.decode(stream)]
    assert len(frames) == 256
    assert [t for t, _ in frames] == [i / 2 for i in range(256)]
    errors = [np.abs(picture.astype(float) - renderer.frame(t)).mean() for t, picture in frames]
    assert max(errors) < 10
    assert round_trip(spec, size=64).shape == (128, 64, 64, 3)
    with pytest.raises(ValueError, match="must be even"):
        write_video(spec, tmp_path / "odd.mp4", size=55)


def test_a_written_split_has_the_fields_of_the_format(tmp_path):
    path = write_split("test", 2, tmp_path, fps=1, size=32, duration=128)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert {r["video_id"] for r in records} == {s.video_id for s, _ in split_questions("test", 2, duration=128)}
    assert len({r["id"] for r in records}) == len(records)
    for record in records:
        assert {"id", "video_id", "question", "answer", "answer_type", "duration", "metadata", "spans"} <= set(record)
        assert (tmp_path / record["video_path"]).exists()
        assert all(0 <= start < end <= record["duration"] for start, end in record["spans"])


def test_the_demo_asks_what_which_first_how_many_and_about_the_whole():
    spec, questions = demo_video(0)
    assert spec.duration == 600
    assert len(spec.events) > 40
    kinds = Counter(q.kind for q in questions)
    kinds.pop("longest", None)  # not every video has a clearly longest scene
    assert kinds == {"retrieve": 2, "order": 2, "count": 2, "scenes": 1}
    assert len({demo_video(seed)[0].seed for seed in range(50)}) == 50
    assert all(span_groups(q, 300) for q in questions if q.answer != "0")


def test_rows_of_questions_about_the_whole_name_no_moment():
    ((spec, questions),) = split_questions("test", 1, first=3)
    kinds = {question.kind: to_record(question, spec, 0)["spans"] for question in questions}
    assert kinds["scenes"] == []
    assert kinds["retrieve"] == [[float(edge) for edge in span] for span in questions[0].spans]


def test_withheld_pairs_are_neither_shown_nor_asked_about_and_the_split_of_pairs_asks_about_nothing_else():
    for spec, questions in split_questions("train", 150, per_kind=3, withheld=WITHHELD_PAIRS):
        assert WITHHELD_PAIRS.isdisjoint((event.color, event.shape) for event in spec.events)
        assert not any(asks_of(question, spec, WITHHELD_PAIRS) for question in questions)
        assert spec.video_id.startswith("withheld-")
    asked = [(spec, question) for spec, questions in split_questions("test-pairs", 150) for question in questions]
    assert all(asks_of(question, spec, WITHHELD_PAIRS) for spec, question in asked)
    kinds = Counter(question.kind for _, question in asked)
    assert set(kinds) == {"retrieve", "order", "count"}
    assert min(kinds.values()) > 50
    assert sum(question.answer == "0" for _, question in asked) < kinds["count"] / 2
    dense = [dense_video(seed, withheld=WITHHELD_PAIRS) for seed in range(20)]
    assert all(WITHHELD_PAIRS.isdisjoint((event.color, event.shape) for event in spec.events) for spec in dense)
