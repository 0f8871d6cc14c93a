"""The card of a trained model: what was trained, how, and what the run itself measured."""

import re
from pathlib import Path

import torch
import transformers
import yaml

from ntlbg.training.loss_schedule import LOSSES


def run_card(trainer, model_name: str, tags: list[str], datasets: list[str]) -> str:
    r"""
    README.md of a finished (or running) [`NTLBGTrainer`], with the Hub's front matter.

    Every number in it is from the run's own log; where nothing was evaluated, it says so.
    """
    summary, state = trainer.stage_summary, trainer.state
    base = str(trainer.ntlbg_model.config.base_config.name_or_path or "")
    front = {
        "library_name": "transformers",
        "pipeline_tag": "video-text-to-text",
        "tags": sorted({"ntlbg", "long-video", "frame-selection", *tags}),
    }
    # A folder of the training machine means nothing to a reader.
    if _is_hub_name(base):
        front["base_model"] = base
    if public := [name for name in datasets if _is_hub_name(name)]:
        front["datasets"] = public
    lines = ["---", yaml.safe_dump(front, sort_keys=False).strip(), "---", "", f"# {model_name}", ""]
    lines += [
        "A vision-language model behind a selector of representative frames: it answers from the k groups of frames "
        "that represent the video for the question.",
        "",
        "```python",
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        "",
        f'model = AutoModelForImageTextToText.from_pretrained("{model_name}", trust_remote_code=True)',
        f'processor = AutoProcessor.from_pretrained("{model_name}", trust_remote_code=True)',
        "```",
        "",
        "## What was trained",
        "",
        f"Stage `{summary.stage}`, {state.global_step} of {state.max_steps} optimizer steps"
        + (f", on {', '.join(f'`{name}`' for name in datasets)}." if datasets else "."),
        "",
        "| part | trained values | frozen values | why frozen |",
        "|---|---|---|---|",
    ]
    for part in sorted({*summary.trained, *summary.frozen}):
        numbers = f"{summary.trained.get(part, 0):,} | {summary.frozen.get(part, 0):,}"
        lines.append(f"| {part.replace('_', ' ')} | {numbers} | {summary.reasons.get(part, '')} |")
    lines += ["", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _settings(trainer).items()]
    lines += ["", "## What this run measured", ""]
    trained = [entry for entry in state.log_history if "loss" in entry]
    evaluated = [entry for entry in state.log_history if any(name.startswith("eval_") for name in entry)]
    if trained:
        lines += [f"Training, step {trained[-1]['step']}:", "", *_table(trained[-1], "loss"), ""]
    if evaluated:
        lines += [f"Evaluation, step {evaluated[-1]['step']}:", "", *_table(evaluated[-1], "eval_"), ""]
    else:
        lines += ["Nothing was evaluated.", ""]
    lines += [f"transformers {transformers.__version__}, torch {torch.__version__}.", ""]
    return "\n".join(lines)


def _is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()


def _settings(trainer) -> dict:
    args = trainer.args
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    names = ("learning_rate", "selector_learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "seed")
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    settings["lr_scheduler_type"] = args.lr_scheduler_type.value
    weights = [f"{name} {getattr(args, name + '_weight')}" for name in LOSSES[1:]]
    return {
        "rows per optimizer step": rows,
        **settings,
        "mixed precision": args.mixed_precision,
        "loss schedule": args.loss_schedule,
        "loss weights": ", ".join(weights),
    }


def _table(entry: dict, prefix: str) -> list[str]:
    chosen = {name: value for name, value in entry.items() if name.startswith(prefix)}
    rows = [f"| {name.removeprefix('eval_').replace('_', ' ')} | {value:.6g} |" for name, value in chosen.items()]
    return ["| | |", "|---|---|", *rows]


__all__ = ["run_card"]
