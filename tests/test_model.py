"""One behaviour suite for the model, over the three families at a tiny size."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_models import tiny_model
from tiny_parts import FAMILIES, moving_square, tiny_base_processor
from transformers.video_utils import VideoMetadata

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig
from ntlbg.modeling_ntlbg.modeling_ntlbg import _PREPARED_INPUTS, NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection


QUESTION = "what is the colour of the thing?"
GREEDY = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture
def processor(family):
    return tiny_base_processor(family, padding_side="left")


@pytest.fixture
def model(family, processor):
    return tiny_model(family, processor.tokenizer)


def base_inputs(processor, num_frames=(16,), questions=(QUESTION,), seed=0, padding=False):
    """What the base's own processor makes of one video per row."""
    texts, videos, metadata = [], [], []
    for row, (count, question) in enumerate(zip(num_frames, questions, strict=True)):
        content = [{"type": "video"}, {"type": "text", "text": question}]
        texts.append(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
        videos.append(moving_square(count, seed=seed + row))
        metadata.append(
            VideoMetadata(
                total_num_frames=count,
                fps=2.0,
                duration=count / 2,
                frames_indices=list(range(count)),
                height=56,
                width=84,
            )
        )
    return processor(
        text=texts,
        videos=videos,
        video_metadata=metadata,
        do_sample_frames=False,
        padding=padding,
        return_tensors="pt",
    )


def with_query(processor, inputs, questions):
    encoded = processor.tokenizer(list(questions), padding=True, padding_side="right", return_tensors="pt")
    return {**inputs, "query_input_ids": encoded.input_ids, "query_attention_mask": encoded.attention_mask}


@torch.no_grad()
def test_keeping_all_groups_is_the_base_to_the_bit(model, processor):
    inputs = base_inputs(processor)
    ours, base = model(**inputs, num_representatives=8), model.vlm(**inputs)
    assert (ours.logits - base.logits).abs().max() == 0.0
    answer = model.generate(**inputs, num_representatives=8, **GREEDY)
    assert torch.equal(answer, model.vlm.generate(**inputs, **GREEDY))
    other = model.generate(**base_inputs(processor, questions=("why?",)), num_representatives=8, **GREEDY)
    assert not torch.equal(answer[0, -8:], other[0, -8:]), "a model that says the same to everything proves nothing"


@torch.no_grad()
def test_keeping_all_groups_of_a_padded_batch_is_the_base_to_the_bit(model, processor):
    inputs = base_inputs(processor, (16, 16), (QUESTION, "why?"), padding=True)
    assert (inputs["attention_mask"] == 0).any()
    difference = model(**inputs, num_representatives=8).logits - model.vlm(**inputs).logits
    assert difference[inputs["attention_mask"].bool()].abs().max() == 0.0


@torch.no_grad()
def test_kept_groups_have_their_full_prompt_positions(model, processor):
    """The pruned prompt's logits are the base's own on the kept tokens, given the full prompt's positions."""
    inputs = base_inputs(processor)
    prepared, choices = model._prepare(dict.fromkeys(_PREPARED_INPUTS) | dict(inputs) | {"num_representatives": 3})
    extra = {"second_per_grid_ts": inputs["second_per_grid_ts"]} if "second_per_grid_ts" in inputs else {}
    positions, _ = model.vlm.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"],
        attention_mask=inputs["attention_mask"],
        **extra,
    )
    kept = (prepared["input_ids"][0] == model.config.video_token_id).nonzero().flatten()
    all_pads = (inputs["input_ids"][0] == model.config.video_token_id).nonzero().flatten()
    groups = all_pads.view(8, -1)[choices[0].selection.indices].flatten()
    assert len(kept) == len(groups)
    assert torch.equal(prepared["position_ids"][:, 0, kept], positions[:, 0, groups])
    assert torch.equal(prepared["position_ids"][:, 0, -1], positions[:, 0, -1])


@torch.no_grad()
def test_cache_on_equals_cache_off(model, processor):
    inputs = base_inputs(processor)
    on = model.generate(**inputs, num_representatives=3, **GREEDY)
    off = model.generate(**inputs, num_representatives=3, use_cache=False, **GREEDY)
    assert torch.equal(on, off)


