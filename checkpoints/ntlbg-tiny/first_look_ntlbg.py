"""The first look: all candidates of one video, small, for a scorer (a dual encoder) or for the base itself.

Shapes: N candidate frames, T groups.
"""

from dataclasses import replace

import numpy as np
import torch
import torchvision.transforms.v2.functional as tvF
from transformers.feature_extraction_utils import BatchFeature

from .dual_encoder_ntlbg import picture_inputs, text_inputs
from .video_decoding_ntlbg import take_frames
from .video_source_ntlbg import CandidateFrames


# A scorer sees pictures of 224 to 512 pixels; decoded at twice the smaller of these its own resizing loses nothing.
SCORER_DECODE_SIDE = 448


def scorer_first_look(processor, video, query: str | None, video_metadata, sampling: dict) -> BatchFeature:
    """One picture per group (its first) for the dual encoder of `processor.scorer_processor`, and the query's tokens;
    returns as documented in `NTLBGProcessor.first_look`."""
    sampling = {"max_side": SCORER_DECODE_SIDE, **sampling}
    candidates = processor.video_processor.fetch(video, video_metadata, **sampling)[0]
    firsts = take_frames(candidates, np.arange(0, len(candidates), processor.video_processor.temporal_patch_size))
    pictures = picture_inputs(processor.scorer_processor, firsts.frames)
    result = {f"scorer_{name}": value for name, value in pictures.items()}
    result["group_timestamps"] = torch.from_numpy(firsts.timestamps.astype(np.float32))
    result["frames_indices"] = torch.from_numpy(candidates.indices)
    if query is not None:
        result.update(scorer_query(processor, query))
    return BatchFeature(result)


def scorer_query(processor, query: str) -> BatchFeature:
    """The query's tensors for the dual encoder of `processor.scorer_processor`; returns as documented in
    `NTLBGProcessor.scorer_query`."""
    tokens = text_inputs(processor.scorer_processor, query)
    return BatchFeature({f"scorer_{name}": value for name, value in tokens.items()})


def base_first_look(processor, video, query: str | None, video_metadata, sampling: dict) -> BatchFeature:
    """The base's inputs for a prompt of `video` and `query` with frames of `processor.first_look_size` pixels;
    returns as documented in `NTLBGProcessor.first_look`."""
    video_processor = processor.video_processor
    sampling = {"max_side": 2 * processor.first_look_size, **sampling}
    candidates = video_processor.fetch(video, video_metadata, **sampling)[0]
    small, options = candidates, {}
    if video_processor.frame_grid is None:
        token_side = video_processor.patch_size * video_processor.merge_size
        small, options = _resized(candidates, processor.first_look_size, token_side), {"do_resize": False}
    content = [{"type": "video"}, *([{"type": "text", "text": query}] if query else [])]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    # Numbers are for answering: drawn on frames this small they would be part of what the choice rests on.
    result = processor(
        text=[prompt],
        videos=[small],
        query=query or "",
        temporal=False,
        number_frames=False,
        return_tensors="pt",
        **options,
    )
    result["frames_indices"] = torch.from_numpy(candidates.indices)
    return result


def _resized(video: CandidateFrames, side: int, multiple: int) -> CandidateFrames:
    """`video` at a longer side of about `side` pixels, both sides multiples of `multiple`: any base takes it as is."""
    height, width = video.frames.shape[1:3]
    scale = side / max(height, width)
    size = [max(1, round(length * scale / multiple)) * multiple for length in (height, width)]
    pictures = torch.from_numpy(video.frames).permute(0, 3, 1, 2)
    resized = tvF.resize(pictures, size, interpolation=tvF.InterpolationMode.BILINEAR, antialias=True)
    return replace(video, frames=resized.permute(0, 2, 3, 1).contiguous().numpy())
