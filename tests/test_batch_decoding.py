"""Many videos on worker processes give what one process gives one by one, and a bad one costs itself only."""

import pytest
from odd_videos import numbered_frames, turn_clockwise, write_audio, write_video
from pool_jobs import EndlessFile
from tiny_encoders import save_encoder
from torch.utils.data import DataLoader, IterableDataset

from ntlbg.data.batch_decoding import decode_videos, encode_videos
from ntlbg.processors.video_decoding_ntlbg import VideoError, VideoLimits, decode_candidates
from ntlbg.selection.api import FrameSelector


LOOK = {"candidate_fps": 5.0, "max_candidates": 20, "max_side": 64}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Planned, counted (AVI), turned, cut in half, and with lost pictures in the middle."""
    folder = tmp_path_factory.mktemp("videos")
    frames = numbered_frames(75)
    plain = write_video(folder / "plain.mp4", frames, options={"g": "25"})
    counted = write_video(folder / "counted.avi", frames, codec="mpeg4", options={"bf": "2"})
    turned = turn_clockwise(plain, folder / "turned.mp4", 1)
    stream = write_video(folder / "whole.ts", frames, options={"g": "5"}).read_bytes()
    half, holed = folder / "half.ts", folder / "holed.ts"
    half.write_bytes(stream[: len(stream) // 2])
    holed.write_bytes(stream[: len(stream) // 3] + b"\0" * 4000 + stream[len(stream) // 3 + 4000 :])
    return [plain, counted, turned, half, holed]


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.mp4").write_text("no video at all")
    return [folder / "text.mp4", folder / "missing.mp4", write_audio(folder / "sound.mp4", codec="aac")]


def assert_same_frames(one, other):
    assert (one.frames == other.frames).all()
    assert (one.indices == other.indices).all()
    assert (one.timestamps == other.timestamps).all()
    facts = ("fps", "total_num_frames", "duration", "height", "width", "name", "warnings")
    assert [getattr(one, fact) for fact in facts] == [getattr(other, fact) for fact in facts]


@pytest.mark.parametrize("in_order", [True, False])
def test_a_batch_gives_what_one_by_one_gives(videos, bad, in_order):
    mixed = [bad[0], *videos[:2], bad[1], *videos[2:], bad[2]]
    results = list(decode_videos(mixed, workers=2, in_order=in_order, **LOOK))
    if not in_order:
        results.sort(key=lambda result: result.number)
    assert [result.source for result in results] == mixed
    for result in results:
        if result.source in bad:
            with pytest.raises(VideoError) as caught:
                decode_candidates(result.source, **LOOK)
            assert (result.candidates, result.error) == (None, str(caught.value))
        else:
            assert result.error is None
            assert_same_frames(result.candidates, decode_candidates(result.source, **LOOK))


def test_bytes_are_decoded_like_their_file(videos):
    (result,) = decode_videos([videos[0].read_bytes()], workers=1, **LOOK)
    assert (result.candidates.frames == decode_candidates(videos[0], **LOOK).frames).all()


def test_a_video_above_the_bound_is_refused_in_one_sentence_and_the_others_come(videos, tmp_path):
    short = write_video(tmp_path / "short.mp4", numbered_frames(30))
    bound = 60 * 43 * 64 * 3
    large, small = decode_videos([videos[0], short], workers=1, candidate_fps=25, max_side=64, max_bytes=bound)
    assert large.error.startswith(
        "75 frames of 64 x 43 pixels from 'plain.mp4' need 619200 bytes, more than the limit"
    )
    assert len(small.candidates) == 30


def test_limits_reach_the_workers(videos):
    (result,) = decode_videos(videos[:1], workers=1, limits=VideoLimits(max_duration=1))
    assert "more than the limit of 1 s" in result.error


def test_a_video_that_takes_too_long_is_stopped_and_reported(videos):
    late, other = decode_videos([EndlessFile(), videos[0]], workers=1, timeout=5, **LOOK)
    assert late.error == "It took longer than 5 s and was stopped; allow more (timeout)."
    assert other.error is None


def test_videos_are_read_from_their_list_as_they_are_needed(videos):
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield videos[0]

    batch = decode_videos(endless(), workers=1, prefetch=3, **LOOK)
    assert next(batch).error is None
    batch.close()
    assert len(read) <= 4


@pytest.mark.parametrize("kind", [None, "clip"])
def test_features_equal_those_of_the_selector(kind, videos, bad, tmp_path):
    encoder = None if kind is None else str(save_encoder(kind, tmp_path))
    selector = FrameSelector(encoder, candidate_fps=5, max_candidates=20)
    *good, refused = encode_videos([*videos, bad[0]], selector, workers=1)
    assert refused.features is None
    assert "text.mp4" in refused.error
    for result in good:
        alone = selector.encode(result.source)
        assert (result.features.descriptors == alone.descriptors).all()
        assert (result.features.candidate_seconds == alone.candidate_seconds).all()
        for fact in ("encoder", "fps", "total_num_frames", "duration", "name", "warnings", "source"):
            assert getattr(result.features, fact) == getattr(alone, fact)


def test_the_bar_counts_videos_and_bad_ones(videos, bad, capsys):
    list(decode_videos([videos[0], bad[0]], workers=1, progress=True, **LOOK))
    last = capsys.readouterr().err.rstrip().rsplit("\r", 1)[-1]
    assert "2/2" in last
    assert "bad=1" in last


def test_a_data_loader_reads_them_in_the_training_process(videos):
    class Videos(IterableDataset):
        def __iter__(self):
            return (video.candidates.frames for video in decode_videos(videos, workers=2, **LOOK))

    loader = DataLoader(Videos(), batch_size=None)
    for _ in range(2):
        shapes = [tuple(frames.shape) for frames in loader]
        assert shapes == [decode_candidates(video, **LOOK).frames.shape for video in videos]
