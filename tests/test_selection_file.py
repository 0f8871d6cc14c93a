"""A selection as a file: it comes back whole, finds its pictures again in its own video, and lies are refused."""

import copy
import itertools
import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoders import scenes, write_video

from ntlbg.errors import InputError
from ntlbg.selection.api import FrameSelector, select_frames
from ntlbg.selection.features import FrameSelection
from ntlbg.selection.selection_file import MAX_BYTES, SelectionError


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "scenes.mp4", scenes())


@pytest.fixture(scope="module")
def selection(clip):
    return FrameSelector(None).select(clip, k=5)


def test_a_saved_selection_is_loaded_equal_and_gets_its_pictures_again(clip, selection, tmp_path):
    loaded = FrameSelection.load(selection.save(tmp_path / "chosen.json"))
    assert loaded.to_dict() == selection.to_dict()
    assert loaded.frames is None
    moved = shutil.copy(clip, tmp_path / "another name.mp4")
    for video in (clip, str(moved), clip.read_bytes()):
        assert (loaded.with_frames(video).frames == selection.frames).all()
    small = loaded.with_frames(clip, max_side=32)
    assert small.frames.shape == (5, 24, 32, 3)
    assert small.to_dict() == selection.to_dict()


def test_frames_in_memory_are_their_own_video():
    frames = scenes(lengths=(8, 9), flash=None)
    chosen = select_frames(frames, k=4, source_fps=2.0)
    again = FrameSelection.from_dict(chosen.to_dict())
    assert (again.with_frames(frames, source_fps=2.0).frames == chosen.frames).all()
    assert again.with_frames(frames, source_fps=2.0, max_side=32).frames.shape == (4, 24, 32, 3)
    with pytest.raises(SelectionError, match=r"another video .* shows picture 1 at 0\.333 s, not 0\.500 s"):
        again.with_frames(frames, source_fps=3.0)


def test_another_video_is_refused_by_what_it_holds(selection, tmp_path):
    frames = scenes()
    times = np.arange(80) / 10
    times[5:70] += 0.05
    others = {
        "has 40 pictures, not 80": write_video(tmp_path / "short.mp4", frames[:40]),
        r"shows picture 5 at 1\.000 s, not 0\.500 s": write_video(tmp_path / "slow.mp4", frames, fps=5),
        r"lasts 7\.9\d\d s, not 8\.000 s": write_video(tmp_path / "brief.mkv", frames, times=np.arange(80) / 10),
        r"is 32x48 pixels, not 64x48": write_video(tmp_path / "narrow.mp4", frames[:, :, :32]),
        r"shows picture 5 at 0\.550 s, not 0\.500 s": write_video(tmp_path / "late.mkv", frames, times=times),
    }
    for found, path in others.items():
        with pytest.raises(SelectionError, match=rf"from another video \('scenes.mp4'\): '{path.name}' {found}"):
            selection.with_frames(path)


def test_each_frame_says_which_stretches_it_stands_for(selection):
    runs = sorted(run for found in selection.stands_for for run in found)
    assert runs[0][0] == 0.0
    assert runs[-1][1] == selection.duration
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(runs))
    for second, found, weight in zip(selection.seconds, selection.stands_for, selection.weights, strict=True):
        assert any(start <= second < end for start, end in found)
        assert sum(end - start for start, end in found) / selection.duration == pytest.approx(weight, abs=1e-6)
    rows = str(selection).splitlines()[4:]
    assert len(rows) == selection.k
    for row, stratum, found in zip(rows, selection.strata, selection.stands_for, strict=True):
        assert stratum in row
        assert row.endswith(f"and {len(found) - 1} more") == (len(found) > 1)


def test_a_picture_that_comes_back_stands_for_both_stretches():
    red, blue = np.full((6, 24, 32, 3), (200, 20, 20), np.uint8), np.full((6, 24, 32, 3), (20, 20, 200), np.uint8)
    chosen = select_frames(np.concatenate([red, blue, red]), k=2, source_fps=1.0)
    chosen.cells[:] = [0] * 6 + [1] * 6 + [0] * 6
    assert chosen.stands_for == [[(0.0, 6.0), (12.0, 18.0)], [(6.0, 12.0)]]


