"""What every family keeps: all groups are the base to the bit, fewer are a prompt of the kept ones at their times."""

import numpy as np
import pytest
import torch
from family_parts import ALL, ALL_FAMILIES, GREEDY, QUESTION, Family, chat, family_of, picture
from tiny_encoders import save_encoder, scenes, write_video
from tiny_frames import FRAME_FAMILIES
from tiny_models import tiny_model
from tiny_parts import moving_square, tiny_base_processor
from transformers import AutoModel, AutoProcessor

from ntlbg.errors import InputError
from ntlbg.modeling_ntlbg.modeling_ntlbg import _PREPARED_INPUTS, NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.training.build import limit_frames
from ntlbg.training.model_shapes import shape_of_config


@pytest.fixture(scope="module", params=ALL_FAMILIES)
def family(request) -> Family:
    return family_of(request.param)


@pytest.fixture(scope="module", params=FRAME_FAMILIES)
def frames_family(request) -> Family:
    return family_of(request.param)


def pruned_ids(family: Family, inputs: dict, **options) -> torch.Tensor:
    """The prompt (B, L') that the base reads."""
    return family.model._prepare(dict.fromkeys(_PREPARED_INPUTS) | dict(inputs) | options)[0]["input_ids"]


@torch.no_grad()
def test_all_groups_kept_are_the_base_to_the_bit(family):
    clip = moving_square(12)
    inputs, bases = family.ours(chat(), videos=[clip]), family.bases_inputs([chat()], [clip])
    assert torch.equal(inputs["input_ids"], bases["input_ids"])
    ours = family.model(**inputs, num_representatives=ALL).logits
    assert (ours - family.model.vlm(**bases).logits).abs().max() == 0.0
    answer = family.model.generate(**inputs, num_representatives=ALL, **GREEDY)
    assert torch.equal(answer, family.model.vlm.generate(**bases, **GREEDY))
    other = family.answer(family.ours(chat("why?"), videos=[clip]), num_representatives=ALL)
    assert not torch.equal(answer[:, -8:], other), "a model that says the same to everything proves nothing"


@torch.no_grad()
def test_fewer_groups_answer_alike_with_a_cache_without_one_and_step_by_step(family):
    inputs = family.ours(chat(), videos=[moving_square(12)])
    expected = family.answer(inputs, num_representatives=3)
    assert torch.equal(family.answer(inputs, num_representatives=3, use_cache=False), expected)
    output = family.model(**inputs, num_representatives=3, use_cache=True)
    assert output.logits.shape[1] < inputs["input_ids"].shape[1]
    for token in expected[0]:
        assert output.logits[0, -1].argmax() == token
        output = family.model(input_ids=token.view(1, 1), past_key_values=output.past_key_values, use_cache=True)


