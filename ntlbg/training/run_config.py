"""A run's configuration file: what it means for memory, what is wrong with it, and how it is made to fit a card.

The file is flat: the fields of `ntlbg.training.arguments`, as train.py takes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import isqrt
from pathlib import Path

from ntlbg.errors import InputError, first_sentence
from ntlbg.training.memory import Job
from ntlbg.training.model_shapes import PUBLISHED, ModelShape, shape_of
from ntlbg.training.stage_names import FEATURE_STAGES, LANGUAGE_STAGES, STAGES
from ntlbg.training.tiers import CARDS, Card


DEFAULT_MODEL = "Qwen/Qwen2-VL-7B-Instruct"
# Of transformers' TrainingArguments and of NTLBGConfig, where the file is silent.
_DEFAULTS = {"max_candidates": 768, "num_representatives": 32, "frame_pixels": 224 * 224}


def folder_of(name: str) -> Path:
    """Where the files of "presets", "accelerate" or "ds_configs" lie: in the installed package or in the checkout."""
    import ntlbg.configuration

    if name == "ds_configs":
        package = Path(ntlbg.__file__).parent
        inside = package / name
        return inside if inside.is_dir() else package.parent / name
    return Path(ntlbg.configuration.__file__).parent / name


def read_run(path: str | Path) -> dict:
    """A configuration from a JSON or YAML file.

    Raises:
        InputError: it cannot be read, or is not one flat object.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the configuration {str(path)!r} cannot be read ({first_sentence(error)})") from error
    try:
        run = _parse(text, path.suffix.lower())
    except ValueError as error:
        raise InputError(f"the configuration {str(path)!r} cannot be parsed ({first_sentence(error)})") from error
    if not isinstance(run, dict):
        raise InputError(
            f"the configuration {str(path)!r} should be one object of names and values, but it is a "
            f"{type(run).__name__}"
        )
    return run


def _parse(text: str, suffix: str):
    if suffix not in (".yaml", ".yml"):
        return json.loads(text)
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def preset(level: str) -> dict:
    """The preset of a level."""
    return read_run(folder_of("presets") / f"{level}.json")


def frame_side(run: dict) -> int:
    """Pixels of the side of a square frame under `frame_pixels`."""
    return isqrt(int(_value(run, "frame_pixels")))


def _value(run: dict, name: str):
    value = run.get(name)
    return _DEFAULTS[name] if value is None and name in _DEFAULTS else value


def precision_of(run: dict) -> tuple[str, str]:
    """Types of the base's weights and of what is computed."""
    compute = "bfloat16" if run.get("bf16") else "float16" if run.get("fp16") else None
    dtype = run.get("dtype") or "auto"
    if dtype == "auto":
        dtype = _own_dtype(str(run.get("model_name_or_path") or DEFAULT_MODEL))
    if dtype not in ("float32", "bfloat16", "float16"):
        raise InputError(f"`dtype` should be auto, float32, bfloat16 or float16, but it is {dtype!r}")
    return dtype, compute or dtype


def _own_dtype(model: str) -> str:
    """The type a checkpoint is in: bfloat16 for the published ones, else what its config.json says."""
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        return "bfloat16"
    content = json.loads(path.read_text(encoding="utf-8"))
    return content.get("dtype") or content.get("torch_dtype") or "float32"


def deepspeed_of(run: dict, near: Path | None = None) -> dict:
    """What a run says of ZeRO: stage and what is offloaded, as fields of `Job`.

    Raises:
        InputError: the file it names cannot be read.
    """
    content = run.get("deepspeed")
    if not content:
        return {}
    if isinstance(content, str):
        found = next((path for path in _places(content, near) if path.is_file()), None)
        if found is None:
            raise InputError(f"`deepspeed` names {content!r}, but there is no such file")
        content = read_run(found)
    zero = content.get("zero_optimization") or {}

    def offloaded(name: str) -> bool:
        return (zero.get(name) or {}).get("device", "none") != "none"

    return {
        "zero_stage": int(zero.get("stage") or 0),
        "offload_optimizer": offloaded("offload_optimizer"),
        "offload_weights": offloaded("offload_param"),
    }


def _places(name: str, near: Path | None) -> Iterator[Path]:
    path = Path(name)
    yield path
    if not path.is_absolute():
        if near is not None:
            yield near / path
        # "ds_configs/..." means ours, wherever the command runs.
        if path.parts[:1] == ("ds_configs",):
            yield folder_of("ds_configs") / path.name


