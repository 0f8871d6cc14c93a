"""Pruning a prompt: the full prompt of all T groups goes in, the tokens of the kept groups come out at their own
positions.

Shapes: B rows, L tokens of the full prompt, L' of the longest pruned row, T groups, n placeholders per group.
"""

from dataclasses import dataclass

import torch


IGNORED_LABEL = -100


@dataclass
class VideoSlot:
    """Where one video stands: its row, and the positions (T, n) of its placeholders in that row."""

    row: int
    pads: torch.Tensor


def find_videos(placeholders, video_grid_thw, tokens_per_group, trailing_tokens: int = 0) -> list[VideoSlot]:
    r"""
    Find each video's placeholders; rows hold videos in the order of `video_grid_thw`.

    Args:
        placeholders (`torch.BoolTensor` of shape `(B, L)`): where the prompt stands for videos.
        video_grid_thw (`torch.LongTensor` of shape `(videos, 3)`)
        tokens_per_group (`Callable`): from a row of `video_grid_thw` to n.
        trailing_tokens (`int`, *optional*, defaults to 0): placeholders behind a video's last group; in no slot.

    Raises:
        ValueError: the prompt has more or fewer placeholders than the grids ask for.
    """
    slots, video = [], 0
    for row in range(len(placeholders)):
        pads = placeholders[row].nonzero().flatten()
        while len(pads):
            if video == len(video_grid_thw):
                raise ValueError(
                    f"The prompt has {len(pads)} video placeholders more than the {video} videos of `video_grid_thw` "
                    "account for; pass the prompt and the grids from the same call of the processor."
                )
            groups, per_group = int(video_grid_thw[video, 0]), tokens_per_group(video_grid_thw[video])
            end = groups * per_group
            if len(pads) < end + trailing_tokens:
                raise ValueError(
                    f"Video {video} needs {groups} x {per_group} placeholders, but only {len(pads)} are left in row "
                    f"{row}; the prompt may have been truncated: raise `max_length` or lower `max_candidates`."
                )
            slots.append(VideoSlot(row, pads[:end].view(groups, per_group)))
            pads = pads[end + trailing_tokens :]
            video += 1
    if video != len(video_grid_thw):
        raise ValueError(
            f"`video_grid_thw` has {len(video_grid_thw)} videos, but the prompt has placeholders for {video}; pass "
            "both from the same call of the processor."
        )
    return slots


def prune(keep: torch.Tensor, attention_mask: torch.Tensor, tensors: dict) -> dict:
    r"""
    Keep the named tokens of every row and pad the rows to one length again.

    Args:
        keep (`torch.BoolTensor` of shape `(B, L)`): tokens that stay; padding is dropped and made anew.
        attention_mask (`torch.LongTensor` of shape `(B, L)`)
        tensors (`dict` of name to `(tensor of shape (..., B, L), value for padding)`)

    Returns:
        `dict` of name to tensor of shape `(..., B, L')`, with `attention_mask` added. Padding stands on the side where
        the input had it, on the left where it had none, as generation needs it.
    """
    if bool(keep.all()):
        return {"attention_mask": attention_mask, **{name: tensor for name, (tensor, _) in tensors.items()}}
    pad_right = bool((attention_mask[:, -1] == 0).any())
    keep = keep & attention_mask.bool()
    lengths = keep.sum(dim=1)
    longest = int(lengths.max())
    # Where each kept token goes: its rank among the row's kept tokens, shifted by the padding before it.
    shift = torch.zeros_like(lengths) if pad_right else longest - lengths
    rows, columns = keep.nonzero(as_tuple=True)
    targets = (keep.long().cumsum(dim=1) - 1 + shift[:, None])[rows, columns]
    pruned = {}
    for name, (tensor, value) in {**tensors, "attention_mask": (attention_mask, 0)}.items():
        result = tensor.new_full((*tensor.shape[:-1], longest), value)
        result[..., rows, targets] = tensor[..., rows, columns]
        pruned[name] = result
    return pruned


__all__ = ["IGNORED_LABEL", "VideoSlot", "find_videos", "prune"]
