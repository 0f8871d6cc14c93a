"""One small adapter per family of base models: what its features are and where its prompt names each group.

Shapes: T groups, n visual tokens per group, D the language model's width, L a prompt's length.
"""

from dataclasses import dataclass, field

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures


@dataclass
class VideoFeatures:
    r"""
    One video after the vision tower.

    Args:
        tokens (`torch.Tensor` of shape `(T, n, D)`): what the language model would read, group by group.
        deepstack (`list[torch.Tensor]` of shape `(T, n, D)` each): further features for inner layers (Qwen3-VL); else
            empty.
    """

    tokens: torch.Tensor
    deepstack: list[torch.Tensor] = field(default_factory=list)

    @property
    def descriptors(self) -> torch.Tensor:
        """`torch.FloatTensor` of shape `(T, D)`: the mean token of each group, in float32."""
        return self.tokens.float().mean(dim=1)

    def take(self, groups: torch.Tensor) -> "VideoFeatures":
        """The features of the named groups only, in the order given."""
        return VideoFeatures(self.tokens[groups], [layer[groups] for layer in self.deepstack])

    def to(self, device) -> "VideoFeatures":
        """The same on another device."""
        return VideoFeatures(self.tokens.to(device), [layer.to(device) for layer in self.deepstack])


class QwenVLAdapter:
    """Qwen2-VL and Qwen2.5-VL: one unbroken run of placeholders per video, contiguous by group."""

    position_inputs: tuple[str, ...] = ()

    def __init__(self, vlm):
        self.vlm = vlm
        vision = vlm.config.vision_config
        self.merge_size = vision.spatial_merge_size
        self.temporal_patch_size = vision.temporal_patch_size

    def tokens_per_group(self, grid: torch.Tensor) -> int:
        """Visual tokens of one group of a video whose patch grid is `(T, h, w)`."""
        return int(grid[1] * grid[2]) // self.merge_size**2

    def encode(self, pixel_values_videos, video_grid_thw, chunk_groups: int) -> list[VideoFeatures]:
        r"""
        Run the vision tower over every group of every video, `chunk_groups` groups at a time.

        The towers of these families attend within one group only, so the chunks do not change the result.

        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(patches of all videos, patch size)`)
            video_grid_thw (`torch.LongTensor` of shape `(videos, 3)`): T, h, w in patches.

        Returns:
            `list[VideoFeatures]`, one per video.

        Raises:
            ValueError: the number of patches does not fit the grids.
        """
        expected = int(video_grid_thw.prod(-1).sum())
        if len(pixel_values_videos) != expected:
            raise ValueError(
                f"`video_grid_thw` speaks of {expected} patches, but `pixel_values_videos` has "
                f"{len(pixel_values_videos)}; pass both from the same call of the processor."
            )
        videos, offset = [], 0
        for num_groups, height, width in video_grid_thw.tolist():
            parts = []
            for start in range(0, num_groups, chunk_groups):
                groups = min(chunk_groups, num_groups - start)
                patches = groups * height * width
                grid = video_grid_thw.new_tensor([[groups, height, width]])
                parts.append(self._encode_chunk(pixel_values_videos[offset : offset + patches], grid))
                offset += patches
            videos.append(
                parts[0]
                if len(parts) == 1
                else VideoFeatures(
                    torch.cat([part.tokens for part in parts]),
                    [torch.cat(layers) for layers in zip(*(part.deepstack for part in parts), strict=True)],
                )
            )
        return videos

    def _encode_chunk(self, pixels, grid) -> VideoFeatures:
        output = self.vlm.model.get_video_features(pixels, grid, return_dict=True)
        groups = int(grid[0, 0])
        tokens = output.pooler_output[0]
        deepstack = [layer[0].view(groups, -1, layer[0].shape[-1]) for layer in self._deepstack(output)]
        return VideoFeatures(tokens.view(groups, -1, tokens.shape[-1]), deepstack)

    def _deepstack(self, output) -> list:
        return []

    def encoder_output(self, videos: list[VideoFeatures]):
        """What the base takes as `mm_encoder_outputs["video"]`."""
        return BaseModelOutputWithPooling(pooler_output=tuple(video.tokens.flatten(0, 1) for video in videos))

    def group_spans(self, input_ids: torch.Tensor, pads: torch.Tensor) -> torch.Tensor:
        r"""
        The part of the prompt that goes when a group goes.

        Args:
            input_ids (`torch.LongTensor` of shape `(L,)`): one row.
            pads (`torch.LongTensor` of shape `(T, n)`): positions of one video's placeholders in it.

        Returns:
            `torch.LongTensor` of shape `(T, 2)`: first and one past the last position, disjoint.
        """
        return torch.stack([pads[:, 0], pads[:, -1] + 1], dim=1)


class Qwen25VLAdapter(QwenVLAdapter):
    """Qwen2.5-VL: as Qwen2-VL, with time positions in `tokens_per_second * second_per_grid_ts`."""

    position_inputs = ("second_per_grid_ts",)


class Qwen3VLAdapter(QwenVLAdapter):
    """Qwen3-VL: each group has its time as text and its own vision markers; features also enter inner layers."""

    def _deepstack(self, output) -> list:
        return output.deepstack_features

    def encoder_output(self, videos: list[VideoFeatures]):
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


ADAPTERS = {"qwen2_vl": QwenVLAdapter, "qwen2_5_vl": Qwen25VLAdapter, "qwen3_vl": Qwen3VLAdapter}


def adapter_for(vlm) -> QwenVLAdapter:
    """The adapter of a base model.

    Raises:
        ValueError: there is none for this family.
    """
    family = vlm.config.model_type
    if family not in ADAPTERS:
        raise ValueError(
            f"There is no adapter for a base of type {family!r}; choose one of type {', '.join(sorted(ADAPTERS))}."
        )
    return ADAPTERS[family](vlm)


__all__ = ["ADAPTERS", "Qwen3VLAdapter", "Qwen25VLAdapter", "QwenVLAdapter", "VideoFeatures", "adapter_for"]
