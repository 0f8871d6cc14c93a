"""What transformers' users expect of a model: rows without a question, casts, lengths, tuples, and clear refusals."""

import pytest
import torch
import transformers
from test_model import GREEDY, QUESTION, base_inputs, labelled, with_query
from tiny_models import tiny_model
from tiny_parts import tiny_base_processor


@pytest.fixture
def processor():
    return tiny_base_processor("qwen2_vl", padding_side="left")


@pytest.fixture
def trained(processor):
    """A model whose (random) relevance head is used as if it were trained."""
    return tiny_model("qwen2_vl", processor.tokenizer, selector_trained=True)


@torch.no_grad()
def test_a_row_without_a_question_does_not_disturb_the_others(trained, processor):
    inputs = base_inputs(processor, (16, 16), (QUESTION, QUESTION), padding=True)
    both = with_query(processor, inputs, (QUESTION, QUESTION))
    none = dict(both)
    none["query_attention_mask"] = both["query_attention_mask"].clone()
    none["query_attention_mask"][0] = 0
    expected = trained.generate(**both, num_representatives=3, return_selection=True, **GREEDY).selections
    found = trained.generate(**none, num_representatives=3, return_selection=True, **GREEDY).selections
    assert found[0].relevance is None
    assert any("no question" in note for note in found[0].notes)
    torch.testing.assert_close(found[1].relevance, expected[1].relevance)


@torch.no_grad()
def test_select_pairs_queries_with_the_videos_of_their_row(trained, processor):
    inputs = with_query(
        processor, base_inputs(processor, (16, 12), (QUESTION, "why?"), padding=True), (QUESTION, "why?")
    )
    selected = trained.select(**inputs, num_representatives=3)
    answered = trained.generate(**inputs, num_representatives=3, return_selection=True, **GREEDY).selections
    for one, other in zip(selected, answered, strict=True):
        assert torch.equal(one.indices, other.indices)
        torch.testing.assert_close(one.relevance, other.relevance)
    without_prompt = {name: value for name, value in inputs.items() if name != "input_ids"}
    three = torch.cat([inputs["query_input_ids"], inputs["query_input_ids"][:1]])
    with pytest.raises(ValueError, match="3 queries for 2 videos"):
        trained.select(**{**without_prompt, "query_input_ids": three, "query_attention_mask": torch.ones_like(three)})


@torch.no_grad()
@pytest.mark.parametrize("cast", [lambda model: model.bfloat16(), lambda model: model.to(torch.bfloat16)])
def test_a_cast_model_keeps_the_selector_in_full_precision_and_runs(trained, processor, cast):
    before = trained.rich_points.fuse_in.weight.clone()
    model = cast(trained)
    assert model.vlm.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(model.rich_points.fuse_in.weight, before)
    assert model.selector.key[0].weight.dtype == model.transition.out.weight.dtype == torch.float32
    inputs = with_query(processor, base_inputs(processor), (QUESTION,))
    assert torch.isfinite(model(**inputs, num_representatives=3).logits).all()


@torch.no_grad()
def test_lengths_count_the_callers_prompt(trained, processor):
    inputs = base_inputs(processor)
    length = inputs["input_ids"].shape[1]
    output = trained.generate(**inputs, num_representatives=3, max_length=length + 4, do_sample=False)
    assert length < output.shape[1] <= length + 4
    config = transformers.GenerationConfig(max_length=length + 4, min_length=length + 4, do_sample=False)
    ids = inputs.pop("input_ids")
    assert trained.generate(ids, config, **inputs, num_representatives=3).shape[1] == length + 4
    assert config.max_length == length + 4


@torch.no_grad()
def test_a_streamer_and_the_returned_ids_agree(trained, processor):
    class Collector(transformers.generation.BaseStreamer):
        def __init__(self):
            self.parts = []

        def put(self, value):
            self.parts.append(value.flatten())

        def end(self):
            self.ended = True

    inputs, streamer = base_inputs(processor), Collector()
    output = trained.generate(**inputs, num_representatives=3, streamer=streamer, **GREEDY)
    assert torch.equal(torch.cat(streamer.parts[1:]), output[0, inputs["input_ids"].shape[1] :])


def test_a_tuple_can_be_asked_for_and_labels_come_back_pruned(trained, processor):
    inputs = labelled(processor, base_inputs(processor))
    output = trained(**inputs, num_representatives=3)
    assert output.labels.shape == output.logits.shape[:2]
    assert torch.equal(output.labels[0, -4:], inputs["labels"][0, -4:])
    assert (output.labels[0, :-4] == -100).all()
    as_tuple = trained(**inputs, num_representatives=3, return_dict=False)
    assert torch.equal(as_tuple[0], output.loss)
    assert torch.equal(as_tuple[1], output.logits)


def test_the_loss_is_the_same_quantity_in_training_and_evaluation(processor):
    model = tiny_model("qwen2_vl", processor.tokenizer, ntlbg_weight=0.5, align_weight=0.5, context_weight=0.5)
    inputs = labelled(processor, base_inputs(processor))
    model.train()(**inputs, num_representatives=3)
    training = model(**inputs, num_representatives=3)
    evaluation = model.eval()(**inputs, num_representatives=3)
    torch.testing.assert_close(evaluation.ntlbg_loss, training.ntlbg_loss)
    torch.testing.assert_close(evaluation.context_loss, training.context_loss)


@torch.no_grad()
def test_a_video_that_is_only_half_there_is_refused_in_one_sentence(trained, processor):
    inputs = base_inputs(processor)
    with pytest.raises(ValueError, match="`video_grid_thw` is missing"):
        trained(**{name: value for name, value in inputs.items() if name != "video_grid_thw"})
    with pytest.raises(ValueError, match="`video_grid_thw` is missing"):
        trained.generate(**{name: value for name, value in inputs.items() if name != "video_grid_thw"}, **GREEDY)
    without_pixels = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
    with pytest.raises(ValueError, match="neither `pixel_values_videos` nor `video_features`"):
        trained(**without_pixels)
    other = trained.encode_video(**base_inputs(processor, (8,)))
    with pytest.raises(ValueError, match="encode the same videos"):
        trained(**without_pixels, video_features=other)


@torch.no_grad()
def test_candidate_indices_are_on_the_selections_device(trained, processor):
    selection = trained.select(**base_inputs(processor), num_representatives=3).to("meta")
    assert selection.candidate_indices.device.type == "meta"
