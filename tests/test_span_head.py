"""The span head: moments finer than the selection's spacing, learnt from spans alone; off, it is not there."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_model
from tiny_parts import FAMILIES, tiny_tokenizer
from training_parts import Collator, make_row, make_trainer, open_model

from ntlbg.cli import main
from ntlbg.data.world_moments import build_moment_video
from ntlbg.data.world_video import write_video
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.modeling_ntlbg.span_head_ntlbg import (
    SAME_MOMENT,
    Proposals,
    SpanHead,
    found_moments,
    interval_iou,
    moments_of,
    span_loss,
)
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.training.arguments import ModelArguments, NTLBGTrainingArguments
from ntlbg.training.build import build_model
from ntlbg.training.collator import group_evidence
from ntlbg.training.loss_counts import count_losses


TINY = Path(__file__).parents[1] / "checkpoints" / "ntlbg-tiny"
SIZE, GROUPS, KEPT = 16, 32, 4
HEAD = SimpleNamespace(selector_size=SIZE, query_slots=2)


def batch(rows) -> dict:
    made = Collator(tiny_tokenizer())(rows)
    return made


# -- off by default --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_head_changes_neither_answers_nor_what_a_model_without_it_saves(family):
    plain = tiny_model(family, tiny_tokenizer())
    headed = tiny_model(family, tiny_tokenizer(), span_head=True)
    assert not any("span_head" in name for name in plain.state_dict())
    left_out = headed.load_state_dict(plain.state_dict(), strict=False)
    assert left_out.missing_keys
    assert all(name.startswith("span_head.") for name in left_out.missing_keys)
    if family == "qwen3_vl":
        return  # its prompt has time stamps, which these rows do not write
    inputs = batch([make_row(tiny_tokenizer(), seed=1)])
    with torch.no_grad():
        ours, theirs = headed(**inputs, num_representatives=2), plain(**inputs, num_representatives=2)
    assert torch.equal(ours.logits, theirs.logits)
    assert (theirs.span_loss, theirs.selections[0].moment_spans) == (None, None)
    assert ours.span_loss > 0
    assert ours.selections[0].moment_spans is not None


def test_ground_says_what_is_missing():
    inputs = batch([make_row(tiny_tokenizer(), seed=1)])
    with pytest.raises(ValueError, match="This model has no span head; train one"):
        tiny_model("qwen2_vl", tiny_tokenizer()).ground(**inputs)
    model = tiny_model("qwen2_vl", tiny_tokenizer(), span_head=True)
    with pytest.raises(ValueError, match="There is no query to find moments of"):
        model.ground(**{name: value for name, value in inputs.items() if "query" not in name})
    with pytest.raises(ValueError, match="these inputs are for the scorer"):
        model.ground(**inputs, scorer_pixel_values=torch.zeros(2, 3, 8, 8))


def test_ground_gives_every_video_its_moments_and_a_given_selection_gets_them_too():
    tokenizer = tiny_tokenizer()
    model = tiny_model("qwen2_vl", tokenizer, span_head=True)
    inputs = batch([make_row(tokenizer, (5, 3), seed=2), make_row(tokenizer, (1,), seed=3)])
    found = model.ground(**inputs, num_representatives=2)
    assert [len(selection.saliency) for selection in found] == [5, 3, 1]
    for selection in found:
        assert 1 <= len(selection.moment_spans) <= len(selection)
        assert (selection.moment_spans.diff(dim=1) >= 0).all()
        assert len(selection.moment_confidences) == len(selection.moment_spans)
        again = Selection.from_dict(selection.to_dict())
        assert torch.equal(again.moment_spans, selection.moment_spans)
    given = [Selection.from_indices([0], torch.arange(float(count))) for count in (5, 3, 1)]
    with torch.no_grad():
        output = model(**inputs, selection=given)
    assert all(len(selection.moment_spans) == 1 for selection in output.selections)
    assert all(selection.moment_spans is None for selection in given)  # the caller's own stay as they were


# -- what is learnt --------------------------------------------------------------------------------------------------


def test_moments_are_read_off_the_shares_that_the_collator_makes_of_spans():
    seconds = torch.arange(8) * 2.0
    for spans in ([[3.0, 9.5]], [[0.0, 2.0], [5.0, 16.0]], [[4.0, 6.0]], [[2.5, 3.5]], []):
        evidence = group_evidence({"spans": spans, "duration": 16.0}, seconds)
        wanted = torch.tensor(spans).view(-1, 2) / 2
        assert torch.allclose(moments_of(evidence), wanted, atol=1e-6), spans
    # What shares do not tell: where in its group a short moment lies, and where one ends and the next begins.
    assert moments_of(torch.tensor([0.0, 0.5, 0.0])).tolist() == [[1.25, 1.75]]
    assert moments_of(torch.tensor([0.5, 0.5])).tolist() == [[0.5, 1.5]]


def perfect(moment: tuple[float, float], cells: torch.Tensor, sure: float = 9.0) -> Proposals:
    """Proposals that all say `moment`, confident where the cell holds it."""
    start, end = moment
    logits = torch.full((2, KEPT, GROUPS), -50.0)
    logits[0, :, int(start)], logits[1, :, math.ceil(end) - 1] = 50.0, 50.0
    inside = torch.full((GROUPS, 2), 0.5)
    inside[int(start), 0], inside[math.ceil(end) - 1, 1] = start % 1, end - (math.ceil(end) - 1)
    held = torch.tensor([bool((cells[int(start) : math.ceil(end)] == cell).any()) for cell in range(KEPT)])
    saliency = torch.full((GROUPS,), -30.0)
    return Proposals(torch.where(held, sure, -sure), logits[0], logits[1], inside, saliency)


def test_the_loss_is_nothing_for_what_is_right_and_grows_with_every_mistake():
    cells = torch.arange(GROUPS) // (GROUPS // KEPT)
    evidence = torch.zeros(GROUPS)
    evidence[9:14] = torch.tensor([0.25, 1, 1, 1, 0.5])
    proposals = perfect((9.75, 13.5), cells)
    proposals.saliency = torch.logit(evidence, eps=1e-6)
    assert span_loss(proposals, evidence, cells) < 1e-3
    assert torch.allclose(proposals.places()[1], torch.tensor([9.75, 13.5]), atol=1e-4)
    early, timid = perfect((4.75, 13.5), cells), perfect((9.75, 13.5), cells, sure=0.0)
    for wrong in (early, timid):
        wrong.saliency = proposals.saliency
        assert span_loss(wrong, evidence, cells) > 0.1
    # Nothing to be found: only confidence and saliency are judged, and should be low.
    assert span_loss(proposals, torch.zeros(GROUPS), cells) > 1
    quiet = Proposals(torch.full((KEPT,), -30.0), early.start, early.end, early.inside, torch.full((GROUPS,), -30.0))
    assert span_loss(quiet, torch.zeros(GROUPS), cells) < 1e-6


def test_no_spans_lower_every_confidence_and_unknown_spans_give_no_loss(tmp_path):
    tokenizer = tiny_tokenizer()
    model = open_model(tokenizer).train()
    model.config.selector_trained = True
    empty, unknown = (make_row(tokenizer, seed=seed, evidence=kind) for seed, kind in ((3, "none"), (4, "unknown")))
    output = model(**batch([empty, unknown]))
    losses = output.video_losses
    assert ["span" in part for part in losses] == [True, False]
    counts = count_losses(model, batch([empty, unknown]), teacher=False)
    assert counts["span"] == 1
    output.span_loss.backward()
    assert model.span_head.confidence.bias.grad > 0  # a step down the gradient is a step to lower confidence
    # Nothing says where the borders of no moment lie; the gradient is zero and not missing, on every process.
    assert not model.span_head.wanted.weight.grad.any()


def test_a_video_of_unknown_spans_gives_every_weight_of_the_head_a_gradient_of_zero():
    tokenizer = tiny_tokenizer()
    model = open_model(tokenizer).train()
    model(**batch([make_row(tokenizer, seed=4, evidence="unknown")])).ntlbg_loss.backward()
    assert all(value.grad is not None and not value.grad.any() for value in model.span_head.parameters())


def test_every_weight_of_the_head_and_the_query_encoder_learns_from_spans():
    tokenizer = tiny_tokenizer()
    model = open_model(tokenizer)
    output = model(**batch([make_row(tokenizer, (9,), seed=seed) for seed in range(4)]))
    output.span_loss.backward()
    without = {
        name for name, value in model.span_head.named_parameters() if value.grad is None or not value.grad.any()
    }
    # A key's bias moves all of a softmax's logits alike, and a wanted border of one logit per group likewise.
    assert without <= {"key.bias"}
    assert all(value.grad is not None for value in model.selector.query_encoder.parameters())


def toy(generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (T, 2, D), slots and evidence of a video with one event, whose borders lie inside of groups; what a group
    shows is mixed by how much of it the event fills, as a vision tower mixes the two frames of a group."""
    start = 1 + 20 * torch.rand((), generator=generator)
    end = start + 1.5 + 8 * torch.rand((), generator=generator)
    left = torch.arange(GROUPS)
    evidence = (torch.minimum(left + 1, end) - torch.maximum(left + 0.0, start)).clamp(min=0)
    shown = torch.zeros(2, SIZE)
    shown[0, :4], shown[1, 4:8] = 3.0, 3.0
    tokens = 0.3 * torch.randn(GROUPS, 2, SIZE, generator=generator)
    tokens[:, 0] += evidence[:, None] * shown[0] + (1 - evidence[:, None]) * shown[1]
    return tokens, 0.1 * torch.randn(2, SIZE, generator=generator), evidence


