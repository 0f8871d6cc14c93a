"""NTLBGTrainer: how a batch is cut changes no gradient, what is logged adds up, a run taken up again is the run."""

import math

import pytest
import torch
from tiny_parts import tiny_tokenizer
from training_parts import Collator, make_row, make_trainer, mixed_rows, open_model
from transformers import AutoModelForImageTextToText, TrainerCallback

import ntlbg
from ntlbg.training.arguments import NTLBGTrainingArguments
from ntlbg.training.loss_schedule import LOSSES


class Gradients(TrainerCallback):
    """Keeps the gradients of the last optimizer step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen = {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}


def one_step(folder, component, **kwargs):
    """Gradients and logs of one step in which one component alone counts."""
    model = open_model()
    model.vlm.set_attn_implementation("eager")
    trainer = make_trainer(folder, model=model, max_steps=1, max_grad_norm=0.0, teacher_weight=1.0, **kwargs)
    trainer.loss_weights = lambda: {name: float(name == component) for name in LOSSES}
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    return gradients.seen, trainer.state.log_history[0]


@pytest.mark.parametrize("component", LOSSES)
def test_a_batch_of_eight_and_four_of_two_have_the_same_gradients(component, tmp_path):
    whole, logs = one_step(tmp_path, component, stage="end_to_end", per_device_train_batch_size=8)
    cut, cut_logs = one_step(
        tmp_path, component, stage="end_to_end", per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    # The length of the whole gradient: where a video's pull is bounded, single entries may be small beside rounding.
    scale = float(torch.stack([value.norm() for value in whole.values()]).norm())
    assert scale > 0
    assert whole.keys() == cut.keys()
    for name, value in whole.items():
        assert (value - cut[name]).abs().max() <= 1e-6 * max(scale, 1.0), name
    for name in LOSSES:
        assert cut_logs[f"loss_{name}"] == pytest.approx(logs[f"loss_{name}"], rel=1e-5)


@pytest.mark.parametrize("stage", ["selection", "end_to_end"])
def test_activation_checkpointing_changes_no_gradient(stage, tmp_path):
    plain, _ = one_step(tmp_path, "task", stage=stage)
    saved, _ = one_step(tmp_path, "task", stage=stage, activation_checkpointing=True)
    for name, value in plain.items():
        torch.testing.assert_close(saved[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_training_in_half_precision_keeps_the_selector_and_the_losses_in_full(tmp_path):
    trainer = make_trainer(tmp_path, model=open_model().bfloat16(), stage="joint", bf16=True, max_steps=2)
    trainer.train()
    for line in trainer.state.log_history[:2]:
        assert all(math.isfinite(value) for name, value in line.items() if name.startswith("loss"))
    assert trainer.model.vlm.lm_head.weight.dtype == torch.bfloat16
    assert trainer.model.selector.kappa.dtype == trainer.model.expected_mean.dtype == torch.float32


@pytest.mark.parametrize("every", [1, 3])
def test_logged_components_times_weights_sum_to_the_logged_loss(every, tmp_path):
    trainer = make_trainer(
        tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=6, logging_steps=every
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 6 // every
    for line in lines:
        total = sum(line[f"weight_{name}"] * line[f"loss_{name}"] for name in LOSSES if f"loss_{name}" in line)
        assert total == pytest.approx(line["loss"], rel=1e-6)
    if every == 1:
        assert [line["weight_ntlbg"] for line in lines] == pytest.approx([2 * (1 - step / 6) for step in range(6)])
        assert [line["weight_align"] for line in lines] == pytest.approx([step / 6 for step in range(6)])


def test_a_component_that_no_video_has_is_not_logged(tmp_path):
    tokenizer = tiny_tokenizer()
    rows = [make_row(tokenizer, (4,), seed=seed, evidence="unknown") for seed in range(4)]
    trainer = make_trainer(tmp_path, rows=rows, max_steps=1)
    trainer.train()
    assert "loss_context" in trainer.state.log_history[0]
    assert not {"loss_evidence", "loss_teacher"} & trainer.state.log_history[0].keys()


@pytest.mark.parametrize("stage", ["selection", "joint"])
def test_a_run_taken_up_again_is_the_run_that_never_stopped(stage, tmp_path):
    """In the middle of an epoch, with random fading and a learning rate that falls."""
    settings = {
        "stage": stage,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "lr_scheduler_type": "linear",
        "save_strategy": "steps",
        "save_steps": 2,
    }
    whole = make_trainer(tmp_path, model=open_model(fade_share=1.0), **settings)
    whole.train()
    again = make_trainer(tmp_path, model=open_model(seed=5, fade_share=1.0), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    before = [line["loss"] for line in whole.state.log_history if "loss" in line]
    after = [line["loss"] for line in again.state.log_history if "loss" in line]
    assert after == pytest.approx(before, rel=1e-6)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=1e-6, atol=1e-7, msg=name)


def test_a_checkpoint_loads_as_a_model_that_gives_the_same_losses(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint-1").eval()
    assert loaded.config.selector_trained
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in trainer.model.state_dict().items())
    batch = Collator(tiny_tokenizer())(mixed_rows(tiny_tokenizer())[:3])
    with torch.no_grad():
        ours, theirs = trainer.model.eval()(**batch), loaded(**batch)
    for name in ("task", "ntlbg", "align", "context", "evidence"):
        # Not to the bit: weights out of a file lie elsewhere in memory, and sums round by where their parts lie.
        torch.testing.assert_close(
            getattr(ours, f"{name}_loss"), getattr(theirs, f"{name}_loss"), rtol=1e-6, atol=1e-6
        )
    assert (tmp_path / "checkpoint-1" / "tokenizer.json").is_file()


def test_every_trained_parameter_has_a_gradient_even_without_a_video(tmp_path):
    tokenizer = tiny_tokenizer()
    rows = [make_row(tokenizer, (), seed=seed) for seed in range(2)]
    trainer = make_trainer(tmp_path, rows=rows, stage="end_to_end", max_steps=1, per_device_train_batch_size=2)
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    own = {name: value for name, value in gradients.seen.items() if not name.startswith("vlm.")}
    assert own
    assert not any(value.any() for value in own.values())
    assert gradients.seen["vlm.lm_head.weight"].any()


def test_the_selector_has_a_learning_rate_of_its_own(tmp_path):
    trainer = make_trainer(tmp_path, stage="joint", selector_learning_rate=5e-3, learning_rate=1e-4, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    names = {id(value): name for name, value in trainer.model.named_parameters()}
    for group in groups:
        own = {names[id(value)].split(".")[0] != "vlm" for value in group["params"]}
        assert own == {group["lr"] == 5e-3}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    assert trainer.create_optimizer() is trainer.optimizer  # as a second call of `train` does
    grouped = [id(value) for group in groups for value in group["params"]]
    assert sorted(grouped) == sorted(id(value) for value in trainer.model.parameters() if value.requires_grad)


# Evaluation


def test_an_evaluation_counts_each_row_once_whatever_the_batches(tmp_path):
    rows, results = mixed_rows(tiny_tokenizer()), []
    for size in (1, 3, 8):
        trainer = make_trainer(tmp_path, eval_rows=rows, per_device_eval_batch_size=size, loss_schedule="constant")
        trainer.model.config.selector_trained = True
        results.append(trainer.evaluate())
    for metrics in results:
        for name in ("loss", "loss_task", "loss_ntlbg", "loss_align", "loss_context", "loss_evidence"):
            assert metrics[f"eval_{name}"] == pytest.approx(results[0][f"eval_{name}"], rel=1e-5)
        total = sum(metrics[f"eval_loss_{name}"] for name in LOSSES if f"eval_loss_{name}" in metrics)
        assert metrics["eval_loss"] == pytest.approx(total)


def test_an_evaluation_answers_and_scores_every_row(tmp_path):
    """The rows' own answers are replaced by what the model says, so that the score has to be all but the last."""
    tokenizer = tiny_tokenizer()
    rows = [make_row(tokenizer, (4,), seed=seed) for seed in range(4)]
    trainer = make_trainer(
        tmp_path, eval_rows=rows, predict_with_generate=True, generation_max_new_tokens=4, per_device_eval_batch_size=3
    )
    batch = Collator(tokenizer, generation=True)(rows)
    batch.pop("rows")
    sequences = trainer.model.generate(**batch, do_sample=False, max_new_tokens=4)
    said = tokenizer.batch_decode(sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    for row, text in zip(rows, said, strict=True):
        row["answer"] = text
    rows[0] |= {"options": ["something else", said[0]], "answer_index": 1}
    rows[1] |= {"options": ["this", "that"], "answer_index": 0}
    rows[3]["answer"] = "no such thing"
    metrics = trainer.evaluate()
    assert metrics["eval_answered"] == 4
    assert metrics["eval_unanswered"] == 0
    assert metrics["eval_exact_match"] == 0.5
    assert metrics["eval_multiple_choice_accuracy"] == 0.5
    assert metrics["eval_unparsed_answers"] == 1


def test_a_row_that_the_collator_leaves_out_is_reported(tmp_path):
    tokenizer = tiny_tokenizer()
    rows = [make_row(tokenizer, (4,), seed=seed) for seed in range(3)]

    class Lossy(Collator):
        def __call__(self, rows):
            return super().__call__([row for row in rows if row["id"] != "row-1"])

        def for_generation(self):
            return Lossy(self.tokenizer, generation=True)

    trainer = make_trainer(tmp_path, eval_rows=rows, predict_with_generate=True, per_device_eval_batch_size=3)
    trainer.data_collator = Lossy(tokenizer)
    metrics = trainer.evaluate()
    assert (metrics["eval_answered"], metrics["eval_unanswered"]) == (2, 1)


# The card


def test_the_card_says_what_was_trained_and_only_what_the_run_measured(tmp_path):
    trainer = make_trainer(tmp_path, eval_rows=mixed_rows(tiny_tokenizer())[:2], max_steps=1)
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "Nothing was evaluated." in card
    assert f"| language model | 0 | {trainer.stage_summary.frozen['language_model']:,} | not in the stage" in card
    assert f"{trainer.state.log_history[0]['loss_task']:.6g}" in card
    loss = trainer.evaluate()["eval_loss"]
    trainer.create_model_card(model_name="mine", tags="own-tag", dataset=["someone/questions", "/data/mine.jsonl"])
    card = (tmp_path / "README.md").read_text()
    assert "Nothing was evaluated." not in card
    assert f"| loss | {loss:.6g} |" in card
    assert "own-tag" in card
    assert "datasets:\n- someone/questions\nlibrary_name: transformers\n" in card
    assert "on `someone/questions`, `/data/mine.jsonl`." in card
    assert "# mine" in card


# What is refused, and the names


def test_what_does_not_fit_together_is_said_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"`teacher_weight` is 1.0, but the attention implementation 'sdpa'"):
        make_trainer(tmp_path, teacher_weight=1.0)
    with pytest.raises(ValueError, match=r"`model` should be an `NTLBGForConditionalGeneration`"):
        make_trainer(tmp_path, model=open_model().vlm)
    with pytest.raises(ValueError, match=r"`stage` should be one of selection, joint, .*, but it is 'all'"):
        NTLBGTrainingArguments(output_dir=str(tmp_path), stage="all")
    with pytest.raises(ValueError, match=r"`align_weight` should be at least 0, but it is -1"):
        NTLBGTrainingArguments(output_dir=str(tmp_path), align_weight=-1)
    with pytest.raises(ValueError, match=r"`dispatch_batches` or `split_batches`"):
        NTLBGTrainingArguments(output_dir=str(tmp_path), accelerator_config={"dispatch_batches": True})
    with pytest.raises(ValueError, match="There is no `eval_dataset`"):
        make_trainer(tmp_path).evaluate()


