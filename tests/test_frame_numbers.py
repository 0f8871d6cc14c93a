"""Numbered frames: off they change nothing; on they can be read after the base's own resizing and still mean times."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image
from test_processors import pick, registered  # noqa: F401 (a fixture)
from tiny_parts import moving_square, tiny_base_processor

from ntlbg.grounding.time_formats import NumberFormat
from ntlbg.processors.frame_numbers_ntlbg import NUMBER_POSITIONS, number_frames
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.processors.video_processing_ntlbg import NTLBGVideoProcessor
from ntlbg.processors.video_source_ntlbg import frames_in_memory


SIZES = ((112, 112), (112, 1280), (1280, 112), (360, 640), (720, 1280), (1280, 720))


def background(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noisy grey-blue frames: nothing in them is red."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(60, 150, (count, height, width, 3), dtype=np.uint8)
    frames[..., 0] = frames[..., 2]
    return frames


def seen_by_base(video_processor: NTLBGVideoProcessor, frames: np.ndarray, **kwargs) -> np.ndarray:
    """What the base makes of the frames, put back together: uint8 (groups, h, w, 3), each group's first frame."""
    data = video_processor([frames_in_memory(frames, fps=1.0)], do_normalize=False, **kwargs)
    base = video_processor.base
    merge, patch, per_group = base.merge_size, base.patch_size, base.temporal_patch_size
    groups, rows, columns = data["video_grid_thw"][0].tolist()
    pixels = data["pixel_values_videos"].reshape(
        groups, rows // merge, columns // merge, merge, merge, 3, per_group, patch, patch
    )
    pictures = pixels.permute(0, 6, 1, 3, 7, 2, 4, 8, 5).reshape(groups, per_group, rows * patch, columns * patch, 3)
    return (pictures[:, 0] * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def redness(pictures: np.ndarray) -> np.ndarray:
    """float (N, h, w): how red each pixel is, 0 for greys."""
    pictures = pictures.astype(np.float32)
    return np.clip(pictures[..., 0] - pictures[..., 1:].max(axis=-1), 0, None)


def read_numbers(pictures: np.ndarray, templates: np.ndarray) -> list[int]:
    """Template matching: for each picture the template whose redness correlates best with it."""
    flat, marks = redness(pictures).reshape(len(pictures), -1), redness(templates).reshape(len(templates), -1)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    marks = marks / np.linalg.norm(marks, axis=1, keepdims=True)
    return (flat @ marks.T).argmax(axis=1).tolist()


def processor(tokens: int = 256, **kwargs) -> NTLBGVideoProcessor:
    return NTLBGVideoProcessor(tiny_base_processor("qwen2_vl", max_tokens_per_frame=tokens).video_processor, **kwargs)


def test_off_by_default_and_then_the_base_sees_the_frames_as_they_are():
    frames = moving_square(6)
    ours = processor()
    expected = ours.base([torch.from_numpy(frames)], do_sample_frames=False, input_data_format="channels_last")
    result = ours([frames_in_memory(frames)], return_tensors="pt")
    assert ours.number_frames is False
    assert torch.equal(result["pixel_values_videos"], expected["pixel_values_videos"])
    untouched = frames.copy()
    ours([frames_in_memory(frames)], number_frames=True)
    assert np.array_equal(frames, untouched)


@pytest.mark.parametrize(
    ("tokens", "size"),
    [*((tokens, size) for tokens in (4, 16) for size in SIZES[:4]), *((64, size) for size in SIZES), (256, SIZES[3])],
)
def test_numbers_are_read_back_after_the_base_s_own_resizing(size, tokens):
    """From 4 tokens (28 x 56 pixels) on; templates are the same digits on another, plain ground."""
    ours = processor(tokens, number_frames=True)
    count = 24
    seen = seen_by_base(ours, background(count, *size))
    plain = np.full((count, *size, 3), 100, dtype=np.uint8)
    assert read_numbers(seen, seen_by_base(ours, plain)) == list(range(count // 2))
    # what was read comes from the digits: without numbers nothing is red
    assert redness(seen_by_base(ours, background(2, *size), number_frames=False)).max() < 40
    assert redness(seen).max() > 100
    # and a reader of less patience than a template finds digits of some height (the base squeezes 1280 x 112)
    assert all((redness(picture[None])[0] > 60).any(axis=1).sum() >= 6 for picture in seen)


def written(path, times: list[Fraction]) -> str:
    """A file whose pictures are shown at these seconds."""
    frames = background(len(times), 112, 140)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 140, 112, "yuv420p", Fraction(1, 30_000)
        stream.codec_context.time_base = stream.time_base
        for frame, time in zip(frames, times, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = round(time * 30_000), stream.time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return str(path)


AT_29_97 = [Fraction(1001 * number, 30_000) for number in range(900)]
VARIABLE = [sum((Fraction(1 + step % 7, 10) for step in range(number)), Fraction(0)) for number in range(80)]


@pytest.mark.parametrize("times", [AT_29_97, VARIABLE], ids=["29.97", "variable"])
def test_numbers_of_a_file_mean_the_presentation_times_of_its_pictures(times, tmp_path):
    """One candidate in 2 s, numbered, and read back from the pictures as the model gets them."""
    path = written(tmp_path / "video.mp4", times)
    ours = processor(256, number_frames=True, candidate_fps=0.5)
    data = ours([path], return_metadata=True, do_normalize=False)
    shown, truth = data["video_metadata"][0].frame_timestamps, np.array(times, dtype=float)
    # pictures there are, about one in 2 s; looking for whole multiples of a fractional rate would find one in all
    assert np.abs(shown[:, None] - truth[None]).min(axis=1).max() < 1e-3
    assert len(shown) == pytest.approx(truth[-1] / 2, abs=1.5)
    assert np.abs(np.diff(shown) - 2).max() <= max(np.diff(truth)) + 0.1
    numbers = NumberFormat(shown, ours.temporal_patch_size)
    clip = ours.fetch([path])[0].frames
    assert read_numbers(seen_by_base(ours, clip), seen_by_base(ours, np.full_like(clip, 100))) == list(
        range(-(-len(shown) // 2))
    )
    for number in range(0, len(shown) - 2, 2):
        assert numbers.parse_span(f"From Frame {number} to Frame {number + 2}") == (shown[number], shown[number + 2])


@pytest.mark.parametrize("size", SIZES)
def test_the_number_is_as_large_for_the_base_whatever_the_resolution(size):
    height, width = size
    frames = np.full((1, height, width, 3), 100, dtype=np.uint8)
    changed = (number_frames(frames, [88]) != frames).any(axis=-1)[0]
    rows = np.flatnonzero(changed.any(axis=1))
    share = (rows[-1] - rows[0] + 1) / np.sqrt(height * width)
    assert share == pytest.approx(0.115, abs=0.02)


@pytest.mark.parametrize("position", NUMBER_POSITIONS)
def test_the_number_touches_its_corner_and_nothing_else_is_changed(position):
    frames = np.full((2, 240, 320, 3), 90, dtype=np.uint8)
    numbered = number_frames(frames, [0, 1234], position=position)
    for frame in numbered:
        rows, columns = (np.flatnonzero((frame != 90).any(axis=(2, axis))) for axis in (1, 0))
        if position == "center":
            assert abs(rows[0] + rows[-1] - 239) <= 2
            assert abs(columns[0] + columns[-1] - 319) <= 4
            continue
        vertical, horizontal = position.split("_")
        assert (rows[0] <= 1) if vertical == "top" else (rows[-1] >= 238)
        assert (columns[0] <= 3) if horizontal == "left" else (columns[-1] >= 316)
        assert len(rows) < 50
        assert len(columns) < 120


@pytest.mark.parametrize("size", [(28, 28), (16, 400), (1, 1), (56, 84)])
def test_the_longest_number_fits_a_small_frame(size):
    frames = np.full((1, *size, 3), 90, dtype=np.uint8)
    numbered = number_frames(frames, [100000])[0]
    if min(size) > 8:
        assert (numbered[:, 0] == 90).all()
        assert (numbered != 90).any()


def test_a_red_number_is_readable_on_red_and_a_white_one_on_white():
    for ground, color in (((255, 0, 0), "red"), ((255, 255, 255), "white"), ((0, 0, 0), "black")):
        frames = np.broadcast_to(np.array(ground, np.uint8), (10, 112, 112, 3))
        numbered = number_frames(frames, range(10), color)
        for first in range(10):
            for second in range(first):
                assert (numbered[first] != numbered[second]).any(axis=-1).sum() > 10


def test_a_chosen_group_keeps_its_number_and_the_first_look_has_none():
    base = tiny_base_processor("qwen2_vl", max_tokens_per_frame=64)
    ours = NTLBGProcessor.from_base(base)
    ours.video_processor.number_frames = True
    video = frames_in_memory(background(40, 160, 200), fps=1.0)
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "When?"}]}]
    everything = ours(chat, videos=[video], return_metadata=True)
    chosen = pick(everything, everything["video_metadata"][0], [0, 7, 19])
    kept = ours(chat, videos=[video], selection=chosen)
    groups = everything["pixel_values_videos"].reshape(20, -1)
    assert torch.equal(kept["pixel_values_videos"].reshape(3, -1), groups[[0, 7, 19]])
    assert everything["group_timestamps"][[0, 7, 19]].tolist() == [0.0, 14.0, 38.0]
    ours.first_look_size = 112
    look = ours.first_look(video, "When?")
    ours.video_processor.number_frames = False
    assert torch.equal(look["pixel_values_videos"], ours.first_look(video, "When?")["pixel_values_videos"])


@pytest.mark.usefixtures("registered")
def test_the_setting_is_saved_with_the_processor(tmp_path):
    ours = processor(number_frames=True, number_color="#00ff00", number_size=0.2, number_position="top_left")
    ours.save_pretrained(tmp_path)
    again = NTLBGVideoProcessor.from_pretrained(tmp_path)
    frames = frames_in_memory(background(4, 112, 140))
    assert torch.equal(
        again([frames], return_tensors="pt")["pixel_values_videos"],
        ours([frames], return_tensors="pt")["pixel_values_videos"],
    )
    assert (again.number_frames, again.number_size, again.number_position) == (True, 0.2, "top_left")


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ({"number_color": "rde"}, "number_color"),
        ({"number_color": 7}, "number_color"),
        ({"number_size": 40}, "share of the frame"),
        ({"number_size": "big"}, "share of the frame"),
        ({"number_position": "bottom"}, "bottom_right"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting, what):
    with pytest.raises(ValueError, match=what):
        processor(**setting)


def test_numbers_that_do_not_fit_the_frames_are_refused():
    frames = moving_square(3)
    with pytest.raises(ValueError, match="2 for 3 frames"):
        number_frames(frames, [0, 1])
    with pytest.raises(ValueError, match="count from 0"):
        number_frames(frames, [0, 1, -2])
    assert isinstance(Image.fromarray(number_frames(frames, [0, 1, 2])[0]), Image.Image)
