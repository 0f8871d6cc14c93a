"""Segments: the stretch of a video that each chosen group stands for in the temporal stream.

Shapes: T groups of p candidate frames each, k chosen groups, F frames of a clip.
"""

import torch


def segment_borders(indices: torch.Tensor, num_groups: int, per_group: int) -> torch.Tensor:
    r"""
    Where segments begin and end. A chosen group's segment reaches half-way to the chosen groups before and after it,
    the first one's to the beginning and the last one's to the end: together they are the whole video, and each moment
    belongs to the chosen group nearest in time, as in `Selection.from_indices`.

    Args:
        indices (`torch.LongTensor` of shape `(k,)`): chosen groups, distinct, in temporal order.
        num_groups (`int`): T.
        per_group (`int`): p.

    Returns:
        `torch.LongTensor` of shape `(k + 1,)`: segment i is the candidates from border i up to border i + 1.
    """
    inner = per_group * (indices[:-1] + indices[1:] + 1) // 2
    ends = inner.new_tensor([0, num_groups * per_group])
    return torch.cat([ends[:1], inner, ends[1:]])


def segment_frames(indices: torch.Tensor, num_groups: int, per_group: int, frames: int) -> torch.Tensor:
    r"""
    The clip of each segment: the middle frame of each of F equal parts (Grounded-VideoLLM samples so at inference). A
    segment of fewer candidates than F repeats some.

    Args:
        indices, num_groups, per_group: as for [`segment_borders`].
        frames (`int`): F.

    Returns:
        `torch.LongTensor` of shape `(k, F)`: positions in 0..T p - 1, ascending in a clip; those beyond the last
        candidate (of an odd number of them) mean the last one.
    """
    borders = segment_borders(indices, num_groups, per_group)
    lengths = borders[1:] - borders[:-1]
    steps = 2 * torch.arange(frames, device=indices.device) + 1
    return borders[:-1, None] + steps * lengths[:, None] // (2 * frames)


__all__ = ["segment_borders", "segment_frames"]
