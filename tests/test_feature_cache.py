"""The cache of features: what comes out is what would have been seen, whatever happens to the folder."""

import io
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
import transformers
from cache_parts import assert_same, entries, entry_of
from safetensors.torch import save
from tiny_encoders import save_encoder, scenes, write_video

import ntlbg.fingerprints as fingerprints
import ntlbg.selection.api as api
import ntlbg.selection.feature_cache as feature_cache
from ntlbg.processors.video_decoding_ntlbg import VideoError, VideoLimits
from ntlbg.selection.api import FrameSelector, select_frames
from ntlbg.selection.encoders import DualEncoder
from ntlbg.selection.feature_cache import encoder_fingerprint


QUESTION = "where is the red car?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "scenes.mp4", scenes(lengths=(12, 15, 9), flash=None))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(kind, folder / kind) for kind in ("clip", "siglip", "siglip2")}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


# -- a hit is a miss -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2", None])
def test_what_comes_from_the_cache_is_what_would_have_been_seen(kind, clip, encoders, folder):
    encoder, query = (None, None) if kind is None else (str(encoders[kind]), QUESTION)
    plain = FrameSelector(encoder).encode(clip)
    missed = FrameSelector(encoder, cache_dir=folder).encode(clip)
    written = entries(folder)
    assert len(written) == 1
    hit = FrameSelector(encoder, cache_dir=folder).encode(clip)
    assert entries(folder) == written
    assert_same(missed, plain)
    assert_same(hit, plain)
    assert hit.source == clip
    chosen = [select_frames(clip, query, 5, encoder=encoder, cache_dir=where) for where in (None, folder)]
    assert chosen[0].to_dict() == chosen[1].to_dict()
    assert (chosen[0].frames == chosen[1].frames).all()
    assert entries(folder) == written


def test_the_encoder_runs_once_however_many_questions_and_selectors_there_are(clip, encoders, folder):
    encoder = DualEncoder.load(str(encoders["clip"]))
    looks = []
    encoder.model.vision_model.register_forward_hook(lambda *_: looks.append(1))
    for question in (QUESTION, "is it a dog", None):
        FrameSelector(encoder, cache_dir=folder).select(clip, question, 4)
    assert len(looks) == 1


