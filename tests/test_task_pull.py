"""What a video's answer may say about its groups: bounded by video, whatever the loss is multiplied by or cut into."""

import math

import pytest
import torch
from test_model import QUESTION, base_inputs, labelled, with_query
from tiny_models import tiny_model
from tiny_parts import tiny_base_processor

from ntlbg.modeling_ntlbg.gate_ntlbg import TaskPull


LABELS = torch.tensor([[-100, -100, 5, 6], [-100, -100, -100, 7]])


def gradients(slopes, factor=1.0, items=None, groups=9):
    """Gradients of log-weights (k,) of two rows' videos, of a task loss with these slopes, times `factor`."""
    pull = TaskPull(LABELS, items)
    weights = [torch.zeros(len(slope), requires_grad=True) for slope in slopes]
    bounded = [pull.bound(value, row, groups) for row, value in enumerate(weights)]
    task_loss = sum((value * slope).sum() for value, slope in zip(bounded, slopes, strict=True))
    pull.watch(task_loss)
    (factor * task_loss + 3.0).backward()
    return [value.grad for value in weights]


def test_a_long_gradient_is_shortened_to_the_video_s_share_and_keeps_its_direction():
    slope = torch.tensor([30.0, -40.0])
    first, second = gradients([slope, slope])
    for got, share in ((first, 2 / 3), (second, 1 / 3)):
        torch.testing.assert_close(got.norm(), torch.tensor(share / math.log(10)))
        torch.testing.assert_close(got / got.norm(), slope / slope.norm())


def test_a_short_gradient_stays_as_it_is():
    slopes = [torch.tensor([0.01, -0.02]), torch.tensor([0.0, 0.0])]
    for got, slope in zip(gradients(slopes), slopes, strict=True):
        assert torch.equal(got, slope)


@pytest.mark.parametrize("factor", [0.25, 65536.0])
def test_the_bound_is_that_of_the_loss_before_it_is_scaled(factor):
    slopes = [torch.tensor([30.0, -40.0]), torch.tensor([0.001, 0.002])]
    for scaled, plain in zip(gradients(slopes, factor), gradients(slopes), strict=True):
        torch.testing.assert_close(scaled, factor * plain)


def test_of_an_accumulated_batch_each_part_has_its_own_share():
    slope = torch.tensor([30.0, -40.0])
    whole = gradients([slope, slope], items=30)
    torch.testing.assert_close(whole[0].norm(), torch.tensor(2 / 30 / math.log(10)))


def test_a_backward_pass_beside_the_task_loss_is_not_bounded():
    weights = torch.zeros(2, requires_grad=True)
    slope = torch.tensor([30.0, -40.0])
    (TaskPull(LABELS).bound(weights, 0, 9) * slope).sum().backward()
    assert torch.equal(weights.grad, slope)


def test_an_overflow_stays_visible_to_a_gradient_scaler():
    slope = torch.tensor([torch.inf, 1.0])
    assert not torch.isfinite(gradients([slope, torch.zeros(2)])[0]).all()


@pytest.mark.parametrize("factor", [1.0, 1024.0])
def test_the_model_bounds_what_its_answers_say_about_relevance(factor):
    """With embeddings a thousand times too large the task loss pulls hard; relevance gets the bound and no more."""
    processor = tiny_base_processor("qwen2_vl", padding_side="left")
    model = tiny_model("qwen2_vl", processor.tokenizer, selector_trained=True, fade_share=1.0).train()
    inputs = with_query(processor, labelled(processor, base_inputs(processor)), (QUESTION,))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1000.0)
    seen = []

    def catch(module, args, output):
        output[0].register_hook(seen.append)

    handle = model.selector.register_forward_hook(catch)
    torch.manual_seed(0)
    (factor * model(**inputs, num_representatives=3).task_loss).backward()
    handle.remove()
    groups = int(inputs["video_grid_thw"][0, 0])
    # l = r - log(1 + sum exp r): the gradient of r is at most 1 + sqrt(k) times that of l.
    assert 0 < seen[0].norm() / factor <= (1 + math.sqrt(3)) / math.log(groups + 1)
