"""A run that is killed in the middle of an epoch and started again with the same command is one that never stopped."""

import os
import signal

import pytest
from safetensors.torch import load_file
from train_parts import flags, losses, run_here, save_ntlbg, save_rows, start

from ntlbg.training.collator import NTLBGDataCollator


@pytest.mark.parametrize("streaming", [False, True], ids=["map-style", "streaming"])
def test_a_run_killed_between_checkpoints_ends_as_one_that_was_not(streaming, tmp_path, monkeypatch):
    values = {
        # Half of the videos are faded at random: the state of the generators counts, too.
        "model_name_or_path": save_ntlbg(tmp_path / "ntlbg", fade_share=0.5),
        "dataset": save_rows(tmp_path / "data"),
        "streaming": streaming,
        "stage": "joint",
        "gradient_accumulation_steps": 1,
        "max_steps": 6,
        "save_steps": 2,
        "save_total_limit": 2,
    }
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    words = flags(use_cpu=True, output_dir=killed, **values)
    process = start(words, PYTHONUNBUFFERED="1")
    seen = 0
    for line in process.stdout:
        seen += line.startswith("{'loss'")
        if seen == 3:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    # Four steps are an epoch of eight rows in batches of two: the third lies in its middle, and is lost.
    assert seen == 3
    assert (killed / "checkpoint-2").is_dir()
    assert not (killed / "checkpoint-6").exists()
    assert run_here(output_dir=whole, **values) == 0
    read = []
    one = NTLBGDataCollator._one
    monkeypatch.setattr(NTLBGDataCollator, "_one", lambda self, row: read.append(row["id"]) or one(self, row))
    assert run_here(output_dir=killed, **values) == 0
    # Four steps of two rows, and a batch ahead: no batch that it had before is made again.
    assert 8 <= len(read) <= 10
    never, again = losses(whole), losses(killed)
    assert never.keys() == again.keys() == set(range(1, 7))
    for step, loss in never.items():
        assert again[step] == pytest.approx(loss, rel=1e-6), step
    weights = load_file(whole / "model.safetensors")
    for name, value in load_file(killed / "model.safetensors").items():
        assert (value - weights[name]).abs().max() <= 1e-6, name
