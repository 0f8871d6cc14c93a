"""What a video's answer says about its groups: shares of one, whatever the loss is multiplied by or cut into."""

import math

import pytest
import torch
from test_model import QUESTION, base_inputs, labelled, with_query
from tiny_models import tiny_model
from tiny_parts import tiny_base_processor

from ntlbg.modeling_ntlbg.gate_ntlbg import TaskPull, answer_beliefs


LABELS = torch.tensor([[-100, -100, 5, 6], [-100, -100, -100, 7]])


def gradients(slopes, beliefs=(1.0, 1.0), factor=1.0, items=None, groups=9):
    """Gradients of the log-probabilities (1 + k,) of two rows' videos, of a task loss with these slopes, times
    `factor`."""
    pull = TaskPull(LABELS, items)
    leaves = [torch.zeros(1 + len(slope), requires_grad=True) for slope in slopes]
    gates = [pull.attach(value, row, groups) for row, value in enumerate(leaves)]
    task_loss = sum((value * slope).sum() for value, slope in zip(gates, slopes, strict=True))
    pull.watch(task_loss, torch.tensor(beliefs))
    (factor * task_loss + 3.0).backward()
    return [value.grad for value in leaves]


def test_what_a_video_says_is_which_groups_would_help_weighed_by_its_answer():
    """Squares of what more of the groups would gain, 9 to 16, however steep; what would hurt says nothing."""
    slope = torch.tensor([-30.0, 50.0, -40.0])
    first, second = gradients([slope, 1e-9 * slope])
    for got, share in ((first, 2 / 3), (second, 1 / 3)):
        torch.testing.assert_close(got, -share / math.log(10) * torch.tensor([0.0, 9 / 25, 0.0, 16 / 25]))


def test_as_far_as_the_answer_was_not_believed_no_group_is_the_evidence():
    slope = torch.tensor([-30.0, -40.0])
    first, _ = gradients([slope, slope], beliefs=(0.25, 1.0))
    torch.testing.assert_close(first, -2 / 3 / math.log(10) * torch.tensor([0.75, 0.09, 0.16]))


def test_where_more_of_no_group_would_help_none_is_the_evidence():
    for got, share in zip(gradients([torch.tensor([1.0, 2.0]), torch.zeros(2)]), (2 / 3, 1 / 3), strict=True):
        torch.testing.assert_close(got, torch.tensor([-share / math.log(10), 0.0, 0.0]))


def test_an_answer_is_believed_as_its_words_are_on_average():
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)]], [[5.0, 0.0], [0.0, 0.0]]])
    believed = answer_beliefs(logits, torch.tensor([[0, 1], [-100, -100]]))
    torch.testing.assert_close(believed, torch.tensor([math.sqrt(1 / 2 * 3 / 4), 0.0]))


@pytest.mark.parametrize("factor", [0.25, 65536.0])
def test_it_grows_with_what_the_loss_is_multiplied_by(factor):
    slopes = [torch.tensor([30.0, -40.0]), torch.tensor([-0.001, -0.002])]
    for scaled, plain in zip(gradients(slopes, factor=factor), gradients(slopes), strict=True):
        torch.testing.assert_close(scaled, factor * plain)


def test_of_an_accumulated_batch_each_part_has_its_own_share():
    slope = torch.tensor([-30.0, -40.0])
    whole = gradients([slope, slope], items=30)
    torch.testing.assert_close(whole[0].sum(), torch.tensor(-2 / 30 / math.log(10)))


def test_a_backward_pass_beside_the_task_loss_is_left_as_it_is():
    leaf = torch.zeros(3, requires_grad=True)
    slope = torch.tensor([30.0, -40.0])
    (TaskPull(LABELS).attach(leaf, 0, 9) * slope).sum().backward()
    assert torch.equal(leaf.grad[1:], slope)


def test_an_overflow_stays_visible_to_a_gradient_scaler():
    slope = torch.tensor([-torch.inf, 1.0])
    assert not torch.isfinite(gradients([slope, torch.zeros(2)])[0]).all()


@pytest.mark.parametrize("factor", [1.0, 1024.0])
def test_the_model_weighs_what_its_answers_say_about_relevance(factor):
    """With embeddings a thousand times too large the task loss pulls hard; relevance gets shares and no more."""
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
    # That of a cross-entropy: probabilities less what is wanted.
    assert 0 < seen[0].norm() / factor <= math.sqrt(2) / math.log(groups + 1)