@torch.no_grad()
def test_stepping_by_hand_with_a_cache_equals_generate(model, processor):
    inputs = base_inputs(processor)
    expected = model.generate(**inputs, num_representatives=3, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    output = model(**inputs, num_representatives=3, use_cache=True)
    for token in expected:
        assert output.logits[0, -1].argmax() == token
        output = model(input_ids=token.view(1, 1), past_key_values=output.past_key_values, use_cache=True)


@torch.no_grad()
def test_a_padded_row_equals_the_row_alone(model, processor):
    questions = (QUESTION, "why?")
    # All eight: a random model may end a sentence early, and rows are compared from the end.
    length = {"min_new_tokens": 8, **GREEDY}
    batch = model.generate(
        **with_query(processor, base_inputs(processor, (16, 16), questions, padding=True), questions),
        num_representatives=3,
        return_selection=True,
        **length,
    )
    for row, question in enumerate(questions):
        alone = model.generate(
            **with_query(processor, base_inputs(processor, (16,), (question,), seed=row), (question,)),
            num_representatives=3,
            return_selection=True,
            **length,
        )
        assert torch.equal(batch.sequences[row, -8:], alone.sequences[0, -8:])
        assert torch.equal(batch.selections[row].indices, alone.selections[0].indices)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_that_keep_different_numbers_of_tokens_are_padded_again(family, side):
    """A short video keeps all its 2 groups, a long one 3 of 8: the rows differ in length after pruning."""
    processor = tiny_base_processor(family, padding_side=side)
    model = tiny_model(family, processor.tokenizer)
    inputs = base_inputs(processor, (4, 16), (QUESTION, QUESTION), padding=True)
    batch = model(**inputs, num_representatives=3)
    for row, count in enumerate((4, 16)):
        alone = model(**base_inputs(processor, (count,), seed=row), num_representatives=3).logits[0]
        together = batch.logits[row, : len(alone)] if side == "right" else batch.logits[row, -len(alone) :]
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_beams_and_several_answers_work(model, processor):
    inputs = base_inputs(processor)
    beams = model.generate(**inputs, num_representatives=8, num_beams=3, num_return_sequences=2, **GREEDY)
    expected = model.vlm.generate(**inputs, num_beams=3, num_return_sequences=2, **GREEDY)
    assert torch.equal(beams, expected)
    pruned = model.generate(**inputs, num_representatives=3, num_beams=3, num_return_sequences=2, **GREEDY)
    assert torch.equal(pruned[:, : inputs["input_ids"].shape[1]], inputs["input_ids"].repeat(2, 1))


@torch.no_grad()
def test_the_callers_prompt_stands_before_the_answer(model, processor):
    inputs = base_inputs(processor)
    output = model.generate(
        **inputs,
        num_representatives=2,
        return_dict_in_generate=True,
        output_scores=True,
        return_selection=True,
        **GREEDY,
    )
    length = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], inputs["input_ids"])
    assert torch.equal(output.base_output.scores[0].argmax(-1), output.sequences[:, length])
    selection = output.selections[0]
    assert len(selection) == 2
    assert selection.indices.tolist() == sorted(set(selection.indices.tolist()))
    assert selection.weights.sum() == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_text_only_and_image_prompts_are_the_bases(model, processor):
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[text], return_tensors="pt")
    assert torch.equal(model(**inputs).logits, model.vlm(**inputs).logits)
    assert torch.equal(model.generate(**inputs, **GREEDY), model.vlm.generate(**inputs, **GREEDY))

    messages[0]["content"].insert(0, {"type": "image"})
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.fromarray(moving_square(1)[0])], return_tensors="pt")
    assert torch.equal(model(**inputs).logits, model.vlm(**inputs).logits)
    assert torch.equal(model.generate(**inputs, **GREEDY), model.vlm.generate(**inputs, **GREEDY))


@torch.no_grad()
def test_an_image_beside_a_video_is_kept_whole(model, processor):
    content = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(
        text=[text],
        images=[Image.fromarray(moving_square(1)[0])],
        videos=[moving_square(16)],
        video_metadata=[VideoMetadata(total_num_frames=16, fps=2.0, frames_indices=list(range(16)))],
        do_sample_frames=False,
        return_tensors="pt",
    )
    assert (model(**inputs, num_representatives=8).logits - model.vlm(**inputs).logits).abs().max() == 0.0
    prepared_tokens = model(**inputs, num_representatives=3).logits.shape[1]
    assert prepared_tokens < inputs["input_ids"].shape[1]


@torch.no_grad()
def test_saved_and_loaded_is_the_same(model, processor, tmp_path):
    inputs = base_inputs(processor)
    model.rich_points.gate.normal_()
    expected = model(**inputs, num_representatives=3)
    model.save_pretrained(tmp_path)
    loaded = NTLBGForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert {name: tuple(value.shape) for name, value in loaded.state_dict().items()} == {
        name: tuple(value.shape) for name, value in model.state_dict().items()
    }
    output = loaded(**inputs, num_representatives=3)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.selections[0].context, expected.selections[0].context)