def test_a_trained_head_finds_borders_between_the_representatives_and_inside_of_groups():
    torch.manual_seed(0)
    head, generator = SpanHead(HEAD, SIZE), torch.Generator().manual_seed(1)
    cells, indices = torch.arange(GROUPS) // (GROUPS // KEPT), torch.arange(KEPT) * 8 + 4
    weights = torch.full((KEPT,), 1 / KEPT)
    optimizer = torch.optim.AdamW(head.parameters(), 4e-3)
    for _ in range(100):
        for _ in range(4):
            tokens, slots, evidence = toy(generator)
            span_loss(head(tokens, slots, indices, cells, weights), evidence, cells).backward()
        optimizer.step()
        optimizer.zero_grad()
    errors, ious, best = [], [], []
    for _ in range(24):
        tokens, slots, evidence = toy(generator)
        with torch.no_grad():
            found = found_moments(head(tokens, slots, indices, cells, weights), torch.arange(float(GROUPS)))
        truth = moments_of(evidence)[0]
        ious.append(interval_iou(found["moment_spans"][0], truth))
        errors.append((found["moment_spans"][0] - truth).abs().mean())
        best.append(evidence[found["saliency"].argmax()])
    # Representatives stand 8 groups apart; the nearest whole group would be wrong by a quarter of a group.
    assert torch.stack(errors).median() < 0.2
    assert torch.stack(ious).mean() > 0.85
    assert torch.stack(best).mean() > 0.9


