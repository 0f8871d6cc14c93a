"""What a training run is told: the model, the data, the training. Flat JSON, YAML or flags, by `HfArgumentParser`."""

import functools
import math
import os
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment
from transformers import TrainingArguments

from ntlbg.grounding.names import TASKS, TIME_FORMATS
from ntlbg.training.loss_schedule import SCHEDULES
from ntlbg.training.stage_names import STAGES


# The language model's projections and no others: `all-linear` would also hit the vision tower and the selector.
LANGUAGE_MODEL_PROJECTIONS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


def _check_choice(name: str, value, choices):
    if value not in choices:
        raise ValueError(f"`{name}` should be one of {', '.join(choices)}, but it is {value!r}.")


def _check_at_least(name: str, value, low):
    if value is not None and not (math.isfinite(value) and value >= low):
        raise ValueError(f"`{name}` should be at least {low}, but it is {value!r}.")


def _check_share(name: str, value):
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` should be between 0 and 1, but it is {value!r}.")


@dataclass
class ModelArguments:
    r"""
    Which model is trained, and how it looks at a video. `None` leaves what the model or processor has already.

    Parameters that control the model:
        model_name_or_path (`str`): a base (Qwen2-VL, Qwen2.5-VL, Qwen3-VL), or an NTLBG checkpoint to go on from.
        scorer_name_or_path (`str`, *optional*): a dual encoder for the first look; it is never trained here.
        temporal_name_or_path (`str`, *optional*): a video encoder (VideoMAE, V-JEPA 2, TimeSformer, ViViT) for a
            second stream; its projector is trained, it is not.
        temporal_grid (`list[int]`, *optional*): steps, rows and columns that a segment's tokens are pooled to.
        model_revision (`str`, *optional*): branch, tag or commit on the Hub.
        dtype (`str`): type of the base's weights, "auto" or a torch type; the selector is float32 always.
        attn_implementation (`str`, *optional*): "sdpa", "eager", "flash_attention_2", ...; the teacher needs "eager".

    Parameters that control what is seen:
        num_representatives, max_visual_tokens (`int`, *optional*): k, or a budget of visual tokens; one of the two.
        candidate_fps (`float`, *optional*): candidate frames per second.
        max_candidates (`int`, *optional*): cap on the candidate frames.
        span_head (`bool`, *optional*): a head that tells when what is asked for happens.
        frame_pixels (`int`, *optional*): largest number of pixels of a frame for the base.
        number_frames (`bool`, *optional*): draw on each frame its number among the candidates; the time format
            "numbers" speaks of these.

    Parameters that control LoRA (Hu et al. 2022) and QLoRA (Dettmers et al. 2023):
        lora_r (`int`): rank; 0 for none.
        lora_alpha, lora_dropout (`float`): scale and dropout.
        lora_target_modules (`str`): regular expression over module names; by default the language model alone.
        load_in_4bit (`bool`): the base's weights in four bits (needs a GPU, and `lora_r` where the language
            model trains).
    """

    model_name_or_path: str = "Qwen/Qwen2-VL-7B-Instruct"
    scorer_name_or_path: str | None = None
    temporal_name_or_path: str | None = None
    temporal_grid: list[int] | None = None
    model_revision: str | None = None
    dtype: str = "auto"
    attn_implementation: str | None = None
    num_representatives: int | None = None
    max_visual_tokens: int | None = None
    candidate_fps: float | None = None
    max_candidates: int | None = None
    span_head: bool | None = None
    frame_pixels: int | None = None
    number_frames: bool | None = None
    lora_r: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_target_modules: str = LANGUAGE_MODEL_PROJECTIONS
    load_in_4bit: bool = False

    def __post_init__(self):
        if not self.model_name_or_path:
            raise ValueError("`model_name_or_path` is empty; name a base model or an NTLBG checkpoint.")
        if self.num_representatives is not None and self.max_visual_tokens is not None:
            raise ValueError(
                f"Both `num_representatives` ({self.num_representatives}) and `max_visual_tokens` "
                f"({self.max_visual_tokens}) are given, but each decides k; give one."
            )
        for name in ("num_representatives", "max_visual_tokens", "frame_pixels"):
            _check_at_least(name, getattr(self, name), 1)
        _check_at_least("max_candidates", self.max_candidates, 2)
        if self.candidate_fps is not None and not (math.isfinite(self.candidate_fps) and self.candidate_fps > 0):
            raise ValueError(f"`candidate_fps` should be a positive number, but it is {self.candidate_fps!r}.")
        _check_at_least("lora_r", self.lora_r, 0)
        if not (math.isfinite(self.lora_alpha) and self.lora_alpha > 0):
            raise ValueError(f"`lora_alpha` should be a positive number, but it is {self.lora_alpha!r}.")
        _check_share("lora_dropout", self.lora_dropout)


@dataclass
class DataArguments:
    r"""
    What is trained and evaluated on.

    Parameters that control the data:
        dataset (`str`): a JSONL file, an importable builder "package.module:Builder", or a name on the Hub.
        dataset_config (`str`, *optional*): the Hub set's configuration.
        train_split (`str`): of a builder or a Hub set.
        eval_dataset (`str`, *optional*): as `dataset`; by default `eval_split` of the same.
        eval_split (`str`, *optional*)
        video_root (`str`, *optional*): folder that relative video paths start from.
        streaming (`bool`): read rows as they come.
        max_bad_share (`float`): share of unreadable rows beyond which the run stops.
        feature_cache (`str`, *optional*): folder of frozen vision features, so that a video is decoded and encoded
            once and not every epoch.
        max_train_rows, max_eval_rows (`int`, *optional*): the first so many rows only.

    Parameters that control how rows are asked for times:
        time_format (`str`, *optional*): "numbers" (of the frames; see `number_frames`), "tokens" (added to the
            tokenizer and the model) or "text" (seconds). Without it no row is.
        grounding_task (`str`, *optional*): "moment", "highlights", "dense_captions" or "grounded_answer", for all
            rows; by default the `answer_type` of a row says which, and other rows are ordinary questions.
    """

    dataset: str
    dataset_config: str | None = None
    train_split: str = "train"
    eval_dataset: str | None = None
    eval_split: str | None = None
    video_root: str | None = None
    streaming: bool = False
    max_bad_share: float = 0.0
    feature_cache: str | None = None
    max_train_rows: int | None = None
    max_eval_rows: int | None = None
    time_format: str | None = None
    grounding_task: str | None = None

    def __post_init__(self):
        if not self.dataset:
            raise ValueError("`dataset` is empty; name a JSONL file, a builder or a set on the Hub.")
        if self.time_format is not None:
            _check_choice("time_format", self.time_format, TIME_FORMATS)
        if self.grounding_task is not None:
            _check_choice("grounding_task", self.grounding_task, TASKS)
            if self.time_format is None:
                raise ValueError(
                    f"`grounding_task` is {self.grounding_task!r}, but nothing says how times are written; set "
                    f"`time_format` to one of {', '.join(TIME_FORMATS)}."
                )
        _check_share("max_bad_share", self.max_bad_share)
        for name in ("max_train_rows", "max_eval_rows"):
            _check_at_least(name, getattr(self, name), 1)


@dataclass
class NTLBGTrainingArguments(TrainingArguments):
    r"""
    transformers' own arguments, the stage, and L = L_task + l1 L_NTLBG + l2 L_align + l3 L_context + l4 L_evidence +
    l5 L_teacher + l6 L_span.

    Parameters that control what is trained:
        stage (`str`): "selection" (selector, rich points, transition and the projector of a second stream; the base
            is frozen), "joint" (these and the language model), "end_to_end" (these and the vision tower's merger; in
            full fine-tuning the whole tower), "projectors" (what leads from the towers to the language model, alone)
            or "joint_projectors" (this and what "joint" trains).
        selector_learning_rate (`float`, *optional*): of selector, rich points, transition and the projector of a
            second stream; `learning_rate` if not given.
        merger_learning_rate (`float`, *optional*): of the vision tower's merger; `learning_rate` if not given.
        lora_learning_rate (`float`, *optional*): of the adapters; `learning_rate` if not given.

    Parameters that control the losses:
        ntlbg_weight, align_weight, context_weight, evidence_weight, teacher_weight, span_weight (`float`): multiply
            the schedule; 0 switches a loss off.
        loss_schedule (`str`): "specification" (l1 = 2 (1 - p), l2 = p, l3 = 1/2 of the training's progress p) or
            "constant" (1 each); l4, l5 and l6 are 1 in both.

    Parameters that control what is shown in training:
        train_representatives (`int`, *optional*): k of the training's steps alone; evaluation, and the model that is
            saved, keep theirs. Without annotated spans only what is shown can teach the selector, and an untrained
            one hardly ever shows the evidence: give as many as the videos have groups, or as memory allows.
        fade_share (`float`, *optional*): share of the videos whose groups are faded, in [0, 1]; how much the answer
            suffers says which groups matter. By default the model's own (0.5).

    Parameters that control evaluation:
        predict_with_generate (`bool`): answer the evaluation's questions and score the answers.
        generation_max_new_tokens (`int`): longest answer.

    Defaults that differ from [`~transformers.TrainingArguments`]: `remove_unused_columns=False` and
    `label_names=["labels"]` (the collator makes every input from the rows), `logging_nan_inf_filter=False` (a loss
    that is not a number is shown), `ddp_find_unused_parameters=False` (the trainer gives every trained parameter a
    gradient, on every process), `dispatch_batches=False` (videos of a batch lie flat: it cannot be cut by rows).
    """

    remove_unused_columns: bool = False
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    logging_nan_inf_filter: bool = False
    ddp_find_unused_parameters: bool | None = False
    stage: str = "selection"
    ntlbg_weight: float = 1.0
    align_weight: float = 1.0
    context_weight: float = 1.0
    evidence_weight: float = 1.0
    teacher_weight: float = 0.0
    span_weight: float = 1.0
    loss_schedule: str = "specification"
    train_representatives: int | None = None
    fade_share: float | None = None
    selector_learning_rate: float | None = None
    merger_learning_rate: float | None = None
    lora_learning_rate: float | None = None
    generation_max_new_tokens: int = 16
    predict_with_generate: bool = False

    def __post_init__(self):
        _check_choice("stage", self.stage, STAGES)
        _check_choice("loss_schedule", self.loss_schedule, SCHEDULES)
        for name in ("ntlbg", "align", "context", "evidence", "teacher", "span"):
            _check_at_least(f"{name}_weight", getattr(self, f"{name}_weight"), 0)
        for part in ("selector", "merger", "lora"):
            _check_at_least(f"{part}_learning_rate", getattr(self, f"{part}_learning_rate"), 0)
        _check_at_least("train_representatives", self.train_representatives, 1)
        if self.fade_share is not None:
            _check_share("fade_share", self.fade_share)
        _check_at_least("generation_max_new_tokens", self.generation_max_new_tokens, 1)
        if self.remove_unused_columns:
            raise ValueError(
                "`remove_unused_columns` is set, but rows are not model inputs: the collator makes these from all "
                "columns; leave it unset."
            )
        if self.label_smoothing_factor:
            raise ValueError(
                f"`label_smoothing_factor` is {self.label_smoothing_factor}, but labels of the full prompt do not fit "
                "the pruned prompt's logits outside the model; leave it 0."
            )
        super().__post_init__()
        if self.accelerator_config.dispatch_batches or self.accelerator_config.split_batches:
            raise ValueError(
                "`dispatch_batches` or `split_batches` is set, but a batch of videos cannot be cut by rows: their "
                "pixels lie flat, one video after another; leave both unset."
            )
        self.accelerator_config.dispatch_batches = False

    @functools.cached_property
    def _setup_devices(self) -> torch.device:
        if self.deepspeed and not self.use_cpu and os.environ.get("DS_ACCELERATOR") == "cpu":
            # For DeepSpeed on a CPU accelerate names no backend, and would then count one process.
            AcceleratorState._reset_state(reset_partial_state=True)
            with patch_environment(accelerate_use_deepspeed="true"):
                PartialState(backend="gloo", timeout=timedelta(seconds=self.ddp_timeout))
            self.accelerator_config.use_configured_state = True
        return super()._setup_devices


__all__ = ["LANGUAGE_MODEL_PROJECTIONS", "DataArguments", "ModelArguments", "NTLBGTrainingArguments"]
