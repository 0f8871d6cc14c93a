"""From the full prompt of all T groups to the base's own inputs for the k kept ones.

Shapes: B rows, L prompt tokens, V videos (flat over rows, in order), T groups of a video, k kept, n visual tokens per
group.
"""

import torch

from .adapters_ntlbg import VideoFeatures
from .gate_ntlbg import TaskPull
from .outputs_ntlbg import Choice
from .prompt_ntlbg import IGNORED_LABEL, find_videos, prune


class PrepareMixin:
    """Encoding, choosing and pruning; for a model with `config`, `adapter`, `vlm`, and [`LooksMixin`]."""

    def _keep_mask(self, input_ids, attention_mask, slots, choices) -> torch.Tensor:
        keep = torch.ones_like(input_ids, dtype=torch.bool)
        for slot, choice in zip(slots, choices, strict=True):
            spans = self.adapter.group_spans(input_ids[slot.row], slot.pads)
            dropped = torch.ones(len(spans), dtype=torch.bool, device=input_ids.device)
            dropped[choice.selection.indices.to(input_ids.device)] = False
            for start, end in spans[dropped].tolist():
                keep[slot.row, start:end] = False
        return keep

    def _prepare(self, inputs: dict) -> tuple[dict, list[Choice]]:
        """The base's own inputs for the pruned prompt, and the choices they rest on."""
        input_ids, grids = inputs["input_ids"], inputs["video_grid_thw"]
        if input_ids is None or inputs["mm_token_type_ids"] is None:
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
        slots = find_videos(
            input_ids, attention_mask, self.config.video_token_id, grids, self.adapter.tokens_per_group
        )
        choices = self._choices(inputs, slots)
        keep = self._keep_mask(input_ids, attention_mask, slots, choices)

        positions = inputs["position_ids"]
        if positions is None:
            extra = {name: inputs[name] for name in self.adapter.position_inputs if inputs.get(name) is not None}
            positions, _ = self.vlm.model.get_rope_index(
                input_ids,
                mm_token_type_ids=inputs["mm_token_type_ids"],
                image_grid_thw=inputs["image_grid_thw"],
                video_grid_thw=grids,
                attention_mask=attention_mask,
                **extra,
            )
        pad_id = self.config.get_text_config().pad_token_id or 0
        tensors = {"input_ids": (input_ids, pad_id), "position_ids": (positions, 0)}
        if inputs.get("labels") is not None:
            tensors["labels"] = (inputs["labels"], IGNORED_LABEL)
        prepared = prune(keep, attention_mask, tensors)
        # Later steps with a cache count on from here: last position + 1, less the pruned length.
        last = prepared["position_ids"][-3:].amax(dim=(0, 2)) + 1
        self.vlm.model.rope_deltas = (last - prepared["attention_mask"].sum(dim=1))[:, None]

        encoded = {"video": self.adapter.encoder_output([choice.features for choice in choices])}
        if inputs["pixel_values"] is not None:
            encoded["image"] = self.vlm.model.get_image_features(
                inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
            )
        prepared["mm_encoder_outputs"] = encoded
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
            return [self._second_look(*triple) for triple in zip(features, selections, parts, strict=True)]
        if features is None:
            features = self._encode(inputs["pixel_values_videos"], grids)
        self._check_features(features, grids)
        if selections is not None:
            return [self._given_look(*pair) for pair in zip(features, selections, strict=True)]
        query_slots = self._query_slots(inputs["query_input_ids"], inputs["query_attention_mask"])
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


__all__ = ["PrepareMixin"]