def shape_and_job(run: dict, gpus: int = 1, near: Path | None = None) -> tuple[ModelShape, Job]:
    """What a run asks of each of `gpus` cards, for its longest videos (`max_candidates` frames).

    Raises:
        InputError: the model's shape is unknown, it has a second stream, or a value makes no sense.
    """
    if run.get("temporal_name_or_path"):
        raise InputError(
            "`temporal_name_or_path` adds a second stream, for whose memory there are no formulas; leave it out to "
            "estimate the rest"
        )
    shape = shape_of(str(run.get("model_name_or_path") or DEFAULT_MODEL))
    dtype, compute = precision_of(run)
    side = frame_side(run)
    per_group = shape.tokens_per_group(side, side)
    budget = run.get("max_visual_tokens")
    kept = max(1, int(budget) // per_group) if budget else int(_value(run, "num_representatives"))
    frames = int(_value(run, "max_candidates"))
    if run.get("train_representatives"):
        kept = min(int(run["train_representatives"]), max(1, frames // 2))
    return shape, Job(
        frames=frames,
        height=side,
        width=side,
        representatives=kept,
        batch=int(run.get("per_device_train_batch_size") or 8),
        accumulation=int(run.get("gradient_accumulation_steps") or 1),
        stage=run.get("stage") or "selection",
        lora_r=int(run.get("lora_r") or 0),
        four_bit=bool(run.get("load_in_4bit")),
        dtype=dtype,
        compute=compute,
        checkpointing=bool(run.get("activation_checkpointing")),
        attention=run.get("attn_implementation") or "sdpa",
        cached_features=bool(run.get("feature_cache")),
        optimizer=run.get("optim") or "adamw_torch_fused",
        processes=gpus,
        device="cuda",
        **deepspeed_of(run, near),
    )


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration: the key, what is wrong, and how to put it right."""

    key: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.key}: {self.what}; {self.fix}"


def find_problems(run: dict, card: Card | None = None, gpus: int = 1, near: Path | None = None) -> list[Problem]:
    """All that is wrong with a configuration, on a card if one is given.

    Args:
        near: the folder that relative paths in the file may start from, beside the current one.
    """
    found = [*_unknown(run), *_wrong_types(run)]
    if found:
        # What follows reads these values.
        return found
    found += [*_own_checks(run), *_files(run, near), *_choice_of_k(run), *_precision(run, card, near)]
    if card is not None and not found:
        found += _too_large(run, card, gpus, near)
    return found


def _argument_classes() -> list[type]:
    from ntlbg.training.arguments import DataArguments, ModelArguments, NTLBGTrainingArguments

    return [ModelArguments, DataArguments, NTLBGTrainingArguments]


# What transformers still takes, up to its next major release; the estimate reads the new names.
_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


def _unknown(run: dict) -> Iterator[Problem]:
    from difflib import get_close_matches

    known = [field.name for kind in _argument_classes() for field in fields(kind) if field.init]
    for key in run:
        if key in _RENAMED:
            yield Problem(key, "transformers has renamed this argument", f"write {_RENAMED[key]!r}")
        elif key not in known:
            near = get_close_matches(str(key), known, 1)
            yield Problem(
                str(key), "no argument has this name", f"did you mean {near[0]!r}?" if near else "take it out"
            )


_NUMBERS = {
    "num_representatives": (int, 1), "max_visual_tokens": (int, 1), "max_candidates": (int, 2),
    "train_representatives": (int, 1), "fade_share": (float, 0),
    "frame_pixels": (int, 1), "lora_r": (int, 0), "per_device_train_batch_size": (int, 1),
    "gradient_accumulation_steps": (int, 1), "candidate_fps": (float, 0), "learning_rate": (float, 0),
    "lora_alpha": (float, 0), "lora_dropout": (float, 0), "max_steps": (int, -1),
}  # fmt: skip
_SWITCHES = ("bf16", "fp16", "activation_checkpointing", "load_in_4bit", "streaming")
_WORDS = ("model_name_or_path", "dtype", "attn_implementation", "stage", "dataset", "eval_dataset", "feature_cache",
          "video_root", "optim", "output_dir")  # fmt: skip


def _wrong_types(run: dict) -> Iterator[Problem]:
    for key, (kind, low) in _NUMBERS.items():
        value = run.get(key)
        if value is None:
            continue
        right = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        if not right or not low <= value < float("inf"):
            noun = "a whole number" if kind is int else "a number"
            yield Problem(key, f"{value!r} is no {noun[2:]} of at least {low}", f"give {noun} of at least {low}")
    for key in _SWITCHES:
        if run.get(key) is not None and not isinstance(run[key], bool):
            yield Problem(key, f"{run[key]!r} is neither true nor false", "write true or false")
    for key in _WORDS:
        if run.get(key) is not None and not isinstance(run[key], str):
            yield Problem(key, f"{run[key]!r} is no text", "put it in quotation marks")
    if run.get("deepspeed") is not None and not isinstance(run["deepspeed"], (str, dict)):
        yield Problem("deepspeed", f"{run['deepspeed']!r} is neither a file's name nor an object", "name a file")


def _own_checks(run: dict) -> Iterator[Problem]:
    """What the argument classes refuse themselves; transformers' own need a machine to be checked on and are left."""
    from ntlbg.training.arguments import ModelArguments

    names = {field.name for field in fields(ModelArguments)}
    try:
        ModelArguments(**{key: value for key, value in run.items() if key in names})
    except (ValueError, TypeError) as error:
        what, _, fix = str(error).rstrip(".").partition("; ")
        yield Problem(what.split("`")[1] if "`" in what else "model", what, fix or "change it")
    if run.get("stage") is not None and run["stage"] not in STAGES:
        yield Problem("stage", f"{run['stage']!r} is no stage", f"choose one of {', '.join(STAGES)}")


def _files(run: dict, near: Path | None) -> Iterator[Problem]:
    def there(name: str) -> bool:
        return Path(name).exists() or (near is not None and (near / name).exists())

    for key in ("dataset", "eval_dataset"):
        name = run.get(key)
        if name and name.endswith((".jsonl", ".json")) and not there(name):
            yield Problem(key, f"there is no file {name!r}", "give the path of a JSONL file that exists")
    if run.get("video_root") and not there(run["video_root"]):
        yield Problem("video_root", f"there is no folder {run['video_root']!r}", "create it or correct the path")
    try:
        deepspeed_of(run, near)
    except InputError as error:
        yield Problem(
            "deepspeed", str(error), f"choose one of ours: {', '.join(f'ds_configs/{c}.json' for c in CARDS)}"
        )


def _choice_of_k(run: dict) -> Iterator[Problem]:
    kept, frames = run.get("num_representatives"), _value(run, "max_candidates")
    if kept and kept > frames / 2:
        yield Problem(
            "num_representatives",
            f"{kept} groups are asked for, but {frames} candidate frames are only {frames // 2} groups of two",
            f"lower it to {frames // 2} at most, or raise max_candidates to {2 * kept}",
        )


def _precision(run: dict, card: Card | None, near: Path | None) -> Iterator[Problem]:
    if run.get("bf16") and run.get("fp16"):
        yield Problem("bf16", "bf16 and fp16 are both set", "keep one of them")
        return
    try:
        dtype, compute = precision_of(run)
    except InputError as error:
        yield Problem("dtype", str(error), "write bfloat16")
        return
    trains_base = not run.get("lora_r") and run.get("stage") not in (None, "selection")
    if run.get("fp16") and dtype == "float16" and trains_base and not deepspeed_of(run, near):
        yield Problem(
            "dtype",
            "float16 weights cannot be trained under fp16: the gradient scaler refuses float16 gradients",
            "write float32, or set lora_r, or use DeepSpeed",
        )
    if run.get("feature_cache") and run.get("stage") in FEATURE_STAGES:
        yield Problem(
            "feature_cache",
            "features that were made before cannot train what makes them",
            "take it out, or choose stage joint",
        )
    if run.get("load_in_4bit") and not run.get("lora_r") and run.get("stage") in LANGUAGE_STAGES:
        yield Problem("load_in_4bit", "4-bit weights cannot be trained themselves", "set lora_r, or take it out")
    if run.get("load_in_4bit") and deepspeed_of(run, near).get("zero_stage") == 3:
        yield Problem("load_in_4bit", "ZeRO-3 cannot divide 4-bit weights", "take it out, or use ZeRO-2")
    if card is None:
        return
    if not card.bf16 and "bfloat16" in (compute if not run.get("fp16") else "", dtype):
        yield Problem(
            "bf16" if run.get("bf16") else "dtype",
            f"{card.name} has no bfloat16",
            'write "fp16": true, "bf16": false and "dtype": "float16"',
        )
    if card.bf16 and run.get("fp16"):
        yield Problem("fp16", f"{card.name} has bfloat16, which needs no loss scaling", 'write "bf16": true instead')
    if run.get("attn_implementation") == "flash_attention_2":
        if not card.flash_attention:
            yield Problem(
                "attn_implementation", f"FlashAttention 2 has no kernels for {card.name}", 'write "sdpa" instead'
            )
        elif compute == "float32":
            yield Problem("attn_implementation", "FlashAttention 2 has no float32", 'write "bf16": true, or "sdpa"')


def _too_large(run: dict, card: Card, gpus: int, near: Path | None) -> Iterator[Problem]:
    from ntlbg.training.fit import usable
    from ntlbg.training.memory import estimate_memory

    if run.get("temporal_name_or_path"):
        yield Problem(
            "temporal_name_or_path", "for the memory of a second stream there are no formulas", "leave out the card"
        )
        return
    try:
        estimate = estimate_memory(*shape_and_job(run, gpus, near))
    except InputError as error:
        yield Problem("model_name_or_path", str(error), f"for example {next(iter(PUBLISHED))}")
        return
    if estimate.peak > usable(card):
        yield Problem(
            "memory",
            f"the peak is about {estimate.peak / 2**30:.1f} GiB ({estimate.peak_moment}), but of {card.name} about "
            f"{usable(card) / 2**30:.1f} GiB can be used",
            "see what `ntlbg config optimize` makes of it",
        )
