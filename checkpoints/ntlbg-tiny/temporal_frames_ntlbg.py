"""The frames of the second stream: what a video encoder's own processor makes of candidates, or of segments' clips.

Shapes: T groups of p candidate frames each, k chosen groups, F frames of a clip.
"""

from dataclasses import replace

import numpy as np
import torch
from transformers.video_processing_utils import BaseVideoProcessor

from .segments_ntlbg import segment_frames
from .video_source_ntlbg import CandidateFrames


# Video encoders see pictures of 224 to 384 pixels; decoded at about twice the smaller of these, their own resizing
# loses little.
TEMPORAL_DECODE_SIDE = 448


def temporal_inputs(processor: BaseVideoProcessor, frames: np.ndarray) -> torch.Tensor:
    """Frames (N, H, W, 3) as the video encoder takes them: `torch.FloatTensor` (N, channels, height, width)."""
    made = processor(
        [torch.from_numpy(frames)], do_sample_frames=False, input_data_format="channels_last", return_tensors="pt"
    )
    return made[processor.model_input_names[0]][0]


def temporal_candidates(processor, videos: list[CandidateFrames]) -> torch.Tensor:
    """The candidates of all videos, flat, for `processor.temporal_processor`: p for each group, as a last group of an
    odd number of candidates repeats its last frame."""
    per_group = processor.video_processor.temporal_patch_size
    made = []
    for video in videos:
        rows = np.arange(processor.video_processor.num_groups(len(video)) * per_group).clip(max=len(video) - 1)
        made.append(temporal_inputs(processor.temporal_processor, video.frames)[torch.from_numpy(rows)])
    return torch.cat(made)


def temporal_segments(processor, sources: list, selections: list, video_metadata, sampling: dict) -> torch.Tensor:
    """The clips of the chosen groups' segments, flat over groups and videos: only what they are made of is decoded,
    small."""
    video_processor = processor.video_processor
    per_group = video_processor.temporal_patch_size
    positions, wider = [], []
    for selection in selections:
        indices = torch.as_tensor(selection.indices).cpu()
        clips = segment_frames(indices, selection.num_groups, per_group, processor.temporal_frames).flatten()
        groups = (clips // per_group).unique()
        positions.append(torch.searchsorted(groups, clips // per_group) * per_group + clips % per_group)
        wider.append(replace(selection, indices=groups))
    looks = video_processor.fetch_selected(
        sources, wider, video_metadata, **{**sampling, "max_side": TEMPORAL_DECODE_SIDE}
    )
    made = [temporal_inputs(processor.temporal_processor, video.frames) for video, _ in looks]
    return torch.cat([pictures[rows] for pictures, rows in zip(made, positions, strict=True)])


__all__ = ["temporal_candidates", "temporal_inputs", "temporal_segments"]
