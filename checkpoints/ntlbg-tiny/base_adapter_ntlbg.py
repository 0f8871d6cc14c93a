"""What every adapter of a base model has to say: how its features come, and where its prompt names each group.

Shapes: B rows, L prompt tokens, V videos (flat over rows, in order), T groups of a video, n visual tokens per group,
D the language model's width.
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from .prompt_ntlbg import VideoSlot, find_videos


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


class BaseAdapter:
    """What families share; a family fills in `_encode_chunk`, `group_spans`, `encode_images` and `encoder_outputs`."""

    # What the base itself takes beside ids, mask, positions and labels.
    base_inputs: tuple[str, ...] = ("pixel_values",)
    # Whether a prompt with a video cannot be read without `mm_token_type_ids`.
    needs_token_types = False
    # Whether a token's position is its place in the prompt, as for any language model.
    plain_positions = True
    # Placeholders behind a video's last group that belong to no group, and stay.
    trailing_tokens = 0
    # What a row of `pixel_values_videos` is.
    unit = "frames"
    merge_size = 1
    temporal_patch_size = 1

    def __init__(self, vlm):
        self.vlm = vlm

    @property
    def tower(self) -> nn.Module:
        """All that makes tokens of pictures, with a `config` that tells it from others."""
        tower = nn.ModuleList([self.vlm.model.vision_tower, self.vlm.model.multi_modal_projector])
        tower.config, tower.training = self.vlm.config, self.vlm.model.vision_tower.training
        return tower

    def tokens_per_group(self, grid: torch.Tensor) -> int:
        """Visual tokens of one group of a video whose grid is `(T, h, w)`."""
        return int(grid[1] * grid[2]) // self.merge_size**2

    def rows_per_group(self, height: int, width: int) -> int:
        """Rows of `pixel_values_videos` of one group of a video whose grid is `(T, height, width)`."""
        return 1

    def placeholders(self, input_ids, attention_mask=None, mm_token_type_ids=None) -> torch.Tensor:
        """`torch.BoolTensor` of shape `(B, L)`: where a prompt stands for videos."""
        found = input_ids == self.vlm.config.video_token_id
        return found if attention_mask is None else found & attention_mask.bool()

    def find_videos(self, input_ids, attention_mask, mm_token_type_ids, video_grid_thw) -> list[VideoSlot]:
        """Where each video of `video_grid_thw` stands; see [`find_videos`]."""
        places = self.placeholders(input_ids, attention_mask, mm_token_type_ids)
        return find_videos(places, video_grid_thw, self.tokens_per_group, self.trailing_tokens)

    def encode(self, pixel_values_videos, video_grid_thw, chunk_groups: int) -> list[VideoFeatures]:
        r"""
        Run the vision tower over every group of every video, `chunk_groups` groups at a time.

        The towers of these families attend within one group only, so the chunks do not change the result.

        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(patches of all videos, patch size)`, or of shape
                `(frames of all videos, channels, height, width)` where a frame has a fixed number of tokens)
            video_grid_thw (`torch.LongTensor` of shape `(V, 3)`): T, h, w.

        Returns:
            `list[VideoFeatures]`, one per video.

        Raises:
            ValueError: the number of patches or frames does not fit the grids.
        """
        sizes = [(groups, self.rows_per_group(height, width)) for groups, height, width in video_grid_thw.tolist()]
        expected = sum(groups * rows for groups, rows in sizes)
        if len(pixel_values_videos) != expected:
            raise ValueError(
                f"`video_grid_thw` speaks of {expected} {self.unit}, but `pixel_values_videos` has "
                f"{len(pixel_values_videos)}; pass both from the same call of the processor."
            )
        videos, offset = [], 0
        for grid, (num_groups, rows) in zip(video_grid_thw, sizes, strict=True):
            parts = []
            for start in range(0, num_groups, chunk_groups):
                groups = min(chunk_groups, num_groups - start)
                chunk = torch.cat([grid.new_tensor([groups]), grid[1:]])[None]
                parts.append(self._encode_chunk(pixel_values_videos[offset : offset + groups * rows], chunk))
                offset += groups * rows
            videos.append(
                parts[0]
                if len(parts) == 1
                else VideoFeatures(
                    torch.cat([part.tokens for part in parts]),
                    [torch.cat(layers) for layers in zip(*(part.deepstack for part in parts), strict=True)],
                )
            )
        return videos

    def _encode_chunk(self, pixels: torch.Tensor, grid: torch.Tensor) -> VideoFeatures:
        """The features of consecutive groups of one video, whose grid is `grid`, of shape `(1, 3)`."""
        raise NotImplementedError

    def encode_images(self, inputs: dict):
        """What the base makes of the images of `inputs`, as it takes it in `mm_encoder_outputs["image"]`."""
        raise NotImplementedError

    def encoder_outputs(self, videos: list[VideoFeatures], images, mm_token_type_ids) -> dict:
        r"""
        What the base takes as `mm_encoder_outputs`.

        Args:
            videos (`list[VideoFeatures]`): the kept groups of each video.
            images (*optional*): of `encode_images`.
            mm_token_type_ids (`torch.Tensor` of shape `(B, L')`, *optional*): of the pruned prompt.
        """
        raise NotImplementedError

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

    def positions(self, inputs: dict, attention_mask: torch.Tensor) -> torch.Tensor | None:
        """
        The positions of the full prompt, which its kept tokens keep, as the base takes them.

        `None` where they are places in the prompt and nothing else: kept tokens then stand as close as if the rest had
        never been there. Kept apart, those of a long video would lie far beyond what such a base was trained for.
        """
        return None

    def remember_positions(self, position_ids: torch.Tensor, attention_mask: torch.Tensor):
        """Tell the base where a pruned prompt ended, for steps with a cache and without positions."""
