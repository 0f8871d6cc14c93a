"""The scorer's look: a dual encoder judges one picture per group of ONE video against the question.

Its inputs are what the dual encoder's own processor gives, each named `scorer_<name>`.

Shapes: T groups, d width of the space that pictures and texts share.
"""

import torch
from torch.nn import functional as F


_PREFIX = "scorer_"
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
# Not for the dual encoder: how many tokens of the question it will not read.
_TOKENS_CUT = "scorer_tokens_cut"


def scorer_descriptors(scorer, inputs: dict, chunk_size: int) -> torch.Tensor:
    r"""
    What the scorer sees in each picture.

    Args:
        scorer (`PreTrainedModel` or `None`): with `get_image_features`.
        inputs (`dict`): of which every `scorer_<name>` that is no text is handed on, `chunk_size` pictures at a time.

    Returns:
        `torch.FloatTensor` of shape `(T, d)`, float32, not normalised.

    Raises:
        ValueError: there is no scorer.
    """
    if scorer is None:
        raise ValueError(
            "`scorer_pixel_values` were given, but this model has no scorer; make it with `from_base(..., "
            "scorer='google/siglip2-base-patch16-224')` or pass the video itself."
        )
    pictures = {
        name.removeprefix(_PREFIX): value.to(scorer.device, scorer.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
        if name.startswith(_PREFIX) and name != _TOKENS_CUT and name.removeprefix(_PREFIX) not in _TEXT_INPUTS
    }
    embedded = []
    for start in range(0, len(pictures["pixel_values"]), chunk_size):
        chunk = {name: value[start : start + chunk_size] for name, value in pictures.items()}
        embedded.append(scorer.get_image_features(**chunk).pooler_output.float())
    return torch.cat(embedded)


def scorer_relevance(scorer, descriptors: torch.Tensor, inputs: dict) -> tuple[torch.Tensor | None, list[str]]:
    r"""
    How relevant each group is to the question.

    Args:
        scorer (`PreTrainedModel`): with `get_text_features`.
        descriptors (`torch.FloatTensor` of shape `(T, d)`): of [`scorer_descriptors`].
        inputs (`dict`): with `scorer_input_ids` `(1, Ls)` and what else the text tower takes; nothing of it without a
            question.

    Returns:
        the centred cosines `(T,)`, or `None` without a question, and notes for the reader.
    """
    text = {
        name: inputs[_PREFIX + name].to(scorer.device)
        for name in _TEXT_INPUTS
        if inputs.get(_PREFIX + name) is not None
    }
    if not text:
        return None, []
    cut = inputs.get(_TOKENS_CUT)
    notes = [tokens_cut_note(int(cut))] if cut is not None and int(cut) else []
    return relevance_to(descriptors, scorer.get_text_features(**text).pooler_output[0]), notes


def tokens_cut_note(count: int) -> str:
    """What the reader is told when `count` tokens of the question were more than the encoder reads."""
    return f"The encoder reads a part of the query only: its last {count} tokens were cut off."


def relevance_to(descriptors: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    r"""
    Cosine of each picture to the query after the video's mean is taken away.

    Embeddings of pictures share a large common offset; with it, the cosines of all pictures to any text are nearly
    equal.

    Args:
        descriptors (`torch.Tensor` of shape `(T, d)`): embeddings of the pictures.
        query (`torch.Tensor` of shape `(d,)`): embedding of the text.

    Returns:
        `torch.FloatTensor` of shape `(T,)`, in [-1, 1].
    """
    normalised = F.normalize(descriptors.float(), dim=-1)
    centred = normalised - normalised.mean(dim=0, keepdim=True)
    return F.normalize(centred, dim=-1) @ F.normalize(query.to(descriptors.device).float(), dim=-1)


def scorer_k(config, groups: int, num_representatives: int | None, max_visual_tokens: int | None) -> int:
    r"""
    k of a scorer's look: what was asked for, else the config's, never more than `groups`.

    Raises:
        ValueError: k < 1, or a budget of tokens holds, which only the second look's size can turn into a number.
    """
    if num_representatives is None and max_visual_tokens is None:
        num_representatives, max_visual_tokens = config.num_representatives, config.max_visual_tokens
    if max_visual_tokens is not None:
        raise ValueError(
            f"`max_visual_tokens` is {max_visual_tokens}, but a scorer's look does not know how many visual tokens a "
            "group will have in the second look; pass `num_representatives` instead of `max_visual_tokens`."
        )
    if num_representatives < 1:
        raise ValueError(f"`num_representatives` should be at least 1, but it is {num_representatives}.")
    return min(num_representatives, groups)


__all__ = ["relevance_to", "scorer_descriptors", "scorer_k", "scorer_relevance", "tokens_cut_note"]
