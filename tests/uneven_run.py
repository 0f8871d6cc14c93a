"""Run by torchrun (or alone) in tests/test_uneven_batches.py: `uneven_run.py FOLDER BATCH ROWS HOW [ZERO_STAGE ...]`
trains and evaluates, once per stage of ZeRO, on rows that differ in all that a process does not know of another's."""

import json
import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)

from tiny_parts import tiny_tokenizer  # noqa: E402
from training_parts import make_row, make_trainer, open_model  # noqa: E402

from ntlbg.training.arguments import LANGUAGE_MODEL_PROJECTIONS  # noqa: E402
from ntlbg.training.lora import with_lora  # noqa: E402


# By two processes with batches of two: long and short, two videos and three, one group alone and two, a row more.
GROUPS = {"uneven": [(70,), (3,), (5, 3), (6,), (1,), (1,), (7,), (2, 9)], "without a video": [(6,), (4,), (), ()]}
EVIDENCE = ["one", "unknown", "none", "one", "unknown", "none", "unknown", "unknown"]
# Buckets of a few gradients, so that it shows in which order these come.
ZERO = {"reduce_bucket_size": 3000, "overlap_comm": True, "contiguous_gradients": True}
WEIGHTS = {"stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
AUTO = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")


def main(folder: Path, batch: int, rows: str, how: str, stage: int | None):
    tokenizer = tiny_tokenizer()
    made = [
        make_row(tokenizer, groups, seed=number, answer=1 + number, evidence=EVIDENCE[number])
        for number, groups in enumerate(GROUPS[rows])
    ]
    device = {}
    if stage is not None:
        config = {"zero_optimization": {"stage": stage, **ZERO, **(WEIGHTS if stage == 3 else {})}}
        device = {"use_cpu": False, "deepspeed": config | dict.fromkeys(AUTO, "auto")}
    model = open_model(tokenizer, vision_chunk_groups=4)
    if how == "adapters":
        # As the presets train: adapters, checkpointing and accumulation.
        model = with_lora(model, "end_to_end", r=2, alpha=4, target_modules=LANGUAGE_MODEL_PROJECTIONS)
        device |= {"activation_checkpointing": True, "gradient_accumulation_steps": 2}
    trainer = make_trainer(
        folder,
        rows=made,
        eval_rows=made[:5],
        model=model,
        stage="end_to_end",
        train_sampling_strategy="sequential",
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=2,
        predict_with_generate=True,
        max_steps=4,
        learning_rate=1e-4,
        **device,
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model()
    if trainer.is_world_process_zero():
        lines = [line for line in trainer.state.log_history if "loss" in line]
        (folder / "logs.json").write_text(json.dumps({"train": lines, "eval": metrics}))
    trainer.accelerator.free_memory()
    return trainer


if __name__ == "__main__":
    root, size, kind, manner, *stages = sys.argv[1:]
    for number in stages or [None]:
        last = main(Path(root) / f"zero{number}", int(size), kind, manner, number and int(number))
    last.end()
