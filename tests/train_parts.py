"""train.py as a command: tiny models on disk, a few rows, and runs in this process or in others."""

import json
import os
import subprocess
import sys
from pathlib import Path

from qa_parts import row, tiny_processor, write_rows
from tiny_models import tiny_base, tiny_model
from tiny_parts import tiny_base_processor


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FLAGS = {
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 7,
}


def save_ntlbg(folder: Path, **config_kwargs) -> str:
    """A tiny NTLBG checkpoint with its processor."""
    processor = tiny_processor()
    model = tiny_model("qwen2_vl", processor.tokenizer, **{"num_representatives": 3, **config_kwargs})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def save_base(folder: Path, family: str = "qwen2_vl") -> str:
    """A tiny base with its processor."""
    processor = tiny_base_processor(family)
    tiny_base(family, processor.tokenizer).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def save_rows(folder: Path, count: int = 8) -> str:
    """`count` questions about two videos; some with options, some without evidence."""
    folder.mkdir(exist_ok=True)
    options = {"options": ["blue", "red"], "answer": "red", "answer_index": 1}
    rows = [
        row(i, spans=[[i % 4, 2 + i % 4]] if i % 3 else [], **(options if i % 4 == 2 else {})) for i in range(count)
    ]
    return write_rows(folder, rows)


def flags(**values) -> list[str]:
    """Flags of train.py over `FLAGS`; None takes one out, a list is one of several values."""
    words = []
    for name, value in {**FLAGS, **values}.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif value is not None:
            words.append(f"--{name}={value}")
    return words


def run_here(**values) -> int:
    """train.py in this process, on the CPU; its exit code."""
    from train import main

    return main(flags(**{"use_cpu": True, **values}))


def start(words: list[str], *, launcher=(), program: Path = ROOT / "train.py", **environment) -> subprocess.Popen:
    """train.py in a process of its own, one thread each."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", **environment}
    command = [sys.executable, *launcher, str(program), *words]
    return subprocess.Popen(
        command, env=settings, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen, code: int = 0, timeout: int = 900) -> str:
    """What it said, after it ended with `code`, within `timeout` seconds."""
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun takes its workers along
        raise
    assert process.returncode == code, said[-4000:]
    return said


def losses(folder: Path) -> dict[int, float]:
    """The logged loss by step, of a run that is over."""
    state = json.loads((folder / "trainer_state.json").read_text())
    return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
