"""Batches of two processes that differ in length, in videos and groups, in evidence: neither waits for the other for
ever, and no gradient is added to another parameter's."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_parts import tiny_tokenizer
from train_parts import finish, start
from training_parts import Collator, make_row, make_trainer, open_model

from ntlbg.training.gradient_order import order_gradients


RUN = Path(__file__).parent / "uneven_run.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
ON_A_CPU = {"DS_ACCELERATOR": "cpu"}
# What would hang is stopped.
LIMIT = 600


@pytest.mark.distributed
@pytest.mark.parametrize("how", ["in full", "adapters"])
def test_zero_trains_and_evaluates_uneven_batches_as_one_process_does(how, tmp_path):
    alone = start([str(tmp_path), "4", "uneven", how], program=RUN)
    words = [str(tmp_path), "2", "uneven", how, "2", "3"]
    finish(start(words, program=RUN, launcher=TORCHRUN, **ON_A_CPU), timeout=LIMIT)
    finish(alone)
    logs = {name: json.loads((tmp_path / name / "logs.json").read_text()) for name in ("zeroNone", "zero2", "zero3")}
    expected = logs.pop("zeroNone")
    for name, log in logs.items():
        for one, two in zip(expected["train"], log["train"], strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        for metric in ("eval_loss", "eval_loss_evidence", "eval_answered", "eval_exact_match"):
            assert log["eval"][metric] == pytest.approx(expected["eval"][metric], rel=1e-4), metric
        if how == "in full":
            weights = load_file(tmp_path / name / "model.safetensors")
            for key, value in load_file(tmp_path / "zeroNone" / "model.safetensors").items():
                assert (weights[key] - value).abs().max() <= 1e-5, (name, key)


@pytest.mark.distributed
def test_a_batch_without_a_video_on_one_process_alone_is_refused_in_one_sentence(tmp_path):
    words = [str(tmp_path), "2", "without a video", "in full", "3"]
    said = finish(start(words, program=RUN, launcher=TORCHRUN, **ON_A_CPU), code=1, timeout=LIMIT)
    assert "ValueError: A batch has a video on 1 of 2 processes" in said


@pytest.mark.parametrize("groups", [[(5, 3), (4,)], [(6,)], [(1,), (1,)], [(70,), (2,)]])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_come_in_one_order_whatever_is_in_a_batch(groups, checkpointing, tmp_path):
    tokenizer, orders = tiny_tokenizer(), []
    for cut in ([(6,), (4,)], groups):
        rows = [make_row(tokenizer, value, seed=number) for number, value in enumerate(cut)]
        model = open_model(tokenizer, vision_chunk_groups=4)
        trainer = make_trainer(tmp_path, rows=rows, model=model, stage="end_to_end")
        if checkpointing:
            model.activation_checkpointing_enable()
            model.enable_input_require_grads()
        orders.append([])
        for name, parameter in model.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name, order=orders[-1]: order.append(name))
        for _ in range(2):
            order_gradients(model)
        model.train().config.selector_trained = True
        trainer.compute_loss(model, Collator(tokenizer)(rows)).backward()
    assert sorted(orders[0]) == sorted(name for name, _ in model.named_parameters())
    assert orders[1] == orders[0]
