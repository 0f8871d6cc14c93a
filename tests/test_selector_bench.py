"""The selector bench: its worlds hold what they promise, its measures are right, and its page admits losses."""

import json
from pathlib import Path

import numpy as np
import pytest

from ntlbg.evaluation import selector_bench
from ntlbg.evaluation.descriptor_worlds import CUES, WORLDS, WRITTEN_LATER
from ntlbg.evaluation.footage_bench import clip_descriptors, film
from ntlbg.evaluation.selector_bench import BASELINES, against_best, log_det, relative_mse, temporal_entropy
from ntlbg.evaluation.selector_report import draw, to_markdown


@pytest.mark.parametrize("world", WORLDS)
def test_a_world_is_the_same_every_time_and_its_cue_points_at_the_evidence(world):
    video, again = WORLDS[world](3), WORLDS[world](3)
    assert np.array_equal(video.frames, again.frames)
    assert not np.array_equal(video.frames, WORLDS[world](4).frames)
    np.testing.assert_allclose(np.linalg.norm(video.frames, axis=1), 1, atol=1e-5)
    assert all(0 <= start < end <= len(video.frames) for start, end in video.pieces)
    assert all(end <= start for (_, end), (start, _) in zip(video.pieces, video.pieces[1:], strict=False))
    assert list(video.queries) == list(CUES)
    if world == "whole_video":
        assert len(video.evidence) == len(video.frames)
        return
    rises = []
    for cue in CUES:
        rise = []
        for seed in range(6):
            made = WORLDS[world](seed)
            scores = made.frames @ made.queries[cue]
            rise.append((scores[made.evidence].max() - np.median(scores)) / scores.std())
        rises.append(np.mean(rise))
    assert rises[0] < rises[1] < rises[2]
    assert rises[2] > 2


# Of seed 3: the first piece, one channel of frame 100 and of the weak query (the last thing drawn).
DRAWN = {
    "needle": ((489, 494), 0.07772, -0.01370),
    "long_event": ((58, 86), 0.03118, 0.04449),
    "several_pieces": ((41, 43), 0.03932, -0.04282),
    "whole_video": ((0, 74), 0.05636, 0.05887),
    "glitches": ((489, 494), 0.06034, 0.03570),
    "subspace_needle": ((121, 125), 0.03292, 0.09325),
    "returning_scenes": ((410, 413), -0.09399, -0.02414),
    "distractors": ((489, 494), 0.09568, -0.03645),
    "walk": ((49, 58), -0.00905, -0.06972),
    "two_hops": ((191, 195), 0.07875, -0.03695),
    "heavy_tails": ((380, 390), 0.00077, -0.05913),
}


def test_no_world_has_changed_since_its_numbers_were_published():
    assert list(DRAWN) == list(WORLDS)
    assert list(WORLDS)[-len(WRITTEN_LATER) :] == list(WRITTEN_LATER)
    for world, (piece, channel, asked) in DRAWN.items():
        video = WORLDS[world](3)
        assert video.pieces[0] == piece
        assert video.frames[100, 0] == pytest.approx(channel, abs=2e-5)
        assert video.queries["weak"][0] == pytest.approx(asked, abs=2e-5)


@pytest.mark.parametrize("world", WORLDS)
def test_a_piece_lies_inside_one_shot(world):
    for seed in range(6):
        video = WORLDS[world](seed)
        assert all(len(np.unique(video.scenes[start:end])) == 1 for start, end in video.pieces)


def test_the_walk_never_cuts_and_its_noise_has_a_memory():
    def jump(video):  # between the means of four frames before and after, over the frames' spread
        means = np.stack([video.frames[t : t + 4].mean(axis=0) for t in range(len(video.frames) - 3)])
        moved = np.linalg.norm(means[4:] - means[:-4], axis=1)
        return np.delete(moved, [t for t in video.evidence if t < len(moved)]).max() / video.frames.std(axis=0).sum()

    def rough(video):  # a step's length over that of eight
        x = video.frames
        return np.linalg.norm(np.diff(x, axis=0), axis=1).mean() / np.linalg.norm(x[8:] - x[:-8], axis=1).mean()

    walks, cuts = [WORLDS["walk"](seed) for seed in range(6)], [WORLDS["needle"](seed) for seed in range(6)]
    assert max(map(jump, walks)) < min(map(jump, cuts))
    assert max(map(rough, walks)) < 0.75 < min(map(rough, cuts))


def test_two_hops_lie_far_apart_and_each_answers_half_the_question():
    for seed in range(6):
        video = WORLDS["two_hops"](seed)
        (_, first), (second, _) = video.pieces
        assert second - first >= len(video.frames) // 3
    halves = []
    for seed in range(20):
        video = WORLDS["two_hops"](seed)
        scores = video.frames @ video.queries["strong"]
        halves.append([(scores[a:b].max() - np.median(scores)) / scores.std() for a, b in video.pieces])
    assert np.mean(halves, axis=0) == pytest.approx([3, 3], abs=1)


