"""What teaches the selector beside the answers: annotated spans, the language model's own attention; and the running
statistics of L_align, which belong to the optimizer step and not to the batch."""

import math

import pytest
import torch
from test_model import QUESTION, base_inputs, labelled, with_query
from tiny_parts import FAMILIES, tiny_base_processor, tiny_tokenizer
from training_parts import Collator, make_row, open_model

from ntlbg.modeling_ntlbg.losses_ntlbg import attention_to_groups, evidence_loss, teacher_loss
from ntlbg.modeling_ntlbg.modeling_ntlbg import _PREPARED_INPUTS
from ntlbg.modeling_ntlbg.rich_points_ntlbg import evidence_log_probabilities


# L_evidence


def test_evidence_loss_is_the_divergence_from_the_spans_shares_and_from_each_group_s_own():
    relevance, evidence = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.5, 0.0, 1.0])
    predicted = torch.tensor([0.0, 0.5, -1.0, 2.0]).softmax(dim=0)
    among = 1 / 3 * math.log(1 / 3 / predicted[1]) + 2 / 3 * math.log(2 / 3 / predicted[3])
    half, none, whole = relevance.sigmoid().tolist()
    each = (0.5 * math.log(0.25 / half / (1 - half)) - math.log(1 - none) - math.log(whole)) / 3
    expected = (among / math.log(4) + each / math.log(2)) / 2
    assert float(evidence_loss(relevance, evidence)) == pytest.approx(expected, rel=1e-5)


def test_a_span_over_half_a_group_of_two_pictures_is_seen_for_sure_and_over_a_quarter_as_often_as_not():
    sure, even = torch.full((1,), 20.0), torch.zeros(1)
    for share, logit in ((0.5, sure), (1.0, sure), (0.25, even)):
        evidence = torch.full((1,), share)
        own = 2 * evidence_loss(logit, evidence, 2) + torch.tensor([0.0, float(logit)]).log_softmax(0)[1] / math.log(2)
        assert abs(float(own)) < 1e-6


def test_a_group_beside_the_spans_that_stays_above_zero_costs_although_the_evidence_is_far_above_it():
    evidence = torch.tensor([0.0, 1.0, 0.0, 0.0])
    told, untold = torch.tensor([-9.0, 20.0, -9.0, -9.0]), torch.tensor([2.0, 20.0, 2.0, 2.0])
    assert evidence_loss(told, evidence) < 1e-4
    assert evidence_loss(untold, evidence) > 0.5


def test_spans_that_name_nothing_put_the_mass_on_none():
    sure, unsure = torch.full((5,), -20.0), torch.zeros(5)
    assert evidence_loss(sure, torch.zeros(5)) < 1e-6
    assert float(evidence_loss(unsure, torch.zeros(5))) == pytest.approx(1.0)
    right = torch.tensor([-20.0, 20.0, -20.0, -20.0, -20.0])
    assert evidence_loss(right, torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0]), pictures=2) < 1e-6


