"""The scorer's look: a dual encoder judges one picture per group of ONE video against the question.

Its inputs are what the dual encoder's own processor gives, each named `scorer_<name>`.

Shapes: T groups (of a video's N pictures), n pictures per clip, P pieces of the question, d width of the space that
pictures and texts share.
"""

import torch
from torch.nn import functional as F


_PREFIX = "scorer_"
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def clip_windows(encoder, count: int) -> torch.Tensor:
    r"""
    Which pictures one embedding is made of.

    An encoder of images sees one picture at a time. An encoder of videos (X-CLIP) sees a short clip: `num_frames`
    neighbours with the picture in their middle; at the ends of the video the first and last are repeated, so that no
    two pictures have the same clip.

    Args:
        encoder (`PreTrainedModel`): a dual encoder.
        count (`int`): N.

    Returns:
        `torch.LongTensor` of shape `(N, n)`; n is 1 for an encoder of images.
    """
    images = callable(getattr(encoder, "get_image_features", None))
    frames = 1 if images else encoder.config.vision_config.num_frames
    around = torch.arange(frames) - (frames - 1) // 2
    return (torch.arange(count)[:, None] + around).clamp(0, count - 1)


def embed_clips(encoder, pictures: dict[str, torch.Tensor], windows: torch.Tensor) -> torch.Tensor:
    r"""
    Embeddings of the clips that `windows` names among `pictures`.

    Args:
        encoder (`PreTrainedModel`): a dual encoder.
        pictures (`dict`): what its processor makes of pictures, the first axis counting them.
        windows (`torch.LongTensor` of shape `(N, n)`): of [`clip_windows`], renumbered for `pictures`.

    Returns:
        `torch.FloatTensor` of shape `(N, d)`, float32, not normalised.
    """
    clips = {name: value[windows.to(value.device)] for name, value in pictures.items()}
    if windows.shape[1] == 1:
        output = encoder.get_image_features(**{name: value[:, 0] for name, value in clips.items()})
    else:
        output = encoder.get_video_features(clips["pixel_values"])
    # Some encoders of videos keep an axis of length 1 for the clip.
    return output.pooler_output.float().flatten(start_dim=1)


def scorer_descriptors(scorer, inputs: dict, chunk_size: int) -> torch.Tensor:
    r"""
    What the scorer sees in each picture.

    Args:
        scorer (`PreTrainedModel` or `None`): with `get_image_features` or `get_video_features`.
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
        if name.startswith(_PREFIX) and name.removeprefix(_PREFIX) not in _TEXT_INPUTS
    }
    windows = clip_windows(scorer, len(pictures["pixel_values"]))
    chunks = windows.split(max(chunk_size // windows.shape[1], 1))
    return torch.cat([embed_clips(scorer, pictures, chunk) for chunk in chunks])


def scorer_relevance(scorer, descriptors: torch.Tensor, inputs: dict) -> tuple[torch.Tensor | None, list[str]]:
    r"""
    How relevant each group is to the question.

    Args:
        scorer (`PreTrainedModel`): with `get_text_features`.
        descriptors (`torch.FloatTensor` of shape `(T, d)`): of [`scorer_descriptors`].
        inputs (`dict`): with `scorer_input_ids` `(P, Ls)` and what else the text tower takes; nothing of it without a
            question.

    Returns:
        the centred cosines `(T,)`, or `None` without a question, and notes for the reader.
    """
    pieces = scorer_query(scorer, inputs)
    if pieces is None:
        return None, []
    return relevance_to(descriptors, pieces), pieces_notes(len(pieces))


def scorer_query(scorer, inputs: dict) -> torch.Tensor | None:
    """The question as the scorer sees it, a row for each of its pieces, `(P, d)`; `None` without one. `inputs` as in
    [`scorer_relevance`]."""
    text = {
        name: inputs[_PREFIX + name].to(scorer.device)
        for name in _TEXT_INPUTS
        if inputs.get(_PREFIX + name) is not None
    }
    return scorer.get_text_features(**text).pooler_output if text else None


def pieces_notes(count: int) -> list[str]:
    """What the reader is told of a question that was read in `count` pieces; nothing of one."""
    if count == 1:
        return []
    return [
        f"The question is longer than the encoder reads at once: each moment was judged by the best of {count} parts."
    ]


def relevance_to(descriptors: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    r"""
    Cosine of each picture to the query after the video's mean is taken away; to the best of its pieces, if it has
    several.

    Embeddings of pictures share a large common offset; with it, the cosines of all pictures to any text are nearly
    equal.

    The best, because the parts of a long question mostly name different things: a mean lets each part without evidence
    take from the peak of the one with it. And the plain cosine, because a part that nothing in the video answers to
    then stays below the others; standardised, its noise would be as high as they are. (One part of four about an event
    of 2 to 6 in 512 frames: it is the highest point in 14 of 24 videos, in 5 by the best of robust scores, in 1 by the
    mean, in none by the first part alone; tests/test_long_queries.py.)

    Args:
        descriptors (`torch.Tensor` of shape `(T, d)`): embeddings of the pictures.
        query (`torch.Tensor` of shape `(d,)` or `(P, d)`): embedding of the text, or of each of its pieces.

    Returns:
        `torch.FloatTensor` of shape `(T,)`, in [-1, 1].
    """
    normalised = F.normalize(descriptors.float(), dim=-1)
    return cosines_to(normalised - normalised.mean(dim=0, keepdim=True), query)


def cosines_to(descriptors: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Cosine of each picture `(T, d)` to the query `(d,)`, or to the best of its pieces `(P, d)`, as it is: `(T,)`."""
    pieces = F.normalize(query.to(descriptors.device).float(), dim=-1).reshape(-1, query.shape[-1])
    return (F.normalize(descriptors.float(), dim=-1) @ pieces.T).amax(dim=-1)


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


__all__ = [
    "clip_windows",
    "cosines_to",
    "embed_clips",
    "pieces_notes",
    "relevance_to",
    "scorer_descriptors",
    "scorer_k",
    "scorer_query",
    "scorer_relevance",
]
