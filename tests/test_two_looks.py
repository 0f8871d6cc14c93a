"""Two looks: many candidates small, the few representatives again large, and a dual encoder for the first look."""

import pytest
import torch
from PIL import Image
from tiny_encoders import ENCODERS, save_encoder
from tiny_models import tiny_model
from tiny_parts import FAMILIES, moving_square, tiny_base_processor
from transformers import AutoModel, AutoProcessor

from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.scorer_ntlbg import pieces_notes, relevance_to
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.selection.encoders import DualEncoder


QUESTION = "what is it?"
MESSAGES = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
GREEDY = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param


@torch.no_grad()
def test_a_second_look_at_the_same_size_answers_as_one_look_does(family):
    """Positions, times, weights and context all come from the full prompt and the first look, so nothing may
    differ."""
    processor = NTLBGProcessor.from_base(tiny_base_processor(family))
    model = tiny_model(family, processor.tokenizer)
    torch.nn.init.normal_(model.rich_points.gate)
    frames = moving_square(16)
    one_look = processor(MESSAGES, videos=[frames])
    expected = model.generate(**one_look, num_representatives=3, return_selection=True, **GREEDY)
    selection = expected.selections[0]

    second = processor(MESSAGES, videos=[frames], selection=selection)
    assert len(second["pixel_values_videos"]) * 8 == len(one_look["pixel_values_videos"]) * 3
    answer = model.generate(**second, selection=selection, **GREEDY)
    assert torch.equal(answer, expected.sequences)


@torch.no_grad()
def test_a_small_first_look_and_a_large_second_one_keep_the_times(family):
    processor = NTLBGProcessor.from_base(tiny_base_processor(family, max_tokens_per_frame=16), first_look_size=28)
    model = tiny_model(family, processor.tokenizer)
    frames = moving_square(16, height=112, width=112)
    first = processor.first_look(frames, QUESTION)
    selection = model.select(**first, num_representatives=3)
    second = processor(MESSAGES, videos=[frames], selection=selection)
    assert second["video_grid_thw"][0, 1:].prod() > first["video_grid_thw"][0, 1:].prod()
    output = model.generate(**second, selection=selection, return_selection=True, **GREEDY)
    assert torch.equal(output.selections[0].timestamps, selection.timestamps)
    assert torch.equal(output.selections[0].context, selection.context)


@torch.no_grad()
def test_a_second_look_without_its_selection_or_with_another_is_refused(family):
    processor = NTLBGProcessor.from_base(tiny_base_processor(family))
    model = tiny_model(family, processor.tokenizer)
    frames = moving_square(16)
    first = processor.first_look(frames, QUESTION)
    selection = model.select(**first, num_representatives=3)
    second = processor(MESSAGES, videos=[frames], selection=selection)
    with pytest.raises(ValueError, match="`selection` was not given"):
        model.generate(**second, **GREEDY)
    other = model.select(**first, num_representatives=2)
    with pytest.raises(ValueError, match="name different groups"):
        model.generate(**second, selection=other, **GREEDY)


def scored_model(kind: str, folder, **config_kwargs):
    """A model behind a scorer of the kind, with its processor."""
    save_encoder(kind, folder)
    processor = NTLBGProcessor.from_base(
        tiny_base_processor("qwen2_vl"), scorer_processor=AutoProcessor.from_pretrained(folder)
    )
    base = tiny_model("qwen2_vl", processor.tokenizer).vlm
    scorer = AutoModel.from_pretrained(folder)
    return NTLBGForConditionalGeneration.from_base(base, scorer=scorer, config_kwargs=config_kwargs).eval(), processor


