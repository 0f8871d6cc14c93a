"""Train an NTLBG model on questions about your own videos.

    python train.py --config configuration/presets/long.json --dataset my.jsonl --output_dir runs/mine
    accelerate launch --config_file configuration/accelerate/zero3_8gpu.yaml train.py --config ... --dataset my.jsonl
    torchrun --nproc_per_node 8 train.py --config ... --dataset my.jsonl --deepspeed ds_configs/A100_40GB.json

`--stages selection joint end_to_end` trains the stages one after another, each in a folder of its own under
`output_dir`. The same command again goes on where the last one was stopped. Exit codes: 0 done, 2 bad input (one
sentence on the standard error).
"""

import os
import sys
from collections.abc import Sequence

from accelerate import PartialState
from transformers import set_seed

from ntlbg.errors import InputError, as_input_errors, error_line
from ntlbg.grounding.tasks import Grounding
from ntlbg.grounding.time_tokens import time_tokens
from ntlbg.training.build import build_features, build_model, build_rows
from ntlbg.training.checkpoints import checkpoint_to_resume
from ntlbg.training.collator import NTLBGDataCollator
from ntlbg.training.command_line import Command, parse_command
from ntlbg.training.finish import push, save_whole_model
from ntlbg.training.lora import with_lora
from ntlbg.training.run_summary import describe, read_summary, summarize, write_summary
from ntlbg.training.stage_names import FEATURE_STAGES, LANGUAGE_STAGES
from ntlbg.training.stages import apply_stage
from ntlbg.training.trainer import NTLBGTrainer


def train_stage(command: Command, **changes) -> None:
    """Train one stage, save its model in `output_dir`, and tell what was trained, dropped and scored."""

    # --- Arguments -------------------------------------------------------------------------------------------------
    # Before the model is loaded: under ZeRO-3 each process then loads its part of the weights only.
    model_args, data_args, args = command.arguments(**changes)
    checkpoint = checkpoint_to_resume(args.resume_from_checkpoint, args.output_dir)
    set_seed(args.seed)

    # --- Data ------------------------------------------------------------------------------------------------------
    train_rows, eval_rows = build_rows(data_args, args)

    # --- Model -----------------------------------------------------------------------------------------------------
    model, processor = build_model(model_args, args, data_args.time_format)
    grounding, new_tokens = None, []
    if data_args.time_format is not None:
        grounding = Grounding(data_args.time_format, data_args.grounding_task)
    if data_args.time_format == "tokens":
        new_tokens = processor.tokenizer.convert_tokens_to_ids(time_tokens())
    trained, features, prepared = model, None, []
    with as_input_errors():
        if model_args.lora_r:
            trained = with_lora(
                model,
                args.stage,
                r=model_args.lora_r,
                alpha=model_args.lora_alpha,
                dropout=model_args.lora_dropout,
                target_modules=model_args.lora_target_modules,
                trained_tokens=new_tokens,
            )
        apply_stage(trained, args.stage, context_weight=args.context_weight, span_weight=args.span_weight)
    if data_args.feature_cache is not None:
        sets = [rows for rows in (train_rows, eval_rows) if rows is not None]
        features, prepared = build_features(data_args, model, processor, args, sets)

    # --- Training --------------------------------------------------------------------------------------------------
    with as_input_errors():
        trainer = NTLBGTrainer(
            model=trained,
            args=args,
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            data_collator=NTLBGDataCollator(
                processor, max_bad_share=data_args.max_bad_share, features=features, grounding=grounding
            ),
            processing_class=processor,
        )
    trainer.train(resume_from_checkpoint=checkpoint)
    # A public call would push at once; the push comes last, when all is written.
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    scores = {} if eval_rows is None else trainer.evaluate()
    trainer.create_model_card(dataset=data_args.dataset)
    save_whole_model(trainer, model_args)
    if trainer.is_world_process_zero():
        summary = summarize(trainer, prepared, scores)
        print(describe(summary), flush=True)
        # Before the push: one that fails does not undo the stage.
        write_summary(summary, args.output_dir)
        if args.push_to_hub:
            print(f"  pushed: {push(trainer)}", flush=True)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()


def train_stages(command: Command) -> None:
    """Train the stages one after another, each from the model of the last; those that are done are passed over."""
    root, last = command.values["output_dir"] or "trainer_output", None
    for stage in command.stages:
        changes = {"stage": stage, "output_dir": os.path.join(root, stage)}
        if last is not None:
            # What comes from here on has what the first stage was made of.
            made_of = ("model_revision", "scorer_name_or_path", "temporal_name_or_path", "temporal_grid")
            changes |= {"model_name_or_path": last, **dict.fromkeys(made_of)}
        if stage not in LANGUAGE_STAGES:
            changes["lora_r"] = 0  # the language model, which adapters are for, does not train yet
        if stage in FEATURE_STAGES:
            changes["feature_cache"] = None  # what makes features trains
        if stage != command.stages[-1]:
            changes["push_to_hub"] = False
        last = changes["output_dir"]
        if read_summary(last) is None:
            train_stage(command, **changes)
        elif PartialState().is_main_process:
            print(f"stage {stage}: done before, in {last}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 2 bad input."""
    try:
        command = parse_command(argv)
        if command.stages:
            train_stages(command)
        else:
            train_stage(command)
    except InputError as error:
        print(f"train.py: error: {error_line(error)}", file=sys.stderr)
        return 2
    PartialState().destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
