"""Run by torchrun (or alone) in tests/test_two_processes.py: trains and evaluates, and writes down what came of it."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file


sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)

from tiny_parts import tiny_tokenizer  # noqa: E402
from training_parts import make_row, make_trainer, open_model  # noqa: E402


def main(folder: str, batch: int, accumulation: int):
    tokenizer = tiny_tokenizer()
    # Rows 2 and 3 have no video: with two processes of batches of two, one process has none in one step.
    groups = [(6,), (4,), (), (), (5, 3), (1,), (7,), (2,)]
    rows = [make_row(tokenizer, value, seed=number, answer=1 + number) for number, value in enumerate(groups)]
    trainer = make_trainer(
        folder,
        rows=rows,
        eval_rows=rows[:7],
        model=open_model(tokenizer),
        stage="end_to_end",
        train_sampling_strategy="sequential",
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        per_device_eval_batch_size=2,
        predict_with_generate=True,
        max_steps=4,
        logging_steps=2,
        optim="sgd",
        learning_rate=1e-4,
        save_strategy="steps",
        save_steps=4,
    )
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        lines = [line for line in trainer.state.log_history if "loss" in line]
        (Path(folder) / "logs.json").write_text(json.dumps({"train": lines, "eval": metrics}))
    state = {name: value.contiguous() for name, value in trainer.model.state_dict().items()}
    save_file(state, Path(folder) / f"rank{trainer.args.process_index}.safetensors")
    trainer.end()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