@pytest.mark.parametrize("groups", [1, 16, 4096])
def test_a_head_that_tells_nothing_apart_is_at_most_one_away_whatever_the_length(groups):
    evidence = torch.zeros(groups)
    evidence[groups // 2] = 1.0
    assert float(evidence_loss(torch.zeros(groups), evidence)) == pytest.approx(1.0, rel=1e-5)
    assert float(evidence_loss(torch.zeros(groups), torch.ones(groups))) <= 1.0


def test_evidence_raises_the_groups_of_the_spans_and_lowers_the_others():
    relevance = torch.zeros(4, requires_grad=True)
    evidence_loss(relevance, torch.tensor([0.0, 1.0, 0.0, 0.0])).backward()
    assert relevance.grad[1] < 0
    assert (relevance.grad[[0, 2, 3]] > 0).all()


def test_only_known_spans_count_and_each_is_a_mean_over_its_videos():
    tokenizer = tiny_tokenizer()
    rows = [make_row(tokenizer, (4,), seed=s, evidence=e) for s, e in enumerate(("one", "unknown", "none"))]
    model = open_model(tokenizer, selector_trained=True).train()
    output = model(**Collator(tokenizer)(rows))
    assert ["evidence" in losses for losses in output.video_losses] == [True, False, True]
    expected = (output.video_losses[0]["evidence"] + output.video_losses[2]["evidence"]) / 2
    torch.testing.assert_close(output.evidence_loss, expected)
    unknown = model(**Collator(tokenizer)(rows[1:2]))
    assert unknown.evidence_loss is None
    assert torch.equal(unknown.loss, unknown.task_loss)


def test_the_head_is_taught_although_it_was_untrained_at_birth():
    tokenizer = tiny_tokenizer()
    batch = Collator(tokenizer)([make_row(tokenizer, (6,), seed=0)])
    model = open_model(tokenizer).train()
    assert model(**batch).evidence_loss is None
    model.config.selector_trained = True
    model(**batch).evidence_loss.backward()
    assert model.selector.key[0].weight.grad.any()
    assert model.selector.query_encoder.slots.grad.any()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.tensor([0.5]), r"is of shape \(1,\), but the videos have 6 groups in all"),
        (torch.tensor([0.0, 2.0, 0, 0, 0, 0]), "of video 0 should be shares between 0 and 1"),
        (torch.tensor([0.0, math.nan, 0, 0, 0, 0]), "of video 0 should be shares between 0 and 1"),
    ],
)
def test_bad_evidence_is_refused_in_one_sentence(value, words):
    tokenizer = tiny_tokenizer()
    batch = Collator(tokenizer)([make_row(tokenizer, (6,), seed=0)])
    with pytest.raises(ValueError, match=words):
        open_model(tokenizer)(**{**batch, "group_evidence": value})


# L_teacher


def test_teacher_loss_is_zero_where_relevance_agrees_with_attention_and_teaches_relevance_alone():
    attention = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)
    agreeing = attention.detach().log() + 3.0
    assert teacher_loss(agreeing, attention) < 1e-6
    relevance = torch.zeros(3, requires_grad=True)
    teacher_loss(relevance, attention).backward()
    assert attention.grad is None
    assert relevance.grad[2] < 0 < relevance.grad[0]


def test_attention_is_summed_over_a_groups_tokens_and_averaged_over_the_rest():
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(2, 3, 7, 7, generator=generator) for _ in range(2)]
    answers, pads = torch.tensor([5, 6]), torch.tensor([[1, 2], [3, 4]])
    paid = attention_to_groups(layers, 1, answers, pads)
    expected = [
        sum(layer[1, head, query, key] for layer in layers for head in range(3) for query in (5, 6) for key in group)
        for group in ((1, 2), (3, 4))
    ]
    torch.testing.assert_close(paid, torch.stack(expected) / 12)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_models_own_attention_teaches_the_relevance_of_the_kept_groups(family):
    """The answer's attention to the kept groups, found again from the base's own attentions."""
    processor = tiny_base_processor(family, padding_side="left")
    model = open_model(processor.tokenizer, family=family, selector_trained=True).train()
    inputs = with_query(processor, labelled(processor, base_inputs(processor)), (QUESTION,))
    assert model(**inputs, output_attentions=True).teacher_loss is None  # sdpa gives none
    model.vlm.set_attn_implementation("eager")
    output = model(**inputs, output_attentions=True)
    pruned, _ = model._prepare(dict.fromkeys(_PREPARED_INPUTS) | inputs)
    pads = (pruned["input_ids"][0] == model.config.video_token_id).nonzero().view(3, -1)
    answers = (output.labels[0] != -100).nonzero().flatten() - 1
    paid = attention_to_groups(output.attentions, 0, answers, pads)
    chosen = output.selections[0]
    expected = teacher_loss(chosen.relevance[chosen.indices], paid)
    torch.testing.assert_close(output.teacher_loss, expected)
    torch.testing.assert_close(output.video_losses[0]["teacher"], expected)
    output.teacher_loss.backward()
    assert model.selector.key[0].weight.grad.any()
    assert model.vlm.model.language_model.layers[0].self_attn.q_proj.weight.grad is None
    assert model(**inputs, num_representatives=1, output_attentions=True).teacher_loss is None


