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
LIMIT = 300


@pytest.mark.distributed
def test_zero_trains_and_evaluates_uneven_batches_as_one_process_does(tmp_path):
    alone = start([str(tmp_path), "4", "uneven"], program=RUN)
    words = [str(tmp_path), "2", "uneven", "2", "3"]
    finish(start(words, program=RUN, launcher=TORCHRUN, **ON_A_CPU), timeout=LIMIT)
    finish(alone)
    logs, weights = (
        {name: read(tmp_path / name) for name in ("zeroNone", "zero2", "zero3")}
        for read in (
            lambda folder: json.loads((folder / "logs.json").read_text()),
            lambda folder: load_file(folder / "model.safetensors"),
        )
    )
    for name in ("zero2", "zero3"):
        for one, two in zip(logs["zeroNone"]["train"], logs[name]["train"], strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        for metric in ("eval_loss", "eval_loss_evidence", "eval_answered", "eval_exact_match"):
            assert logs[name]["eval"][metric] == pytest.approx(logs["zeroNone"]["eval"][metric], rel=1e-4), metric
        for key, value in weights["zeroNone"].items():
            assert (weights[name][key] - value).abs().max() <= 1e-5, (name, key)


@pytest.mark.distributed
def test_a_batch_without_a_video_on_one_process_alone_is_refused_in_one_sentence(tmp_path):
    words = [str(tmp_path), "2", "without a video", "3"]
    said = finish(start(words, program=RUN, launcher=TORCHRUN, **ON_A_CPU), code=1, timeout=LIMIT)
    assert "ValueError: A batch has a video on 1 of 2 processes" in said


@pytest.mark.parametrize("groups", [[(5, 3), (4,)], [(6,)], [(1,), (1,)], [(70,), (2,)]])
def test_gradients_come_in_one_order_whatever_is_in_a_batch(groups, tmp_path):
    tokenizer, orders = tiny_tokenizer(), []
    for cut in ([(6,), (4,)], groups):
        rows = [make_row(tokenizer, value, seed=number) for number, value in enumerate(cut)]
        model = open_model(tokenizer, vision_chunk_groups=4)
        trainer = make_trainer(tmp_path, rows=rows, model=model, stage="end_to_end")
        order_gradients(model)
        orders.append([])
        for name, parameter in model.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name, order=orders[-1]: order.append(name))
        model.train().config.selector_trained = True
        trainer.compute_loss(model, Collator(tokenizer)(rows)).backward()
    assert len(orders[0]) > 100
    assert orders[1] == orders[0]