HOSTILE = {
    "is a JSON object, got 3": 3,
    "is a JSON object, got \\[1, 2": [1, 2, 3],
    "format 2 is expected, got None": {},
    "missing \\['cells'\\], unknown \\['colour'\\]": ("cells", "colour"),
    "`indices` should be a list of whole numbers": {"indices": [1.5, 2, 3, 4, 5]},
    "`indices` should be a list of whole numbers, got \\[a number beyond": {"indices": [10**400]},
    "`indices` should be a list of whole numbers, got \\[True": {"indices": [True, 2, 3, 4, 5]},
    "`positions` should be a list of whole numbers, got 'abc'": {"positions": "abc"},
    "`indices` should be 1 to 5 frames, got '0 of": {"indices": []},
    "`weights` should be a list of finite numbers": {"weights": [math.nan, 0.25, 0.25, 0.25, 0.25]},
    "`seconds` should be a list of finite numbers": {"seconds": [0.0, math.inf, 1.0, 2.0, 3.0]},
    "`weights` should be shares that sum to 1": {"weights": [1.0] * 5},
    "`weights` should be 5 values, got '4'": {"weights": [0.25] * 4},
    "`strata` should be 5 of the names": {"strata": ["why"] * 5},
    "`strata` should be 5 of": {"strata": [["coverage"]] * 5},
    "`total_num_frames` should be a whole number": {"total_num_frames": 0},
    "`candidate_indices` should be rising numbers within 0..6": {"total_num_frames": 7},
    "`candidate_seconds` should be times": {"candidate_seconds": [9.0 - step / 2 for step in range(16)]},
    "`seconds` should be those that `positions` names": {"seconds": [0.1, 0.2, 0.3, 0.4, 0.5]},
    "`cells` should be numbers within 0..4": {"cells": [5] * 16},
    "`cells` should be numbers within 0..4 that give": {"cells": [0] * 16},
    "`fps` should be a finite number": {"fps": "fast"},
    "`duration` should be a finite number": {"duration": -1},
    "`name` should be text": {"name": None},
    "`query` should be text": {"query": 7},
    "`warnings` should be a list of sentences": {"warnings": [1]},
    "`clip` should be a list of finite numbers": {"clip": "all"},
    "`clip` should be two times in order": {"clip": [4]},
    "`clip` should be two times around all candidates": {"clip": [1000, 2000]},
}


@pytest.mark.parametrize("match", HOSTILE)
def test_what_is_no_selection_is_refused_in_one_sentence(match, selection, tmp_path):
    given, described = HOSTILE[match], selection.to_dict()
    if isinstance(given, tuple):
        described[given[1]] = described.pop(given[0])
    elif isinstance(given, dict) and given:
        described |= given
    else:
        described = given
    path = tmp_path / "hostile.json"
    path.write_text(json.dumps(described))
    with pytest.raises(SelectionError, match=match) as caught:
        FrameSelection.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_files_that_hold_no_json_are_refused_in_one_sentence(tmp_path):
    contents = {"empty": b"", "cut": b'{"format": 1, "indi', "binary": bytes(range(256)), "deep": b"[" * 10**6}
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SelectionError, match="is no JSON") as caught:
            FrameSelection.load(path)
        assert "\n" not in str(caught.value)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(SelectionError, match="more than 64 MiB"):
        FrameSelection.load(tmp_path / "huge")
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(SelectionError, match="cannot be read"):
            FrameSelection.load(path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=6) | st.dictionaries(st.text(max_size=3), parts, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_change_of_a_file_does_more_than_be_refused(selection, data):
    described = copy.deepcopy(selection.to_dict())
    name = data.draw(st.sampled_from(sorted(described)))
    if described[name] and isinstance(described[name], list) and data.draw(st.booleans()):
        described[name][data.draw(st.integers(0, len(described[name]) - 1))] = data.draw(JUNK)
    else:
        described[name] = data.draw(JUNK)
    try:
        read = FrameSelection.from_dict(described)
    except InputError:
        return
    assert read.k == 5
    assert len(str(read).splitlines()) == 9
    assert len(read.stands_for) == 5