# The statistics of L_align


def reset(model):
    with torch.no_grad():
        model.expected_mean.zero_()
        model.expected_variance.fill_(1.0)
    model._pending_statistics = None
    return model


def test_the_first_tokens_ever_are_copied_and_later_ones_folded_with_momentum():
    model, generator = reset(open_model()), torch.Generator().manual_seed(0)
    first, second = (torch.randn(70, 2, 64, generator=generator) * 3 + 1 for _ in range(2))
    assert not model.statistics_seen
    model.observe_tokens(first)
    model.fold_statistics()
    assert model.statistics_seen
    torch.testing.assert_close(model.expected_mean, first.flatten(0, 1).mean(0))
    torch.testing.assert_close(model.expected_variance, first.flatten(0, 1).var(0, correction=0))
    model.observe_tokens(second)
    model.fold_statistics()
    expected = 0.99 * first.flatten(0, 1).mean(0) + 0.01 * second.flatten(0, 1).mean(0)
    torch.testing.assert_close(model.expected_mean, expected)
    before = model.expected_mean.clone()
    model.fold_statistics()
    assert torch.equal(model.expected_mean, before)


def test_a_step_with_an_overflow_leaves_the_statistics_as_they_are():
    model = open_model()
    before = model.expected_mean.clone()
    model.observe_tokens(torch.full((3, 2, 64), torch.inf))
    model.fold_statistics()
    assert torch.equal(model.expected_mean, before)
    model.observe_tokens(torch.ones(3, 2, 64))
    model.fold_statistics()
    assert not torch.equal(model.expected_mean, before)


def test_it_does_not_matter_how_a_steps_tokens_are_cut_or_shared_out():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(10, 2, 64, generator=generator)
    whole, cut, shared, idle = (reset(open_model()) for _ in range(4))
    whole.observe_tokens(tokens)
    whole.fold_statistics()
    cut.observe_tokens(tokens[:3])
    cut.observe_tokens(tokens[3:])
    cut.fold_statistics()
    shared.observe_tokens(tokens[:4])
    other = reset(open_model())
    other.observe_tokens(tokens[4:])
    elsewhere = other._pending_statistics
    shared.fold_statistics(lambda sums: sums + elsewhere)
    idle.observe_tokens(tokens)
    everyone = idle._pending_statistics
    idle._pending_statistics = None
    idle.fold_statistics(lambda sums: sums + everyone)  # a process without a video
    for model in (cut, shared, idle):
        torch.testing.assert_close(model.expected_mean, whole.expected_mean)
        torch.testing.assert_close(model.expected_variance, whole.expected_variance)


def test_without_a_trainer_the_model_folds_at_its_next_forward_in_training():
    tokenizer = tiny_tokenizer()
    batch = Collator(tokenizer)([make_row(tokenizer, (4,), seed=0)])
    model = reset(open_model(tokenizer)).train()
    assert model(**batch).align_loss is None
    assert not model.statistics_seen
    assert model(**batch).align_loss is not None
    tokens = model.encode_video(**batch)[0].tokens.flatten(0, 1)
    torch.testing.assert_close(model.expected_mean, tokens.mean(0), rtol=1e-4, atol=1e-5)
    model.eval()
    before = model.expected_mean.clone()
    model(**batch)
    model(**batch)
    assert torch.equal(model.expected_mean, before)


def test_groups_and_none_share_one_distribution():
    assert float(evidence_log_probabilities(torch.randn(7)).exp().sum()) == pytest.approx(1.0)
