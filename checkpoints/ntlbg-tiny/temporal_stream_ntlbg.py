"""The second stream: a video encoder sees the segment of each chosen group, and its tokens stand behind the group's.

    [n tokens of the group's pictures ; m tokens of what happens in its segment], group by group in temporal order

After Grounded-VideoLLM (Wang et al. 2024): frozen encoder, adaptive average pooling, projection by an MLP. There a
segment is a twelfth of the video and ends with a token of its own; here it is what a chosen group stands for, and a
separator stands where the base was trained with one (Qwen3-VL).

Shapes: V videos (flat over rows, in order), T groups of p candidate frames each, k kept, n visual tokens per group, D
the language model's width, F frames of a clip, m = product of `temporal_grid` tokens of a segment, d the encoder's
width.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .temporal_clip_ntlbg import ClipShape, clip_shape
from .base_adapter_ntlbg import VideoFeatures
from .outputs_ntlbg import Choice
from .prompt_ntlbg import Insertion, VideoSlot
from .segments_ntlbg import segment_frames
from .selector_ntlbg import FullPrecisionModule


UNTRAINED_NOTE = "The temporal stream was not used: this checkpoint's projector is untrained."


class TemporalProjector(FullPrecisionModule):
    """From the video encoder's width to the language model's: a normalisation and an MLP of two layers, in float32."""

    def __init__(self, encoder_size: int, token_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(encoder_size)
        self.fc_in = nn.Linear(encoder_size, token_size)
        self.fc_out = nn.Linear(token_size, token_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(k, m, d) -> (k, m, D), in the weights' type."""
        with torch.autocast(tokens.device.type, enabled=False):
            return self.fc_out(F.gelu(self.fc_in(self.norm(tokens.to(self.norm.weight)))))


def encode_clips(encoder, shape: ClipShape, clips: torch.Tensor) -> torch.Tensor:
    r"""
    What a video encoder makes of clips, laid out in time and space.

    Args:
        encoder (`PreTrainedModel`): of a type in `CLIP_ENCODERS`.
        shape (`ClipShape`): of its configuration.
        clips (`torch.Tensor` of shape `(k, F, channels, height, width)`)

    Returns:
        `torch.Tensor` of shape `(k, d, steps, rows, columns)`.
    """
    # Of V-JEPA 2 only the encoder is wanted, not the predictor of what is hidden.
    asked = {"skip_predictor": True} if encoder.config.model_type == "vjepa2" else {}
    output = encoder(**{encoder.main_input_name: clips.to(encoder.device, encoder.dtype)}, return_dict=True, **asked)
    tokens = output.last_hidden_state[:, shape.class_tokens :].transpose(1, 2)
    steps, rows, columns = shape.grid
    if shape.time_last:
        return tokens.unflatten(2, (rows, columns, steps)).permute(0, 1, 4, 2, 3)
    return tokens.unflatten(2, (steps, rows, columns))