# -- what is told ----------------------------------------------------------------------------------------------------


def test_a_moment_found_twice_is_told_once_in_the_seconds_of_uneven_groups():
    logits = torch.full((2, 3, 4), -50.0)
    logits[0, :, 1], logits[1, :2, 2], logits[1, 2, 1] = 50.0, 50.0, 50.0
    proposals = Proposals(
        torch.tensor([1.0, 2.0, 0.0]), logits[0], logits[1], torch.tensor([0.5, 0.5]).expand(4, 2), torch.zeros(4)
    )
    found = found_moments(proposals, torch.tensor([10.0, 12.0, 20.0, 21.0]))
    # Places 1.5 to 2.5, twice, and 1.5 to 1.5: group 1 lasts 8 seconds, group 2 one.
    assert found["moment_spans"].tolist() == [[16.0, 20.5], [16.0, 16.0]]
    assert found["moment_confidences"].tolist() == torch.tensor([2.0, 0.0]).sigmoid().tolist()
    assert SAME_MOMENT == 0.5


def test_the_last_group_ends_and_a_single_one_lasts_a_second():
    one = Proposals(torch.zeros(1), torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([[0.25, 0.75]]), torch.zeros(1))
    assert found_moments(one, torch.tensor([7.0]))["moment_spans"].tolist() == [[7.25, 7.75]]
    whole = Proposals(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(2, 2), torch.zeros(2))
    assert found_moments(whole, torch.tensor([0.0, 2.0]))["moment_spans"].max() <= 4.0


