"""The Qwen-VL families: groups of frames with positions in time, so that a kept group keeps its own.

Shapes: T groups, n visual tokens per group, L a prompt's length.
"""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from .base_adapter_ntlbg import BaseAdapter, VideoFeatures


class QwenVLAdapter(BaseAdapter):
    """Qwen2-VL and Qwen2.5-VL: one unbroken run of placeholders per video, contiguous by group."""

    base_inputs = ("pixel_values", "image_grid_thw", "mm_token_type_ids")
    needs_token_types = True
    plain_positions = False
    position_inputs: tuple[str, ...] = ()
    unit = "patches"

    def __init__(self, vlm):
        super().__init__(vlm)
        vision = vlm.config.vision_config
        self.merge_size = vision.spatial_merge_size
        self.temporal_patch_size = vision.temporal_patch_size

    @property
    def tower(self) -> nn.Module:
        return self.vlm.model.visual

    def rows_per_group(self, height: int, width: int) -> int:
        return height * width

    def _encode_chunk(self, pixels, grid) -> VideoFeatures:
        output = self.vlm.model.get_video_features(pixels, grid, return_dict=True)
        groups = int(grid[0, 0])
        tokens = output.pooler_output[0]
        deepstack = [layer[0].view(groups, -1, layer[0].shape[-1]) for layer in self._deepstack(output)]
        return VideoFeatures(tokens.view(groups, -1, tokens.shape[-1]), deepstack)

    def _deepstack(self, output) -> list:
        return []

    def encode_images(self, inputs: dict):
        return self.vlm.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)

    def encoder_outputs(self, videos: list[VideoFeatures], images, mm_token_type_ids) -> dict:
        outputs = {"video": self._video_output(videos)}
        return outputs if images is None else {**outputs, "image": images}

    def _video_output(self, videos: list[VideoFeatures]):
        return BaseModelOutputWithPooling(pooler_output=tuple(video.tokens.flatten(0, 1) for video in videos))

    def positions(self, inputs: dict, attention_mask: torch.Tensor) -> torch.Tensor:
        extra = {name: inputs[name] for name in self.position_inputs if inputs.get(name) is not None}
        positions, _ = self.vlm.model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            video_grid_thw=inputs["video_grid_thw"],
            attention_mask=attention_mask,
            **extra,
        )
        return positions

    def remember_positions(self, position_ids: torch.Tensor, attention_mask: torch.Tensor):
        # Later steps count on from the last position; the base adds this to the pruned length.
        last = position_ids[-3:].amax(dim=(0, 2)) + 1
        self.vlm.model.rope_deltas = (last - attention_mask.sum(dim=1))[:, None]


class Qwen25VLAdapter(QwenVLAdapter):
    """Qwen2.5-VL: as Qwen2-VL, with time positions in `tokens_per_second * second_per_grid_ts`."""

    base_inputs = (*QwenVLAdapter.base_inputs, "second_per_grid_ts")
    position_inputs = ("second_per_grid_ts",)


class Qwen3VLAdapter(QwenVLAdapter):
    """Qwen3-VL: each group has its time as text and its own vision markers; features also enter inner layers."""

    def _deepstack(self, output) -> list:
        return output.deepstack_features

    def _video_output(self, videos: list[VideoFeatures]):
        layers = zip(*(video.deepstack for video in videos), strict=True)
        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=tuple(video.tokens.flatten(0, 1) for video in videos),
            deepstack_features=[[feature.flatten(0, 1) for feature in layer] for layer in layers],
        )

    def group_spans(self, input_ids: torch.Tensor, pads: torch.Tensor) -> torch.Tensor:
        ends = pads[:, -1] + 2  # placeholders, then the group's own vision-end marker
        # The first group's time text begins after the marker that opens the whole video.
        markers = (input_ids[: int(pads[0, 0]) - 1] == self.vlm.config.vision_start_token_id).nonzero().flatten()
        if len(markers) == 0:
            raise ValueError(
                "A Qwen3-VL prompt should open each video with the vision-start token, but none comes before the "
                "first placeholder; make the prompt with the processor's chat template."
            )
        starts = torch.cat([markers[-1:] + 1, ends[:-1]])
        return torch.stack([starts, ends], dim=1)


__all__ = ["Qwen3VLAdapter", "Qwen25VLAdapter", "QwenVLAdapter"]
