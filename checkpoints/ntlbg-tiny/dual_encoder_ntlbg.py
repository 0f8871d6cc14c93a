"""Inputs of a dual encoder of transformers (CLIP, SigLIP, SigLIP 2, ...): pictures and one text, by one rule.

Shapes: N pictures, L text tokens.
"""

import numpy as np
import torch


# What SigLIP was trained on; its second version's tokenizer does not know any length of its own.
UNKNOWN_LENGTH = 64
# Tokenizers without a length say 10^30; no dual encoder reads more than this.
_LONGEST = 8192


def picture_inputs(processor, frames: np.ndarray) -> dict[str, torch.Tensor]:
    """
    Every tensor that the processor makes of pictures: `pixel_values`, and for SigLIP 2 with its native aspect ratios
    also `pixel_attention_mask` and `spatial_shapes`.

    Args:
        processor (`ProcessorMixin`): of the dual encoder.
        frames (`np.ndarray` of shape `(N, H, W, 3)`): uint8 RGB.

    Returns:
        `dict` of tensors whose first axis counts the N pictures.
    """
    inputs = processor.image_processor(list(frames), input_data_format="channels_last", return_tensors="pt")
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def text_inputs(processor, text: str) -> tuple[dict[str, torch.Tensor], int]:
    """
    The tensors of one text, padded to the tokenizer's full length.

    SigLIP was trained that way and reads the embedding off the last position, so that shorter padding gives another,
    worse one; encoders that mask their padding do not see it.

    Args:
        processor (`ProcessorMixin`): of the dual encoder.
        text (`str`): the bare question.

    Returns:
        `dict` of tensors `(1, L)`, and how many tokens were cut off because the text is longer than L.
    """
    tokenizer = processor.tokenizer
    length = tokenizer.model_max_length if tokenizer.model_max_length <= _LONGEST else UNKNOWN_LENGTH
    whole = len(tokenizer(text, verbose=False)["input_ids"])
    tokens = tokenizer([text], padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return dict(tokens), max(whole - length, 0)


__all__ = ["picture_inputs", "text_inputs"]
