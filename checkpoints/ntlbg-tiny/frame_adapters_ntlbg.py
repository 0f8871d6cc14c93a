"""Families that turn every frame into the same number of tokens: a group is one frame, its position a place in the
prompt.

Shapes: B rows, L prompt tokens, T groups (frames), n visual tokens per frame, D the language model's width.
"""

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .base_adapter_ntlbg import BaseAdapter, VideoFeatures


class LlavaOnevisionAdapter(BaseAdapter):
    """LLaVA-OneVision: one unbroken run of placeholders per video, closed by a newline's that belongs to no frame."""

    base_inputs = ("pixel_values", "image_sizes", "batch_num_images")
    trailing_tokens = 1

    def _encode_chunk(self, pixels, grid) -> VideoFeatures:
        output = self.vlm.model.get_video_features(pixels[None], return_dict=True)
        tokens = output.pooler_output[0, :-1]
        return VideoFeatures(tokens.view(len(pixels), -1, tokens.shape[-1]))

    def encode_images(self, inputs: dict):
        return self.vlm.model.get_image_features(
            inputs["pixel_values"],
            inputs["image_sizes"],
            batch_num_images=inputs["batch_num_images"],
            return_dict=True,
        )

    def encoder_outputs(self, videos: list[VideoFeatures], images, mm_token_type_ids) -> dict:
        newline = self.vlm.model.image_newline[None]
        tokens = torch.cat([part.to(videos[0].tokens) for v in videos for part in (v.tokens.flatten(0, 1), newline)])
        # One entry per token: videos that keep different numbers of frames fit, and beams divide it among the rows.
        outputs = {"video": BaseModelOutputWithPooling(pooler_output=tokens[:, None])}
        return outputs if images is None else {**outputs, "image": images}


class InternVLAdapter(BaseAdapter):
    """InternVL: every frame is an image with its number before it; a frame's number goes with the frame.

    In the prompt frames cannot be told from images, so the processor tells by `mm_token_type_ids`.
    """

    def placeholders(self, input_ids, attention_mask=None, mm_token_type_ids=None) -> torch.Tensor:
        if mm_token_type_ids is None:
            return torch.zeros_like(input_ids, dtype=torch.bool)
        found = mm_token_type_ids == 2
        return found if attention_mask is None else found & attention_mask.bool()

    def _encode_chunk(self, pixels, grid) -> VideoFeatures:
        return VideoFeatures(self.vlm.model.get_image_features(pixels, return_dict=True).pooler_output)

    def encode_images(self, inputs: dict):
        return self.vlm.model.get_image_features(inputs["pixel_values"], return_dict=True)

    def encoder_outputs(self, videos: list[VideoFeatures], images, mm_token_type_ids) -> dict:
        tokens = torch.cat([video.tokens for video in videos]).flatten(0, 1)
        if images is not None:
            types = mm_token_type_ids[mm_token_type_ids > 0]
            mixed = tokens.new_empty(len(types), tokens.shape[-1])
            mixed[types == 2] = tokens
            mixed[types == 1] = images.pooler_output.flatten(0, 1).to(tokens)
            tokens = mixed
        return {"image": BaseModelOutputWithPooling(pooler_output=tokens[:, None])}

    def group_spans(self, input_ids: torch.Tensor, pads: torch.Tensor) -> torch.Tensor:
        # A frame is "\nFrame7: <img>...</img>", the first one without the newline.
        ends = pads[:, -1] + 2
        starts = torch.cat([pads[:1, 0] - 1, ends[:-1]])
        if len(pads) > 1:
            starts[0] -= self._label_length(input_ids[: starts[0]], input_ids[ends[0] : pads[1, 0] - 1])
        return torch.stack([starts, ends], dim=1)

    @staticmethod
    def _label_length(before: torch.Tensor, second: torch.Tensor) -> int:
        """How many of the tokens `before` the first frame are its label: as many as end like the label of the
        `second` (its newline left out), of which one token, the number, is another."""
        length, others = 0, 0
        for mine, other in zip(reversed(before.tolist()), reversed(second.tolist()[1:]), strict=False):
            others += mine != other
            if others > 1:
                break
            length += 1
        return length


__all__ = ["InternVLAdapter", "LlavaOnevisionAdapter"]
