"""Two processes on a CPU run for real: DDP, DeepSpeed ZeRO-2 and ZeRO-3, with save, resume and reload; and every file
in ds_configs/ and configuration/accelerate/ is executed.

DeepSpeed runs in float32 here, as `DS_ACCELERATOR=cpu torchrun ... train.py --deepspeed ...`. All but DDP takes
minutes: `make test-distributed`.
"""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from train_parts import ROOT, finish, flags, losses, save_base, save_ntlbg, save_rows, start
from transformers import AutoModelForImageTextToText


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
TOGETHER = ROOT / "tests" / "runs_together.py"
# What a CPU does not do: another precision, and weights in another memory than its own.
ON_A_CPU = {"DS_ACCELERATOR": "cpu"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    # Nothing random in the training, so that the number of processes does not matter.
    model = save_ntlbg(folder / "ntlbg", fade_share=0.0)
    return {"folder": folder, "model": model, "base": save_base(folder / "base"), "rows": save_rows(folder / "data")}


def values(parts, output, **changes) -> dict:
    return {
        "model_name_or_path": parts["model"],
        "dataset": parts["rows"],
        "output_dir": output,
        "stage": "end_to_end",
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "constant",
        "max_steps": 4,
        "save_steps": 2,
        **changes,
    }


@pytest.fixture(scope="module")
def alone(parts):
    """The folder of the run with one process, and twice the batch."""
    folder = parts["folder"] / "alone"
    finish(start(flags(use_cpu=True, **values(parts, folder, per_device_train_batch_size=4))))
    return folder


def assert_same_run(folder, alone):
    never, other = losses(alone), losses(folder)
    assert never.keys() == other.keys()
    for step, loss in never.items():
        assert other[step] == pytest.approx(loss, rel=1e-4), step


def assert_same_weights(folder, alone, most: float):
    weights = load_file(alone / "model.safetensors")
    ours = load_file(folder / "model.safetensors")
    assert ours.keys() == weights.keys()
    for name, value in ours.items():
        assert value.shape == weights[name].shape, name
        # Adam divides by what may be rounding alone, and then steps by the learning rate, whatever the gradient.
        assert (value - weights[name]).abs().mean() <= most, name


def test_two_processes_of_train_py_are_one_with_twice_the_batch(parts, alone, tmp_path):
    words = flags(use_cpu=True, **values(parts, tmp_path / "two"))
    finish(start(words, launcher=TORCHRUN))
    assert_same_run(tmp_path / "two", alone)
    assert_same_weights(tmp_path / "two", alone, 1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("threshold", [None, 0], ids=["small weights whole", "every weight divided"])
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_saves_resumes_and_reloads_as_one_process_does(stage, threshold, parts, alone, tmp_path):
    if stage == 2 and threshold == 0:
        pytest.skip("ZeRO-2 leaves weights whole")
    config = json.loads((ROOT / "ds_configs" / {2: "A100_80GB.json", 3: "A100_40GB.json"}[stage]).read_text())
    if threshold is not None:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = threshold
    (tmp_path / "ds.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    words = flags(**values(parts, out, deepspeed=tmp_path / "ds.json", eval_split="train", predict_with_generate=True))
    said = finish(start(words, launcher=TORCHRUN, **ON_A_CPU))
    assert "answered 8" in said
    assert_same_run(out, alone)
    assert_same_weights(out, alone, 1e-4)
    first, weights = losses(out), load_file(out / "model.safetensors")
    # As if it had been killed after step 2.
    shutil.rmtree(out / "checkpoint-4")
    (out / "model.safetensors").unlink()
    finish(start(words, launcher=TORCHRUN, **ON_A_CPU))
    assert losses(out) == pytest.approx(first, rel=1e-6)
    for name, value in load_file(out / "model.safetensors").items():
        assert (value - weights[name]).abs().max() <= 1e-6, name
    loaded, report = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    assert all(torch.isfinite(value).all() for value in loaded.state_dict().values())


@pytest.mark.distributed
@pytest.mark.parametrize("stage", ["2", "3"])
def test_stages_with_adapters_from_a_base_end_in_the_whole_model_under_zero(stage, parts, tmp_path):
    config = {"2": "A100_80GB.json", "3": "A100_40GB.json"}[stage]
    changes = {
        "model_name_or_path": parts["base"],
        "stages": ["selection", "joint"],
        "lora_r": 2,
        "num_representatives": 3,
        "max_candidates": 16,
        "feature_cache": tmp_path / "features",
        "deepspeed": ROOT / "ds_configs" / config,
        "max_steps": 2,
    }
    finish(start(flags(**values(parts, tmp_path / "out", **changes)), launcher=TORCHRUN, **ON_A_CPU))
    first, last = (
        AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / name, output_loading_info=True)
        for name in ("selection", "joint")
    )
    assert not any(first[1].values())
    assert not any(last[1].values())
    before, after = first[0].state_dict(), last[0].state_dict()
    moved = {name for name, value in after.items() if not torch.equal(before[name], value)}
    assert any(name.endswith("q_proj.weight") for name in moved)
    assert any(name.startswith("selector") for name in moved)
    assert not any(name.startswith("vlm.model.visual") for name in moved)


@pytest.mark.distributed
def test_every_deepspeed_file_trains(parts, tmp_path):
    runs, folders = [], []
    for path in sorted((ROOT / "ds_configs").glob("*.json")):
        config = json.loads(path.read_text())
        for offloaded in ("offload_optimizer", "offload_param"):
            config["zero_optimization"].pop(offloaded, None)
        own = tmp_path / path.name
        own.write_text(json.dumps(config))
        folders.append(tmp_path / path.stem)
        runs.append(flags(**values(parts, folders[-1], deepspeed=own, max_steps=1, save_strategy="no", stage="joint")))
    assert len(runs) >= 6
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    finish(start([str(tmp_path / "runs.json")], program=TOGETHER, launcher=TORCHRUN, **ON_A_CPU))
    found = [losses(folder)[1] for folder in folders]
    assert found == pytest.approx([found[0]] * len(found), rel=1e-4)
    for folder in folders:
        assert load_file(folder / "model.safetensors").keys() == load_file(folders[0] / "model.safetensors").keys()


@pytest.mark.distributed
@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configuration" / "accelerate").glob("*.yaml")))
def test_every_accelerate_file_trains(name, parts, tmp_path):
    config = yaml.safe_load((ROOT / "configuration" / "accelerate" / name).read_text())
    config |= {"mixed_precision": "no", "num_machines": 1, "num_processes": min(config["num_processes"], 2)}
    config |= {"main_process_port": 0, "main_process_ip": None}
    deepspeed = config["distributed_type"] == "DEEPSPEED"
    if not deepspeed:
        config |= {"use_cpu": True, "gpu_ids": None}
        config["distributed_type"] = "MULTI_CPU" if config["num_processes"] > 1 else "NO"
    (tmp_path / name).write_text(yaml.safe_dump(config))
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(tmp_path / name))
    device = {"ddp_backend": "gloo"} if deepspeed else {"use_cpu": True}
    words = flags(**values(parts, tmp_path / "out", max_steps=1, save_strategy="no", **device))
    finish(start(words, launcher=launcher, **(ON_A_CPU if deepspeed else {})))
    assert losses(tmp_path / "out").keys() == {1}
    assert "model.safetensors" in {path.name for path in (tmp_path / "out").iterdir()}
