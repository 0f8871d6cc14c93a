"""Making a run fit a card, one measure after another, until it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ntlbg.training.memory import Estimate, estimate_memory
from ntlbg.training.run_config import deepspeed_of, preset, shape_and_job
from ntlbg.training.stage_names import FEATURE_STAGES
from ntlbg.training.tiers import GIB, Card, Level


# Kept free: the allocator's fragments, and prompts longer than assumed.
HEADROOM = 0.08
FEWEST_REPRESENTATIVES = 16
# What saves less than this share of the peak is left out.
LEAST_SAVING = 0.03


def usable(card: Card) -> float:
    """Bytes of a card that a run may count on."""
    return card.memory * (1 - HEADROOM)


@dataclass(frozen=True)
class Step:
    """One change: what, why, and the peak in bytes before and after."""

    what: str
    why: str
    before: float
    after: float

    def __str__(self) -> str:
        if self.before == self.after:
            return f"{self.what}: {self.why}"
        return f"{self.what}: {self.why} ({self.before / GIB:.1f} -> {self.after / GIB:.1f} GiB)"


def adapt(run: dict, card: Card) -> Iterator[tuple[dict, str, str]]:
    """Changes that the card itself demands, whatever the memory: (new run, what, why)."""
    if not card.bf16 and not run.get("fp16"):
        run = {**run, "fp16": True, "bf16": False, "dtype": "float16"}
        yield run, "fp16 instead of bf16", f"{card.name} has no bfloat16"
    elif card.bf16 and not run.get("bf16"):
        run = {**run, "bf16": True, "fp16": False, "dtype": "bfloat16"}
        yield run, "bf16", f"{card.name} has bfloat16, which needs no loss scaling"
    if not card.flash_attention and run.get("attn_implementation") == "flash_attention_2":
        run = {**run, "attn_implementation": "sdpa"}
        yield run, "attention by sdpa", f"FlashAttention 2 has no kernels for {card.name}"


def _measures(run: dict, gpus: int, card: Card, near: Path | None) -> Iterator[tuple[dict, str, str]]:
    """Every measure there is left, each by itself, in the order of what it costs: (new run, what, why)."""
    if not run.get("activation_checkpointing"):
        change = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}
        yield run | change, "gradient checkpointing", "layers keep their input alone; a third more computing"
    if not run.get("feature_cache") and run.get("stage") not in FEATURE_STAGES:
        yield run | {"feature_cache": "features"}, "cached vision features", "a video is encoded once, not every epoch"
    batch, accumulation = run.get("per_device_train_batch_size") or 8, run.get("gradient_accumulation_steps") or 1
    if batch > 1:
        factor = 2 if batch % 2 == 0 else batch
        batch, accumulation = batch // factor, accumulation * factor
        change = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        yield run | change, f"batch {batch}, accumulation {accumulation}", "the same update in smaller parts"
    if not run.get("lora_r") and run.get("stage") != "selection":
        yield run | {"lora_r": 16, "lora_alpha": 32}, "LoRA of rank 16", "gradients and states of adapters only"
    zero = deepspeed_of(run, near)
    if gpus > 1 and card.bf16:
        for stage, name, what in ((2, "A100_80GB", "gradients and states"), (3, "A100_40GB", "weights, too,")):
            if zero.get("zero_stage", 0) < stage and not (stage == 3 and run.get("load_in_4bit")):
                file = f"ds_configs/{name}.json"
                yield run | {"deepspeed": file}, f"ZeRO-{stage} ({file})", f"{what} divided by {gpus} GPUs"
    if not zero.get("offload_weights") and not run.get("load_in_4bit"):
        file = f"ds_configs/{'RTX4090_24GB' if card.bf16 else 'V100_32GB'}.json"
        yield run | {"deepspeed": file}, f"ZeRO-3 with offload ({file})", "weights wait in the host's memory; slow"
    kept = run.get("num_representatives") or 0
    if kept >= 2 * FEWEST_REPRESENTATIVES:
        yield run | {"num_representatives": kept // 2}, f"{kept // 2} representatives", "the answer sees fewer frames"


def fit(run: dict, card: Card, gpus: int = 1, near: Path | None = None) -> tuple[dict, list[Step], Estimate]:
    """Change a run until it fits the card.

    A measure that does not lower the peak is left out, and so is every one after the run fits. Batch and accumulation
    are changed together: the number of videos of an update stays.

    Args:
        run: a configuration; it is not changed.
        near: the folder that its relative paths may start from, beside the current one.

    Returns:
        The new run, the changes in order, and its memory; that may still exceed `usable(card)` where nothing helps.

    Raises:
        InputError: the model's shape is unknown, or a value makes no sense.
    """
    steps: list[Step] = []

    def memory(of: dict) -> Estimate:
        return estimate_memory(*shape_and_job(of, gpus, near))

    for changed, what, why in adapt(run, card):
        steps.append(Step(what, why, 0.0, 0.0))
        run = changed
    estimate = memory(run)
    while estimate.peak > usable(card):
        for changed, what, why in _measures(run, gpus, card, near):
            after = memory(changed)
            if after.peak < estimate.peak * (1 - LEAST_SAVING):
                steps.append(Step(what, why, estimate.peak, after.peak))
                run, estimate = changed, after
                break
        else:
            break
    return run, steps, estimate


def generate(level: Level, card: Card, gpus: int = 1, model: str | None = None) -> tuple[dict, list[Step], Estimate]:
    """The level's preset, made to fit a card."""
    run = preset(level.name)
    if model is not None:
        run["model_name_or_path"] = model
    if card.flash_attention:
        run["attn_implementation"] = "flash_attention_2"
    return fit(run, card, gpus)
