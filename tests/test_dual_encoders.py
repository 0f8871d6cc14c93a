"""Any dual encoder of transformers judges frames: of images or of videos, in batches as one by one."""

import numpy as np
import pytest
import torch
import transformers
from encoder_zoo import FRAMES, MAKERS, REFUSED, VIDEO_ENCODERS, save_any
from tiny_encoders import ENCODERS, scenes, write_video
from tiny_models import tiny_model
from tiny_parts import moving_square, tiny_base_processor

from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.scorer_ntlbg import relevance_to
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.selection.api import FrameSelector, select_frames
from ntlbg.selection.encoders import DualEncoder, EncoderError


QUESTION = "where is the red car?"
LONG = "where is the red car, who drives it, " * 8 + "and why?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {kind: str(save_any(kind, root / kind)) for kind in (*ENCODERS, *MAKERS)}


@pytest.mark.parametrize("kind", [*ENCODERS, *MAKERS])
def test_batches_see_what_one_by_one_sees(kind, folders):
    encoder = DualEncoder.load(folders[kind], "cpu")
    frames = scenes(lengths=(6, 7), flash=None)
    one_by_one = encoder.encode_images(frames, 1)
    assert one_by_one.shape[0] == len(frames)
    for size in (5, 8, 64):
        torch.testing.assert_close(encoder.encode_images(frames, size), one_by_one, atol=2e-6, rtol=1e-4)
    texts = [encoder.encode_text(text) for text in (QUESTION, LONG)]
    assert [len(text) > 1 for text in texts] == [False, True]
    assert {text.shape[1] for text in texts} == {one_by_one.shape[1]}
    alone = FrameSelector(encoder, candidate_fps=1.0, batch_size=1).select(frames, QUESTION, 4)
    batched = FrameSelector(encoder, candidate_fps=1.0).select(frames, QUESTION, 4)
    assert alone.relevance == pytest.approx(batched.relevance, abs=1e-4)
    assert (alone.indices == batched.indices).all()


@pytest.mark.parametrize("kind", VIDEO_ENCODERS)
def test_an_encoder_of_videos_sees_the_clip_around_each_frame(kind, folders):
    frames = scenes(lengths=(5, 4), flash=None)
    encoder = DualEncoder.load(folders[kind], "cpu")
    embedded = encoder.encode_images(frames)
    model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    processor = transformers.AutoProcessor.from_pretrained(folders[kind])
    for number in range(len(frames)):
        around = np.clip(number + np.arange(-1, FRAMES - 1), 0, len(frames) - 1)
        if kind == "xclip":
            pixels = processor.image_processor(list(frames[around]), return_tensors="pt")["pixel_values"]
        else:
            pixels = processor.video_processor([frames[around]], do_sample_frames=False, return_tensors="pt")
            pixels = pixels["pixel_values_videos"]
        with torch.inference_mode():
            expected = model.get_video_features(pixels).pooler_output.flatten()
        torch.testing.assert_close(embedded[number], expected, atol=2e-6, rtol=1e-4)
    assert len(encoder.encode_images(frames[:1])) == 1
    assert len(embedded.unique(dim=0)) == len(frames)


@pytest.mark.parametrize("kind", ["xclip"])
@torch.no_grad()
def test_an_encoder_of_videos_is_a_scorer_as_well(kind, folders):
    encoder = DualEncoder.load(folders[kind], "cpu")
    processor = NTLBGProcessor.from_base(tiny_base_processor("qwen2_vl"), scorer_processor=encoder.processor)
    model = NTLBGForConditionalGeneration.from_base(
        tiny_model("qwen2_vl", processor.tokenizer).vlm, scorer=encoder.model
    ).eval()
    frames = moving_square(16)
    expected = relevance_to(encoder.encode_images(frames[::2]), encoder.encode_text(QUESTION))
    look = processor.first_look(frames, QUESTION)
    torch.testing.assert_close(model.select(**look).relevance, expected, atol=1e-5, rtol=1e-4)


def test_a_question_as_long_as_the_text_tower_reads_is_read_whole(folders):
    """AltCLIP's tower has 66 positions, of which the first stands for padding; its tokenizer knows no length."""
    encoder = DualEncoder.load(folders["altclip"], "cpu")
    texts = ["red " * count + "car" for count in range(1, 80)]
    lengths = [len(encoder.processor.tokenizer(text)["input_ids"]) for text in texts]
    assert {64, 65, 66} <= set(lengths)
    for text, length in zip(texts, lengths, strict=True):
        assert (len(encoder.encode_text(text)) == 1) == (length <= 65)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_sentence(kind, tmp_path):
    name = str(save_any(kind, tmp_path / "model"))
    video = write_video(tmp_path / "video.mp4", scenes(lengths=(5, 5), flash=None))
    with pytest.raises(EncoderError, match="no dual encoder") as caught:
        select_frames(video, QUESTION, 3, encoder=name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_encoder_of_videos_of_any_length_is_refused_by_name(folders):
    model = transformers.AutoModel.from_pretrained(folders["xclip"])
    model.config.vision_config = transformers.CLIPVisionConfig()
    with pytest.raises(EncoderError, match=r"some-model.*does not say how many frames"):
        DualEncoder(model, transformers.AutoProcessor.from_pretrained(folders["xclip"]), "some-model")
