"""Inputs of a dual encoder of transformers (CLIP, SigLIP, SigLIP 2, X-CLIP, ...): pictures and one text, by one rule.

Shapes: N pictures, P pieces of one text, L text tokens.
"""

import re

import numpy as np
import torch


# What SigLIP was trained on; its second version's tokenizer does not know any length of its own.
UNKNOWN_LENGTH = 64
# Tokenizers without a length say 10^30; no dual encoder reads more than this.
_LONGEST = 8192
# How many times longer than the encoder reads at once a question may be; more is none, and would be read for minutes.
MAX_PIECES = 64
# Where a text may be parted, best first: after a sentence, after a clause, between words.
_BORDERS = (
    re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\n\s*"),
    re.compile(r"(?<=[,;:])\s+|(?<=[，；：、])\s*|(?<=\s[–—-])\s+"),
    re.compile(r"\s+"),
)


def picture_processor(processor):
    """The part of a dual encoder's processor that prepares pictures; that for videos where it has no other."""
    if "image_processor" in processor.get_attributes():
        return processor.image_processor
    return processor.video_processor


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
    prepare, options = picture_processor(processor), {"input_data_format": "channels_last", "return_tensors": "pt"}
    if "image_processor" not in processor.get_attributes():
        # VideoPrism: the pictures are one clip, (1, N, channels, height, width).
        return {"pixel_values": prepare([frames], do_sample_frames=False, **options)["pixel_values_videos"][0]}
    inputs = prepare(list(frames), **options)
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    # X-CLIP's takes a list of pictures for one clip, too.
    return {name: value[0] if value.ndim == 5 else value for name, value in tensors.items()}


def text_inputs(processor, text: str) -> dict[str, torch.Tensor]:
    """
    The tensors of one text, one row for each piece that the encoder can read, padded to the tokenizer's full length.

    SigLIP was trained that way and reads the embedding off the last position, so that shorter padding gives another,
    worse one; encoders that mask their padding do not see it.

    Args:
        processor (`ProcessorMixin`): of the dual encoder.
        text (`str`): the bare question.

    Returns:
        `dict` of tensors `(P, L)`; P is 1 unless the text is longer than L tokens.

    Raises:
        ValueError: see [`text_pieces`].
    """
    tokenizer = processor.tokenizer
    length = tokenizer.model_max_length if tokenizer.model_max_length <= _LONGEST else UNKNOWN_LENGTH
    pieces = text_pieces(tokenizer, text, length)
    return dict(tokenizer(pieces, padding="max_length", truncation=True, max_length=length, return_tensors="pt"))


def text_pieces(tokenizer, text: str, length: int) -> list[str]:
    """
    `text` in pieces of at most `length` tokens each (special ones included); nothing but white space is left out.

    A piece that is too long is parted at the best kind of border it has (sentence, clause, word, and only then
    anywhere), there nearest to its middle. So pieces are of like lengths, and few.

    Raises:
        ValueError: the text is more than `MAX_PIECES` times `length`, or `length` holds no single character.
    """
    whole = len(tokenizer(text, verbose=False)["input_ids"])
    if whole <= length:
        return [text]
    if whole > length * MAX_PIECES:
        raise ValueError(
            f"the question has {whole} tokens, more than {MAX_PIECES} times the {length} that the encoder reads at "
            "once; shorten it"
        )
    pieces, waiting = [], [text.strip()]
    while waiting:
        piece = waiting.pop()
        if len(tokenizer(piece, verbose=False)["input_ids"]) <= length:
            pieces.append(piece)
        elif len(piece) == 1:
            raise ValueError(
                f"the encoder's tokenizer reads {length} tokens at once, too few for {piece!r}; take another"
            )
        else:
            left, right = _parting(piece)
            waiting += [piece[right:].strip(), piece[:left].strip()]
    return pieces


def _parting(text: str) -> tuple[int, int]:
    """Where the first part of `text` ends and the second begins."""
    for border in _BORDERS:
        places = [place.span() for place in border.finditer(text) if place.start() > 0 and place.end() < len(text)]
        if places:
            return min(places, key=lambda place: abs(sum(place) - len(text)))
    return len(text) // 2, len(text) // 2


__all__ = ["picture_inputs", "picture_processor", "text_inputs", "text_pieces"]
