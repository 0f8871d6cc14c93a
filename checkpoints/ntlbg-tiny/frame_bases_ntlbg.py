"""Base processors that give every frame the same number of tokens, made to write prompts for grids of frames.

transformers' own count the frames they were handed, and want as many of every video of a call. Here the prompt follows
`video_grid_thw`, so videos may differ in length, and in a second look it tells of all T frames while k are seen.

Shapes: B rows, L prompt tokens, V videos, T frames of a video.
"""

import math

import torch
from transformers import InternVLProcessor, LlavaOnevisionProcessor
from transformers.processing_utils import ProcessorMixin


class FramesOfGridMixin:
    """For a processor whose `replace_video_token` asks its video for the number of frames and for nothing else."""

    def replace_video_token(self, video_inputs: dict, video_idx: int, **kwargs) -> str:
        """The placeholders of one video, as the base writes them for the frames of its grid."""
        frames = torch.empty(int(video_inputs["video_grid_thw"][video_idx][0]), 0)
        return super().replace_video_token({"pixel_values_videos": {video_idx: frames}}, video_idx, **kwargs)


class FramesLlavaOnevisionProcessor(FramesOfGridMixin, LlavaOnevisionProcessor):
    """LLaVA-OneVision's processor for grids of frames."""

    return_mm_token_type_ids = True
    settings = (
        "num_image_tokens",
        "vision_feature_select_strategy",
        "image_token",
        "video_token",
        "vision_aspect_ratio",
    )

    @property
    def frame_grid(self) -> list[int]:
        """Rows and columns of a frame's tokens, after pooling."""
        side = math.ceil(math.isqrt(self.num_image_tokens) / 2)
        return [side, side]


class FramesInternVLProcessor(FramesOfGridMixin, InternVLProcessor):
    """InternVL's processor for grids of frames; `mm_token_type_ids` tell frames (2) from images (1), which have the
    same placeholders."""

    settings = ("image_seq_length",)

    @property
    def video_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.video_token)

    @property
    def frame_grid(self) -> list[int]:
        """Rows and columns of a frame's tokens."""
        side = math.isqrt(self.image_seq_length)
        return [side, side]

    @property
    def model_input_names(self) -> list[str]:
        return ProcessorMixin.model_input_names.fget(self)

    def __call__(self, images=None, text=None, videos=None, **kwargs):
        """As the base's, with the frames of videos in `pixel_values_videos` and not among the images' tiles."""
        rows = [text] if isinstance(text, str) else list(text or [])
        kwargs.pop("return_mm_token_type_ids", None)
        # Past the base's own call, which mixes frames and tiles into one tensor.
        result = ProcessorMixin.__call__(self, images=images, text=text, videos=videos, **kwargs)
        tiles = [int(count) for count in result.pop("num_patches", [])]
        frames = [int(grid[0]) for grid in result.get("video_grid_thw", [])]
        pictures = {"image": iter(tiles), "video": iter(frames)}
        types = []
        for prompt, ids in zip(rows, result["input_ids"] if rows else [], strict=True):
            kinds = []
            for match in self.multimodal_pattern.finditer(prompt):
                count = next(pictures[match.lastgroup], None)
                if count is None:
                    raise ValueError(
                        f"The prompts have more {match.lastgroup} placeholders than {match.lastgroup}s were passed; "
                        f"pass one {match.lastgroup} per placeholder."
                    )
                kinds += [1 if match.lastgroup == "image" else 2] * count * self.image_seq_length
            kinds = iter(kinds)
            types.append([next(kinds, 0) if int(token) == self.image_token_id else 0 for token in ids])
        if rows:
            tensors = isinstance(result["input_ids"], torch.Tensor)
            result["mm_token_type_ids"] = torch.tensor(types) if tensors else types
        return result


FRAME_PROCESSORS = {
    "InternVLProcessor": FramesInternVLProcessor,
    "LlavaOnevisionProcessor": FramesLlavaOnevisionProcessor,
}


__all__ = ["FRAME_PROCESSORS", "FramesInternVLProcessor", "FramesLlavaOnevisionProcessor"]
