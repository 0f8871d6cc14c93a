"""Several runs of train.py, one after another in the same processes (started by torchrun or `accelerate launch`), as a
sweep would do: `python runs_together.py runs.json`, a list of lists of flags."""

import json
import sys
from pathlib import Path

import torch
import transformers.training_args
from accelerate import PartialState


sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
torch.set_num_threads(1)
# transformers takes `--bf16` under DeepSpeed for a matter of GPUs; DeepSpeed computes in bfloat16 on a CPU as well.
transformers.training_args.is_torch_bf16_gpu_available = lambda: True

from ntlbg.training.command_line import parse_command  # noqa: E402
from train import train_stage  # noqa: E402


if __name__ == "__main__":
    for words in json.loads(Path(sys.argv[1]).read_text()):
        train_stage(parse_command(words))
    PartialState().destroy_process_group()