@pytest.mark.parametrize("kind", ENCODERS)
@torch.no_grad()
def test_a_dual_encoder_makes_the_first_look(kind, tmp_path):
    """The scorer chooses, the base sees the chosen groups only, and all of it survives saving."""
    model, processor = scored_model(kind, tmp_path / kind)
    frames = moving_square(40)
    first = processor.first_look(frames, QUESTION)
    assert len(first["scorer_pixel_values"]) == 20
    selection = model.select(**first, num_representatives=4)
    assert selection.relevance is not None
    assert not selection.notes
    # Centred cosines of what the dual encoder itself makes of the pictures and the question.
    scorer, pictures = processor.scorer_processor, [Image.fromarray(frame) for frame in frames[::2]]
    text = scorer.tokenizer([QUESTION], padding="max_length", return_tensors="pt")
    output = model.scorer(**scorer.image_processor(pictures, return_tensors="pt"), **text)
    images, query = output.image_embeds, output.text_embeds[0]
    torch.testing.assert_close(selection.relevance, torch.cosine_similarity(images - images.mean(0), query[None]))

    second = processor(MESSAGES, videos=[frames], selection=selection)
    answer = model.generate(**second, selection=selection, **GREEDY)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded = NTLBGForConditionalGeneration.from_pretrained(tmp_path / "saved").eval()
    again = NTLBGProcessor.from_pretrained(tmp_path / "saved")
    selected = loaded.select(**again.first_look(frames, QUESTION), num_representatives=4)
    assert torch.equal(selected.indices, selection.indices)
    repeated = loaded.generate(**again(MESSAGES, videos=[frames], selection=selected), selection=selected, **GREEDY)
    assert torch.equal(repeated, answer)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_scorer_looks_once_for_many_questions_and_chooses_as_for_each_alone(kind, tmp_path, monkeypatch):
    model, processor = scored_model(kind, tmp_path / kind, vision_chunk_groups=3)
    frames = moving_square(16)
    questions = (QUESTION, "where is the red car?", "the")
    alone = [model.select(**processor.first_look(frames, question), num_representatives=3) for question in questions]
    rows = count_pictures(model.scorer, monkeypatch)
    look = processor.first_look(frames)
    features = model.encode_for_scorer(**look)
    assert sum(rows) == 8
    for question, expected in zip(questions, alone, strict=True):
        selection = model.select(
            scorer_features=features,
            group_timestamps=look["group_timestamps"],
            frames_indices=look["frames_indices"],
            num_representatives=3,
            **processor.scorer_query(question),
        )
        torch.testing.assert_close(selection.relevance, expected.relevance)
        assert {**selection.to_dict(), "relevance": None} == {**expected.to_dict(), "relevance": None}
    assert sum(rows) == 8
    with pytest.raises(ValueError, match="this model has no scorer"):
        tiny_model("qwen2_vl", processor.tokenizer).encode_for_scorer(**look)
    with pytest.raises(ValueError, match="This processor has no scorer"):
        NTLBGProcessor.from_base(tiny_base_processor("qwen2_vl")).scorer_query(QUESTION)


def count_pictures(scorer, monkeypatch) -> list[int]:
    """How many pictures each call of the scorer's image tower was given, from now on."""
    rows, look = [], scorer.get_image_features

    def counted(pixel_values, **inputs):
        rows.append(len(pixel_values))
        return look(pixel_values=pixel_values, **inputs)

    monkeypatch.setattr(scorer, "get_image_features", counted)
    return rows


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_question_longer_than_the_scorer_reads_is_judged_by_its_parts_as_without_the_model(kind, tmp_path):
    model, processor = scored_model(kind, tmp_path / kind)
    frames, long = moving_square(16), "Where is the red car? " * 12 + "Who drives it?"
    look = processor.first_look(frames, long)
    selection = model.select(**look)
    encoder = DualEncoder(model.scorer, processor.scorer_processor, kind)
    pieces = encoder.encode_text(long)
    assert len(pieces) == len(look["scorer_input_ids"]) > 1
    assert selection.notes == pieces_notes(len(pieces))
    torch.testing.assert_close(selection.relevance, relevance_to(encoder.encode_images(frames[::2]), pieces))
    assert not model.select(**processor.first_look(frames, QUESTION)).notes


def test_one_rule_makes_the_inputs_of_a_dual_encoder_in_the_model_and_out_of_it(tmp_path):
    """A tokenizer that knows no length, as SigLIP 2 brings it: both ways pad alike."""
    for kind in ENCODERS:
        folder = save_encoder(kind, tmp_path / kind)
        tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
        tokenizer.model_max_length = int(1e30)
        tokenizer.save_pretrained(folder)
        encoder = DualEncoder.load(str(folder), "cpu")
        processor = NTLBGProcessor.from_base(
            tiny_base_processor("qwen2_vl"), scorer_processor=AutoProcessor.from_pretrained(folder)
        )
        model = NTLBGForConditionalGeneration.from_base(
            tiny_model("qwen2_vl", processor.tokenizer).vlm, scorer=encoder.model
        ).eval()
        frames = moving_square(8)
        look = processor.first_look(frames, "the " * 30)
        expected = relevance_to(encoder.encode_images(frames[::2]), encoder.encode_text("the " * 30))
        torch.testing.assert_close(model.select(**look).relevance, expected)


def test_what_a_scorers_look_cannot_follow_is_refused(tmp_path):
    model, processor = scored_model("clip", tmp_path / "clip", max_visual_tokens=8)
    look = processor.first_look(moving_square(16), QUESTION)
    for asked in ({}, {"max_visual_tokens": 8}, {"max_visual_tokens": 8, "num_representatives": 2}):
        with pytest.raises(ValueError, match=r"`max_visual_tokens` is 8.*pass `num_representatives` instead of"):
            model.select(**look, **asked)
    with pytest.raises(ValueError, match="`num_representatives` should be at least 1, but it is 0"):
        model.select(**look, num_representatives=0)
    assert len(model.select(**look, num_representatives=2)) == 2


@torch.no_grad()
def test_scorer_pictures_without_a_scorer_are_refused():
    processor = NTLBGProcessor.from_base(tiny_base_processor("qwen2_vl"))
    model = tiny_model("qwen2_vl", processor.tokenizer)
    with pytest.raises(ValueError, match="this model has no scorer"):
        model.select(scorer_pixel_values=torch.zeros(4, 3, 32, 32))
