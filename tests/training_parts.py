"""Rows, batches and a trainer small enough for tests: random pixels, random words, real models.

A row is what the model takes for it, unpadded: a prompt with any number of videos, a question, an answer.
"""

import torch
from tiny_models import tiny_model
from tiny_parts import tiny_tokenizer

from ntlbg.training.arguments import NTLBGTrainingArguments
from ntlbg.training.trainer import NTLBGTrainer


GRID = (2, 4)  # patches of a group: two visual tokens
PATCH = 3 * 2 * 14 * 14
TOKENS_PER_GROUP = 2


def make_row(tokenizer, groups=(6,), *, seed: int, question: int = 4, answer: int = 3, evidence="one") -> dict:
    """A row with one video per entry of `groups`; `evidence` is "one" (a third into each), "none" or "unknown"."""
    generator = torch.Generator().manual_seed(seed)
    words = lambda count: torch.randint(20, 200, (count,), generator=generator).tolist()  # noqa: E731
    start, pad, end = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|video_pad|>", "<|vision_end|>"])
    ids = words(2)
    for count in groups:
        ids += [start, *[pad] * (count * TOKENS_PER_GROUP), end]
    asked, said = words(question), [*words(answer), tokenizer.eos_token_id]
    ids += asked
    known = {"one": 0.0, "none": 0.0, "unknown": float("nan")}[evidence]
    shares = [torch.full((count,), known) for count in groups]
    if evidence == "one":
        for share in shares:
            share[len(share) // 3] = 0.5
    return {
        "id": f"row-{seed}",
        "video_id": f"video-{seed}",
        "question": tokenizer.decode(asked),
        "answer": tokenizer.decode(said, skip_special_tokens=True),
        "input_ids": ids + said,
        "labels": [-100] * len(ids) + said,
        "query_input_ids": asked,
        "video_grid_thw": [[count, *GRID] for count in groups],
        "pixel_values_videos": torch.randn(sum(groups) * GRID[0] * GRID[1], PATCH, generator=generator),
        "group_timestamps": torch.cat([torch.arange(count) * 1.0 for count in groups]) if groups else torch.zeros(0),
        "group_evidence": torch.cat(shares) if groups else torch.zeros(0),
    }


class Collator:
    """Right padding for training; `for_generation` cuts the answers off and pads on the left."""

    def __init__(self, tokenizer, generation: bool = False):
        self.tokenizer, self.generation = tokenizer, generation

    def for_generation(self):
        return Collator(self.tokenizer, generation=True)

    def __call__(self, rows: list[dict]) -> dict:
        pad = self.tokenizer.pad_token_id
        ids = [row["input_ids"] for row in rows]
        if self.generation:
            ids = [row["input_ids"][: row["labels"].count(-100)] for row in rows]
        batch = {
            "input_ids": self._pad(ids, pad),
            "attention_mask": self._pad([[1] * len(row) for row in ids], 0),
            "query_input_ids": self._pad([row["query_input_ids"] for row in rows], pad),
            "query_attention_mask": self._pad([[1] * len(row["query_input_ids"]) for row in rows], 0),
        }
        video = self.tokenizer.convert_tokens_to_ids("<|video_pad|>")
        batch["mm_token_type_ids"] = 2 * (batch["input_ids"] == video).int()
        if any(row["video_grid_thw"] for row in rows):
            batch["video_grid_thw"] = torch.tensor([grid for row in rows for grid in row["video_grid_thw"]])
            for name in ("pixel_values_videos", "group_timestamps", "group_evidence"):
                batch[name] = torch.cat([row[name] for row in rows])
        else:
            del batch["query_input_ids"], batch["query_attention_mask"]
        if self.generation:
            batch["rows"] = rows
        else:
            batch["labels"] = self._pad([row["labels"] for row in rows], -100)
        return batch

    def _pad(self, rows: list[list[int]], fill: int) -> torch.Tensor:
        length = max(map(len, rows))
        sides = [([fill] * (length - len(row)), row) for row in rows]
        return torch.tensor([[*gap, *row] if self.generation else [*row, *gap] for gap, row in sides])


def mixed_rows(tokenizer) -> list[dict]:
    """Eight rows: long and short answers, two videos, none, one group, evidence known, empty and unknown."""
    make = lambda *args, **kwargs: make_row(tokenizer, *args, **kwargs)  # noqa: E731
    return [
        make((6,), seed=1, answer=5),
        make((5, 3), seed=2, answer=1),
        make((4,), seed=3, evidence="none"),
        make((), seed=4, answer=2),
        make((1,), seed=5),
        make((7,), seed=6, evidence="unknown", answer=8),
        make((6,), seed=7, question=9),
        make((3,), seed=8, evidence="unknown"),
    ]


def make_trainer(folder, *, rows=None, model=None, eval_rows=None, **kwargs) -> NTLBGTrainer:
    """A trainer on the CPU over `mixed_rows`; the model is tiny and its gates are open, so that all is reached."""
    tokenizer = tiny_tokenizer()
    model = open_model(tokenizer) if model is None else model
    settings = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "lr_scheduler_type": "constant",
        **kwargs,
    }
    return NTLBGTrainer(
        model=model,
        args=NTLBGTrainingArguments(output_dir=str(folder), **settings),
        train_dataset=mixed_rows(tokenizer) if rows is None else rows,
        eval_dataset=eval_rows,
        data_collator=Collator(tokenizer),
        processing_class=tokenizer,
    )


def open_model(tokenizer=None, *, seed: int = 0, family: str = "qwen2_vl", **config_kwargs):
    """A tiny model whose zero-initialised gates are open; nothing in its training is random."""
    tokenizer = tiny_tokenizer() if tokenizer is None else tokenizer
    config_kwargs = {"num_representatives": 3, "fade_share": 0.0, "span_head": True, **config_kwargs}
    model = tiny_model(family, tokenizer, seed=seed, **config_kwargs)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.rich_points.gate.normal_(generator=generator)
        model.selector.kappa.fill_(0.5)
        model.expected_mean.normal_(std=0.1, generator=generator)
    return model
