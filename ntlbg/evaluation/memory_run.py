"""The memory of real training steps, in a process of its own: `python -m ntlbg.evaluation.memory_run CASE.json`.

A random-weight model of the real classes, the model's own forward and backward, AdamW. Prints one JSON object. What
counts is VmHWM, the kernel's high-water mark of resident memory, which misses no moment, less what was resident when
the libraries had been imported. The mark is reset when the model and its inputs are there, before the first step.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoConfig, AutoModelForImageTextToText

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig
from ntlbg.modeling_ntlbg.adapters_ntlbg import VideoFeatures
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.training.arguments import ModelArguments
from ntlbg.training.memory import Job
from ntlbg.training.model_shapes import ModelShape, shape_of_config
from ntlbg.training.stages import apply_stage


STEPS = 3
_TEXT, _VIDEO, _START, _END = 20, 3, 4, 5


def base_config(case: dict):
    """transformers' configuration of the case's base model."""
    text, vision, family = case["text"], case["vision"], case["family"]
    head_dim = text["hidden_size"] // text["num_attention_heads"]
    section = [head_dim // 2 - 2 * (head_dim // 6), head_dim // 6, head_dim // 6]
    text = {
        **text,
        "max_position_embeddings": 65536,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    if family == "qwen3_vl":
        text["head_dim"] = head_dim
    return AutoConfig.for_model(
        family,
        text_config=text,
        vision_config=vision,
        image_token_id=6,
        video_token_id=_VIDEO,
        vision_start_token_id=_START,
        vision_end_token_id=_END,
        tie_word_embeddings=case.get("tied", False),
    )


def build(case: dict) -> tuple[NTLBGForConditionalGeneration, ModelShape, Job]:
    """The model of a case, with what its stage trains, and what the estimator is told of it."""
    torch.manual_seed(0)
    job = Job(**case["job"])
    base = base_config(case)
    base._attn_implementation = job.attention
    config = NTLBGConfig(
        base_config=base,
        num_representatives=job.representatives,
        selector_trained=True,
        ntlbg_weight=1.0,
        align_weight=1.0,
        context_weight=1.0,
        vision_chunk_groups=job.chunk_groups,
        selector_size=job.selector_size,
        context_size=job.context_size,
        covariance_rank=job.covariance_rank,
    )
    vlm = AutoModelForImageTextToText.from_config(base, dtype=getattr(torch, job.dtype))
    model = NTLBGForConditionalGeneration(config, vlm=vlm).train()
    shape = shape_of_config(base)
    if job.lora_r:
        target = ModelArguments().lora_target_modules
        inject_adapter_in_model(LoraConfig(r=job.lora_r, lora_alpha=2 * job.lora_r, target_modules=target), model.vlm)
    apply_stage(model, job.stage)
    if job.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model, shape, job


def batch(shape: ModelShape, job: Job) -> dict:
    """Random inputs as the processor and the collator make them."""
    vision = shape.vision
    height, width = (side // vision.patch for side in (job.height, job.width))
    groups, per_group = job.groups(shape), job.tokens_per_group(shape)
    picture = [_START, *[_VIDEO] * per_group, _END]
    if shape.family == "qwen3_vl":
        timed = [token for _ in range(groups) for token in [*[_TEXT] * job.group_text(shape), *picture]]
        video = [_START, *timed, _END]
    else:
        video = [_START, *[_VIDEO] * (groups * per_group), _END]
    text = torch.randint(_TEXT, shape.vocabulary, (job.text_tokens,)).tolist()
    ids = torch.tensor([text[: len(text) // 2] + video + text[len(text) // 2 :]] * job.batch)
    attention_mask = torch.ones_like(ids)
    # Texts are not all of one length: every further row is a token shorter, and padded.
    attention_mask[1:, 0] = 0
    labels = torch.full_like(ids, -100)
    labels[:, -job.answer_tokens :] = ids[:, -job.answer_tokens :]
    inputs = {
        "input_ids": ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "mm_token_type_ids": (ids == _VIDEO).int() * 2,
        "video_grid_thw": torch.tensor([[groups, height, width]] * job.batch),
        "query_input_ids": ids[:, -16:],
        "query_attention_mask": torch.ones_like(ids[:, -16:]),
        "group_timestamps": torch.arange(groups).float().repeat(job.batch),
    }
    if job.cached_features:
        dtype = getattr(torch, job.dtype)
        inputs["video_features"] = [
            VideoFeatures(
                torch.randn(groups, per_group, shape.hidden, dtype=dtype),
                [torch.randn(groups, per_group, shape.hidden, dtype=dtype) for _ in range(vision.deepstack)],
            )
            for _ in range(job.batch)
        ]
    else:
        patches = job.batch * groups * height * width
        inputs["pixel_values_videos"] = torch.randn(patches, vision.pixels_per_patch)
    return inputs


def optimizer_for(model) -> torch.optim.Optimizer:
    """AdamW over what the model trains, as the Trainer's default makes it."""
    return torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], fused=True)


def update(model, inputs: dict, job: Job, optimizer: torch.optim.Optimizer) -> None:
    """One optimizer step."""
    for _ in range(job.accumulation):
        # As the Trainer: the outputs are gone when the backward pass begins.
        loss = model(**inputs, use_cache=False).loss
        (loss / job.accumulation).backward()
        del loss
    torch.nn.utils.clip_grad_norm_([value for group in optimizer.param_groups for value in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024


def measure(case: dict) -> dict:
    """Bytes at the peak above the baseline, and what they were taken from."""
    torch.set_num_threads(1)
    baseline = _status("VmRSS")
    model, shape, job = build(case)
    inputs, optimizer = batch(shape, job), optimizer_for(model)
    # A random-weight model takes more while it is built than one that is loaded: untied embeddings, first of all.
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    for _ in range(STEPS):
        update(model, inputs, job, optimizer)
    return {
        "measured": _status("VmHWM") - baseline,
        "baseline": baseline,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "step_seconds": (time.perf_counter() - start) / STEPS,
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
