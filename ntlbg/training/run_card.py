"""The card of a trained model: what was trained, how, and what the run itself measured."""

import torch
import transformers

from ntlbg.model_card import Measured, model_card, table
from ntlbg.training.loss_schedule import LOSSES


WHAT = (
    "A vision-language model behind a selector of representative frames: it answers from the k groups of frames that "
    "represent the video for the question."
)


def run_card(trainer, model_name: str, tags: list[str], datasets: list[str]) -> str:
    r"""
    README.md of a finished (or running) [`NTLBGTrainer`], with the Hub's front matter.

    Every number in it is from the run's own log; where nothing was evaluated, it says so.
    """
    return str(
        model_card(
            model_name,
            what=WHAT,
            sections={"What was trained": _trained(trainer, datasets)},
            measured=_measured(trainer.state.log_history),
            base_model=str(trainer.ntlbg_model.config.base_config.name_or_path or "") or None,
            datasets=datasets,
            tags=tags,
        )
    )


def _trained(trainer, datasets: list[str]) -> str:
    summary, state = trainer.stage_summary, trainer.state
    lines = [
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
    lines += ["", f"transformers {transformers.__version__}, torch {torch.__version__}."]
    return "\n".join(lines)


def _measured(history: list[dict]) -> Measured | None:
    """The last training losses and the last evaluation in a run's log."""
    trained = [entry for entry in history if "loss" in entry]
    evaluated = [entry for entry in history if any(name.startswith("eval_") for name in entry)]
    lines = []
    if trained:
        chosen = {name: value for name, value in trained[-1].items() if name.startswith("loss")}
        lines += [f"Training, step {trained[-1]['step']}:", "", *table(chosen), ""]
    if evaluated:
        scores = {name: value for name, value in evaluated[-1].items() if name.startswith("eval_")}
        scores = {name.removeprefix("eval_"): value for name, value in scores.items()}
        lines += [f"Evaluation, step {evaluated[-1]['step']}:", "", *table(scores)]
    else:
        lines.append("Nothing was evaluated.")
    return Measured("\n".join(lines)) if trained or evaluated else None


def _settings(trainer) -> dict:
    args = trainer.args
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    rates = ("learning_rate", "selector_learning_rate", "merger_learning_rate", "lora_learning_rate")
    names = (*rates, "lr_scheduler_type", "warmup_steps", "weight_decay", "seed")
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    settings["lr_scheduler_type"] = args.lr_scheduler_type.value
    weights = [f"{name} {getattr(args, name + '_weight')}" for name in LOSSES[1:]]
    grounding = getattr(trainer.data_collator, "grounding", None)
    times = {} if grounding is None else {"time format": grounding.time_format, "task": grounding.task or "by row"}
    return {
        "rows per optimizer step": rows,
        **times,
        **settings,
        "mixed precision": args.mixed_precision,
        "loss schedule": args.loss_schedule,
        "loss weights": ", ".join(weights),
    }


__all__ = ["run_card"]