def test_ntlbg_ground_tells_the_heads_moments_or_that_it_believes_in_none(capsys, tmp_path):
    spec = build_moment_video(0, 64)
    write_video(spec, tmp_path / "video.mp4", size=64)
    config = NTLBGForConditionalGeneration.config_class.from_pretrained(TINY)
    config.span_head = True
    torch.manual_seed(0)
    model = NTLBGForConditionalGeneration.from_pretrained(TINY, config=config)
    processor = NTLBGProcessor.from_pretrained(TINY)
    processor.save_pretrained(tmp_path / "headed")
    for bias, code in ((20.0, 0), (-20.0, 1)):
        torch.nn.init.constant_(model.span_head.confidence.bias, bias)
        model.save_pretrained(tmp_path / "headed")
        query, options = spec.events[0].name, ("--model", str(tmp_path / "headed"), "--best", "3", "--quiet")
        told = tmp_path / f"told-{code}.json"
        assert main(["ground", str(tmp_path / "video.mp4"), query, *options, "--json", str(told)]) == code
        told, err = json.loads(told.read_text()), capsys.readouterr().err
        assert all(0 <= value <= 1 for value in told["saliency"])
        if code:
            assert told["spans"] == []
            assert "No moment stands out" in err
            continue
        moments = told["selection"]["moment_spans"]
        assert [[span["start"], min(span["end"], 64.0)] for span in told["spans"]] == [
            [start, min(end, 64.0)] for start, end in moments[:3]
        ]
        assert all(span["confidence"] > 0.99 for span in told["spans"])


# -- training --------------------------------------------------------------------------------------------------------


def test_the_trainer_lowers_the_span_loss_and_without_its_weight_the_head_stays(tmp_path):
    rows = [make_row(tiny_tokenizer(), seed=1), make_row(tiny_tokenizer(), (9,), seed=2, evidence="none")]
    others = dict.fromkeys(("ntlbg_weight", "align_weight", "context_weight", "evidence_weight"), 0.0)
    trainer = make_trainer(tmp_path, rows=rows, max_steps=12, learning_rate=5e-3, stage="selection", **others)
    trainer.train()
    losses = [line["loss_span"] for line in trainer.state.log_history if "loss_span" in line]
    assert losses[-1] < 0.75 * losses[0]
    trainer = make_trainer(tmp_path, rows=rows, span_weight=0.0)
    assert "`span_weight` is 0" in trainer.stage_summary.reasons["span_head"]


def test_a_head_is_saved_loaded_and_added_to_a_checkpoint_without_one(tmp_path):
    model = tiny_model("qwen2_vl", tiny_tokenizer(), span_head=True)
    model.save_pretrained(tmp_path / "headed")
    again = NTLBGForConditionalGeneration.from_pretrained(tmp_path / "headed")
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items() if "span" in name
    )
    # A head beside trained weights: what the checkpoint has stays.
    arguments = NTLBGTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    added, _ = build_model(ModelArguments(model_name_or_path=str(TINY), span_head=True), arguments)
    trained = NTLBGForConditionalGeneration.from_pretrained(TINY).state_dict()
    assert added.config.span_head
    assert added.span_head is not None
    assert all(torch.equal(value, trained[name]) for name, value in added.state_dict().items() if name in trained)
