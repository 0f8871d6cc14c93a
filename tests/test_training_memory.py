"""What a training step does not hold: logits that no label asks for, and the activations of a frozen vision tower."""

import pytest
import torch
from test_model import QUESTION, base_inputs, labelled, with_query
from tiny_models import tiny_model
from tiny_parts import FAMILIES, tiny_base_processor


@pytest.fixture(params=sorted(FAMILIES))
def model_and_inputs(request):
    processor = tiny_base_processor(request.param, padding_side="left")
    model = tiny_model(request.param, processor.tokenizer, selector_trained=True).train()
    inputs = base_inputs(processor, (16, 12), (QUESTION, "Why?"), padding=True)
    inputs = with_query(processor, labelled(processor, inputs), (QUESTION, "Why?"))
    # Rows of different answers: what is computed for one of them must not count for the other.
    inputs["labels"][1, -3:] = -100
    return model, {**inputs, "num_representatives": 3}


def step(model, inputs, **more):
    torch.manual_seed(0)
    model.zero_grad()
    output = model(**inputs, **more)
    output.loss.backward()
    return output, {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_the_loss_and_every_gradient_are_those_of_all_logits(model_and_inputs):
    model, inputs = model_and_inputs
    few, few_gradients = step(model, inputs)
    with torch.no_grad():
        length = model.eval()(**inputs).logits.shape[1]
    every, every_gradients = step(model.train(), inputs, logits_to_keep=torch.arange(length))
    assert few.logits.shape[1] < 10 < every.logits.shape[1] == length
    assert torch.allclose(few.loss, every.loss, rtol=1e-6)
    assert few_gradients.keys() == every_gradients.keys()
    for name, gradient in few_gradients.items():
        torch.testing.assert_close(gradient, every_gradients[name], rtol=1e-4, atol=1e-6, msg=name)


def test_outside_training_every_position_has_logits(model_and_inputs):
    model, inputs = model_and_inputs
    with torch.no_grad():
        assert model.eval()(**inputs).logits.shape[1] > 10


@pytest.mark.parametrize("frozen", [True, False])
def test_checkpointing_keeps_what_the_tower_computes_only_where_it_is_trained(model_and_inputs, frozen):
    model, inputs = model_and_inputs
    model.vlm.requires_grad_(False)
    model.vlm.model.visual.requires_grad_(not frozen)
    model.activation_checkpointing_enable()
    features = model._encode(inputs["pixel_values_videos"], inputs["video_grid_thw"])
    assert features[0].tokens.requires_grad != frozen
    assert model.get_input_embeddings()(inputs["input_ids"]).requires_grad
    model.disable_input_require_grads()
    assert not model.get_input_embeddings()(inputs["input_ids"]).requires_grad
