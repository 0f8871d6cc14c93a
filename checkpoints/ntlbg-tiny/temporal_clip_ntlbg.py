"""What a video encoder of transformers takes as one clip and gives for it, from its configuration alone."""

from dataclasses import dataclass


# The encoders whose tokens `clip_shape` can lay out in time and space, by model_type.
CLIP_ENCODERS = ("timesformer", "videomae", "vivit", "vjepa2")


@dataclass(frozen=True)
class ClipShape:
    r"""
    Args:
        frames (`int`): pictures of a clip.
        size (`tuple[int, int]`): height and width of a picture in pixels.
        grid (`tuple[int, int, int]`): steps in time, rows and columns of the tokens that a clip becomes.
        width (`int`): of a token.
        class_tokens (`int`): tokens before these that stand for no place.
        time_last (`bool`): whether time runs fastest in the order of the tokens (TimeSformer), or slowest.
    """

    frames: int
    size: tuple[int, int]
    grid: tuple[int, int, int]
    width: int
    class_tokens: int = 0
    time_last: bool = False


def clip_shape(config) -> ClipShape:
    r"""
    Args:
        config (`PreTrainedConfig`): of VideoMAE, V-JEPA 2, TimeSformer or ViViT.

    Raises:
        ValueError: it is of another type, or of a TimeSformer that sees no time.
    """
    kind = config.model_type
    if kind not in CLIP_ENCODERS:
        raise ValueError(
            f"`temporal_config` is of type {kind!r}, whose tokens are not known; choose a video encoder of type "
            f"{', '.join(CLIP_ENCODERS)}."
        )
    if kind == "timesformer" and config.attention_type == "space_only":
        raise ValueError(
            "`temporal_config` is a TimeSformer with `attention_type` 'space_only', which sees one picture at a time; "
            "choose 'divided_space_time' or 'joint_space_time'."
        )
    frames = config.frames_per_clip if kind == "vjepa2" else config.num_frames
    size = _pair(config.crop_size if kind == "vjepa2" else config.image_size)
    if kind == "vivit":
        depth, patch = config.tubelet_size[0], tuple(config.tubelet_size[1:])
    else:
        depth, patch = (1 if kind == "timesformer" else config.tubelet_size), _pair(config.patch_size)
    return ClipShape(
        frames,
        size,
        (frames // depth, size[0] // patch[0], size[1] // patch[1]),
        config.hidden_size,
        class_tokens=1 if kind in ("timesformer", "vivit") else 0,
        time_last=kind == "timesformer",
    )


def _pair(size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


__all__ = ["CLIP_ENCODERS", "ClipShape", "clip_shape"]