def test_cached_features_are_refused_where_the_vision_tower_trains(tmp_path):
    trainer = make_trainer(tmp_path, stage="end_to_end")
    batch = Collator(tiny_tokenizer())(mixed_rows(tiny_tokenizer())[:1])
    batch["video_features"] = trainer.model.encode_video(**batch)
    with pytest.raises(ValueError, match=r"trains merger and vision_tower, but the batch has `video_features`"):
        trainer.compute_loss(trainer.model, batch)


def test_the_trainer_is_a_public_name():
    assert ntlbg.NTLBGTrainer.__name__ == "NTLBGTrainer"
    assert {"NTLBGTrainer", "NTLBGTrainingArguments"} <= set(dir(ntlbg))


def test_losses_are_reported_when_they_are_not_numbers(tmp_path):
    model = open_model()
    with torch.no_grad():
        model.vlm.lm_head.weight.fill_(float("nan"))
    trainer = make_trainer(tmp_path, model=model, max_steps=1)
    trainer.train()
    assert math.isnan(trainer.state.log_history[0]["loss"])


def test_more_groups_can_be_shown_in_training_than_in_evaluation(tmp_path):
    """With one group kept there is no context to tell; with three there is."""
    tokenizer = tiny_tokenizer()
    rows = [make_row(tokenizer, (4,), seed=seed) for seed in range(4)]
    seen = {}
    for kept, shown in ((1, 3), (3, 1)):
        model = open_model(tokenizer, num_representatives=kept)
        settings = {"train_representatives": shown, "fade_share": 0.25, "max_steps": 1}
        trainer = make_trainer(tmp_path, rows=rows, eval_rows=rows, model=model, **settings)
        trainer.train()
        seen[kept] = ("loss_context" in trainer.state.log_history[0], "eval_loss_context" in trainer.evaluate())
        assert (trainer.model.config.num_representatives, trainer.model.config.fade_share) == (kept, 0.25)
    assert seen == {1: (True, False), 3: (False, True)}
