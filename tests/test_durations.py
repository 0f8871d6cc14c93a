"""Candidates at unequal steps: what is chosen, and what it weighs, follows the video's time, not the candidates'
number."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_catalog import textured_frames
from odd_videos import write_video
from tiny_models import tiny_model
from tiny_parts import moving_square, tiny_base_processor

from ntlbg.evaluation.descriptor_worlds import FRAMES, WORLDS
from ntlbg.evaluation.selector_bench import relative_mse
from ntlbg.modeling_ntlbg.curves_ntlbg import robust_scores, smooth
from ntlbg.modeling_ntlbg.durations_ntlbg import check_durations, even_steps, mean, median, middles, until_next
from ntlbg.modeling_ntlbg.gaussian_ntlbg import fit_gaussian
from ntlbg.modeling_ntlbg.scorer_ntlbg import relevance_to
from ntlbg.modeling_ntlbg.strata_ntlbg import quantisation_error, select_representatives
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.processors.video_decoding_ntlbg import VideoClip
from ntlbg.selection.api import FrameSelector
from ntlbg.selection.features import CandidateFeatures


def random_case(seed):
    """Descriptors (T, d), k and options of `select_representatives`, of every kind."""
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 2, 5, 17, 60, 200, 1100]))
    x = torch.from_numpy(rng.normal(size=(groups, int(rng.choice([1, 4, 32])))).astype(np.float32))
    kind = rng.choice(["noise", "walk", "scenes", "still"])
    if kind == "walk":
        x = x.cumsum(0)
    elif kind == "scenes":
        x = 0.2 * x + x[torch.arange(groups) // 20]
    elif kind == "still":
        x = x[:1].expand(groups, -1).clone()
    relevance = None
    if rng.random() < 0.7:
        relevance = torch.from_numpy(rng.normal(size=groups).astype(np.float32))
        relevance += 6.0 * torch.from_numpy(rng.random(groups) > 0.9)
    options = {
        "relevance": relevance,
        "calibrated": bool(rng.random() < 0.5),
        "relevance_share": float(rng.choice([0.0, 0.5, 1.0])),
        "novelty_share": float(rng.choice([0.0, 0.125, 1.0])),
    }
    return x, int(rng.choice([1, 3, 8, 16, 40])), options, rng


def test_equal_durations_choose_what_none_choose_to_the_bit_also_where_their_times_are_rounded():
    for seed in range(80):
        x, k, options, rng = random_case(seed)
        expected = dataclasses.asdict(select_representatives(x, k, **options))
        unit = float(rng.choice([1.0, 0.37, 1 / 24, 1e-4, 977.1]))
        rounded = until_next(torch.arange(len(x)) / 24 + 3000.0)
        for durations in (torch.full((len(x),), unit, dtype=torch.float64), rounded):
            found = dataclasses.asdict(select_representatives(x, k, durations=durations, **options))
            for name, value in expected.items():
                same = torch.equal(value, found[name]) if isinstance(value, torch.Tensor) else value == found[name]
                assert same, (seed, name)


def test_any_durations_give_k_distinct_groups_with_the_share_of_time_of_their_cells():
    for seed in range(60):
        x, k, options, rng = random_case(seed)
        durations = torch.from_numpy(rng.lognormal(0, 2, len(x)) * (rng.random(len(x)) > 0.1))
        durations[int(rng.integers(len(x)))] = 1.0
        found = select_representatives(x, k, durations=durations, **options)
        assert len(found.indices) == min(k, len(x))
        assert (found.indices.diff() > 0).all()
        assert torch.equal(found.cells[found.indices], torch.arange(len(found.indices)))
        shares = torch.zeros(len(found.indices), dtype=torch.float64).index_add_(0, found.cells, durations)
        # A group that lasts no time counts for a thousandth of the mean.
        torch.testing.assert_close(found.weights.double(), shares / durations.sum(), rtol=0, atol=2e-3)
        assert torch.isfinite(found.mahalanobis).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(durations=st.lists(st.floats(0, 1e6), min_size=1, max_size=40), k=st.integers(1, 40))
def test_even_steps_are_distinct_whatever_the_durations(durations, k):
    durations = check_durations(torch.tensor(durations), len(durations), "cpu")
    k = min(k, len(durations))
    steps = even_steps(durations, k)
    assert len(steps) == k
    assert (steps.diff() > 0).all()
    assert 0 <= steps.min() <= steps.max() < len(durations)


@pytest.mark.parametrize("asked", [False, True])
def test_where_nothing_differs_the_choice_is_even_in_time_not_in_number(asked):
    # Ten minutes: a candidate each half second in the first, each 4 s in the others.
    seconds = torch.cat([torch.arange(0, 60, 0.5), torch.arange(60.0, 600.0, 4.0)])
    durations = torch.cat([seconds.diff(), torch.tensor([4.0])])
    x = torch.full((len(seconds), 16), 0.7)
    options = {"relevance": torch.full((len(seconds),), 0.3) if asked else None, "novelty_share": 0.0}
    found = select_representatives(x, 12, durations=durations, **options)
    middle_of_each = 25.0 + 50.0 * torch.arange(12)
    assert (seconds[found.indices] - middle_of_each).abs().max() <= 4.0
    torch.testing.assert_close(found.weights, torch.full((12,), 1 / 12), rtol=0, atol=0.01)
    by_number = select_representatives(x, 12, **options)
    assert (seconds[by_number.indices] < 60).sum() >= 5


def test_a_group_that_lasts_twice_as_long_counts_as_two():
    generator = torch.Generator().manual_seed(0)
    curve, counts = torch.randn(40, generator=generator), torch.randint(1, 5, (40,), generator=generator)
    copies, ones = curve.repeat_interleave(counts), torch.ones(int(counts.sum()))
    first = counts.cumsum(0) - counts
    assert median(curve, counts.float()) == median(copies, ones) == copies.median()
    torch.testing.assert_close(mean(curve, counts.float()), copies.mean())
    torch.testing.assert_close(robust_scores(curve, counts.float()), robust_scores(copies, ones)[first])
    steps = even_steps(counts.float(), 8)
    assert torch.equal(steps, torch.arange(40).repeat_interleave(counts)[even_steps(ones, 8)])
    x = torch.randn(40, 8, generator=generator)
    torch.testing.assert_close(
        quantisation_error(x, steps, counts.float()),
        quantisation_error(x.repeat_interleave(counts, dim=0), first[steps], ones),
    )


def test_the_moments_are_those_of_the_time():
    # One picture for nine tenths of the time in a tenth of the groups; the rest is noise.
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    x[:10] = 3.0 + 0.1 * x[:10]
    durations = torch.tensor([81.0] * 10 + [1.0] * 90)
    found = select_representatives(x, 4, durations=durations, novelty_share=0.0)
    torch.testing.assert_close(found.mahalanobis, fit_gaussian(x, weights=durations).mahalanobis(x))
    assert found.mahalanobis[:10].mean() < 0.1 * found.mahalanobis[10:].mean()
    by_number = select_representatives(x, 4, novelty_share=0.0)
    assert by_number.mahalanobis[:10].mean() > by_number.mahalanobis[10:].mean()


def test_a_trend_is_taken_over_seconds():
    durations = torch.tensor([1.0] * 20 + [10.0] * 4)
    curve = torch.randn(24, generator=torch.Generator().manual_seed(0))
    times = middles(durations)
    found = smooth(curve, 7.0, durations)
    for at in range(24):
        near = (times - times[at]).abs() <= 7.0
        torch.testing.assert_close(found[at], (curve * durations)[near].sum() / durations[near].sum())
    torch.testing.assert_close(found[21:], curve[21:])


def resampled(video, seed):
    """Candidates of a video of which one third, at random, is cut ten times as densely as the rest: numbers (T,) and
    durations (T,)."""
    start = int(np.random.default_rng(seed).integers(0, FRAMES - FRAMES // 3))
    dense = np.arange(start, start + FRAMES // 3)
    numbers = np.union1d(np.arange(0, FRAMES, 10), dense)
    return numbers, np.diff(np.append(numbers, FRAMES))


@pytest.mark.parametrize("cue", [None, "weak"])
def test_durations_bring_unequal_candidates_nearly_back_to_an_equal_grid(cue):
    error, weight_error = {}, {}
    for world in ("needle", "returning_scenes", "walk", "heavy_tails"):
        for seed in range(4):
            video = WORLDS[world](seed)
            numbers, durations = resampled(video, seed)
            grid = (2 * np.arange(len(numbers)) + 1) * FRAMES // (2 * len(numbers))
            for name, at, lasts in (("number", numbers, None), ("time", numbers, durations), ("grid", grid, None)):
                x = torch.from_numpy(video.frames[at])
                relevance = None if cue is None else relevance_to(x, torch.from_numpy(video.queries[cue]))
                lasts = None if lasts is None else torch.from_numpy(lasts)
                found = select_representatives(x, 8, durations=lasts, relevance=relevance)
                chosen = video.frames[at[found.indices.numpy()]]
                error.setdefault(name, []).append(relative_mse(video.frames, at[found.indices.numpy()]))
                share = np.bincount((video.frames @ chosen.T).argmax(axis=1), minlength=8) / FRAMES
                weight_error.setdefault(name, []).append(np.abs(share - found.weights.numpy()).sum() / 2)
    error, weight_error = ({name: np.mean(values) for name, values in each.items()} for each in (error, weight_error))
    assert error["time"] < error["number"] - 0.5 * (error["number"] - error["grid"])
    assert error["number"] > 1.05 * error["grid"], "unequal candidates were meant to hurt"
    assert weight_error["time"] < 0.4 * weight_error["number"]


@pytest.mark.parametrize(
    ("durations", "sentence"),
    [
        (torch.ones(5), r"one value per group, shape \(4,\), but the shape is \(5,\)"),
        (torch.tensor([1.0, -1.0, 1.0, 1.0]), "range from -1 to 1; are the groups in the order of time"),
        (torch.tensor([1.0, float("nan"), 1.0, 1.0]), "finite and >= 0"),
        (torch.tensor([1.0, float("inf"), 1.0, 1.0]), "range from 1 to inf"),
    ],
)
def test_durations_that_are_none_give_one_clear_sentence(durations, sentence):
    with pytest.raises(ValueError, match=sentence):
        select_representatives(torch.ones(4, 3), 2, durations=durations)


# -- videos ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """80 s at 5 pictures a second: a shot of 40 s, then shots of 1 s, each with a keyframe."""
    shots = [textured_frames(200, 48, 64, seed=0)[:1].repeat(200, axis=0)]
    shots += [textured_frames(5, 48, 64, seed=seed)[:1].repeat(5, axis=0) for seed in range(1, 41)]
    options = {"x264-params": "keyint=50:min-keyint=1:bframes=3:log-level=none", "preset": "veryfast"}
    return write_video(
        tmp_path_factory.mktemp("durations") / "film.mp4", np.concatenate(shots), rate=5, options=options
    )


def test_the_weight_of_a_frame_of_a_scan_is_the_share_of_seconds_it_stands_for(film):
    selector = FrameSelector(None, candidate_fps=5, max_candidates=200, scan="keyframes")
    features = selector.encode(film)
    assert np.ptp(np.diff(features.candidate_seconds)) > 0.5, "unequal steps were meant"
    selection = selector.select(features, k=4, with_frames=False)
    for found, weight in zip(selection.stands_for, selection.weights, strict=True):
        assert sum(end - start for start, end in found) / selection.duration == pytest.approx(weight, abs=1e-6)
    still = selection.weights[selection.cells[selection.candidate_seconds < 40].min()]
    assert still >= 0.5 - 0.01, "half of the time is one picture"


def test_durations_are_those_of_the_clip_and_survive_the_file(film, tmp_path):
    selector = FrameSelector(None, candidate_fps=5, max_candidates=100, scan="keyframes")
    for video, seconds in ((film, 80.0), (VideoClip(film, 30.1, 61.3), 31.2)):
        features = selector.encode(video)
        assert features.candidate_durations.sum() == pytest.approx(seconds)
        assert (features.candidate_durations > 0).all()
        again = CandidateFeatures.load(features.save(tmp_path / "film.npz"))
        np.testing.assert_array_equal(again.candidate_durations, features.candidate_durations)


def test_pictures_at_equal_steps_last_equally_long(film):
    for video, sampling in ((film, {"scan": "grid", "candidate_fps": 5.0}), (moving_square(24), {})):
        features = FrameSelector(None, **sampling).encode(video)
        assert np.ptp(features.candidate_durations) < 1e-6


@torch.no_grad()
def test_the_models_first_look_weighs_groups_by_their_times():
    processor = NTLBGProcessor.from_base(tiny_base_processor("qwen2_vl"))
    model = tiny_model("qwen2_vl", processor.tokenizer)
    look = processor.first_look(moving_square(16), "what is it?")
    equal = model.select(**look, num_representatives=3)
    del look["group_timestamps"]
    untimed = model.select(**look, num_representatives=3)
    assert torch.equal(equal.indices, untimed.indices)
    assert torch.equal(equal.weights, untimed.weights)
    seconds = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 26.0, 27.0])
    uneven = model.select(**look, group_timestamps=seconds, num_representatives=3)
    shares = torch.zeros(3).index_add_(0, uneven.cells, until_next(seconds).float()) / 28
    torch.testing.assert_close(uneven.weights, shares)
    assert uneven.weights[uneven.cells[5]] >= 0.75
