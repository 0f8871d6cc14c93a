"""Moments of a relevance curve: found where they are, in order of confidence, and none where there is none."""

import numpy as np
import pytest

from ntlbg.grounding.spans import saliency, spans_of_curve


def curve(*events: tuple[int, int, float], count: int = 200, seed: int = 0) -> np.ndarray:
    """Noise of deviation 1 with plateaus (start, stop, height)."""
    values = np.random.default_rng(seed).normal(size=count)
    for start, stop, height in events:
        values[start:stop] = height
    return values


def test_the_moment_is_found_to_the_candidate():
    spans = spans_of_curve(curve((50, 60, 12.0)), np.arange(200.0), (0.0, 200.0))
    assert (spans[0].start, spans[0].end) == (49.5, 59.5)
    assert spans[0].confidence > 0.99
    assert 50 <= spans[0].peak < 60


def test_several_moments_come_surest_first_and_do_not_overlap():
    spans = spans_of_curve(
        curve((20, 30, 9.0), (120, 125, 14.0), (180, 200, 7.0)), np.arange(200.0), (0.0, 200.0), most=3
    )
    assert [(span.start, span.end) for span in spans] == [(119.5, 124.5), (19.5, 29.5), (179.5, 200.0)]
    assert [span.confidence for span in spans] == sorted((span.confidence for span in spans), reverse=True)


def test_noise_has_hardly_ever_a_sure_moment_and_never_the_whole_video():
    sure = 0
    for seed in range(100):
        spans = spans_of_curve(curve(seed=seed), np.arange(200.0), (0.0, 200.0))
        sure += any(span.confidence > 0.95 for span in spans)
        assert all(span.end - span.start < 50 for span in spans)
    assert sure <= 12


@pytest.mark.parametrize("values", [np.zeros(50), np.full(50, 7.0), np.array([3.0])])
def test_a_flat_curve_has_no_moment(values):
    assert spans_of_curve(values, np.arange(float(len(values))), (0.0, 50.0)) == []
    assert set(saliency(values)) == {0.0}


def test_one_peak_on_a_silent_curve_is_found():
    values = np.zeros(50)
    values[20:23] = 1.0
    assert [(s.start, s.end) for s in spans_of_curve(values, np.arange(50.0) * 2, (0.0, 100.0))] == [(39.0, 45.0)]


def test_a_moment_of_groups_lasts_from_its_first_ones_start_to_the_next_ones():
    values, starts = np.zeros(50), np.arange(50) * 2.0
    values[20:24] = 1.0
    assert [(s.start, s.end) for s in spans_of_curve(values, starts, (0.0, 100.0), groups=True)] == [(40.0, 48.0)]
    found = spans_of_curve(values[4:24], starts[4:24], (8.0, 47.5), groups=True)
    assert [(s.start, s.end) for s in found] == [(40.0, 47.5)]
    assert spans_of_curve([1.0], [3.0], (3.0, 3.0), groups=True) == []


def test_uneven_times_and_a_clip_set_the_borders():
    seconds = np.concatenate([np.arange(100.0, 130.0), np.arange(131.0, 200.0, 3.0)])
    values = np.zeros(len(seconds))
    values[-2:] = 5.0
    values[0] = 4.0
    spans = spans_of_curve(values, seconds, (100.0, 202.0))
    assert [(s.start, s.end) for s in spans] == [((seconds[-3] + seconds[-2]) / 2, 202.0), (100.0, 100.5)]


def test_saliency_is_highest_at_the_highest_and_nought_below_the_median():
    values = curve((50, 60, 12.0))
    shares = np.array(saliency(values))
    assert shares.min() == 0
    assert shares.max() == 1
    assert (shares[values < np.median(values)] == 0).all()


def test_what_is_no_curve_is_refused():
    for values, seconds in (([], []), ([1.0], [1.0, 2.0]), ([1.0, float("nan")], [0.0, 1.0])):
        with pytest.raises(ValueError, match=r"curve"):
            spans_of_curve(values, seconds, (0.0, 2.0))
