"""What there is to tell of a finished stage: what was trained, what was dropped, how it scored."""

from __future__ import annotations

import json
from pathlib import Path

from ntlbg.data.frozen_features import Prepared
from ntlbg.training.trainer import NTLBGTrainer


SUMMARY_NAME = "summary.json"

_OF_TIME = ("runtime", "per_second")


def summarize(trainer: NTLBGTrainer, prepared: list[Prepared], scores: dict[str, float]) -> dict:
    """
    A summary of plain values.

    Args:
        prepared: the passes that filled the feature cache.
        scores: of the last evaluation; empty where there was none.
    """
    stage, state, rows = trainer.stage_summary, trainer.state, trainer.train_dataset
    # A stream counts its bad rows as they come; a table has found them before the run.
    unreadable = len(rows.bad) if isinstance(rows.bad, list) else rows.bad.bad
    logged = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return {
        "stage": stage.stage,
        "steps": state.global_step,
        "last_loss": logged[-1] if logged else None,
        "trained": stage.trained,
        "frozen": stage.frozen,
        "why_frozen": stage.reasons,
        "dropped": {
            "rows that cannot be read": unreadable,
            "videos without features": sum(len(made.bad) for made in prepared),
            "rows left out of batches": trainer.data_collator.bad_rows.bad,
        },
        "scores": {
            name.removeprefix("eval_"): value
            for name, value in scores.items()
            if name.startswith("eval_") and not name.endswith(_OF_TIME)
        },
        "folder": str(trainer.args.output_dir),
    }


def describe(summary: dict) -> str:
    """The summary as lines for people."""
    trained = ", ".join(f"{part.replace('_', ' ')} {count:,}" for part, count in summary["trained"].items())
    lines = [
        f"stage {summary['stage']}: {summary['steps']} steps, now in {summary['folder']}",
        f"  trained: {trained}",
    ]
    # A part that trains has no reason; what of it is frozen is what its adapters, or their copies of it, stand for.
    lines += [
        f"  frozen: {part.replace('_', ' ')} {summary['frozen'][part]:,}, as {why}"
        for part, why in summary["why_frozen"].items()
    ]
    dropped = ", ".join(f"{count} {what}" for what, count in summary["dropped"].items() if count)
    lines.append(f"  dropped: {dropped or 'nothing'}")
    if summary["last_loss"] is not None:
        lines.append(f"  last loss: {summary['last_loss']:.4g}")
    scores = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in summary["scores"].items())
    lines.append(f"  scored: {scores or 'nothing was evaluated'}")
    return "\n".join(lines)


def write_summary(summary: dict, folder: str | Path) -> None:
    """Keep it beside the model; its being there says that the stage is done."""
    (Path(folder) / SUMMARY_NAME).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def read_summary(folder: str | Path) -> dict | None:
    """The summary of a stage that is done, else None."""
    try:
        return json.loads((Path(folder) / SUMMARY_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


__all__ = ["SUMMARY_NAME", "describe", "read_summary", "summarize", "write_summary"]
