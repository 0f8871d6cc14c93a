"""Two looks: many candidates small, the few representatives again large, and a dual encoder for the first look."""

import pytest
import torch
from tiny_encoders import save_encoder
from tiny_models import tiny_model
from tiny_parts import FAMILIES, moving_square, tiny_base_processor
from transformers import AutoModel, AutoProcessor

from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor


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


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_a_dual_encoder_makes_the_first_look(kind, tmp_path):
    """The scorer chooses, the base sees the chosen groups only, and all of it survives saving."""
    folder = save_encoder(kind, tmp_path / kind)
    scorer = AutoModel.from_pretrained(folder)
    processor = NTLBGProcessor.from_base(
        tiny_base_processor("qwen2_vl"), scorer_processor=AutoProcessor.from_pretrained(folder)
    )
    base = tiny_model("qwen2_vl", processor.tokenizer).vlm
    model = NTLBGForConditionalGeneration.from_base(base, scorer=scorer).eval()
    frames = moving_square(40)
    first = processor.first_look(frames, QUESTION)
    assert len(first["scorer_pixel_values"]) == 20
    selection = model.select(**first, num_representatives=4)
    assert selection.relevance is not None
    assert not selection.notes
    with pytest.raises(ValueError, match="num_representatives` instead of"):
        model.select(**first, max_visual_tokens=8)
    # Centred cosines, as the reference formula has them.
    images = scorer.get_image_features(first["scorer_pixel_values"]).pooler_output
    text = {name.removeprefix("scorer_"): first[name] for name in first if name.startswith("scorer_")}
    text.pop("pixel_values")
    query = scorer.get_text_features(**text).pooler_output[0]
    expected = torch.cosine_similarity(images - images.mean(0), query[None])
    torch.testing.assert_close(selection.relevance, expected)

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


@torch.no_grad()
def test_scorer_pictures_without_a_scorer_are_refused():
    processor = NTLBGProcessor.from_base(tiny_base_processor("qwen2_vl"))
    model = tiny_model("qwen2_vl", processor.tokenizer)
    with pytest.raises(ValueError, match="this model has no scorer"):
        model.select(scorer_pixel_values=torch.zeros(4, 3, 32, 32))
