"""What trains in each stage, parameter by parameter; nothing is frozen or left unused without saying so.

Stages (specification 4.1): "selection" trains what chooses and describes groups in front of a frozen base; "joint" the
language model too; "end_to_end" also what makes visual tokens. The projector of a second stream, where there is one,
trains in each, its video encoder in none.

Those of Grounded-VideoLLM (arXiv 2410.03290) keep every tower frozen: "projectors" trains what leads from the towers
to the language model, and nothing else; "joint_projectors" this and what "joint" trains.
"""

import re
from collections import Counter
from dataclasses import dataclass

from torch import nn

from ntlbg.training.stage_names import LANGUAGE_STAGES


OWN_PARTS = ("selector", "rich_points", "transition", "span_head", "temporal_projector")
_NEVER_TRAINED = {
    "scorer": "the first look's dual encoder is never trained here",
    "temporal_encoder": "the second stream's video encoder is never trained here",
}
PARTS = (*OWN_PARTS, "language_model", "embeddings", "merger", "vision_tower", *_NEVER_TRAINED)
_STAGES = {
    "selection": set(OWN_PARTS),
    "joint": {*OWN_PARTS, "language_model", "embeddings"},
    "end_to_end": {*OWN_PARTS, "language_model", "embeddings", "merger", "vision_tower"},
    "projectors": {"merger", "temporal_projector"},
    "joint_projectors": {*OWN_PARTS, "language_model", "embeddings", "merger"},
}
# With adapters the base's own weights stay, but for the merger, which is small and no adapter's target.
_NOT_WITH_ADAPTERS = {"vision_tower"}
_ADAPTED = {"language_model", "embeddings"}
_PEFT_PREFIX = "base_model.model."


@dataclass
class StageSummary:
    """The number of trained and of frozen values of each part, and why a part that could train does not."""

    stage: str
    trained: dict[str, int]
    frozen: dict[str, int]
    reasons: dict[str, str]


def part_of(name: str) -> str:
    r"""
    The one part a parameter belongs to, by its name in an NTLBG model, with or without adapters around it.

    Raises:
        ValueError: it belongs to none, so that a stage would not say what becomes of it.
    """
    words = name.removeprefix(_PEFT_PREFIX).split(".")
    if words[0] in (*OWN_PARTS, *_NEVER_TRAINED):
        return words[0]
    if words[0] == "vlm":
        if "visual" in words:
            return "merger" if any("merger" in word for word in words) else "vision_tower"
        if "multi_modal_projector" in words:
            return "merger"
        if "vision_tower" in words or "image_newline" in words:
            return "vision_tower"
        if "embed_tokens" in words or "lm_head" in words:
            return "embeddings"
        if "language_model" in words:
            return "language_model"
    raise ValueError(f"The parameter {name!r} belongs to none of the parts {', '.join(PARTS)}; name it in `part_of`.")


def is_adapter(name: str) -> bool:
    """A parameter that stands beside the base's own: of LoRA, or rows of words that train alone."""
    return ".lora_" in name or ".trainable_tokens_delta." in name


def apply_stage(
    model: nn.Module, stage: str, *, context_weight: float = 1.0, span_weight: float = 1.0
) -> StageSummary:
    r"""
    Let the parameters of a stage train, and freeze all others. Before the optimizer is made.

    Args:
        model (`NTLBGForConditionalGeneration`, or a `PeftModel` of one made by `with_lora`)
        stage (`str`): one of `stage_names.STAGES`.
        context_weight (`float`): with 0 no loss reaches the transition, which is then frozen.
        span_weight (`float`): the same for the span head.

    Raises:
        ValueError: no such stage; adapters in a stage that trains no language model; a part that should train is in
            whole numbers (quantized), or would not be saved with the adapters.
    """
    if stage not in _STAGES:
        raise ValueError(f"`stage` should be one of {', '.join(_STAGES)}, but it is {stage!r}.")
    parameters = list(model.named_parameters())
    adapters = any(is_adapter(name) for name, _ in parameters)
    if adapters and stage not in LANGUAGE_STAGES:
        raise ValueError(
            f"The model has adapters, but the stage {stage!r} trains no language model and they would lie unused; "
            "take the stage 'joint', or set `lora_r` to 0."
        )
    reasons = dict(_NEVER_TRAINED)
    if not context_weight:
        reasons["transition"] = "`context_weight` is 0, and no other loss reaches it"
    if not span_weight:
        reasons["span_head"] = "`span_weight` is 0, and no other loss reaches it"
    if adapters:
        left = _NOT_WITH_ADAPTERS | _ADAPTED - {part_of(name) for name, _ in parameters if is_adapter(name)}
        reasons |= dict.fromkeys(left, "the base's own weights stay as they are beside adapters")
    trained, frozen = Counter(), Counter()
    for name, parameter in parameters:
        part = part_of(name)
        trains = part in _STAGES[stage] and part not in reasons
        if adapters:
            copied = ".modules_to_save." in name
            trains = trains and (is_adapter(name) if part in _ADAPTED else copied or _is_unwrapped(name))
            if trains and name.startswith(_PEFT_PREFIX) and not (is_adapter(name) or copied):
                raise ValueError(
                    f"{name!r} should train, but is not saved with the adapters; make the model with "
                    "`ntlbg.training.lora.with_lora` for this stage."
                )
        if trains and not parameter.is_floating_point():
            raise ValueError(
                f"{name!r} should train in the stage {stage!r}, but it is of type {parameter.dtype}; quantized "
                "weights need adapters: set `lora_r`."
            )
        parameter.requires_grad_(trains)
        (trained if trains else frozen)[part] += parameter.numel()
    for part in frozen.keys() - trained.keys() - reasons.keys():
        reasons[part] = f"not in the stage {stage!r}"
    reasons = {part: why for part, why in reasons.items() if frozen[part]}
    return StageSummary(stage, dict(trained), dict(frozen), reasons)


def _is_unwrapped(name: str) -> bool:
    """Not the frozen original that an adapter keeps beside its trained copy."""
    return re.search(r"\.original_module(\.|$)", name) is None


__all__ = ["OWN_PARTS", "PARTS", "StageSummary", "apply_stage", "is_adapter", "part_of"]
