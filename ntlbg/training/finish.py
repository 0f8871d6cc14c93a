"""The end of a run: the whole model where only a part of it could be saved, and its way to the Hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ntlbg.hub_push import push_folder
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.training.arguments import ModelArguments
from ntlbg.training.build import build_model
from ntlbg.training.lora import load_adapters, merged_state_dict
from ntlbg.training.trainer import ADAPTER_FILES, STATISTICS_NAME, NTLBGTrainer


def save_whole_model(trainer: NTLBGTrainer, args: ModelArguments) -> None:
    r"""
    Complete the model in the run's folder: where only adapters could be saved, its beginning is loaded again, on the
    CPU and unquantized, and they are added; so is a scorer that `build_model` left behind. Nothing to do where the
    Trainer saved the whole model.

    All processes call; the first one works.
    """
    folder = Path(trainer.args.output_dir)
    adapters = (folder / "adapter_config.json").is_file()
    left_behind = trainer.ntlbg_model.scorer is None and trainer.processing_class.scorer_processor is not None
    if trainer.is_world_process_zero() and (adapters or left_behind):
        # What is loaded from here on is not spread over processes.
        unset_hf_deepspeed_config()
        grounding = trainer.data_collator.grounding
        time_format = None if grounding is None else grounding.time_format
        model, _ = build_model(replace(args, load_in_4bit=False), trainer.args, time_format)
        if adapters:
            _save_with_adapters(model, folder)
        else:
            trained = type(model).from_pretrained(folder, dtype="auto")
            trained.scorer, trained.config.scorer_config = model.scorer, model.config.scorer_config
            trained.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()


def _save_with_adapters(model: NTLBGForConditionalGeneration, folder: Path) -> None:
    adapted = load_adapters(model, folder)
    merged = merged_state_dict(adapted) | load_file(folder / STATISTICS_NAME)
    model.config.selector_trained = True
    model.config.temporal_trained = model.temporal_encoder is not None
    model.save_pretrained(folder, state_dict=merged)
    for name in ADAPTER_FILES:
        (folder / name).unlink(missing_ok=True)


def push(trainer: NTLBGTrainer) -> str:
    """Push the run's folder, without its checkpoints, in one commit; the commit's address."""
    args = trainer.args
    return push_folder(
        args.output_dir,
        args.hub_model_id or Path(args.output_dir).name,
        message="End of training",
        private=args.hub_private_repo,
        token=args.hub_token,
        revision=args.hub_revision,
        ignore_patterns=["checkpoint-*", "_*", "*.bin", "optimizer*"],
    )


__all__ = ["push", "save_whole_model"]
