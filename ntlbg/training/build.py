"""The model, its processor and the rows, as the arguments of a training run ask for them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from math import isqrt

import torch
from transformers import AutoConfig, AutoProcessor, BitsAndBytesConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import deepspeed_config

from ntlbg.data.frozen_features import FrozenFeatures, Prepared
from ntlbg.data.qa_dataset import QADataset, QAStream, load_qa
from ntlbg.errors import InputError, first_sentence
from ntlbg.grounding.time_tokens import add_time_tokens, time_tokens
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.training.arguments import DataArguments, ModelArguments, NTLBGTrainingArguments
from ntlbg.training.stages import OWN_PARTS


# Where the first look of a model is decided both by its configuration and by its processor.
_SAMPLING = ("candidate_fps", "max_candidates")


def build_model(
    args: ModelArguments, training: NTLBGTrainingArguments, time_format: str | None = None
) -> tuple[NTLBGForConditionalGeneration, NTLBGProcessor]:
    r"""
    Load a base and put a selector in front of it, or load an NTLBG checkpoint.

    `training` has to be made before, so that under ZeRO-3 each process loads its part of the weights only. Under
    DeepSpeed a scorer stays behind: it takes no part in training, and a weight without dimensions, as CLIP's scale is,
    cannot be sent to the other processes or divided; `save_whole_model` adds it to what was trained.

    With the time format "tokens" the tokenizer and the model get the time tokens they lack.

    Raises:
        InputError: the model, or what was asked of it, is not to be had.
    """
    name, where = args.model_name_or_path, {"revision": args.model_revision}
    loading = {"dtype": args.dtype, "attn_implementation": args.attn_implementation, **where}
    if args.load_in_4bit:
        loading |= _four_bits(training)
    settings, left_behind = _settings(args), deepspeed_config() is not None
    try:
        config = AutoConfig.from_pretrained(name, **where)
        if config.model_type == "ntlbg":
            if args.scorer_name_or_path is not None:
                raise InputError(
                    f"`scorer_name_or_path` is {args.scorer_name_or_path!r}, but {name!r} is an NTLBG model, which "
                    "keeps the scorer it was made with; leave it out, or begin from the base"
                )
            if args.temporal_name_or_path is not None or args.temporal_grid is not None:
                raise InputError(
                    f"a second stream is asked for (`temporal_name_or_path`, `temporal_grid`), but {name!r} is an "
                    "NTLBG model, which keeps what it was made with; leave these out, or begin from the base"
                )
            if left_behind:
                config.scorer_config = None
            if args.span_head is not None:
                config.span_head = args.span_head
            model = NTLBGForConditionalGeneration.from_pretrained(name, config=config, **loading)
            processor = AutoProcessor.from_pretrained(name, **where)
            for field, value in settings.items():
                setattr(model.config, field, value)
        else:
            scorer = None if left_behind else args.scorer_name_or_path
            temporal = args.temporal_name_or_path
            if args.temporal_grid is not None:
                settings["temporal_grid"] = args.temporal_grid
            model = NTLBGForConditionalGeneration.from_base(
                name, scorer=scorer, temporal=temporal, config_kwargs=settings, **loading
            )
            model.config.base_config._name_or_path = name
            processor = NTLBGProcessor.from_base(
                name, scorer_processor=args.scorer_name_or_path, temporal_processor=temporal, **where
            )
    except InputError:
        raise
    except (ImportError, OSError, ValueError) as error:
        raise InputError(f"the model {name!r} cannot be loaded: {first_sentence(error)}") from error
    if time_format == "tokens":
        _add_time_tokens(model, processor)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training.mixed_precision)
    if half is not None and is_deepspeed_zero3_enabled():
        # ZeRO-3 casts what it divides while it is made, and leaves what was made beside the base in float32, although
        # it can only train weights of one type.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(half)
    for field in _SAMPLING:
        setattr(processor.video_processor, field, getattr(model.config, field))
    if args.frame_pixels is not None:
        limit_frames(processor, args.frame_pixels)
    if args.number_frames is not None:
        processor.video_processor.number_frames = args.number_frames
    return model, processor


def _add_time_tokens(model: NTLBGForConditionalGeneration, processor: NTLBGProcessor) -> None:
    known = processor.tokenizer.get_vocab()
    if is_deepspeed_zero3_enabled() and any(token not in known for token in time_tokens()):
        raise InputError(
            "ZeRO-3 has divided the embeddings, which the time tokens need whole; add the tokens in a run without it, "
            "or take ZeRO-2"
        )
    try:
        add_time_tokens(model, processor.tokenizer)
    except ValueError as error:
        raise InputError(first_sentence(error)) from error


def _settings(args: ModelArguments) -> dict:
    """Fields of `NTLBGConfig` that were asked for."""
    settings = {name: value for name in (*_SAMPLING, "span_head") if (value := getattr(args, name)) is not None}
    if args.num_representatives is not None:
        settings |= {"num_representatives": args.num_representatives, "max_visual_tokens": None}
    if args.max_visual_tokens is not None:
        settings["max_visual_tokens"] = args.max_visual_tokens
    return settings


def _four_bits(training: NTLBGTrainingArguments) -> dict:
    if training.device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"`load_in_4bit` needs a GPU and the package bitsandbytes, but the device is {training.device.type!r}; "
            "leave it out, or install them"
        )
    tower = ["visual", "vision_tower", "multi_modal_projector"]
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16 if training.fp16 else torch.bfloat16,
        # What trains in full, and the tower, whose features decide the choice.
        llm_int8_skip_modules=[*tower, "lm_head", *OWN_PARTS, "scorer", "temporal_encoder"],
    )
    return {"quantization_config": quantization, "device_map": {"": training.device}}


def limit_frames(processor: NTLBGProcessor, pixels: int) -> None:
    r"""
    Give the base no frame of more than `pixels` pixels, up to its rounding to whole patches, and decode no larger.

    Raises:
        InputError: the base cannot see so small a frame, or sees frames of one size only.
    """
    video = processor.video_processor
    if video.frame_grid is not None:
        raise InputError(
            f"`frame_pixels` is {pixels}, but this base makes {video.frame_grid[0] * video.frame_grid[1]} tokens of "
            "every frame, whatever its size; leave it out"
        )
    base = video.base
    least = (base.patch_size * base.merge_size) ** 2
    if pixels < least:
        raise InputError(f"`frame_pixels` is {pixels}, but one visual token of this base is {least} pixels; give more")
    if processor.base_processor_class == "Qwen3VLProcessor":
        # This base has one budget for a whole video: it is made not to matter, and the decoder keeps to the limit.
        base.size = {"shortest_edge": least, "longest_edge": max(pixels * video.max_candidates, least)}
        side = isqrt(pixels)
    else:
        base.size = {"shortest_edge": min(base.size["shortest_edge"], pixels), "longest_edge": pixels}
        # A frame twice as wide as a square one of so many pixels: up to 4:1 the base scales, and not the decoder.
        side = 2 * isqrt(pixels)
    video.max_side = side if video.max_side is None else min(video.max_side, side)


def build_rows(args: DataArguments, training: NTLBGTrainingArguments) -> tuple[QADataset | QAStream, QADataset | None]:
    r"""
    The rows to train on, and those to evaluate on where there are any.

    Raises:
        InputError: they cannot be read; see `load_qa`.
    """
    common = {"config": args.dataset_config, "video_root": args.video_root, "max_bad_share": args.max_bad_share}
    if args.streaming and training.max_steps <= 0:
        raise InputError("`streaming` reads rows as they come, and does not know how many there are; set `max_steps`")
    train = load_qa(
        args.dataset,
        split=args.train_split,
        streaming=args.streaming,
        max_rows=args.max_train_rows,
        shuffle_seed=training.seed if args.streaming else None,
        **common,
    )
    if args.eval_dataset is None and args.eval_split is None:
        if training.predict_with_generate or training.eval_strategy != "no":
            raise InputError("evaluation is asked for, but no rows for it: give `eval_dataset` or `eval_split`")
        return train, None
    evaluation = load_qa(
        args.dataset if args.eval_dataset is None else args.eval_dataset,
        split=args.eval_split or args.train_split,
        max_rows=args.max_eval_rows,
        **common,
    )
    return train, evaluation


def build_features(
    args: DataArguments,
    model: NTLBGForConditionalGeneration,
    processor: NTLBGProcessor,
    training: NTLBGTrainingArguments,
    sets: Sequence[QADataset],
) -> tuple[FrozenFeatures, list[Prepared]]:
    r"""
    Decode and encode the videos of all `sets` that the folder `feature_cache` has no features of. All processes call.

    Args:
        model: itself, without the shell of adapters, and with its stage applied.

    Raises:
        InputError: the tower is to be trained, or the rows are a stream; see [`FrozenFeatures`].
    """
    if not is_deepspeed_zero3_enabled() and not getattr(model.vlm, "is_quantized", False):
        model.to(training.device)
    # As the Trainer will have it; DeepSpeed has no autocast, it casts the weights.
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    kind = None if training.deepspeed else kinds.get(training.mixed_precision)
    made = []
    with torch.autocast(training.device.type, dtype=kind, enabled=kind is not None):
        features = FrozenFeatures(args.feature_cache, model, processor)
        for rows in sets:
            made.append(
                features.prepare(
                    rows,
                    rank=training.process_index,
                    world_size=training.world_size,
                    workers=training.dataloader_num_workers,
                    max_bad_share=args.max_bad_share,
                    progress=training.process_index == 0 and not training.disable_tqdm,
                )
            )
    return features, made


__all__ = ["build_features", "build_model", "build_rows", "limit_frames"]
