"""The scan: keyframes and narrow gaps for a fraction of a grid's price, and exact pictures of what is chosen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_catalog import textured_frames
from odd_videos import real_videos, write_video
from PIL import Image

from ntlbg.processors.video_decoding_ntlbg import (
    ImageFiles,
    VideoClip,
    VideoError,
    VideoFile,
    decode_candidates,
    decode_frames,
    open_video,
)
from ntlbg.processors.video_scan_ntlbg import scan_pictures
from ntlbg.selection.api import FrameSelector, select_frames


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """60 s at 5 pictures a second; keyframes at most 10 s apart, at the cuts among them."""
    frames = np.concatenate([textured_frames(75, 48, 64, seed=scene) for scene in range(4)])
    options = {"x264-params": "keyint=50:min-keyint=1:bframes=3:log-level=none", "preset": "veryfast"}
    return write_video(tmp_path_factory.mktemp("scan") / "film.mp4", frames, rate=5, options=options)


# -- which pictures -----------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_scan_is_ordered_capped_and_leaves_no_gap_wider_than_it_says(data):
    steps = data.draw(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=300))
    times = np.concatenate([[0.0], np.cumsum(steps)])
    end = times[-1] + 0.04
    keyframes = np.unique([0, *data.draw(st.lists(st.integers(0, len(times) - 1), max_size=60))])
    cap = data.draw(st.integers(1, 400))
    widest = data.draw(st.sampled_from([2.0, 4.0, np.inf]))
    numbers = scan_pictures(times, keyframes, end, candidate_fps=2.0, max_candidates=cap, widest_gap=widest)
    if numbers is None:
        assert np.isfinite(widest)
        assert cap < end / widest + len(keyframes) + 64
        return
    assert 1 <= len(numbers) <= cap
    assert (np.diff(numbers) > 0).all()
    if cap == 400 and np.isfinite(widest):
        # a fill stands at the next picture after its place
        gaps = np.diff(np.concatenate([times[:1], times[numbers], [end]]))
        assert gaps.max() <= 2.0 + max(steps) + 1e-6


def test_all_keyframes_are_kept_and_gaps_are_filled_as_early_as_they_may():
    times = np.arange(0, 200, 0.1)
    keyframes = np.searchsorted(times, [0, 1.5, 11.5, 12.0, 17.0, 100.0])
    numbers = scan_pictures(times, keyframes, 200.0, candidate_fps=2.0, max_candidates=1000)
    assert set(keyframes) <= set(numbers)
    between = times[numbers[(numbers > keyframes[1]) & (numbers < keyframes[2])]]
    # the last one two seconds before the next keyframe: to reach it, eight of ten seconds must be decoded
    np.testing.assert_allclose(between, [3.5, 5.5, 7.5, 9.5], atol=0.11)
    assert np.diff(times[numbers]).max() <= 2.0 + 1e-6


def test_keyframes_faster_than_candidates_are_thinned():
    times = np.arange(0, 100, 0.04)
    numbers = scan_pictures(times, np.arange(len(times)), 100.0, candidate_fps=2.0, max_candidates=1000)
    assert len(numbers) == pytest.approx(200, abs=8)


def test_a_short_film_is_seen_at_some_sixty_moments():
    times = np.arange(0, 20, 0.04)
    assert 60 <= len(scan_pictures(times, np.array([0]), 20.0, candidate_fps=2.0, max_candidates=768)) <= 70


def test_the_cap_widens_the_gaps_up_to_what_is_allowed():
    times, keyframes = np.arange(0, 1200, 0.04), np.arange(0, 30000, 300)
    assert len(scan_pictures(times, keyframes, 1200.0, max_candidates=768)) == 600
    assert 250 < len(scan_pictures(times, keyframes, 1200.0, max_candidates=320, widest_gap=4.0)) <= 320
    assert scan_pictures(times, keyframes, 1200.0, max_candidates=250, widest_gap=4.0) is None
    assert len(scan_pictures(times, keyframes, 1200.0, max_candidates=250)) <= 250


# -- from files ---------------------------------------------------------------------------------------------------


def test_a_scan_looks_at_the_keyframes_at_their_true_times(film):
    with VideoFile(film) as video:
        keyframes, times = video.keyframes, video.times
    candidates = decode_candidates(film, candidate_fps=5, scan="keyframes")
    assert set(keyframes) <= set(candidates.indices)
    assert len(keyframes) >= 6
    np.testing.assert_allclose(candidates.timestamps, times[candidates.indices])
    assert np.diff(candidates.timestamps).max() <= 60 / 64 + 0.2


def test_drafts_are_near_and_what_is_read_after_them_is_exact(film):
    with VideoFile(film) as video:
        numbers = np.arange(0, 300, 7)
        exact = video.read(numbers).frames
        draft = video.read(numbers, draft=True).frames
        assert (video.read(numbers).frames == exact).all()
    error = np.abs(draft.astype(int) - exact).mean()
    assert 0 < error < 6, "noise of this film, at full size: the worst case for a deblocking filter"


@pytest.mark.parametrize("path", [p for p in real_videos() if p.suffix == ".mp4"], ids=lambda p: p.name)
def test_drafts_of_real_footage_look_the_same_when_small(path):
    with VideoFile(path) as video:
        numbers = video.candidate_pictures(1000.0, 24)
        difference = np.abs(video.read(numbers, 192, draft=True).frames.astype(int) - video.read(numbers, 192).frames)
    assert difference.mean() < 2


def test_auto_scans_where_a_grid_exceeds_the_cap_and_a_scan_does_not(film):
    def looked_at(**sampling):
        with open_video(film) as video:
            return video.scanned_pictures(sampling.get("fps", 5.0), sampling["cap"], sampling.get("scan", "auto"))

    assert looked_at(cap=300) is None, "the grid fits"
    assert looked_at(cap=150) is not None
    assert looked_at(cap=10) is None, "gaps of four seconds do not fit either: candidates are what is scarce"
    assert len(looked_at(cap=10, scan="keyframes")) <= 10
    assert looked_at(cap=150, scan="grid") is None
    assert looked_at(cap=300, fps=None) is None, "every picture fits"


def test_the_grid_is_the_default_of_decoding_and_stays_exact(film):
    grid = decode_candidates(film, candidate_fps=5, max_candidates=50)
    assert (grid.frames == decode_frames(film, grid.indices).frames).all()
    np.testing.assert_allclose(np.diff(grid.timestamps), 1.2, atol=0.11)


def test_a_clip_is_scanned_within_its_window(film):
    clip = VideoClip(film, 13.0, 41.0)
    candidates = decode_candidates(clip, candidate_fps=5, max_candidates=100, scan="keyframes")
    assert candidates.timestamps[0] >= 13
    assert candidates.timestamps[-1] <= 41
    assert np.diff([13.0, *candidates.timestamps, 41.0]).max() <= 28 / 64 + 0.21


def test_what_has_no_keyframes_is_taken_at_a_grid(film, tmp_path):
    old = write_video(tmp_path / "old.avi", textured_frames(90), codec="mpeg4", options={"bf": "2", "g": "12"})
    for number, picture in enumerate(textured_frames(40)):
        Image.fromarray(picture).save(tmp_path / f"{number:03d}.png")
    images = ImageFiles(sorted(tmp_path.glob("*.png")), fps=1.0)
    for source in (old, images):
        scanned = decode_candidates(source, max_candidates=12, scan="keyframes")
        assert (scanned.indices == decode_candidates(source, max_candidates=12).indices).all()


def test_an_unknown_way_of_looking_is_refused(film):
    with pytest.raises(VideoError, match="`scan` must be one of auto, grid, keyframes, but got 'fast'"):
        decode_candidates(film, scan="fast")
    with pytest.raises(ValueError, match="scan is one of auto, grid, keyframes, got 'fast'"):
        FrameSelector(None, scan="fast")


# -- selecting ----------------------------------------------------------------------------------------------------


def test_the_chosen_frames_of_a_scan_are_exact_and_at_their_true_times(film):
    selection = select_frames(film, k=8, max_candidates=150, candidate_fps=5)
    assert len(set(np.round(np.diff(selection.candidate_seconds), 3))) > 1, "a scan was meant"
    exact = decode_frames(film, selection.indices)
    assert (selection.frames == exact.frames).all()
    np.testing.assert_allclose(selection.seconds, exact.timestamps)


def test_how_a_video_is_looked_at_is_part_of_what_is_kept(film, tmp_path):
    for scan in ("grid", "keyframes"):
        selector = FrameSelector(None, max_candidates=40, scan=scan, cache_dir=tmp_path)
        first, again = selector.encode(film), selector.encode(film)
        fresh = FrameSelector(None, max_candidates=40, scan=scan).encode(film)
        assert (first.candidate_indices == fresh.candidate_indices).all()
        assert (again.candidate_indices == fresh.candidate_indices).all()
