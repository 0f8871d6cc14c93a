"""Two processes on a CPU run for real: DDP, DeepSpeed ZeRO-2 and ZeRO-3, with save, resume and reload; and every file
in ds_configs/ and configuration/accelerate/ is executed as it stands, bfloat16 and offload included.

What is not as on GPUs: `DS_ACCELERATOR=cpu`; accelerate gets the number of processes, the address and gloo by flags
(two machines are two launches); transformers' question for a GPU before it trains in bfloat16 is answered for it
(runs_together.py); V100_32GB.json runs in float32, as DeepSpeed has no float16 on a CPU. It takes minutes:
`make test-distributed`; DDP by itself is in test_two_processes.py.
"""

import json
import shutil
import socket

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_encoders import save_encoder
from train_parts import ROOT, finish, flags, losses, save_base, save_ntlbg, save_rows, start
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor


pytestmark = pytest.mark.distributed

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
TOGETHER = ROOT / "tests" / "runs_together.py"
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


@pytest.mark.parametrize("stage", ["2", "3"])
def test_stages_with_adapters_from_a_base_end_in_the_whole_model_under_zero(stage, parts, tmp_path):
    config = {"2": "A100_80GB.json", "3": "A100_40GB.json"}[stage]
    changes = {
        "model_name_or_path": parts["base"],
        # Its scale has no dimensions, which ZeRO-3 cannot divide.
        "scorer_name_or_path": save_encoder("clip", tmp_path / "clip"),
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
    assert not any(name.startswith(("vlm.model.visual", "scorer")) for name in moved)
    for name, value in AutoModel.from_pretrained(tmp_path / "clip").state_dict().items():
        assert torch.equal(after[f"scorer.{name}"], value), name
    assert AutoProcessor.from_pretrained(tmp_path / "out" / "joint").scorer_processor is not None


def test_every_deepspeed_file_trains_as_it_stands(parts, alone, tmp_path):
    runs, folders, expected = [], [], []
    for path in sorted((ROOT / "ds_configs").glob("*.json")):
        half = "bf16" in json.loads(path.read_text())
        # A base gets its selector beside it, in float32, which ZeRO-3 cannot train beside half precision.
        for model in ("model", "base") if path.stem.startswith("A100") else ("model",):
            folders.append(tmp_path / f"{path.stem}-{model}")
            changes = {"model_name_or_path": parts[model], "deepspeed": path, "bf16": half, "stage": "joint"}
            changes |= {"num_representatives": 3, "max_steps": 1, "save_strategy": "no"}
            runs.append(flags(**values(parts, folders[-1], **changes)))
            expected.append((model, torch.bfloat16 if half else torch.float32))
    assert len(runs) == 8
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    finish(start([str(tmp_path / "runs.json")], program=TOGETHER, launcher=TORCHRUN, **ON_A_CPU))
    for folder, (model, dtype) in zip(folders, expected, strict=True):
        if model == "model":
            assert losses(folder)[1] == pytest.approx(losses(alone)[1], rel=1e-4 if dtype == torch.float32 else 0.02)
        assert load_file(folder / "model.safetensors")["vlm.lm_head.weight"].dtype == dtype
        loaded, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values())
        assert loaded.selector.kappa.dtype == torch.float32


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configuration" / "accelerate").glob("*.yaml")))
def test_every_accelerate_file_trains_as_it_stands(name, parts, tmp_path):
    path = ROOT / "configuration" / "accelerate" / name
    config = yaml.safe_load(path.read_text())
    deepspeed, processes = config["distributed_type"] == "DEEPSPEED", min(config["num_processes"], 2)
    changes = {"bf16": config["mixed_precision"] == "bf16", "max_steps": 1, "save_strategy": "no"}
    changes |= {"ddp_backend": "gloo"} if deepspeed else {"use_cpu": True}
    (tmp_path / "runs.json").write_text(json.dumps([flags(**values(parts, tmp_path / "out", **changes))]))
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(path), "--num_processes", str(processes)]
    if config["num_machines"] > 1:
        launcher += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(_free_port())]
    elif processes > 1:
        launcher += ["--main_process_port", "0"]
    machines = [
        start(
            [str(tmp_path / "runs.json")],
            program=TOGETHER,
            launcher=[*launcher, "--machine_rank", str(rank)],
            **(ON_A_CPU if deepspeed else {}),
        )
        for rank in range(config["num_machines"])
    ]
    for machine in machines:
        finish(machine)
    (first,) = (line for line in json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"][:1])
    # Of eight rows, two a process.
    assert first["epoch"] == processes / 4
    assert "model.safetensors" in {path.name for path in (tmp_path / "out").iterdir()}


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]
