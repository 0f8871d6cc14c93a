"""Two processes (gloo) are one process with twice the batch: also where one of them has rows without a video."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file


RUN = Path(__file__).parent / "ddp_run.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the run with one process and of that with two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    alone = subprocess.Popen(
        [sys.executable, RUN, one, "4", "1"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    together = subprocess.run(
        [*launch, RUN, two, "2", "1"], env=environment, capture_output=True, text=True, timeout=540, check=False
    )
    said, _ = alone.communicate(timeout=540)
    assert alone.returncode == 0, said.decode()[-3000:]
    assert together.returncode == 0, (together.stdout + together.stderr)[-3000:]
    return one, two


def test_the_logged_losses_and_the_evaluation_are_those_of_one_process(runs):
    one, two = (json.loads((folder / "logs.json").read_text()) for folder in runs)
    assert len(one["train"]) == len(two["train"]) == 2
    for alone, together in zip(one["train"], two["train"], strict=True):
        names = [name for name in alone if name.startswith(("loss", "weight"))]
        assert {"loss_task", "loss_ntlbg", "loss_align", "loss_context", "loss_evidence"} <= set(names)
        for name in names:
            assert together[name] == pytest.approx(alone[name], rel=1e-4), name
        total = sum(together[f"weight_{name[5:]}"] * together[name] for name in names if name.startswith("loss_"))
        assert together["loss"] == pytest.approx(total, rel=1e-6)
    for name in ("eval_loss", "eval_loss_task", "eval_loss_context", "eval_exact_match", "eval_answered"):
        assert two["eval"][name] == pytest.approx(one["eval"][name], rel=1e-4), name
    assert two["eval"]["eval_answered"] == 7


def test_both_processes_hold_the_same_weights_and_they_are_those_of_one_process(runs):
    alone = load_file(runs[0] / "rank0.safetensors")
    first, second = (load_file(runs[1] / f"rank{rank}.safetensors") for rank in range(2))
    for name, value in alone.items():
        assert (first[name] == second[name]).all(), name
        assert (first[name] - value).abs().max() <= 1e-5 * max(float(value.abs().max()), 1.0), name
    assert (runs[1] / "checkpoint-4" / "model.safetensors").is_file()
