"""The baselines: one contract for all of them, and hand-worked values for each formula."""

import itertools
import sys

import numpy as np
import pytest

from ntlbg.selection.baselines import BASELINES
from ntlbg.selection.baselines.bandit import bernstein_bounds, explore
from ntlbg.selection.baselines.diverse import (
    facility_location_order,
    gaussian_kernel,
    greedy_log_det,
    mmr_order,
)
from ntlbg.selection.baselines.pool import share_places, spread
from ntlbg.selection.baselines.scenes import depth_cuts, depth_scores, wavelet_boundaries


NEED_QUERY = {
    "top_k",
    "stratified_top_k",
    "temporal_nms",
    "mmr",
    "aks",
    "bolt",
    "q_frame",
    "ada_q",
    "mdp3",
    "coselect",
    "wfs_sb",
    "focus",
}
EVIDENCE = np.array([0])
QUERY = np.array([1.0, 0.0], dtype=np.float32)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def scene_video(count=60, dim=8, scenes=4, seed=0):
    """Frames that stay near one direction per scene, and a query near the third scene's."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(scenes, dim))
    frames = unit(centres[np.arange(count) * scenes // count] + 0.2 * rng.normal(size=(count, dim)))
    return frames, unit(centres[2:3])[0]


def with_scores(scores):
    """Plane frames (N, 2) whose cosine to `QUERY` is `scores`."""
    scores = np.asarray(scores, dtype=np.float64)
    return np.stack([scores, np.sqrt(1 - scores**2)], axis=1).astype(np.float32)


def select(name, scores, k, **options):
    return BASELINES[name](with_scores(scores), QUERY, k, **options).tolist()


# One contract


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("k", [1, 2, 7, 40, 59])
def test_exactly_k_distinct_sorted_frames_the_same_on_every_call(name, k):
    frames, query = scene_video()
    before = frames.copy()
    chosen = BASELINES[name](frames, query, k, seed=3, evidence=np.array([5, 31, 32]))
    assert chosen.dtype == np.int64
    assert chosen.shape == (k,)
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < len(frames)
    assert (frames == before).all()
    again = BASELINES[name](frames, query, k, seed=3, evidence=np.array([5, 31, 32]))
    assert (chosen == again).all()


@pytest.mark.parametrize("name", BASELINES)
def test_no_more_places_than_frames(name):
    frames, query = scene_video(count=5)
    for k in (5, 6, 100):
        assert BASELINES[name](frames, query, k, evidence=EVIDENCE).tolist() == [0, 1, 2, 3, 4]
    assert BASELINES[name](frames[:1], query, 4, evidence=EVIDENCE).tolist() == [0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("k", [1, 3, 8, 20])
def test_equal_frames_and_constant_scores_still_give_k(name, k):
    frames = np.tile(unit(np.ones((1, 4))), (30, 1))
    chosen = BASELINES[name](frames, frames[0], k, evidence=EVIDENCE)
    assert len(set(chosen.tolist())) == k


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_very_short_videos(name, count):
    frames, query = scene_video(count=count, scenes=3)
    for k in range(1, count + 1):
        assert len(BASELINES[name](frames, query, k, evidence=EVIDENCE)) == k


@pytest.mark.parametrize("name", BASELINES)
def test_a_query_is_asked_for_exactly_where_it_is_needed(name):
    frames, _ = scene_video()
    if name in NEED_QUERY:
        with pytest.raises(ValueError, match=f"`{name}` ranks frames by a query, got query=None"):
            BASELINES[name](frames, None, 4)
    else:
        assert len(BASELINES[name](frames, None, 40, evidence=EVIDENCE)) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.ones((3, 4))}, "unit vectors, got 3 of 3 rows"),
        ({"frames": np.full((3, 4), np.nan)}, "unit vectors, got 3 of 3 rows"),
        ({"frames": np.zeros((0, 4))}, r"\(N, d\) with N, d >= 1"),
        ({"query": np.ones(5)}, r"as many channels as the frames, \(8,\), got \(5,\)"),
        ({"query": np.zeros(8)}, "other than zero"),
        ({"k": 0}, "at least 1, got 0"),
        ({"k": 2.5}, "whole number of frames, got 2.5"),
        ({"evidence": np.array([60])}, "between 0 and 59"),
        ({"evidence": np.ones(60, dtype=bool)}, "np.flatnonzero"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, message):
    frames, query = scene_video()
    arguments = {"frames": frames, "query": query, "k": 4, **change}
    with pytest.raises(ValueError, match=message):
        BASELINES["top_k"](**arguments)


def test_an_oracle_without_evidence_says_so():
    frames, query = scene_video()
    with pytest.raises(ValueError, match="`oracle` takes the evidence frames"):
        BASELINES["oracle"](frames, query, 4)


@pytest.mark.parametrize(("name", "module"), [("k_means", "sklearn.cluster"), ("wfs_sb", "pywt")])
def test_a_missing_library_is_named_with_its_extra(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    frames, query = scene_video()
    with pytest.raises(ImportError, match=r"pip install 'ntlbg\[bench\]'"):
        BASELINES[name](frames, query, 4)


def test_the_length_of_the_query_does_not_matter():
    frames, query = scene_video()
    for name in NEED_QUERY:
        assert (BASELINES[name](frames, query, 6) == BASELINES[name](frames, 10 * query, 6)).all(), name


def test_only_the_rules_that_draw_follow_the_seed():
    frames, query = scene_video()
    for name, rule in BASELINES.items():
        drawn = {tuple(rule(frames, query, 6, seed=seed, evidence=EVIDENCE)) for seed in range(8)}
        if name in ("random", "q_frame"):
            assert len(drawn) > 1, name
        elif name not in ("ada_q", "k_means", "focus"):
            assert len(drawn) == 1, name


# Reference


def test_uniform_takes_the_middles_of_equal_stretches():
    frames, _ = scene_video(count=10)
    assert BASELINES["uniform"](frames, None, 1).tolist() == [5]
    assert BASELINES["uniform"](frames, None, 4).tolist() == [1, 3, 6, 8]


def test_oracle_sees_every_piece_before_more_of_one():
    frames, _ = scene_video()
    evidence = np.array([40, *range(10, 20)])
    assert BASELINES["oracle"](frames, None, 2, evidence=evidence).tolist() == [15, 40]
    assert BASELINES["oracle"](frames, None, 3, evidence=evidence).tolist() == [10, 15, 40]
    assert BASELINES["oracle"](frames, None, 1, evidence=np.array([3, 30, 50])).tolist() == [30]


def test_oracle_fills_the_widest_gaps_and_by_score_where_there_is_a_query():
    frames, query = scene_video()
    assert BASELINES["oracle"](frames, None, 3, evidence=np.array([20])).tolist() == [0, 20, 59]
    best = int((frames @ query).argmax())
    assert BASELINES["oracle"](frames, query, 2, evidence=np.array([0])).tolist() == [0, best]


def test_median_shell_takes_neither_centre_nor_outlier():
    rng = np.random.default_rng(0)
    frames = unit(np.concatenate([rng.normal(size=(50, 3)) * 0.1 + [1, 0, 0], [[1, 0, 0]], [[-1, 0, 0]]]))
    chosen = BASELINES["median_shell"](frames, None, 10)
    assert 51 not in chosen
    assert len(chosen) == 10


def test_strata_is_what_select_frames_chooses():
    import torch

    from ntlbg.modeling_ntlbg.scorer_ntlbg import relevance_to
    from ntlbg.modeling_ntlbg.strata_ntlbg import select_representatives

    frames, query = scene_video()
    x, q = torch.from_numpy(frames), torch.from_numpy(query)
    expected = select_representatives(x, 6, relevance=relevance_to(x, q)).indices.tolist()
    assert BASELINES["strata"](frames, query, 6).tolist() == expected
    assert BASELINES["strata"](frames, None, 6).tolist() == select_representatives(x, 6).indices.tolist()


# Rules on the curve of scores


def test_top_k_and_its_bins_and_its_separated_peaks():
    scores = [0.1, 0.9, 0.8, 0.2, 0.3, 0.4, 0.1, 0.7]
    assert select("top_k", scores, 3) == [1, 2, 7]
    assert select("stratified_top_k", scores, 4) == [1, 2, 5, 7]
    assert select("stratified_top_k", scores, 3) == [1, 2, 7]  # bins [0, 2), [2, 5), [5, 8)
    # k = 2: |t - t'| < 2 is suppressed around 1, so 7 comes second, not 2.
    assert select("temporal_nms", scores, 2) == [1, 7]
    assert select("temporal_nms", scores, 3) == [1, 5, 7]  # < 8/6: only neighbours, so 3 rivals .3 and .4


def test_aks_keeps_a_peaked_segment_and_halves_a_flat_one():
    # Left half: one high frame. Right half: a plateau. At the top mean(top 4) - mean = 1 - 5/8 < .8: halve.
    flat = [0, 0, 0, 1, 1, 1, 1, 1]
    # Depth 2 at k = 4: quarters [0, 0], [0, 1], [1, 1], [1, 1], one frame each.
    assert select("aks", flat, 4) == [0, 3, 4, 6]
    # A single high frame among many zeros, k = 1: never halved, so the highest.
    assert select("aks", [0] * 9 + [1], 1) == [9]
    # k = 2, two high frames in the left half: mean(top 2) - mean = 1 - 2/12 > .8, kept whole at once; both go to them.
    peaked = [0, 1, 1] + [0] * 9
    assert select("aks", peaked, 2) == [1, 2]
    # With the threshold out of reach it is halved, and each half gives one.
    assert select("aks", peaked, 2, mean_gap=1.0) == [1, 6]


def test_aks_uses_the_total_budget_on_every_depth_and_fills_by_score():
    # k = 5, depth 2: each quarter gives 5 >> 2 = 1, the fifth place goes to the highest score left.
    scores = [0.1, 0.2, 0.5, 0.3, 0.9, 0.8, 0.4, 0.1]
    assert select("aks", scores, 5) == [1, 2, 4, 5, 6]


def test_bolt_inverts_the_cumulative_scores():
    # minmax: 0, 1, 1, 2, 0 over 2 -> cdf 0, .25, .5, 1, 1. k = 4: u = .25, .4166, .5833, .75.
    scores = [0.1, 0.2, 0.2, 0.3, 0.1]
    # First t with cdf >= u: 1, 2, 3, 3 -> the repeat goes on to 4.
    assert select("bolt", scores, 4) == [1, 2, 3, 4]
    # k = 3: u = 1/3, 1/2, 2/3 -> 2, 2, 3: the repeat takes 3, and then 3 takes 4.
    assert select("bolt", [0.1, 0.2, 0.2, 0.3, 0.1, 0.1], 3) == [2, 3, 4]
    assert select("bolt", scores, 1) == [2]
    # Constant scores: cdf (t + 1)/8, u = .25, .416, .583, .75.
    assert BASELINES["bolt"](np.tile(QUERY, (8, 1)), QUERY, 4).tolist() == [1, 3, 4, 5]
    # Repeats at the end turn back: cdf 0, 0, 0, 1.
    assert select("bolt", [0, 0, 0, 0.9], 2) == [2, 3]


def test_bolt_power_draws_towards_the_peak():
    scores = np.concatenate([np.full(50, 0.5), np.linspace(0.5, 0.9, 10), np.linspace(0.1, 0.5, 40)])
    near = [np.isin(select("bolt", scores, 8, power=power), np.arange(50, 60)).sum() for power in (1, 8)]
    assert near[1] > near[0]


def test_q_frame_draws_in_proportion_to_the_softmax():
    scores, temperature = [0.9, 0.1, 0.5], 0.8
    expected = np.exp(np.array(scores) / temperature)
    drawn = np.bincount([select("q_frame", scores, 1, seed=seed)[0] for seed in range(2000)], minlength=3) / 2000
    assert np.abs(drawn - expected / expected.sum()).max() < 0.04  # three standard errors


def test_ada_q_draws_from_the_nucleus_alone():
    # minmax 0 and 1: tau = (.2 - .04)/2 = .08, so a low frame weighs exp(-.8/.08) = 4.5e-5 of a high one, and the five
    # high ones hold .9998 of the mass.
    scores = np.array([0.0] * 20 + [0.8] * 5)
    drawn = [select("ada_q", scores, 3, seed=seed) for seed in range(200)]
    assert set(itertools.chain(*drawn)) == {20, 21, 22, 23, 24}
    assert len(set(map(tuple, drawn))) == 10  # every triple of the five
    # With all of the mass kept, low frames are drawn too, as often as their weight says: hardly ever.
    low = sum(index < 20 for seed in range(200) for index in select("ada_q", scores, 1, seed=seed, mass=1.0))
    assert low <= 2


# FOCUS


def test_bernstein_bounds_by_hand():
    # n = 4, log 4 = 1.386294, range 1. Arm 0: mean .5, variance .25; arm 1: mean 1, variance 0; each n_a = 2.
    bounds = bernstein_bounds([np.array([0.0, 1.0]), np.array([1.0, 1.0])])
    np.testing.assert_allclose(bounds, [0.5 + np.sqrt(0.25 * np.log(4)) + 1.5 * np.log(4), 1 + 1.5 * np.log(4)])


def test_focus_finds_the_rich_clip_and_scores_a_fraction():
    scores = np.full(1600, 0.1)
    scores[800:816] = np.linspace(0.7, 0.8, 16)
    asked = []

    def score(indices):
        asked.extend(indices.tolist())
        return scores[indices]

    found = explore(score, 1600, 8)
    assert len(set(asked)) == len(asked), "a frame was scored twice"
    assert sorted(asked) == found.scored.tolist()
    assert len(asked) == 100 * 2 + 25 * 14  # two of every clip, then the rest of a quarter of the clips
    assert sorted(found.order[:8]) == list(range(808, 816))
    assert select("focus", scores, 8) == list(range(808, 816))


def test_focus_never_uses_a_score_it_did_not_ask_for():
    rng = np.random.default_rng(1)
    scores = rng.uniform(0, 0.5, 320)
    found = explore(lambda indices: scores[indices], 320, 200, seed=5)
    unseen = np.setdiff1d(np.arange(320), found.scored)
    changed = scores.copy()
    changed[unseen] = 0.9
    assert explore(lambda indices: changed[indices], 320, 200, seed=5).order == found.order
    assert select("focus", scores, 200, seed=5) == select("focus", changed, 200, seed=5)


# Frames against one another


def test_mmr_trades_relevance_for_redundancy():
    # Cosines: 0-1 .96, 0-2 0, 1-2 .28. s = .9, .8, .3: after 0, .5 (.8 - .96) = -.08 < .5 (.3 - 0) = .15.
    frames = np.array([[1, 0], [0.96, 0.28], [0, 1]], dtype=np.float32)
    scores = np.array([0.9, 0.8, 0.3])
    assert mmr_order(frames, scores, 3, 0.5) == [0, 2, 1]
    assert mmr_order(frames, scores, 3, 1.0) == [0, 1, 2]
    # A frame opposite to the one taken earns by it: redundancy is the cosine itself, not its positive part.
    opposite = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    assert mmr_order(opposite, np.array([0.9, 0.5, 0.3]), 2, 0.5) == [0, 2]


def random_kernel(count=9, dim=6, seed=0):
    x = unit(np.random.default_rng(seed).normal(size=(count, dim))).astype(np.float64)
    return x @ x.T + 0.05 * np.eye(count)


def brute_force_step(kernel, bonus, chosen, given=()):
    """The best next frame by determinants alone, and its gain."""

    def value(subset):
        return np.linalg.slogdet(kernel[np.ix_(subset, subset)])[1] if subset else 0.0

    base = [*given, *chosen]
    gains = {
        i: value([*base, i]) - value(base) + bonus[i]
        for i in range(len(kernel))
        if i not in base and np.isfinite(bonus[i])
    }
    best = max(gains, key=gains.get)
    return best, gains[best]


@pytest.mark.parametrize("given", [(), (2, 7)])
def test_greedy_log_det_is_the_brute_force_greedy_step_by_step(given):
    kernel, bonus = random_kernel(), np.random.default_rng(1).normal(size=9)
    bonus[4] = -np.inf
    bonus[list(given)] = -np.inf
    order, gains = greedy_log_det(kernel.diagonal(), lambda i: kernel[i], 5, bonus=bonus, given=given)
    for step, (index, gain) in enumerate(zip(order, gains, strict=True)):
        best, value = brute_force_step(kernel, bonus, order[:step], given)
        assert index == best
        assert gain == pytest.approx(value, abs=1e-9)
    assert len(order) == 5


def test_greedy_dpp_is_greedy_on_the_weighted_kernel():
    frames, query = scene_video(count=12, dim=8)
    r = np.exp(2.0 * (frames @ query).astype(np.float64))
    kernel = r[:, None] * (frames @ frames.T).astype(np.float64) * r[None, :]
    chosen = []
    for _ in range(4):
        chosen.append(brute_force_step(kernel, np.zeros(12), chosen)[0])
    assert BASELINES["greedy_dpp"](frames, query, 4, alpha=2.0).tolist() == sorted(chosen)


def test_greedy_dpp_stops_at_the_rank_and_fills_by_score():
    frames = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 0]], dtype=np.float32)
    query = unit(np.array([[2.0, 1.0]]))[0]
    assert BASELINES["greedy_dpp"](frames, query, 4).tolist() == [0, 1, 2, 4]


def test_log_det_is_greedy_inside_the_gate():
    frames, query = scene_video(count=16)
    scores = frames @ query
    gate = np.sort(np.argsort(-scores, kind="stable")[:8])
    kernel = np.eye(8) + (frames[gate] @ frames[gate].T).astype(np.float64) / 0.1
    chosen = []
    for _ in range(3):
        chosen.append(brute_force_step(kernel, np.zeros(8), chosen)[0])
    got = BASELINES["log_det"](frames, query, 3, gate=0.5, noise=0.1).tolist()
    assert got == sorted(gate[chosen].tolist())
    open_gate = BASELINES["log_det"](frames, None, 4)
    assert len(set(open_gate // 4)) == 4  # one of each scene


def test_the_multi_scale_kernel_by_hand():
    expected = (np.exp(-4) + np.exp(-2) + np.exp(-1) + np.exp(-0.5) + np.exp(-0.25)) / 5
    assert gaussian_kernel(np.array([1.0]))[0] == pytest.approx(expected)
    assert gaussian_kernel(np.array([0.0, -1e-7])).tolist() == [1.0, 1.0]


def test_mdp3_in_one_segment_is_the_greedy_dpp_of_its_kernel():
    frames, query = scene_video(count=14)
    x, q = frames.astype(np.float64), query.astype(np.float64)
    kernel = gaussian_kernel(((x[:, None] - x[None]) ** 2).sum(-1))
    bonus = 10 * np.log(gaussian_kernel(((x - q) ** 2).sum(-1)))
    chosen = []
    for _ in range(4):
        chosen.append(brute_force_step(kernel, bonus, chosen)[0])
    assert BASELINES["mdp3"](frames, query, 4).tolist() == sorted(chosen)


def test_mdp3_divides_the_places_as_the_best_of_all_divisions_would():
    # Two segments: every division can be tried, so the programme must find the best.
    frames, query = scene_video(count=10, seed=4)
    x = frames.astype(np.float64)
    kernel = gaussian_kernel(((x[:, None] - x[None]) ** 2).sum(-1))
    bonus = 0.5 * np.log(gaussian_kernel(2 - 2 * (frames @ query).astype(np.float64)))
    values = {}
    for first in range(5):
        chosen, total = [], 0.0
        for step in range(4):
            inside = np.full(10, -np.inf)
            inside[: 5 if step < first else 10] = bonus[: 5 if step < first else 10]
            if step >= first:
                inside[:5] = -np.inf
            index, gain = brute_force_step(kernel, inside, chosen)
            chosen.append(index)
            total += gain
        values[total] = sorted(chosen)
    got = BASELINES["mdp3"](frames, query, 4, relevance_weight=0.5, segment=5).tolist()
    assert got == values[max(values)]


def test_mdp3_gives_the_relevant_segment_more():
    frames, query = scene_video(count=128)  # scene 2 is frames 64 to 95, one segment
    chosen = BASELINES["mdp3"](frames, query, 8)
    assert np.isin(chosen, np.arange(64, 96)).sum() >= 6


def plain_facility_location(similarity, bonus, k):
    chosen = []
    for _ in range(k):
        covered = similarity[chosen].max(0) if chosen else np.zeros(len(similarity))
        gains = np.maximum(similarity - covered, 0).sum(1) + bonus
        gains[chosen] = -np.inf
        chosen.append(int(gains.argmax()))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_lazy_facility_location_is_the_plain_greedy(seed):
    frames, query = scene_video(count=40, seed=seed)
    x = frames.astype(np.float64)
    similarity, bonus = 1 + x @ x.T, 3 * (x @ query)
    assert facility_location_order(similarity, bonus, 15) == plain_facility_location(similarity, bonus, 15)


def test_facility_location_by_hand():
    # Gains at first: row sums 2.1, 2.3, 1.5 -> 1 (covers 1, .6 -> 0: .9, 1: 1, 2: .4). Then 2 adds .6, 0 adds .1.
    similarity = np.array([[1, 0.9, 0.2], [0.9, 1, 0.4], [0.2, 0.4, 1]])
    assert facility_location_order(similarity, np.zeros(3), 3) == [1, 2, 0]
    assert facility_location_order(similarity, np.array([0.6, 0, 0]), 2) == [0, 2]


def test_farthest_point_starts_at_the_middle_and_goes_to_the_extremes():
    angles = np.deg2rad([0, 10, 20, 30, 80])
    frames = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    # The mean points to 26.6 degrees: 30 first, then 80 (50 away), then 0 (30 away).
    assert BASELINES["farthest_point"](frames, None, 1).tolist() == [3]
    assert BASELINES["farthest_point"](frames, None, 3).tolist() == [0, 3, 4]


# Clusters


@pytest.mark.parametrize("name", ["k_means", "k_medoids"])
def test_clusters_give_one_frame_of_each_scene(name):
    frames, _ = scene_video(seed=2)
    assert (BASELINES[name](frames, None, 4) // 15).tolist() == [0, 1, 2, 3]


def test_k_means_takes_the_frame_nearest_the_centre():
    angles = np.deg2rad([0, 10, 26, 90, 100, 101])
    frames = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert BASELINES["k_means"](frames, None, 2).tolist() == [1, 4]


def test_k_medoids_reaches_the_best_three_of_a_small_set_and_never_loses_to_its_start():
    frames, _ = scene_video(count=21, scenes=3, seed=3)
    similarity = (frames @ frames.T).astype(np.float64)

    def cost(chosen):
        return -similarity[:, chosen].max(1).sum()

    best = min(itertools.combinations(range(21), 3), key=lambda three: cost(list(three)))
    assert BASELINES["k_medoids"](frames, None, 3).tolist() == list(best)
    for seed in range(5):
        frames, _ = scene_video(seed=seed)
        similarity = (frames @ frames.T).astype(np.float64)
        start = facility_location_order(1 + frames @ frames.T, np.zeros(60), 7)
        assert cost(BASELINES["k_medoids"](frames, None, 7)) <= cost(start) + 1e-5


# Scenes


def test_scene_tiling_depths_and_cuts_by_hand():
    cosines = np.array([0.9, 0.95, 0.3, 0.9, 0.8, 0.99])
    # Left peaks .9, .95, .95, .9, .9, .99; right peaks .95, .95, .9, .9, .99, .99.
    np.testing.assert_allclose(depth_scores(cosines), [0.05, 0, 1.25, 0, 0.29, 0], atol=1e-12)
    # mean .265, unbiased std .4966: only 1.25 exceeds .513; frame 3 starts the second scene.
    assert depth_cuts(cosines, 15).tolist() == [3]
    assert depth_cuts(np.array([0.9]), 15).tolist() == []
    # A climb passes plateaus.
    np.testing.assert_allclose(depth_scores(np.array([0.9, 0.8, 0.8, 0.2])), [0, 0.1, 0.1, 0.7], atol=1e-12)


def test_scene_tiling_takes_the_middle_of_scenes_and_the_deepest_cuts_first():
    axes = np.eye(4, dtype=np.float32)
    mixed = unit(axes[1:2] + 0.3 * axes[0:1])[0]
    frames = np.stack([*[axes[0]] * 4, *[axes[1]] * 4, *[mixed] * 4])
    assert BASELINES["scene_tiling"](frames, None, 2).tolist() == [2, 8]


def test_coselect_cuts_at_low_cosines_and_divides_by_strength_and_length():
    # Scenes [0, 4) and [4, 8): neighbours inside have cosine above .8, across the cut .43.
    scores = [0.1, 0.2, 0.15, 0.1, 0.8, 0.9, 0.8, 0.85]
    # Shares: (.2 + .1375) 2 = .675 and (.9 + .8375) 2 = 3.475, so k = 3 gives 0 and 3, k = 4 gives 1 and 3.
    assert select("coselect", scores, 4) == [1, 4, 5, 7]
    assert select("coselect", scores, 3) == [4, 5, 7]


def test_wavelet_boundaries_part_a_step_and_leave_a_constant_alone():
    scores = np.full(64, 0.2)
    assert wavelet_boundaries(scores).tolist() == []
    assert wavelet_boundaries(scores[:5] + np.arange(5)).tolist() == []
    scores[32:] = 0.6
    cuts = wavelet_boundaries(scores)
    assert len(cuts) > 0
    assert np.abs(cuts - 32).min() <= 8  # within a coefficient of the coarsest of three levels
    # Noise of single frames lies in the fine bands, which are left out.
    noisy = scores + 1e-3 * (-1.0) ** np.arange(64)
    assert np.abs(wavelet_boundaries(noisy)[:, None] - cuts).min(axis=1).max() <= 2


def test_wfs_sb_gives_the_important_clip_more():
    scores = np.full(128, 0.1) + 0.001 * np.arange(128)
    scores[40:70] = 0.8
    chosen = np.array(select("wfs_sb", scores, 16))
    assert np.isin(chosen, np.arange(40, 70)).sum() > 16 * 30 / 128


# Helpers


def test_places_are_shared_in_proportion_within_the_room():
    assert share_places(np.array([3.0, 1.0]), np.array([10, 10]), 4).tolist() == [3, 1]
    assert share_places(np.array([3.0, 1.0]), np.array([2, 10]), 4).tolist() == [2, 2]
    assert share_places(np.array([0.0, 0.0]), np.array([6, 3]), 3).tolist() == [2, 1]
    assert share_places(np.array([1.0, 0.0]), np.array([1, 5]), 3).tolist() == [1, 2]


def test_filling_without_a_query_goes_to_the_widest_gaps():
    assert spread([0], np.arange(1, 9), 3) == [8, 4, 2]
    assert spread([], np.arange(5), 2) == [2, 0]