@torch.no_grad()
def test_tied_embeddings_stay_tied_through_saving(family, processor, tmp_path):
    model = tiny_model(family, processor.tokenizer, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    loaded = NTLBGForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert loaded.get_output_embeddings().weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()
    inputs = base_inputs(processor)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
def test_a_video_encoded_once_answers_as_one_encoded_anew(model, processor):
    inputs = base_inputs(processor)
    features = model.encode_video(**inputs)
    expected = model.generate(**inputs, num_representatives=3, **GREEDY)
    without_pixels = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
    answer = model.generate(**without_pixels, video_features=features, num_representatives=3, **GREEDY)
    assert torch.equal(answer, expected)


@torch.no_grad()
def test_a_selection_made_elsewhere_is_answered_from_as_it_is(model, processor):
    inputs = base_inputs(processor)
    chosen = model.generate(**inputs, num_representatives=3, return_selection=True, **GREEDY)
    again = model.generate(**inputs, selection=chosen.selections[0], return_selection=True, **GREEDY)
    assert torch.equal(again.sequences, chosen.sequences)
    uniform = Selection.from_indices([6, 1, 3], torch.arange(8.0))
    output = model.generate(**inputs, selection=uniform, return_selection=True, **GREEDY)
    assert output.selections[0].indices.tolist() == [1, 3, 6]
    with pytest.raises(ValueError, match="video of 5 groups"):
        model.generate(**inputs, selection=Selection.from_indices([0], torch.arange(5.0)), **GREEDY)
    with pytest.raises(ValueError, match="distinct"):
        Selection.from_indices([1, 1], torch.arange(5.0))
    with pytest.raises(ValueError, match=r"0\.\.4"):
        Selection.from_indices([5], torch.arange(5.0))


@torch.no_grad()
def test_a_selection_survives_json(model, processor):
    selection = model.select(**base_inputs(processor), num_representatives=3)
    copy = Selection.from_dict(json.loads(json.dumps(selection.to_dict())))
    assert torch.equal(copy.indices, selection.indices)
    assert torch.equal(copy.context, selection.context)
    assert copy.strata == selection.strata
    with pytest.raises(ValueError, match="no field"):
        Selection.from_dict({**selection.to_dict(), "colour": 1})
    with pytest.raises(ValueError, match="are missing"):
        Selection.from_dict({"indices": [1]})


@torch.no_grad()
def test_encoding_in_chunks_changes_nothing(model, processor):
    inputs = base_inputs(processor)
    whole = model.encode_video(**inputs)[0]
    model.config.vision_chunk_groups = 3
    chunked = model.encode_video(**inputs)[0]
    torch.testing.assert_close(chunked.tokens, whole.tokens, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(chunked.deepstack, whole.deepstack, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_budget_of_visual_tokens_is_kept(model, processor):
    inputs = base_inputs(processor)
    per_group = int(inputs["video_grid_thw"][0, 1:].prod()) // 4
    output = model.generate(**inputs, max_visual_tokens=3 * per_group + 1, return_selection=True, **GREEDY)
    assert len(output.selections[0]) == 3
    with pytest.raises(ValueError, match="one group of this video has"):
        model.generate(**inputs, max_visual_tokens=per_group - 1, **GREEDY)


def labelled(processor, inputs, count=4):
    labels = inputs["input_ids"].clone()
    labels[:, :-count] = -100
    return {**inputs, "labels": labels}


def test_the_loss_is_the_bases_when_all_groups_are_kept(model, processor):
    inputs = labelled(processor, base_inputs(processor))
    output = model(**inputs, num_representatives=8)
    assert torch.equal(output.loss, model.vlm(**inputs).loss)


def test_the_components_add_up_and_every_trained_part_gets_a_gradient(family, processor):
    weights = {"ntlbg_weight": 0.5, "align_weight": 0.25, "context_weight": 0.125}
    model = tiny_model(family, processor.tokenizer, selector_trained=True, **weights).train()
    torch.nn.init.normal_(model.rich_points.gate)
    with torch.no_grad():
        model.selector.kappa.fill_(0.5)
    inputs = with_query(processor, labelled(processor, base_inputs(processor)), (QUESTION,))
    assert model(**inputs, num_representatives=4).align_loss is None  # no token was seen to compare with
    output = model(**inputs, num_representatives=4)
    expected = output.task_loss + 0.5 * output.ntlbg_loss + 0.25 * output.align_loss + 0.125 * output.context_loss
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert [name for name in silent if not name.startswith("vlm.")] == []


def test_the_task_loss_alone_moves_the_selector(family, processor):
    model = tiny_model(family, processor.tokenizer, selector_trained=True).train()
    torch.nn.init.normal_(model.rich_points.gate)
    inputs = with_query(processor, labelled(processor, base_inputs(processor)), (QUESTION,))
    model(**inputs, num_representatives=3).loss.backward()
    assert model.selector.query_encoder.slots.grad.abs().sum() > 0
    assert model.selector.key[0].weight.grad.abs().sum() > 0


def test_gradient_checkpointing_changes_no_gradient(family, processor):
    inputs = labelled(processor, base_inputs(processor))
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(family, processor.tokenizer).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**inputs, num_representatives=3).loss.backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@torch.no_grad()
def test_an_untrained_selector_without_scorer_says_that_relevance_was_not_used(model, processor):
    inputs = with_query(processor, base_inputs(processor), (QUESTION,))
    selection = model.generate(**inputs, num_representatives=3, return_selection=True, **GREEDY).selections[0]
    assert selection.relevance is None
    assert "relevance" not in selection.strata
    assert any("untrained" in note for note in selection.notes)


@torch.no_grad()
def test_a_video_of_one_group_and_one_shorter_than_k_are_kept_whole(model, processor):
    for frames in (2, 6):
        inputs = base_inputs(processor, (frames,))
        output = model.generate(**inputs, num_representatives=5, return_selection=True, **GREEDY)
        assert output.selections[0].indices.tolist() == list(range(frames // 2))
        assert torch.equal(output.sequences, model.vlm.generate(**inputs, **GREEDY))


@torch.no_grad()
def test_constant_frames_are_handled(model, processor):
    inputs = base_inputs(processor)
    inputs["pixel_values_videos"] = torch.zeros_like(inputs["pixel_values_videos"])
    output = model.generate(**inputs, num_representatives=3, return_selection=True, **GREEDY)
    assert len(set(output.selections[0].indices.tolist())) == 3
    assert torch.isfinite(output.selections[0].weights).all()
    assert torch.isfinite(model(**inputs, num_representatives=3).logits).all()


@torch.no_grad()
def test_several_videos_in_one_prompt_are_each_selected(model, processor):
    content = [{"type": "video"}, {"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    metadata = [VideoMetadata(total_num_frames=n, fps=2.0, frames_indices=list(range(n))) for n in (16, 12)]
    inputs = processor(
        text=[text],
        videos=[moving_square(16), moving_square(12, seed=1)],
        video_metadata=metadata,
        do_sample_frames=False,
        return_tensors="pt",
    )
    assert (model(**inputs, num_representatives=8).logits - model.vlm(**inputs).logits).abs().max() == 0.0
    output = model.generate(**inputs, num_representatives=3, return_selection=True, **GREEDY)
    assert [len(selection) for selection in output.selections] == [3, 3]
    assert [selection.num_groups for selection in output.selections] == [8, 6]


@torch.no_grad()
def test_inputs_that_do_not_fit_together_are_refused_in_one_sentence(model, processor):
    inputs = base_inputs(processor)
    cut = inputs["input_ids"].shape[1] // 2
    truncated = {name: inputs[name][:, :cut] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    with pytest.raises(ValueError, match="may have been truncated"):
        model(**{**inputs, **truncated})
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        model(**{name: value for name, value in inputs.items() if name != "mm_token_type_ids"})
    with pytest.raises(ValueError, match="`pixel_values_videos` has"):
        model(**{**inputs, "pixel_values_videos": inputs["pixel_values_videos"][:-4]})
    with pytest.raises(ValueError, match="at least 1"):
        model(**inputs, num_representatives=0)
    with pytest.raises(ValueError, match="`group_timestamps` has 3 entries"):
        model(**inputs, group_timestamps=torch.arange(3.0))
    with pytest.raises(ValueError, match="no video to select from"):
        model.select(query_input_ids=torch.tensor([[1]]))


def test_a_base_without_adapter_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ValueError, match=r"'llava'.*internvl, llava_onevision, qwen2_5_vl, qwen2_vl, qwen3_vl"):
        NTLBGConfig(base_config=transformers.LlavaConfig())


@torch.no_grad()
def test_a_half_precision_base_keeps_the_selector_in_full_precision(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    half = NTLBGForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert half.vlm.lm_head.weight.dtype == torch.bfloat16
    assert (
        half.selector.key[0].weight.dtype == half.rich_points.gate.dtype == half.expected_mean.dtype == torch.float32
    )
    inputs = base_inputs(processor)
    assert torch.equal(half(**inputs, num_representatives=8).logits, half.vlm(**inputs).logits)
    assert np.isfinite(half(**inputs, num_representatives=3).logits.float().numpy()).all()