class TemporalStreamMixin:
    """For a model with `config`, `adapter`, and `temporal_encoder` and `temporal_projector`, which are `None` where
    the configuration has no `temporal_config`."""

    @property
    def has_stream(self) -> bool:
        """Whether segments are seen: there is an encoder, and its projector has been trained."""
        return self.config.temporal_config is not None and self.config.temporal_trained

    @property
    def segment_tokens(self) -> int:
        """m; 0 where segments are not seen."""
        steps, rows, columns = self.config.temporal_grid
        return steps * rows * columns if self.has_stream else 0

    def train(self, mode: bool = True):
        """As of any module, but the video encoder, which is frozen, drops nothing out."""
        super().train(mode)
        if self.temporal_encoder is not None:
            self.temporal_encoder.eval()
        return self

    def _frames_of_segments(self, frames: torch.Tensor | None, counts: list[int], are_clips: bool) -> list:
        """The frames of each video, for `_add_segment`; `None` each where segments are not seen.

        Args:
            frames: flat over the videos: p for each group, or with `are_clips` F for each of the kept groups.
            counts: groups of each video that there are frames of.
        """
        if self.config.temporal_config is None and frames is not None:
            raise ValueError(
                "`temporal_pixel_values` were given, but this model has no video encoder beside its base; make it "
                "with `from_base(..., temporal=...)`, or the processor without `temporal_processor`."
            )
        if not self.has_stream:
            return [None] * len(counts)
        if frames is None:
            raise ValueError(
                "This model also sees segments through a video encoder, but `temporal_pixel_values` were not given; "
                "pass all that a processor returns that was made with `temporal_processor=...`."
            )
        shape = clip_shape(self.config.temporal_config)
        sizes = [count * (shape.frames if are_clips else self.adapter.temporal_patch_size) for count in counts]
        if len(frames) != sum(sizes) or tuple(frames.shape[2:]) != shape.size:
            raise ValueError(
                f"`temporal_pixel_values` are {len(frames)} frames of {tuple(frames.shape[2:])} pixels, but these "
                f"videos and this video encoder need {sum(sizes)} of {shape.size}; make them with the encoder's own "
                f"processor and `temporal_frames={shape.frames}`."
            )
        return list(frames.split(sizes))

    def _add_segment(self, choice: Choice, frames: torch.Tensor | None, are_clips: bool) -> Choice:
        """The choice with the tokens of its segments behind those of its groups."""
        if frames is None:
            if self.config.temporal_config is not None and UNTRAINED_NOTE not in choice.selection.notes:
                choice.selection.notes = [*choice.selection.notes, UNTRAINED_NOTE]
            return choice
        selection, features = choice.selection, choice.features
        if are_clips:
            clips = frames.view(len(selection), -1, *frames.shape[1:])
        else:
            clips = frames[self._segment_frames(selection).to(frames.device)]
        tokens = self.temporal_projector(self._encode_segments(clips).to(features.tokens.device)).to(features.tokens)
        # What goes to inner layers of Qwen3-VL is added there: nothing is.
        deepstack = [torch.cat([layer, torch.zeros_like(tokens)], dim=1) for layer in features.deepstack]
        choice.features = VideoFeatures(torch.cat([features.tokens, tokens], dim=1), deepstack)
        return choice

    def _segment_frames(self, selection) -> torch.Tensor:
        frames = clip_shape(self.config.temporal_config).frames
        return segment_frames(selection.indices, selection.num_groups, self.adapter.temporal_patch_size, frames)

    @torch.no_grad()
    def _encode_segments(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (k, F, channels, height, width) -> pooled tokens (k, m, d), as many frames at once as of the tower."""
        shape = clip_shape(self.config.temporal_config)
        at_once = max(self.config.vision_chunk_groups * self.adapter.temporal_patch_size // shape.frames, 1)
        pooled = [
            F.adaptive_avg_pool3d(encode_clips(self.temporal_encoder, shape, chunk).float(), self.config.temporal_grid)
            for chunk in clips.split(at_once)
        ]
        return torch.cat(pooled).flatten(2).transpose(1, 2)

    def _segment_places(self, slots: list[VideoSlot], choices: list[Choice], grids) -> Insertion | None:
        """Where the tokens of segments go: behind their group's, each with the position of the prompt's own token of
        the same moment and the same place in the picture."""
        if not self.has_stream:
            return None
        parts = []
        for slot, choice, grid in zip(slots, choices, grids, strict=True):
            pads, chosen = slot.pads, choice.selection.indices.to(slot.pads.device)
            frames = self._segment_frames(choice.selection).to(pads.device)
            steps, rows, columns = self.config.temporal_grid
            moments = frames[:, _middles(steps, frames.shape[1], pads.device)] // self.adapter.temporal_patch_size
            height, width = (int(side) // self.adapter.merge_size for side in grid[1:])
            places = _middles(rows, height, pads.device)[:, None] * width + _middles(columns, width, pads.device)
            sources = pads[moments[:, :, None], places.flatten()].flatten(1)
            after = pads[chosen, -1][:, None].expand_as(sources)
            parts.append((torch.full_like(sources, slot.row).flatten(), after.flatten(), sources.flatten()))
        return Insertion(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _middles(parts: int, length: int, device) -> torch.Tensor:
    """The middle of each of `parts` equal parts of 0..length - 1, (parts,)."""
    return (2 * torch.arange(parts, device=device) + 1) * length // (2 * parts)


__all__ = ["TemporalProjector", "TemporalStreamMixin", "encode_clips"]
