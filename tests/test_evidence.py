"""What a relevance curve is believed: weak cues together with the picture, nothing where it says nothing."""

import numpy as np
import pytest
import torch

from ntlbg.evaluation.descriptor_worlds import WORLDS
from ntlbg.evaluation.selector_bench import relative_mse
from ntlbg.modeling_ntlbg import evidence_ntlbg
from ntlbg.modeling_ntlbg.evidence_ntlbg import outstanding, raw_scores
from ntlbg.modeling_ntlbg.strata_ntlbg import STRATA, select_representatives
from ntlbg.selection.baselines import BASELINES


RELEVANCE, NOVELTY, COVERAGE = (STRATA.index(name) for name in ("relevance", "novelty", "coverage"))
SEEDS = range(5000, 5004)


def recall(video, indices):
    return np.mean([((indices >= start) & (indices < end)).any() for start, end in video.pieces])


def scenes(groups=400, dim=32, seed=0):
    """Four still scenes with a little noise; (T, d) less their mean, and squared lengths."""
    generator = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(4, dim, generator=generator)).repeat_interleave(groups // 4, dim=0)
    x = x + 0.3 * torch.randn(groups, dim, generator=generator)
    x = x - x.mean(0)
    return x, x.square().sum(1)


def nobody():
    return torch.zeros(0, dtype=torch.long)


def test_a_cue_no_threshold_would_pass_is_found_no_less_than_by_a_determinantal_process():
    worlds = ("needle", "subspace_needle", "several_pieces", "distractors", "returning_scenes", "glitches")
    videos = [WORLDS[world](seed) for world in worlds for seed in SEEDS]
    found = {
        name: np.mean([recall(v, BASELINES[name](v.frames, v.queries["weak"], 8)) for v in videos])
        for name in ("strata", "greedy_dpp", "top_k", "uniform")
    }
    assert found["strata"] >= found["greedy_dpp"] - 0.02
    assert found["strata"] > found["top_k"] + 0.2
    assert found["strata"] > found["uniform"] + 0.5


def test_a_misleading_cue_costs_no_scene():
    videos = [WORLDS["whole_video"](seed) for seed in SEEDS]
    ours = np.mean([recall(v, BASELINES["strata"](v.frames, v.queries["strong"], 16)) for v in videos])
    assert ours >= 0.95
    assert ours > np.mean([recall(v, BASELINES["mmr"](v.frames, v.queries["strong"], 16)) for v in videos])


@pytest.mark.parametrize(
    "curve",
    [
        torch.full((200,), 0.3),
        torch.linspace(0, 1, 200),
        0.3 - 0.2 * torch.nn.functional.one_hot(torch.arange(200) // 5, 40)[:, [7, 19, 30]].sum(1).float(),
    ],
    ids=["constant", "trend", "troughs"],
)
def test_a_curve_without_a_peak_gives_relevance_nothing(curve):
    noise = 1e-3 * torch.rand(200, generator=torch.Generator().manual_seed(0))
    curve = curve if curve.std() == 0 else curve + noise.clamp(max=9e-4)
    assert raw_scores(curve, torch.ones(200)) is None
    x = scenes(200)[0]
    found = select_representatives(x, 8, relevance=curve)
    assert (found.strata == COVERAGE).all()


def test_a_peak_is_relevance_and_the_rest_says_why_it_is_there():
    x, _ = scenes()
    curve = 0.02 * torch.randn(400, generator=torch.Generator().manual_seed(1))
    curve[250:254] += 0.4
    found = select_representatives(x, 8, relevance=curve)
    chosen = found.indices[found.strata == RELEVANCE]
    assert any(250 <= index < 254 for index in chosen.tolist())
    assert (found.strata == COVERAGE).sum() >= 2
    assert {int(index) // 100 for index in found.indices} == {0, 1, 2, 3}


def test_a_lone_picture_is_a_glitch_unless_relevance_speaks_for_it():
    x, norms = scenes()
    x[137] += 20
    norms = x.square().sum(1)
    covered = torch.tensor([50, 150, 250, 350])
    residual = torch.cdist(x, x[covered]).square().amin(dim=1)
    scores = torch.zeros(400)
    assert 137 not in outstanding(x, norms, residual, 4, covered, torch.ones(400), scores).tolist()
    assert 137 not in outstanding(x, norms, residual, 4, covered, torch.ones(400)).tolist()
    scores[137] = 2.0
    assert outstanding(x, norms, residual, 1, covered, torch.ones(400), scores).tolist() == [137]


@pytest.mark.parametrize("content", ["walk", "scenes"])
def test_candidates_of_a_long_video_serve_as_well_as_all_groups(monkeypatch, content):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6000, 16, generator=generator).cumsum(0) if content == "walk" else scenes(6000)[0]
    for start in range(300, 6000, 600):
        event = torch.nn.functional.normalize(torch.randn(x.shape[1], generator=generator), dim=0)
        x[start : start + 4] += 4 * x.std() * event
    x = x - x.mean(0)
    norms = x.square().sum(1)
    few = outstanding(x, norms, norms, 24, nobody(), torch.ones(6000))
    monkeypatch.setattr(evidence_ntlbg, "_CANDIDATES", 10**6)
    every = outstanding(x, norms, norms, 24, nobody(), torch.ones(6000))
    radius = [float(torch.cdist(x, x[chosen]).amin(dim=1).max()) for chosen in (few, every)]
    assert radius[0] <= 1.15 * radius[1]


@pytest.mark.parametrize("places", [1, 16, 100, 390])
def test_every_place_is_filled_with_another_group(places):
    x, norms = scenes()
    taken = torch.tensor([3, 399])
    chosen = outstanding(x, norms, norms, places, taken, torch.ones(400)).tolist()
    assert len(set(chosen) | {3, 399}) == places + 2


@pytest.mark.parametrize("k", [8, 16, 32, 64])
def test_without_a_question_the_error_is_near_facility_locations_also_where_scenes_return(k):
    for world in ("needle", "returning_scenes"):
        videos = [WORLDS[world](seed) for seed in SEEDS]
        error = {
            name: np.mean([relative_mse(v.frames, BASELINES[name](v.frames, None, k)) for v in videos])
            for name in ("strata", "facility_location", "uniform")
        }
        assert error["strata"] <= 1.15 * error["facility_location"]
        assert error["strata"] < error["uniform"]


def test_places_for_what_is_worst_represented_find_events_at_no_cost_in_error():
    videos = [WORLDS["distractors"](seed) for seed in SEEDS]
    with_novelty = [select_representatives(torch.from_numpy(v.frames), 16) for v in videos]
    without = [select_representatives(torch.from_numpy(v.frames), 16, novelty_share=0.0) for v in videos]
    seen, error = [], []
    for found in (with_novelty, without):
        pairs = list(zip(videos, (one.indices.numpy() for one in found), strict=True))
        seen.append(np.mean([recall(video, indices) for video, indices in pairs]))
        error.append(np.mean([relative_mse(video.frames, indices) for video, indices in pairs]))
    assert seen[0] > seen[1] + 0.2
    assert error[0] <= 1.03 * error[1]
    assert any((found.strata == NOVELTY).any() for found in with_novelty)