def test_what_was_damaged_in_the_video_is_said_again_by_a_hit(clip, folder, tmp_path):
    whole = write_video(tmp_path / "whole.mkv", scenes(lengths=(30, 30), flash=None)).read_bytes()
    short = tmp_path / "short.mkv"
    short.write_bytes(whole[: len(whole) * 2 // 3])
    first = FrameSelector(None, cache_dir=folder).encode(short)
    assert first.warnings
    written = entries(folder)
    assert_same(FrameSelector(None, cache_dir=folder).encode(short), first)
    assert entries(folder) == written


# -- the key -------------------------------------------------------------------------------------------------------


def test_an_entry_belongs_to_the_content_and_not_to_the_path_or_its_time(clip, folder, tmp_path):
    selector = FrameSelector(None, cache_dir=folder)
    selector.encode(clip)
    copy = Path(shutil.copy(clip, tmp_path / "copy.mp4"))
    os.utime(copy, (0, 0))
    written = entries(folder)
    again = selector.encode(copy)
    assert entries(folder) == written
    assert (again.name, again.source) == ("copy.mp4", copy)

    # Another film of the same size, under the same name, with the same time of change.
    other = write_video(tmp_path / "other.mp4", scenes(lengths=(5, 5), flash=None)).read_bytes()
    size = max(len(other), copy.stat().st_size) + 100
    for content in (copy.read_bytes(), other):
        copy.write_bytes(content + bytes(size - len(content)))
        os.utime(copy, (0, 0))
        assert_same(selector.encode(copy), FrameSelector(None).encode(copy))
    assert len(entries(folder)) == 3


def test_a_path_its_bytes_and_a_file_object_share_an_entry_and_frames_in_memory_have_none(clip, folder):
    selector = FrameSelector(None, cache_dir=folder)
    first = selector.encode(str(clip))
    written = entries(folder)
    with clip.open("rb") as file:
        for source in (clip, clip.read_bytes(), bytearray(clip.read_bytes()), io.BytesIO(clip.read_bytes()), file):
            again = selector.encode(source)
            assert entries(folder) == written
            assert torch.equal(again.descriptors, first.descriptors)
            assert again.name == FrameSelector(None).encode(source).name
    frames = scenes(lengths=(4, 4), flash=None)
    assert_same(selector.encode(frames, source_fps=2), FrameSelector(None).encode(frames, source_fps=2))
    assert entries(folder) == written


def retrain(folder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        # One number of one of the weights: no size, name or config tells.
        model.vision_model.encoder.layers[1].mlp.fc2.weight[0, 0] += 1e-3
    model.save_pretrained(folder)


def other_pictures(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    path = path if path.exists() else folder / "processor_config.json"
    content = json.loads(path.read_text())
    content.get("image_processor", content)["image_mean"] = [0.1, 0.2, 0.3]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("change", [retrain, other_pictures])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_an_encoder_that_changed_in_its_folder_is_another_one(change, kind, clip, encoders, folder, tmp_path):
    place = Path(shutil.copytree(encoders[kind], tmp_path / "encoder"))
    before = FrameSelector(str(place), cache_dir=folder).encode(clip)
    change(place)
    after = FrameSelector(str(place), cache_dir=folder).encode(clip)
    assert len(entries(folder)) == 2
    assert not torch.equal(after.descriptors, before.descriptors)
    assert_same(after, FrameSelector(str(place)).encode(clip))


def test_a_copy_of_an_encoder_is_the_same_one_under_its_own_name(clip, encoders, folder, tmp_path):
    FrameSelector(str(encoders["clip"]), cache_dir=folder).encode(clip)
    written = entries(folder)
    copy = str(shutil.copytree(encoders["clip"], tmp_path / "elsewhere"))
    assert FrameSelector(copy, cache_dir=folder).encode(clip).encoder == copy
    assert entries(folder) == written


def test_a_buffer_that_is_not_saved_with_the_weights_counts_too(encoders):
    encoder = DualEncoder.load(str(encoders["clip"]))
    before = encoder_fingerprint(encoder)
    encoder.model.vision_model.register_buffer("scale", torch.ones(()), persistent=False)
    with_scale = encoder_fingerprint(encoder)
    encoder.model.vision_model.scale.mul_(2)
    doubled = encoder_fingerprint(encoder)
    assert len({before, with_scale, doubled}) == 3
    assert encoder_fingerprint(encoder) == doubled
    # The same bytes of another shape, and under another name.
    encoder.model.vision_model.register_buffer("scale", torch.full((1,), 2.0), persistent=False)
    reshaped = encoder_fingerprint(encoder)
    del encoder.model.vision_model.scale
    encoder.model.vision_model.register_buffer("shift", torch.full((1,), 2.0), persistent=False)
    assert len({doubled, reshaped, encoder_fingerprint(encoder)}) == 3
    assert encoder_fingerprint(DualEncoder(encoder.model.half(), encoder.processor, "half")) != with_scale


@pytest.mark.parametrize(
    "options",
    [
        {"candidate_fps": 4.0},
        {"max_candidates": 3},
        {"limits": VideoLimits(max_duration=500.0)},
        {"encoder": "siglip"},
        {"batch_size": 2},
        pytest.param(
            {"device": "cuda"}, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
        ),
    ],
)
def test_whatever_changes_what_is_seen_has_an_entry_of_its_own(options, clip, encoders, folder):
    first = {"encoder": str(encoders["clip"]), "device": "cpu"}
    options = {**first, **options}
    options["encoder"] = str(encoders.get(options["encoder"], options["encoder"]))
    for arguments in (first, options):
        assert_same(
            FrameSelector(**arguments, cache_dir=folder).encode(clip),
            FrameSelector(**arguments).encode(clip),
        )
    assert len(entries(folder)) == 2


def test_pictures_decoded_at_another_size_make_other_entries(monkeypatch, clip, folder):
    FrameSelector(None, cache_dir=folder).encode(clip)
    monkeypatch.setattr(api, "DESCRIPTOR_SIDE", 40)
    assert_same(FrameSelector(None, cache_dir=folder).encode(clip), FrameSelector(None).encode(clip))
    assert len(entries(folder)) == 2


def test_limits_hold_for_a_video_that_is_in_the_cache(clip, folder):
    FrameSelector(None, cache_dir=folder).encode(clip)
    for limits in (VideoLimits(max_bytes=100), VideoLimits(max_duration=1.0)):
        with pytest.raises(VideoError, match="more than the limit"):
            FrameSelector(None, limits=limits, cache_dir=folder).encode(clip)


def test_what_is_no_video_is_refused_as_without_a_cache_and_never_read_to_its_end(folder, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "text.mp4").write_text("no video at all\n" * 50)
    for path in (tmp_path / "pipe.mp4", tmp_path / "text.mp4", tmp_path / "missing.mp4", tmp_path, Path("/dev/zero")):
        with pytest.raises(VideoError) as expected:
            FrameSelector(None).encode(path)
        with pytest.raises(VideoError) as got:
            FrameSelector(None, cache_dir=folder).encode(path)
        assert str(got.value) == str(expected.value)
    assert not folder.exists()


def test_a_change_of_our_code_or_of_a_library_makes_other_entries(monkeypatch, clip, folder):
    selector = FrameSelector(None, cache_dir=folder)
    selector.encode(clip)
    monkeypatch.setattr(feature_cache, "_CODE_DIGEST", "of tomorrow")
    selector.encode(clip)
    monkeypatch.setattr(fingerprints, "version", lambda name: "99.0")
    selector.encode(clip)
    assert len(entries(folder)) == 3


# -- damage --------------------------------------------------------------------------------------------------------


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: bytes(len(data)),
        lambda data: _flip(data, 0),
        lambda data: _flip(data, 40),
        lambda data: _flip(data, len(data) // 2),
        lambda data: _flip(data, len(data) - 1),
    ],
)
def test_a_damaged_entry_is_never_trusted_but_removed_reported_and_made_again(damage, clip, folder):
    selector = FrameSelector(None, cache_dir=folder)
    expected = selector.encode(clip)
    path = entry_of(folder)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    mended = selector.encode(clip)
    (note,) = mended.warnings
    assert "its checksum is wrong" in note
    mended.warnings.clear()
    assert_same(mended, expected)
    assert entry_of(folder).read_bytes() == good
    assert_same(selector.encode(clip), expected)


def _signed(tensors: dict) -> bytes:
    body = save(tensors)
    return feature_cache.hashlib.sha256(body).digest() + body


def _text(content: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(content.encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    "forge",
    [
        lambda tensors, facts: {},
        lambda tensors, facts: {**tensors, "facts": _text("[]")},
        lambda tensors, facts: {**tensors, "facts": _text("[" * 100_000)},
        lambda tensors, facts: {**tensors, "facts": _text("\x00 no json")},
        lambda tensors, facts: {**tensors, "facts": _text(json.dumps({**facts, "fps": "fast"}))},
        lambda tensors, facts: {**tensors, "facts": _text(json.dumps({**facts, "key": "0" * 64}))},
        lambda tensors, facts: {**tensors, "facts": _text(json.dumps({**facts, "source": "/etc/passwd"}))},
        lambda tensors, facts: {**tensors, "facts": _text(json.dumps({**facts, "warnings": [7]}))},
        lambda tensors, facts: {**tensors, "facts": _text(json.dumps({**facts, "clip": [1.0]}))},
        lambda tensors, facts: {**tensors, "facts": _text(json.dumps({**facts, "clip": ["a", "b"]}))},
        lambda tensors, facts: {**tensors, "more": torch.zeros(1)},
        lambda tensors, facts: {**tensors, "descriptors": tensors["descriptors"][:-1].clone()},
        lambda tensors, facts: {**tensors, "descriptors": tensors["descriptors"].double()},
        lambda tensors, facts: {**tensors, "candidate_indices": torch.zeros(())},
    ],
)
def test_an_entry_with_a_right_checksum_and_a_wrong_content_is_not_trusted_either(forge, clip, folder):
    selector = FrameSelector(None, cache_dir=folder)
    expected = selector.encode(clip)
    path = entry_of(folder)
    tensors = feature_cache.load(path.read_bytes()[32:])
    facts = json.loads(tensors["facts"].numpy().tobytes())
    path.write_bytes(_signed(forge(tensors, facts)))
    mended = selector.encode(clip)
    assert "was not used and is removed" in mended.warnings.pop()
    assert_same(mended, expected)


def test_an_entry_under_the_name_of_another_is_not_trusted(clip, folder):
    slow, quick = (FrameSelector(None, candidate_fps=fps, cache_dir=folder) for fps in (1.0, 5.0))
    slow.encode(clip)
    path = entry_of(folder)
    expected = quick.encode(clip)
    (other,) = set(folder.iterdir()) - {path}
    shutil.copy(path, other)
    again = quick.encode(clip)
    assert "made for something else" in again.warnings.pop()
    assert_same(again, expected)


def test_an_entry_too_large_to_be_ours_is_removed_without_being_read(clip, folder):
    selector = FrameSelector(None, cache_dir=folder)
    expected = selector.encode(clip)
    path = entry_of(folder)
    # A terabyte of nothing, which takes no room on the disk.
    os.truncate(path, 2**40)
    again = selector.encode(clip)
    assert "more than the cache's bound" in again.warnings.pop()
    assert_same(again, expected)
    assert path.stat().st_size < 10**6


# -- what others may have put into the folder ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
def test_a_link_or_a_pipe_in_place_of_an_entry_is_neither_followed_nor_waited_for(kind, clip, folder, tmp_path):
    selector = FrameSelector(None, cache_dir=folder)
    expected = selector.encode(clip)
    path = entry_of(folder)
    outside = tmp_path / "outside"
    outside.write_bytes(path.read_bytes())
    os.utime(outside, (1, 1))
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(outside if kind == "link" else tmp_path / "nowhere")
    again = selector.encode(clip)
    assert "no regular file" in again.warnings.pop()
    assert_same(again, expected)
    assert stat.S_ISREG(path.lstat().st_mode)
    assert outside.stat().st_mtime == 1
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_in_place_of_an_entry_stays_and_the_look_succeeds(clip, folder):
    selector = FrameSelector(None, cache_dir=folder)
    expected = selector.encode(clip)
    path = entry_of(folder)
    path.unlink()
    path.mkdir()
    (path / "mine").write_text("kept")
    again = selector.encode(clip)
    assert again.warnings
    again.warnings.clear()
    assert_same(again, expected)
    assert (path / "mine").read_text() == "kept"
    assert len(entries(folder)) == 1


def test_making_room_removes_own_entries_only_and_links_without_what_they_lead_to(clip, folder, tmp_path):
    folder.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"{'a' * 64}.features").write_bytes(bytes(5000))
    links = [folder / f"{'b' * 64}.features", folder / f"{'c' * 64}.{'0' * 16}.part"]
    links[0].symlink_to(outside / f"{'a' * 64}.features")
    links[1].symlink_to(outside)
    os.utime(links[1], (0, 0), follow_symlinks=False)
    foreign = [folder / name for name in ("notes.txt", "film.features", f"{'A' * 64}.features", "x.part")]
    for path in foreign:
        path.write_bytes(bytes(100_000))
        os.utime(path, (0, 0))
    directory = folder / f"{'d' * 64}.features"
    directory.mkdir()
    one = len(entry_written(clip, tmp_path))
    features = FrameSelector(None, cache_dir=folder, cache_bytes=one).encode(clip)
    assert features.warnings == []
    assert not any(link.is_symlink() for link in links)
    assert (outside / f"{'a' * 64}.features").stat().st_size == 5000
    assert all(path.stat().st_size == 100_000 for path in foreign)
    assert directory.is_dir()


def entry_written(clip: Path, tmp_path: Path) -> bytes:
    FrameSelector(None, cache_dir=tmp_path / "scale").encode(clip)
    return entry_of(tmp_path / "scale").read_bytes()