def test_heavy_tails_have_short_shots_that_return_frames_far_out_and_an_event_like_its_setting():
    short, lone, like = [], [], []
    for seed in range(20):
        video = WORLDS["heavy_tails"](seed)
        edges = np.flatnonzero(np.diff(video.scenes)) + 1
        lengths = np.diff([0, *edges, len(video.frames)])
        assert lengths.min() >= 2
        assert len(lengths) > 2 * len(np.unique(video.scenes))
        short.append((lengths <= 4).sum())
        query = video.queries["strong"]
        beside = np.median(video.frames @ video.frames.mean(axis=0))
        lone.append((video.frames @ video.frames.mean(axis=0) < 0.8 * beside).sum())
        same = video.scenes == video.scenes[video.pieces[0][0]]
        same[video.evidence] = False
        like.append((video.frames[same] @ query).mean() - (video.frames[~same] @ query).mean())
    assert np.mean(short) >= 1
    assert 1 <= np.mean(lone) <= 20
    assert np.mean(np.array(like) > 0) >= 0.8


def test_a_glitch_is_far_from_its_neighbours_and_the_needle_of_the_subspace_is_not_novel():
    glitchy = WORLDS["glitches"](0)
    steps = 1 - (glitchy.frames[1:] * glitchy.frames[:-1]).sum(axis=1)
    lone = (np.minimum(steps[1:], steps[:-1]) > 0.3).sum()
    assert lone >= 10

    def outside(world):
        shares = []
        for seed in range(6):
            video = WORLDS[world](seed)
            x = video.frames - video.frames.mean(axis=0)
            rest = np.delete(x, video.evidence, axis=0)
            directions = np.linalg.eigh(rest.T @ rest)[1][:, -12:].T
            event = x[video.evidence].mean(axis=0)
            shares.append(1 - np.square(directions @ event).sum() / np.square(event).sum())
        return np.mean(shares)

    assert outside("subspace_needle") < outside("needle")


def test_the_measures_have_their_hand_worked_values():
    frames = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=np.float32)
    assert relative_mse(frames, np.array([0, 2])) == pytest.approx(0, abs=1e-6)
    assert relative_mse(frames, np.array([0])) == pytest.approx(2.0)  # half at |x - y|² = 2, over a variance of 1/2
    # Less their mean the two lie at ±(1/2, -1/2): K = [[.5, -.5], [-.5, .5]], det(I + K) = 2.
    assert log_det(frames, np.array([0, 2]), noise=1.0) == pytest.approx(np.log(2) / 2)
    assert temporal_entropy(8, np.array([0, 2, 4, 6])) == pytest.approx(1)
    assert temporal_entropy(8, np.array([0, 1])) == pytest.approx(0)
    assert temporal_entropy(8, np.array([5])) == 1


def test_the_best_baseline_is_never_the_oracle_and_a_loss_is_a_negative_gap():
    names = ["uniform", "top_k", "oracle", "strata"]
    recall = np.array([[0, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=float)
    row = against_best(recall, names)
    assert row["best"] == "top_k"
    assert (row["ours"], row["best_recall"], row["mean"]) == (25.0, 75.0, -50.0)
    assert row["low"] <= row["mean"] <= row["high"]


def test_a_small_bench_fills_the_json_the_page_and_the_picture(tmp_path, monkeypatch):
    names = ("uniform", "top_k", "facility_location", "oracle", "strata")
    few = {name: BASELINES[name] for name in names}
    monkeypatch.setattr(selector_bench, "KS", (16, 32))
    monkeypatch.setattr(selector_bench, "BASELINES", few)
    monkeypatch.setattr(selector_bench, "WORLDS", {name: WORLDS[name] for name in ("needle", "whole_video")})
    monkeypatch.setattr(selector_bench, "WRITTEN_LATER", ("needle",))
    result = selector_bench.bench(2)
    mean = np.array(result["mean"])
    assert mean.shape == (5, 2, 3, 2, 6)
    assert np.isfinite(mean).all()
    assert (mean[list(few).index("oracle"), 0, ..., 0] == 1).all()
    assert (mean[..., 0] <= 1).all()
    result["compared"]["by_world"]["needle"]["16"].update(mean=-40.0, low=-50.0, high=-30.0)
    speeds = {"with a query": 0.1, "without a query": 0.2, "k-means": 1.0}
    result["speed"] = {
        "commit": "abc",
        "frames": 1,
        "channels": 1,
        "k": {"256": speeds},
        "growth": {"1024": {"state": 12.3}},
    }
    result |= {"commit": "abc", "machine": "m", "command": "c"}
    page = to_markdown(json.loads(json.dumps(result)), "name")
    assert "name.png" in page
    assert "needle at k = 16 (to " in page
    assert "k-means | 1.000 (10.0)" in page
    assert "| state | 12 |" in page
    assert "frozen (needle): k = 16: strata" in page
    draw(result, tmp_path / "name.png")
    assert (tmp_path / "name.png").read_bytes().startswith(b"\x89PNG")


def test_a_film_is_cut_together_from_stretches_of_clips():
    clips = [np.full((50, 4), value, dtype=np.float32) + np.eye(4)[value] for value in (1, 2, 3)]
    made = film(clips, 100, seed=0)
    assert made.frames.shape == (100, 4)
    assert np.array_equal(made.frames, film(clips, 100, seed=0).frames)
    assert all(
        np.allclose(made.frames[t], clips[made.scenes[t]][0] / np.linalg.norm(clips[made.scenes[t]][0]))
        for t in range(100)
    )


def test_real_clips_are_described_at_eight_frames_a_second():
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "videos"
    if not folder.is_dir():
        pytest.skip("needs the shared footage")
    described = clip_descriptors(folder / "intel_asl_book.mkv")
    assert 27 <= len(described) <= 31  # 3.6 seconds
    assert described.shape[1] == 368
