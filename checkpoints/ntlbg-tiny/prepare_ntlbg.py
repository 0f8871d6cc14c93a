"""From the full prompt of all T groups to the base's own inputs for the k kept ones.

Shapes: B rows, L prompt tokens, V videos (flat over rows, in order), T groups of a video, k kept, n visual tokens per
group.
"""

import torch

from .base_adapter_ntlbg import VideoFeatures
from .gate_ntlbg import TaskPull
from .outputs_ntlbg import Choice
from .prompt_ntlbg import IGNORED_LABEL, prune


class PrepareMixin:
    """Encoding, choosing and pruning; for a model with `config`, `adapter`, `vlm`, [`LooksMixin`] and
    [`TemporalStreamMixin`]."""

    def _keep_mask(self, input_ids, slots, choices) -> torch.Tensor:
        keep = torch.ones_like(input_ids, dtype=torch.bool)
        for slot, choice in zip(slots, choices, strict=True):
            spans = self.adapter.group_spans(input_ids[slot.row], slot.pads)
            dropped = torch.ones(len(spans), dtype=torch.bool, device=input_ids.device)
            dropped[choice.selection.indices.to(input_ids.device)] = False
            for start, end in spans[dropped].tolist():
                keep[slot.row, start:end] = False
        return keep

    @torch.compiler.disable(reason="how many tokens the base reads depends on the choice")
    def _prepare(self, inputs: dict) -> tuple[dict, list[Choice]]:
        """The base's own inputs for the pruned prompt (and its `mm_token_type_ids`, where there are any), and the
        choices they rest on."""
        input_ids, grids, types = inputs["input_ids"], inputs["video_grid_thw"], inputs["mm_token_type_ids"]
        if input_ids is None or (types is None and self.adapter.needs_token_types):
            raise ValueError(
                "A prompt with a video needs `input_ids` and `mm_token_type_ids`, but one is missing; pass all that "
                "the processor returns: `model(**inputs)`."
            )
        if inputs["pixel_values_videos"] is None and inputs["video_features"] is None:
            raise ValueError(
                "The prompt has a video (`video_grid_thw`), but neither `pixel_values_videos` nor `video_features` "
                "were given; pass all that the processor returns: `model(**inputs)`."
            )
        attention_mask = inputs["attention_mask"]
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        slots = self.adapter.find_videos(input_ids, attention_mask, types, grids)
        choices = self._choices(inputs, slots)
        keep = self._keep_mask(input_ids, slots, choices)

        positions = inputs["position_ids"]
        if positions is None:
            positions = self.adapter.positions(inputs, attention_mask)
        pad_id = self.config.get_text_config().pad_token_id or 0
        tensors = {"input_ids": (input_ids, pad_id)}
        insertion, labels = self._segment_places(slots, choices, grids), inputs.get("labels")
        if insertion is not None and labels is not None:
            # What comes in are copies of placeholders, which are no answer.
            labels = labels.masked_fill(self.adapter.placeholders(input_ids, attention_mask, types), IGNORED_LABEL)
        for name, tensor, value in (
            ("position_ids", positions, 0),
            ("mm_token_type_ids", types, 0),
            ("labels", labels, IGNORED_LABEL),
        ):
            if tensor is not None:
                tensors[name] = (tensor, value)
        prepared = prune(keep, attention_mask, tensors, insertion)
        if positions is not None:
            self.adapter.remember_positions(prepared["position_ids"], prepared["attention_mask"])

        images = None if inputs["pixel_values"] is None else self.adapter.encode_images(inputs)
        prepared["mm_encoder_outputs"] = self.adapter.encoder_outputs(
            [choice.features for choice in choices], images, prepared.get("mm_token_type_ids")
        )
        return prepared, choices

    def _choices(self, inputs: dict, slots) -> list[Choice]:
        grids, features, selections = inputs["video_grid_thw"], inputs["video_features"], inputs["selection"]
        if selections is not None:
            selections = selections if isinstance(selections, (list, tuple)) else [selections]
            if len(selections) != len(grids):
                raise ValueError(
                    f"There are {len(grids)} videos, but {len(selections)} selections; pass one per video."
                )
        if inputs["kept_group_indices"] is not None:
            if selections is None:
                raise ValueError(
                    "These inputs were made for a second look (`kept_group_indices`), but `selection` was not given; "
                    "pass the same `selection=` to the processor and to the model."
                )
            counts = inputs["kept_group_counts"].tolist()
            if features is None:
                kept_grids = grids.clone()
                kept_grids[:, 0] = inputs["kept_group_counts"]
                features = self._encode(inputs["pixel_values_videos"], kept_grids)
            parts = inputs["kept_group_indices"].split(counts)
            segments = self._frames_of_segments(inputs["temporal_pixel_values"], counts, are_clips=True)
            looks = zip(features, selections, parts, strict=True)
            choices = [self._second_look(*triple) for triple in looks]
            return [self._add_segment(*pair, are_clips=True) for pair in zip(choices, segments, strict=True)]
        if features is None:
            features = self._encode(inputs["pixel_values_videos"], grids)
        self._check_features(features, grids)
        segments = self._frames_of_segments(inputs["temporal_pixel_values"], grids[:, 0].tolist(), are_clips=False)
        query_slots = self._query_slots(inputs["query_input_ids"], inputs["query_attention_mask"])
        if selections is not None:
            queries = [None if query_slots is None else query_slots[slot.row] for slot in slots]
            choices = [self._given_look(*three) for three in zip(features, selections, queries, strict=True)]
            return [self._add_segment(*pair, are_clips=False) for pair in zip(choices, segments, strict=True)]
        seconds = self._split_times(inputs["group_timestamps"], grids[:, 0].tolist())
        evidence = self._split_evidence(inputs.get("group_evidence"), grids[:, 0].tolist())
        with_losses = self.training or inputs.get("labels") is not None
        pull = inputs.get("pull") or TaskPull()
        if self.training and not self.statistics_folded_by_caller:
            self.fold_statistics()
        choices = []
        for number, slot in enumerate(slots):
            k = self.representatives_for(grids[number], inputs["num_representatives"], inputs["max_visual_tokens"])
            query = None if query_slots is None else query_slots[slot.row]
            choice = self._first_and_only_look(
                features[number], k, query, seconds[number], evidence[number], with_losses
            )
            choice = self._add_segment(choice, segments[number], are_clips=False)
            if self.training and choice.relevance is not None:
                choice.features = self._gate(choice, features[number], pull, slot.row)
            choices.append(choice)
        return choices

    def _check_features(self, features: list[VideoFeatures], grids: torch.Tensor):
        came = [tuple(video.tokens.shape[:2]) for video in features]
        wanted = [(int(grid[0]), self.adapter.tokens_per_group(grid)) for grid in grids]
        if came != wanted:
            raise ValueError(
                f"The prompt speaks of videos of (groups, tokens per group) {wanted}, but `video_features` are of "
                f"{came}; encode the same videos at the same size."
            )

    def _base_inputs(self, inputs: dict) -> dict:
        """What the base takes of `inputs`, for a prompt without a video."""
        names = ("input_ids", "attention_mask", "position_ids", "inputs_embeds", "labels", *self.adapter.base_inputs)
        return {name: inputs[name] for name in names if inputs[name] is not None}

    def _assistant(self, assistant, sees_video: bool):
        """The model that drafts for the base.

        Raises:
            ValueError: it cannot read a prompt with a video as the base does.
        """
        if assistant.config.model_type == self.config.model_type:
            assistant = assistant.vlm
        base, other = self.vlm.config, assistant.config
        widths = [config.get_text_config().hidden_size for config in (base, other)]
        reads_text = self.adapter.plain_positions and not hasattr(other, "vision_config")
        if sees_video and not reads_text and (other.model_type != base.model_type or widths[0] != widths[1]):
            raise ValueError(
                "`assistant_model` is given the visual features of this model's base, so it should be of type "
                f"{base.model_type!r} with a language model of width {widths[0]}, but it is of type "
                f"{other.model_type!r} and width {widths[1]}; pass another, or none."
            )
        return assistant

    def _check_no_video(self, inputs: dict):
        input_ids = inputs["input_ids"]
        placeholders = input_ids is not None and bool(
            self.adapter.placeholders(input_ids, inputs["attention_mask"], inputs["mm_token_type_ids"]).any()
        )
        if placeholders or inputs["pixel_values_videos"] is not None or inputs["video_features"] is not None:
            raise ValueError(
                "The prompt has a video, but `video_grid_thw` is missing; make the inputs with `NTLBGProcessor` and "
                "pass all that it returns: `model(**inputs)`."
            )


__all__ = ["PrepareMixin"]
