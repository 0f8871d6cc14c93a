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


@dataclass
class Insertion:
    r"""
    Tokens that come into a prompt as copies of others.

    Args:
        rows, after, sources (`torch.LongTensor` of shape `(I,)`): of each its row, the column it comes behind, and the
            column it is a copy of. Those behind the same column stand in the order given.
    """

    rows: torch.Tensor
    after: torch.Tensor
    sources: torch.Tensor


def prune(keep: torch.Tensor, attention_mask: torch.Tensor, tensors: dict, insertion: Insertion | None = None) -> dict:
    r"""
    Keep the named tokens of every row and pad the rows to one length again.

    Args:
        keep (`torch.BoolTensor` of shape `(B, L)`): tokens that stay; padding is dropped and made anew.
        attention_mask (`torch.LongTensor` of shape `(B, L)`)
        tensors (`dict` of name to `(tensor of shape (..., B, L), value for padding)`)
        insertion (`Insertion`, *optional*): tokens that come in besides.

    Returns:
        `dict` of name to tensor of shape `(..., B, L')`, with `attention_mask` added. Padding stands on the side where
        the input had it, on the left where it had none, as generation needs it.
    """
    if insertion is None and bool(keep.all()):
        return {"attention_mask": attention_mask, **{name: tensor for name, (tensor, _) in tensors.items()}}
    pad_right = bool((attention_mask[:, -1] == 0).any())
    keep = keep & attention_mask.bool()
    rows, columns = keep.nonzero(as_tuple=True)
    if insertion is not None:
        rows, columns = _with_copies(rows, columns, insertion, keep.shape[1])
    lengths = torch.bincount(rows, minlength=len(keep))
    longest = int(lengths.max())
    # Where each token goes: its rank among those of its row, shifted by the padding before it.
    shift = torch.zeros_like(lengths) if pad_right else longest - lengths
    firsts = lengths.cumsum(dim=0) - lengths
    targets = torch.arange(len(rows), device=rows.device) + (shift - firsts)[rows]
    pruned = {}
    for name, (tensor, value) in {**tensors, "attention_mask": (attention_mask, 0)}.items():
        result = tensor.new_full((*tensor.shape[:-1], longest), value)
        result[..., rows, targets] = tensor[..., rows, columns]
        pruned[name] = result
    return pruned


def _with_copies(rows, columns, insertion: Insertion, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns that tokens come from, those of the insertion among them, in the order of the new prompt."""
    places = torch.cat([rows * length + columns, insertion.rows * length + insertion.after])
    copied = torch.cat([torch.zeros_like(rows), torch.ones_like(insertion.rows)])
    order = (2 * places + copied).argsort(stable=True)
    return torch.cat([rows, insertion.rows])[order], torch.cat([columns, insertion.sources])[order]


__all__ = ["IGNORED_LABEL", "Insertion", "VideoSlot", "find_videos", "prune"]
