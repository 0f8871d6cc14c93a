"""When what was asked for happens: the span head in the model."""

import torch

from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.modeling_ntlbg.span_head_ntlbg import found_moments, span_loss


class GroundingMixin:
    """For a model with `span_head` (a [`SpanHead`], or `None`) and the looks of `LooksMixin`."""

    def ground(self, **inputs) -> Selection | list[Selection]:
        r"""
        When what is asked for happens, without an answer in words: `model.ground(**processor.first_look(video,
        query))`.

        Takes what [`~LooksMixin.select`] takes, pixels or `video_features`, and always a query.

        Returns:
            `Selection` for one video, else `list[Selection]`, with `moment_spans` (seconds), `moment_confidences`, the
            surest first, and `saliency`. Every representative proposes a moment, so there always is one: whether it is
            believed is for the confidence to say.

        Raises:
            ValueError: the model has no span head, or there is no query, or nothing that the head could look at.
        """
        if self.span_head is None:
            raise ValueError(
                "This model has no span head; train one (`span_head=True` in its configuration, `--span_head` of "
                "train.py), or use `ntlbg ground`, which reads moments off the relevance curve."
            )
        if inputs.get("query_input_ids") is None:
            raise ValueError("There is no query to find moments of; pass `query_input_ids`, as the processor does.")
        if inputs.get("scorer_pixel_values") is not None or inputs.get("scorer_features") is not None:
            raise ValueError(
                "The span head reads the base's visual tokens, but these inputs are for the scorer; pass "
                "`pixel_values_videos` and `video_grid_thw`, or `video_features` of `encode_video`."
            )
        return self.select(**inputs)

    def _find_moments(
        self, selection: Selection, tokens: torch.Tensor, query: torch.Tensor | None, evidence=None
    ) -> dict[str, torch.Tensor]:
        """Put the head's moments on `selection`, but in training, where nobody asks for them; what it adds to the
        losses, by name: its own where the spans are known, `evidence` (T,)."""
        if self.span_head is None or query is None:
            return {}
        proposals = self.span_head(tokens, query, selection.indices, selection.cells, selection.weights)
        if not self.training:
            for name, value in found_moments(proposals, selection.group_timestamps).items():
                setattr(selection, name, value)
            return {} if evidence is None else {"span": span_loss(proposals, evidence, selection.cells)}
        # Where a video has no spans, or none are known, gradients are zero and not missing, and come when they always
        # come: DeepSpeed adds those of all processes in the order of their coming.
        nothing = 0.0 * sum(part.sum() for part in vars(proposals).values())
        if evidence is None:
            return {"ntlbg": nothing}
        return {"span": span_loss(proposals, evidence, selection.cells) + nothing}


__all__ = ["GroundingMixin"]