@torch.no_grad()
@pytest.mark.parametrize("name", ALL_FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_is_the_row_alone_whatever_the_videos_lengths(name, side):
    family = family_of(name, side)
    questions, clips = (QUESTION, "why?"), (moving_square(4), moving_square(12, seed=1))
    both = family.ours([chat(q) for q in questions], videos=[[c] for c in clips], padding=True)
    assert (both["attention_mask"] == 0).any()
    batch = family.model(**both, num_representatives=3)
    for row, (question, clip) in enumerate(zip(questions, clips, strict=True)):
        alone = family.model(**family.ours(chat(question), videos=[clip]), num_representatives=3)
        length = alone.logits.shape[1]
        together = batch.logits[row, :length] if side == "right" else batch.logits[row, -length:]
        torch.testing.assert_close(together, alone.logits[0], atol=1e-4, rtol=1e-4)
        assert torch.equal(batch.selections[row].indices, alone.selections[0].indices)


@torch.no_grad()
def test_a_kept_group_has_the_presentation_time_of_its_first_picture(family, tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(1, 60, 24) * 50) / 1000
    file = write_video(tmp_path / "clip.mp4", scenes((12, 12), flash=None), times=times)
    inputs = family.ours(chat(), videos=[str(file)], do_sample_frames=False)
    firsts = (times - times[0])[:: family.ours.video_processor.temporal_patch_size]
    np.testing.assert_allclose(inputs["group_timestamps"] - inputs["group_timestamps"][0], firsts, atol=2e-3)
    output = family.model.generate(**inputs, num_representatives=4, return_selection=True, **GREEDY)
    selection = output.selections[0]
    assert torch.equal(selection.timestamps, inputs["group_timestamps"][selection.indices])


@torch.no_grad()
def test_a_pruned_prompt_has_the_tokens_of_the_kept_groups_and_all_of_the_text(family):
    inputs = family.ours(chat(), videos=[moving_square(12)])
    groups = family.groups(12)
    places = family.model.adapter.placeholders(inputs["input_ids"], None, inputs.get("mm_token_type_ids"))
    trailing = family.model.adapter.trailing_tokens
    per_group = (int(places.sum()) - trailing) // groups
    for chosen in ([0, 2], [1, groups - 1], [groups - 1]):
        selection = Selection.from_indices(
            chosen, inputs["group_timestamps"], temporal_patch_size=family.model.adapter.temporal_patch_size
        )
        ids = pruned_ids(family, inputs, selection=selection)[0]
        kept = (ids == inputs["input_ids"][places][0]).sum()
        assert kept == per_group * len(chosen) + trailing
        text = family.ours.tokenizer.decode(ids)
        assert text.startswith("<|im_start|>user")
        assert text.endswith(f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n")


@torch.no_grad()
def test_llava_onevision_pruned_is_the_base_given_the_kept_frames_alone():
    """Its prompt says no times and its positions are places, so nothing else of the video may be left."""
    family, clip = family_of("llava_onevision"), moving_square(12)
    inputs = family.ours(chat(), videos=[clip])
    selection = Selection.from_indices([1, 5, 10], inputs["group_timestamps"], temporal_patch_size=1)
    alone = family.bases_inputs([chat()], [clip[[1, 5, 10]]])
    assert torch.equal(pruned_ids(family, inputs, selection=selection), alone["input_ids"])
    pruned = family.model(**inputs, selection=selection).logits
    torch.testing.assert_close(pruned, family.model.vlm(**alone).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_internvl_frames_keep_their_numbers():
    family = family_of("internvl")
    inputs = family.ours(chat(), videos=[moving_square(12)])
    for chosen, numbers in (([0, 9], ["Frame1: ", "Frame10: "]), ([1, 11], ["Frame2: ", "Frame12: "])):
        selection = Selection.from_indices(chosen, inputs["group_timestamps"], temporal_patch_size=1)
        text = family.ours.tokenizer.decode(pruned_ids(family, inputs, selection=selection)[0])
        frames = [f"{number}<img>{'<IMG_CONTEXT>' * 4}</img>" for number in numbers]
        assert "\n".join(frames) in text
        assert text.count("Frame") == 2


@torch.no_grad()
def test_several_videos_of_different_lengths_are_each_selected(family):
    clips = [moving_square(12), moving_square(6, seed=1)]
    inputs = family.ours(chat(videos=2), videos=clips)
    output = family.model.generate(**inputs, num_representatives=2, return_selection=True, **GREEDY)
    assert [len(selection) for selection in output.selections] == [2, 2]
    assert [selection.num_groups for selection in output.selections] == [family.groups(12), family.groups(6)]
    equal = [moving_square(12), moving_square(12, seed=1)]
    inputs, bases = family.ours(chat(videos=2), videos=equal), family.bases_inputs([chat(videos=2)], equal)
    difference = family.model(**inputs, num_representatives=ALL).logits - family.model.vlm(**bases).logits
    assert difference.abs().max() == 0.0


@torch.no_grad()
def test_images_before_and_after_a_video_are_kept_whole(family):
    parts = chat()[0]["content"]
    content = [{"type": "image"}, parts[0], {"type": "image"}, parts[1]]
    mixed, images, clip = [{"role": "user", "content": content}], [picture(), picture(3)], moving_square(12)
    inputs = family.ours(mixed, images=[images], videos=[clip])
    bases = family.bases_inputs([mixed], [clip], [images])
    assert torch.equal(inputs["input_ids"], bases["input_ids"])
    ours = family.model(**inputs, num_representatives=ALL).logits
    assert (ours - family.model.vlm(**bases).logits).abs().max() == 0.0
    image_token = family.ours.image_token_id
    types = inputs["mm_token_type_ids"]
    pruned = pruned_ids(family, inputs, num_representatives=2)
    assert ((inputs["input_ids"] == image_token) & (types == 1)).sum() == (types == 1).sum()
    kept_frames = 0 if family.name != "internvl" else 2 * 4
    assert (pruned == image_token).sum() == (types == 1).sum() + kept_frames
    assert torch.equal(
        family.answer(inputs, num_representatives=2), family.answer(inputs, num_representatives=2, use_cache=False)
    )


@torch.no_grad()
def test_rows_with_and_without_a_video_share_a_batch(family):
    rows = [chat(), chat("who are you?", videos=0), chat("what is this?", videos=0, images=1)]
    clip, image = moving_square(12), picture()
    both = family.ours(rows, videos=[[clip], [], []], images=[[], [], [image]], padding=True)
    bases = family.bases_inputs(rows, [clip], [[], [], [image]])
    ours = family.model(**both, num_representatives=ALL).logits[both["attention_mask"].bool()]
    assert (ours - family.model.vlm(**bases).logits[bases["attention_mask"].bool()]).abs().max() == 0.0
    answers = family.answer(both, num_representatives=2, min_new_tokens=8)
    alone = (
        family.answer(family.ours(rows[0], videos=[clip]), num_representatives=2, min_new_tokens=8),
        family.answer(family.bases_inputs(rows[1:2], []), min_new_tokens=8),
        family.answer(family.bases_inputs(rows[2:], [], [image]), min_new_tokens=8),
    )
    for row, answer in enumerate(alone):
        assert torch.equal(answers[row], answer[0])


@torch.no_grad()
def test_the_query_of_a_conversation_is_its_last_question_and_earlier_turns_stay(family):
    first, last = "what moves?", "and what is its colour?"
    turns = [
        {"role": "system", "content": "answer briefly"},
        *chat(first),
        {"role": "assistant", "content": "a square"},
        {"role": "user", "content": [{"type": "text", "text": last}]},
    ]
    inputs = family.ours(turns, videos=[moving_square(12)])
    tokenizer = family.ours.tokenizer
    assert tokenizer.decode(inputs["query_input_ids"][0]) == last
    text = tokenizer.decode(pruned_ids(family, inputs, num_representatives=2)[0])
    for said in ("answer briefly", first, "a square", last):
        assert said in text
    prompt = family.ours.apply_chat_template(turns, add_generation_prompt=True)
    from_prompt = family.ours(text=prompt, videos=[moving_square(12)], return_tensors="pt")
    assert torch.equal(from_prompt["query_input_ids"], inputs["query_input_ids"])
    again = [*turns[:1], *chat(first), turns[2], *chat(last)]
    clips = [moving_square(12), moving_square(12, seed=1)]
    both, bases = family.ours(again, videos=clips), family.bases_inputs([again], clips)
    assert tokenizer.decode(both["query_input_ids"][0]) == last
    difference = family.model(**both, num_representatives=ALL).logits - family.model.vlm(**bases).logits
    assert difference.abs().max() == 0.0


@torch.no_grad()
def test_a_second_look_answers_as_one_look_does(frames_family):
    family, clip = frames_family, moving_square(12)
    inputs = family.ours(chat(), videos=[clip])
    expected = family.model.generate(**inputs, num_representatives=3, return_selection=True, **GREEDY)
    selection = expected.selections[0]
    second = family.ours(chat(), videos=[clip], selection=selection)
    assert len(second["pixel_values_videos"]) == 3
    assert torch.equal(second["input_ids"], inputs["input_ids"])
    assert torch.equal(family.model.generate(**second, selection=selection, **GREEDY), expected.sequences)
    looked = family.model.select(**family.ours.first_look(clip, QUESTION), num_representatives=3)
    assert torch.equal(looked.indices, selection.indices)
    features = family.model.encode_video(**inputs)
    seen = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
    again = family.model.generate(**seen, video_features=features, num_representatives=3, **GREEDY)
    assert torch.equal(again, expected.sequences)


@torch.no_grad()
def test_a_dual_encoder_looks_first_and_all_of_it_is_saved(frames_family, tmp_path):
    folder = save_encoder("siglip", tmp_path / "siglip")
    name = frames_family.name
    processor = NTLBGProcessor.from_base(
        tiny_base_processor(name, "left"), scorer_processor=AutoProcessor.from_pretrained(folder)
    )
    model = NTLBGForConditionalGeneration.from_base(
        tiny_model(name, processor.tokenizer).vlm, scorer=AutoModel.from_pretrained(folder)
    ).eval()
    file = write_video(tmp_path / "clip.mp4", scenes((20, 20)))
    selection = model.select(**processor.first_look(str(file), QUESTION), num_representatives=3)
    assert selection.relevance is not None
    second = processor(chat(), videos=[str(file)], selection=selection)
    answer = model.generate(**second, selection=selection, **GREEDY)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded = NTLBGForConditionalGeneration.from_pretrained(tmp_path / "saved").eval()
    again = NTLBGProcessor.from_pretrained(tmp_path / "saved")
    assert again.base_processor.__class__.__name__ == processor.base_processor.__class__.__name__
    repeated = again(chat(), videos=[str(file)], selection=selection)
    assert torch.equal(loaded.generate(**repeated, selection=selection, **GREEDY), answer)


def test_numbers_are_drawn_on_the_frames_of_every_base(frames_family):
    clip = moving_square(4)
    plain = frames_family.ours(chat(), videos=[clip])["pixel_values_videos"]
    numbered = frames_family.ours(chat(), videos=[clip], number_frames=True)["pixel_values_videos"]
    assert plain.shape == numbered.shape
    assert all((a != b).any() for a, b in zip(plain, numbered, strict=True))


def test_every_part_learns_before_every_base(frames_family):
    name, processor = frames_family.name, frames_family.ours
    weights = {"ntlbg_weight": 0.5, "align_weight": 0.25, "context_weight": 0.125}
    model = tiny_model(name, processor.tokenizer, selector_trained=True, **weights).train()
    torch.nn.init.normal_(model.rich_points.gate)
    with torch.no_grad():
        model.selector.kappa.fill_(0.5)
    inputs = processor(chat(), videos=[moving_square(12)])
    inputs["labels"] = inputs["input_ids"].masked_fill(torch.arange(inputs["input_ids"].shape[1]) < 10, -100)
    model(**inputs, num_representatives=4)
    output = model(**inputs, num_representatives=4)
    expected = output.task_loss + 0.5 * output.ntlbg_loss + 0.25 * output.align_loss + 0.125 * output.context_loss
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert [name for name in silent if not name.startswith("vlm.")] == []


@torch.no_grad()
def test_what_is_missing_or_cut_is_refused_in_one_sentence(frames_family):
    model, inputs = frames_family.model, frames_family.ours(chat(), videos=[moving_square(12)])
    without = {name: value for name, value in inputs.items() if name != "video_grid_thw"}
    with pytest.raises(ValueError, match="`video_grid_thw` is missing; make the inputs with `NTLBGProcessor`"):
        model.generate(**without, **GREEDY)
    with pytest.raises(ValueError, match="speaks of 12 frames, but `pixel_values_videos` has 11"):
        model(**{**inputs, "pixel_values_videos": inputs["pixel_values_videos"][1:]})
    cut = {name: inputs[name][:, :40] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    with pytest.raises(ValueError, match="may have been truncated"):
        model(**{**inputs, **cut})
    with pytest.raises(ValueError, match=r"<video> tokens"):
        frames_family.ours(chat(videos=2), videos=[moving_square(12)])


def test_what_a_run_cannot_do_with_frames_of_one_size_is_said(frames_family):
    with pytest.raises(InputError, match="makes 4 tokens of every frame, whatever its size"):
        limit_frames(frames_family.ours, 224 * 224)
    with pytest.raises(InputError, match=f"{frames_family.name!r} has no formulas here"):
        shape_of_config(frames_family.model.config)


@torch.no_grad()
def test_frames_that_internvls_own_processor_made_images_of_all_reach_the_base():
    family = family_of("internvl")
    bases = family.bases_inputs([chat()], [moving_square(12)])
    assert torch.equal(family.model(**bases).logits, family.model.vlm(**bases).logits)
