"""NTLBG: a vision-language model that answers from the k groups of frames that represent the video for the question.

The base processor's prompt for all T groups comes in. The vision tower encodes the groups, the selector keeps k of
them, rich points are fused into their tokens, and the prompt is pruned inside: kept tokens hold the positions, and so
the times, that they have in the full video. With k = T and the fusion's gate at zero, as at birth, this is the base
model, to the bit.

Shapes: B rows, L prompt tokens, V videos (flat over rows, in order), T groups of a video, k kept, n visual tokens per
group, D width.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig
from ntlbg.configuration.remote_code_ntlbg import MODEL_AUTO_MAP, is_remote_code, save_remote_code
from ntlbg.modeling_ntlbg.adapters_ntlbg import VideoFeatures, adapter_for
from ntlbg.modeling_ntlbg.gaussian_ntlbg import LowRankGaussian, fit_gaussian
from ntlbg.modeling_ntlbg.losses_ntlbg import Transition, align_loss, context_loss, ntlbg_loss
from ntlbg.modeling_ntlbg.prompt_ntlbg import find_videos, prune
from ntlbg.modeling_ntlbg.rich_points_ntlbg import RichPoints, soft_cell_pool
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.modeling_ntlbg.selector_ntlbg import NTLBGSelector
from ntlbg.modeling_ntlbg.strata_ntlbg import STRATA, select_representatives


IGNORED_LABEL = -100


@dataclass
class NTLBGOutput(ModelOutput):
    r"""
    Args:
        loss (`torch.FloatTensor`, *optional*): L_task + l1 L_NTLBG + l2 L_align + l3 L_context, with the weights of
            the config.
        logits (`torch.FloatTensor` of shape `(B, L', vocabulary)`): over the pruned prompt.
        past_key_values (`Cache`, *optional*)
        hidden_states, attentions (`tuple`, *optional*): as the base gives them.
        task_loss, ntlbg_loss, align_loss, context_loss (`torch.FloatTensor`, *optional*): the components, unweighted;
            `None` where there were no labels or no video.
        selections (`list[Selection]`, *optional*): indices, timestamps, weights and strata of what was kept, one per
            video.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    task_loss: torch.FloatTensor | None = None
    ntlbg_loss: torch.FloatTensor | None = None
    align_loss: torch.FloatTensor | None = None
    context_loss: torch.FloatTensor | None = None
    selections: list[Selection] | None = None


@dataclass
class NTLBGGenerateOutput(ModelOutput):
    r"""
    Args:
        sequences (`torch.LongTensor` of shape `(B * return sequences, L + new tokens)`): the caller's own prompt, then
            the answer.
        selections (`list[Selection]`): what the answer was given from, one per video.
        base_output (`ModelOutput`, *optional*): all else the base returned, with `return_dict_in_generate=True`.
    """

    sequences: torch.LongTensor | None = None
    selections: list[Selection] | None = None
    base_output: ModelOutput | None = None


@dataclass
class _Choice:
    """One video's selection with what the losses need of it."""

    selection: Selection
    features: VideoFeatures
    losses: dict = field(default_factory=dict)


class NTLBGPreTrainedModel(PreTrainedModel):
    config_class = NTLBGConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]
    # Distances and determinants do not survive half precision; the selector is small.
    _keep_in_fp32_modules_strict = {"selector", "rich_points", "transition"}

    def _init_weights(self, module):
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            init.normal_(module.in_proj_weight, std=std)
            init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                if name.startswith("weight"):
                    init.normal_(parameter, std=module.hidden_size**-0.5)
                else:
                    init.zeros_(parameter)
        elif isinstance(module, NTLBGSelector):
            module.init_own_parameters(std)
        elif isinstance(module, RichPoints):
            module.init_own_parameters()
        elif isinstance(module, NTLBGForConditionalGeneration):
            init.zeros_(module.expected_mean)
            init.ones_(module.expected_variance)


class NTLBGForConditionalGeneration(NTLBGPreTrainedModel, GenerationMixin):
    r"""
    A base vision-language model behind a selector of representative frames.

    Args:
        config (`NTLBGConfig`)
        vlm (`PreTrainedModel`, *optional*): the base model itself; built from `config.base_config` when not given.
        scorer (`PreTrainedModel`, *optional*): the dual encoder of the first look; built from `config.scorer_config`
            when not given.
    """

    def __init__(self, config: NTLBGConfig, vlm: PreTrainedModel | None = None, scorer: PreTrainedModel | None = None):
        super().__init__(config)
        if vlm is None:
            vlm = AutoModelForImageTextToText.from_config(
                config.base_config, attn_implementation=config.base_config._attn_implementation
            )
        self.vlm = vlm
        if scorer is None and config.scorer_config is not None:
            scorer = AutoModel.from_config(config.scorer_config)
        self.scorer = scorer
        self.adapter = adapter_for(vlm)
        width = config.hidden_size
        self.selector = NTLBGSelector(config, token_size=width, descriptor_size=width, embedding_size=width)
        self.rich_points = RichPoints(config, token_size=width, descriptor_size=width)
        self.transition = Transition(config.context_size, width)
        self.register_buffer("expected_mean", torch.zeros(width))
        self.register_buffer("expected_variance", torch.ones(width))
        self.post_init()

    @classmethod
    def from_base(cls, base, *, scorer=None, config_kwargs: dict | None = None, **kwargs):
        r"""
        Put a selector in front of an existing model; the result answers as the base does until k < T.

        Args:
            base (`str`, `os.PathLike` or `PreTrainedModel`): the base model, or its Hub name or folder.
            scorer (`str`, `os.PathLike` or `PreTrainedModel`, *optional*): a dual encoder of transformers for the
                first look.
            config_kwargs (`dict`, *optional*): fields of [`NTLBGConfig`].
            kwargs: passed to `from_pretrained` of the base (`dtype`, `device_map`, `attn_implementation`, ...).

        Raises:
            ValueError: there is no adapter for the base's family, or a field is out of range.
        """
        if not isinstance(base, PreTrainedModel):
            base = AutoModelForImageTextToText.from_pretrained(base, **kwargs)
        if scorer is not None and not isinstance(scorer, PreTrainedModel):
            scorer = AutoModel.from_pretrained(scorer)
        config = NTLBGConfig(
            base_config=base.config,
            scorer_config=None if scorer is None else scorer.config,
            **(config_kwargs or {}),
        )
        model = cls(config, vlm=base, scorer=scorer)
        model.config.dtype = base.dtype
        model.generation_config = base.generation_config
        for module in (model.selector, model.rich_points, model.transition):
            module.to(device=base.device, dtype=torch.float32)
        model.expected_mean = model.expected_mean.to(base.device)
        model.expected_variance = model.expected_variance.to(base.device)
        if scorer is not None:
            scorer.to(base.device)
        return model.train(base.training)

    def get_input_embeddings(self):
        return self.vlm.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.vlm.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.vlm.get_output_embeddings()

    def set_output_embeddings(self, value):
        self.vlm.set_output_embeddings(value)

    def get_decoder(self):
        return self.vlm.get_decoder()

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save weights and config as transformers does, with this code flat beside them."""
        if is_remote_code(type(self)):
            return super().save_pretrained(save_directory, *args, **kwargs)
        self.config.auto_map = dict(MODEL_AUTO_MAP)
        # The code has to be there before a push inside `super()` collects the folder.
        if kwargs.get("is_main_process", True):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            save_remote_code(type(self), save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)

    # ------------------------------------------------------------------------------------------------ first look

    def encode_video(self, pixel_values_videos, video_grid_thw, **_) -> list[VideoFeatures]:
        r"""
        Encode videos once; pass the result as `video_features=` to `select`, `forward` or `generate`, for many
        questions.

        Takes (and ignores the rest of) what the processor returns, so that `model.encode_video(**inputs)` works.

        Returns:
            `list[VideoFeatures]`, one per video.
        """
        return self.adapter.encode(pixel_values_videos, video_grid_thw, self.config.vision_chunk_groups)

    def representatives_for(
        self, video_grid_thw: torch.Tensor, num_representatives=None, max_visual_tokens=None
    ) -> int:
        r"""
        k for a video whose patch grid is `(T, h, w)`: `max_visual_tokens` if given here, else `num_representatives` if
        given here, else the config's, in the same order; never more than T.

        Raises:
            ValueError: k < 1, or the budget is smaller than one group.
        """
        if num_representatives is None and max_visual_tokens is None:
            num_representatives, max_visual_tokens = self.config.num_representatives, self.config.max_visual_tokens
        if max_visual_tokens is not None:
            per_group = self.adapter.tokens_per_group(video_grid_thw)
            if max_visual_tokens < per_group:
                raise ValueError(
                    f"`max_visual_tokens` is {max_visual_tokens}, but one group of this video has {per_group} visual "
                    f"tokens; raise "
                    "the budget or lower the frames' size."
                )
            num_representatives = max_visual_tokens // per_group
        if num_representatives < 1:
            raise ValueError(f"`num_representatives` should be at least 1, but it is {num_representatives}.")
        return min(num_representatives, int(video_grid_thw[0]))

    def _query_slots(self, query_input_ids, query_attention_mask):
        if query_input_ids is None:
            return None
        if query_attention_mask is None:
            query_attention_mask = torch.ones_like(query_input_ids)
        embeddings = self.get_input_embeddings()(query_input_ids)
        return self.selector.encode_query(embeddings, query_attention_mask)

    def _choose(self, tokens, descriptors, k: int, slots, scores, seconds) -> tuple[Selection, LowRankGaussian]:
        """Choose k of one video's groups. `scores` are a scorer's cosines (T,), `slots` the query's (m, s); either may
        be None."""
        config, notes = self.config, []
        relevance, calibrated, prior = None, False, None
        if slots is not None and config.selector_trained:
            relevance, calibrated, prior = self.selector.relevance(tokens, slots), True, self.selector.prior(slots)
        elif scores is not None:
            relevance = scores
        elif slots is not None:
            notes.append(
                "Relevance to the question was not used: this checkpoint's selector is untrained and there is no "
                "scorer."
            )
        else:
            notes.append("Relevance was not used: no question was given to the selector.")
        gaussian = fit_gaussian(
            descriptors,
            weights=relevance.detach().sigmoid() if calibrated else None,
            rank=config.covariance_rank,
            prior=prior,
            kappa=self.selector.kappa if prior is not None else 0.0,
        )
        with torch.no_grad():
            chosen = select_representatives(
                descriptors,
                k,
                relevance=None if relevance is None else relevance.detach(),
                calibrated=calibrated,
                gaussian=gaussian,
                rank=config.covariance_rank,
                relevance_share=config.relevance_share,
                novelty_share=config.novelty_share,
                time_weight=config.time_weight,
                lbg_iterations=config.lbg_iterations,
            )
        if seconds is None:
            notes.append("The times of the groups were not given; seconds are group numbers.")
            seconds = torch.arange(len(descriptors), device=descriptors.device)
        seconds = seconds.to(descriptors.device, torch.float32)
        selection = Selection(
            indices=chosen.indices,
            timestamps=seconds[chosen.indices],
            weights=chosen.weights,
            strata=[STRATA[stratum] for stratum in chosen.strata.tolist()],
            num_groups=len(descriptors),
            group_timestamps=seconds,
            mahalanobis=chosen.mahalanobis,
            cells=chosen.cells,
            relevance=relevance,
            shell=float(chosen.shell),
            spread=float(chosen.spread),
            temporal_patch_size=self.adapter.temporal_patch_size,
            notes=notes,
        )
        return selection, gaussian

    def _contexts(
        self, selection: Selection, gaussian: LowRankGaussian, descriptors
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Softly pooled cells (k, d) and contexts (k, c) of a selection."""
        distances = gaussian.mahalanobis(descriptors) / descriptors.shape[-1]
        pooled = soft_cell_pool(descriptors, selection.cells, distances, len(selection))
        return pooled, self.rich_points.context(descriptors, selection.indices, pooled)

    @torch.no_grad()
    def select(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        query_input_ids: torch.LongTensor | None = None,
        query_attention_mask: torch.LongTensor | None = None,
        group_timestamps: torch.FloatTensor | None = None,
        scorer_pixel_values: torch.FloatTensor | None = None,
        scorer_input_ids: torch.LongTensor | None = None,
        scorer_attention_mask: torch.LongTensor | None = None,
        frames_indices: torch.LongTensor | None = None,
        video_features: list[VideoFeatures] | None = None,
        num_representatives: int | None = None,
        max_visual_tokens: int | None = None,
        **_,
    ) -> list[Selection] | Selection:
        r"""
        The first look: choose without answering. `selection = model.select(**processor.first_look(video, query))`.

        Args:
            pixel_values_videos, video_grid_thw: as the processor returns them, small or large; or `video_features=` of
            `encode_video`.
            scorer_pixel_values (`torch.FloatTensor` of shape `(T, channels, size, size)`): one picture per group of
                ONE video, for the scorer; then the base's vision tower sees nothing in this look.
            query_input_ids, query_attention_mask (`torch.LongTensor` of shape `(V or 1, Lq)`): one query per video, or
                one for all.
            frames_indices (`torch.LongTensor` of shape `(N,)`, *optional*): picture numbers of one video's candidates,
                kept in its selection.

        Returns:
            `Selection` for one video, else `list[Selection]`; to be passed to the processor and to `generate` as
            `selection=`.
        """
        if scorer_pixel_values is not None:
            return self._select_by_scorer(
                scorer_pixel_values,
                scorer_input_ids,
                scorer_attention_mask,
                group_timestamps,
                frames_indices,
                num_representatives,
            )
        if video_features is None:
            if pixel_values_videos is None or video_grid_thw is None:
                raise ValueError(
                    "There is no video to select from: pass `pixel_values_videos` and `video_grid_thw`, "
                    "`video_features`, or "
                    "`scorer_pixel_values`, as the processor returns them."
                )
            video_features = self.encode_video(pixel_values_videos, video_grid_thw)
        slots = self._query_slots(query_input_ids, query_attention_mask)
        seconds = self._split_times(group_timestamps, [len(video.tokens) for video in video_features])
        selections = []
        for number, video in enumerate(video_features):
            grid = (
                video_grid_thw[number]
                if video_grid_thw is not None
                else torch.tensor([len(video.tokens), self.adapter.merge_size**2 * video.tokens.shape[1], 1])
            )
            k = self.representatives_for(grid, num_representatives, max_visual_tokens)
            query = None if slots is None else slots[number if len(slots) > 1 else 0]
            descriptors = video.descriptors
            selection, gaussian = self._choose(video.tokens, descriptors, k, query, None, seconds[number])
            _, selection.context = self._contexts(selection, gaussian, descriptors)
            if frames_indices is not None and len(video_features) == 1:
                selection.frames_indices = torch.as_tensor(frames_indices)
            selections.append(selection)
        return selections[0] if len(selections) == 1 else selections

    def _select_by_scorer(self, pixels, input_ids, attention_mask, seconds, frames_indices, num_representatives):
        if self.scorer is None:
            raise ValueError(
                "`scorer_pixel_values` were given, but this model has no scorer; make it with "
                "`from_base(..., scorer='google/siglip2-base-patch16-224')` or pass the video itself."
            )
        chunks = pixels.to(self.scorer.dtype).split(self.config.vision_chunk_groups)
        descriptors = torch.cat([self.scorer.get_image_features(chunk).pooler_output for chunk in chunks]).float()
        scores = None
        if input_ids is not None:
            mask = {} if attention_mask is None else {"attention_mask": attention_mask}
            text = self.scorer.get_text_features(input_ids, **mask).pooler_output[0].float()
            # Centred: the encoders' common offset would otherwise drown the differences between frames.
            centred = nn.functional.normalize(descriptors - descriptors.mean(dim=0), dim=-1)
            scores = centred @ nn.functional.normalize(text, dim=-1)
        k = min(num_representatives or self.config.num_representatives, len(descriptors))
        selection, _ = self._choose(None, descriptors, k, None, scores, seconds)
        if frames_indices is not None:
            selection.frames_indices = torch.as_tensor(frames_indices)
        return selection

    @staticmethod
    def _split_times(group_timestamps, sizes: list[int]) -> list:
        if group_timestamps is None:
            return [None] * len(sizes)
        if len(group_timestamps) != sum(sizes):
            raise ValueError(
                f"`group_timestamps` has {len(group_timestamps)} entries, but the videos have {sum(sizes)} groups; "
                f"pass both from "
                "the same call of the processor."
            )
        return list(group_timestamps.split(sizes))

    # ----------------------------------------------------------------------------------------- selection to prompt

    def _enrich(self, selection: Selection, kept: VideoFeatures) -> VideoFeatures:
        tokens = self.rich_points(
            kept.tokens, selection.context, selection.weights, selection.timestamps.to(kept.tokens.device)
        )
        return VideoFeatures(tokens, kept.deepstack)

    def _first_and_only_look(self, video: VideoFeatures, k: int, query, seconds) -> _Choice:
        """Choose among encoded groups, enrich the chosen, and, in training, the losses that go with it."""
        descriptors = video.descriptors
        selection, gaussian = self._choose(video.tokens, descriptors, k, query, None, seconds)
        pooled, selection.context = self._contexts(selection, gaussian, descriptors)
        kept = video.take(selection.indices)
        choice = _Choice(selection, kept)
        if self.training:
            if selection.relevance is not None:
                # Exactly 1 in value; its gradient lets the task loss reach the relevance head through a hard choice.
                gate = selection.relevance[selection.indices].sigmoid()
                kept.tokens = kept.tokens * (1 + (gate - gate.detach())).to(kept.tokens.dtype)[:, None, None]
            self._observe(video.tokens)
        choice.features = self._enrich(selection, kept)
        if self.training:
            choice.losses = self._auxiliary_losses(selection, gaussian, pooled, descriptors, choice.features.tokens)
        selection.relevance = None if selection.relevance is None else selection.relevance.detach()
        return choice

    def _auxiliary_losses(self, selection, gaussian, pooled, descriptors, tokens) -> dict:
        with torch.autocast(tokens.device.type, enabled=False):
            losses = {
                "ntlbg_loss": ntlbg_loss(gaussian, pooled, descriptors, self.config.likelihood_weight),
                "align_loss": align_loss(tokens, self.expected_mean, self.expected_variance),
            }
            if len(selection) > 1:
                visual = tokens.float().mean(dim=1)
                predicted = self.transition(selection.context, visual, selection.timestamps)
                losses["context_loss"] = context_loss(predicted, selection.context)
        return losses

    @torch.no_grad()
    def _observe(self, tokens: torch.Tensor, momentum: float = 0.99):
        """Running mean and variance of the base's own visual tokens, over all processes: what L_align compares
        with."""
        flat = tokens.float().flatten(0, -2)
        moments = torch.stack([flat.mean(dim=0), flat.square().mean(dim=0)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(moments)
            moments /= torch.distributed.get_world_size()
        mean, variance = moments[0], (moments[1] - moments[0].square()).clamp_min(0)
        self.expected_mean.lerp_(mean.to(self.expected_mean.dtype), 1 - momentum)
        self.expected_variance.lerp_(variance.to(self.expected_variance.dtype), 1 - momentum)

    def _second_look(self, video: VideoFeatures, selection: Selection, kept_groups: torch.Tensor) -> _Choice:
        """The chosen groups were read again large: their features come in alone, all else from the first look."""
        selection = selection.to(video.tokens.device)
        if not torch.equal(selection.indices, kept_groups.to(selection.indices.device)):
            raise ValueError(
                "`selection` and the processor's `kept_group_indices` name different groups; pass the same selection "
                "to the "
                "processor and to the model."
            )
        if selection.context is None:
            # A scorer's descriptors are not the base's, so the context is made from the large features themselves.
            descriptors, place = video.descriptors, torch.arange(len(selection), device=video.tokens.device)
            context = self.rich_points.context(descriptors, place, descriptors)
            selection = dataclasses.replace(selection, context=context)
        return _Choice(selection, self._enrich(selection, video))

    def _keep_mask(self, input_ids, attention_mask, slots, choices) -> torch.Tensor:
        keep = torch.ones_like(input_ids, dtype=torch.bool)
        for slot, choice in zip(slots, choices, strict=True):
            spans = self.adapter.group_spans(input_ids[slot.row], slot.pads)
            dropped = torch.ones(len(spans), dtype=torch.bool, device=input_ids.device)
            dropped[choice.selection.indices.to(input_ids.device)] = False
            for start, end in spans[dropped].tolist():
                keep[slot.row, start:end] = False
        return keep

    def _prepare(self, inputs: dict) -> tuple[dict, list[_Choice]]:
        """The base's own inputs for the pruned prompt, and the choices they rest on."""
        input_ids, grids = inputs["input_ids"], inputs["video_grid_thw"]
        if input_ids is None or inputs["mm_token_type_ids"] is None:
            raise ValueError(
                "A prompt with a video needs `input_ids` and `mm_token_type_ids`, but one is missing; pass all that "
                "the processor "
                "returns: `model(**inputs)`."
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

    def _choices(self, inputs: dict, slots) -> list[_Choice]:
        grids, features = inputs["video_grid_thw"], inputs["video_features"]
        kept_groups, selections = inputs["kept_group_indices"], inputs["selection"]
        if kept_groups is not None:
            if selections is None:
                raise ValueError(
                    "These inputs were made for a second look (`kept_group_indices`), but `selection` was not given; "
                    "pass the "
                    "same `selection=` to the processor and to the model."
                )
            selections = selections if isinstance(selections, (list, tuple)) else [selections]
            counts = inputs["kept_group_counts"].tolist()
            if len(selections) != len(grids) or len(counts) != len(grids):
                raise ValueError(
                    f"There are {len(grids)} videos, but {len(selections)} selections; pass one per video."
                )
            kept_grids = torch.stack(
                [grids.new_tensor([k, *grid[1:]]) for k, grid in zip(counts, grids.tolist(), strict=True)]
            )
            if features is None:
                features = self.encode_video(inputs["pixel_values_videos"], kept_grids)
            parts = kept_groups.split(counts)
            return [self._second_look(*triple) for triple in zip(features, selections, parts, strict=True)]
        if features is None:
            features = self.encode_video(inputs["pixel_values_videos"], grids)
        if len(features) != len(grids):
            raise ValueError(f"There are {len(grids)} videos in the prompt, but features of {len(features)}.")
        query_slots = self._query_slots(inputs["query_input_ids"], inputs["query_attention_mask"])
        seconds = self._split_times(inputs["group_timestamps"], grids[:, 0].tolist())
        choices = []
        for number, slot in enumerate(slots):
            k = self.representatives_for(grids[number], inputs["num_representatives"], inputs["max_visual_tokens"])
            query = None if query_slots is None else query_slots[slot.row]
            choices.append(self._first_and_only_look(features[number], k, query, seconds[number]))
        return choices

    # ------------------------------------------------------------------------------------------ forward and generate

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        mm_token_type_ids: torch.IntTensor | None = None,
        query_input_ids: torch.LongTensor | None = None,
        query_attention_mask: torch.LongTensor | None = None,
        group_timestamps: torch.FloatTensor | None = None,
        kept_group_indices: torch.LongTensor | None = None,
        kept_group_counts: torch.LongTensor | None = None,
        video_features: list[VideoFeatures] | None = None,
        selection: Selection | list[Selection] | None = None,
        num_representatives: int | None = None,
        max_visual_tokens: int | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> NTLBGOutput:
        r"""
        All that the processor returns goes in; a prompt without a video passes to the base untouched.

        Args:
            query_input_ids, query_attention_mask (`torch.LongTensor` of shape `(B, Lq)`, *optional*): the bare
                question of each row.
            group_timestamps (`torch.FloatTensor` of shape `(sum of T,)`, *optional*): seconds of each group, flat over
                the videos.
            kept_group_indices (`torch.LongTensor` of shape `(sum of k,)`), kept_group_counts (`torch.LongTensor` of
                shape `(V,)`), *optional*: from a processor called with `selection=`: the pixels are those of the
                chosen groups only.
            video_features (`list[VideoFeatures]`, *optional*): of `encode_video`, instead of pixels.
            selection (`Selection` or `list[Selection]`, *optional*): of the first look, together with
                `kept_group_indices`.
            num_representatives, max_visual_tokens (`int`, *optional*): k, or a budget, for this call.
            labels (`torch.LongTensor` of shape `(B, L)`, *optional*): over the full prompt; -100 is ignored.

        Returns:
            [`NTLBGOutput`]; its logits are over the pruned prompt.
        """
        common = {
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
            **kwargs,
        }
        if video_grid_thw is None:
            optional = {"second_per_grid_ts": second_per_grid_ts} if second_per_grid_ts is not None else {}
            output = self.vlm(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                labels=labels,
                pixel_values=pixel_values,
                image_grid_thw=image_grid_thw,
                mm_token_type_ids=mm_token_type_ids,
                **optional,
                **common,
            )
            return self._output(output, [])
        prepared, choices = self._prepare(
            {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                "position_ids": position_ids,
                "labels": labels,
                "pixel_values": pixel_values,
                "image_grid_thw": image_grid_thw,
                "pixel_values_videos": pixel_values_videos,
                "video_grid_thw": video_grid_thw,
                "second_per_grid_ts": second_per_grid_ts,
                "mm_token_type_ids": mm_token_type_ids,
                "query_input_ids": query_input_ids,
                "query_attention_mask": query_attention_mask,
                "group_timestamps": group_timestamps,
                "kept_group_indices": kept_group_indices,
                "kept_group_counts": kept_group_counts,
                "video_features": video_features,
                "selection": selection,
                "num_representatives": num_representatives,
                "max_visual_tokens": max_visual_tokens,
            }
        )
        return self._output(self.vlm(**prepared, **common), choices)

    def _output(self, output, choices: list[_Choice]) -> NTLBGOutput:
        names = ("ntlbg_loss", "align_loss", "context_loss")
        losses = {}
        for name in names:
            parts = [choice.losses[name] for choice in choices if name in choice.losses]
            losses[name] = torch.stack(parts).mean() if parts else None
        loss = output.loss
        if loss is not None:
            weights = (self.config.ntlbg_weight, self.config.align_weight, self.config.context_weight)
            for name, weight in zip(names, weights, strict=True):
                if weight and losses[name] is not None:
                    loss = loss + weight * losses[name]
        return NTLBGOutput(
            loss=loss,
            logits=output.logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            task_loss=output.loss,
            selections=[choice.selection for choice in choices] or None,
            **losses,
        )

    @torch.no_grad()
    def generate(self, input_ids: torch.LongTensor | None = None, return_selection: bool = False, **kwargs):
        r"""
        As the base's `generate`, from the representatives only.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, L)`): the full prompt.
            return_selection (`bool`, *optional*, defaults to `False`): return [`NTLBGGenerateOutput`] with what was
                kept.
            kwargs: the other inputs of `forward`, and whatever `generate` takes.

        Returns:
            `torch.LongTensor` of shape `(B * return sequences, L + new)`, or a `ModelOutput` with it as `sequences`.
            The caller's own prompt stands in front, so that `out[:, input_ids.shape[1]:]` is the answer.
        """
        # The base generates, by what was saved with (or set on) this model.
        self.vlm.generation_config = self.generation_config
        inputs = {name: kwargs.pop(name, None) for name in _PREPARED_INPUTS if name != "input_ids"}
        inputs["input_ids"] = input_ids
        if inputs["video_grid_thw"] is None:
            base_inputs = {name: inputs[name] for name in _BASE_INPUTS if inputs[name] is not None}
            output, choices, pruned_length = self.vlm.generate(**base_inputs, **kwargs), [], None
        else:
            prepared, choices = self._prepare(inputs)
            mask = prepared["attention_mask"]
            text_positions = (mask.long().cumsum(dim=-1) - 1).clamp_min(0)
            if len(prepared["position_ids"]) == 3:
                prepared["position_ids"] = torch.cat([text_positions[None], prepared["position_ids"]])
            pruned_length = mask.shape[1]
            output = self.vlm.generate(**prepared, **kwargs)

        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        if pruned_length is not None:
            copies = len(sequences) // len(input_ids)
            sequences = torch.cat([input_ids.repeat_interleave(copies, dim=0), sequences[:, pruned_length:]], dim=1)
        selections = [choice.selection for choice in choices]
        if isinstance(output, torch.Tensor):
            return NTLBGGenerateOutput(sequences=sequences, selections=selections) if return_selection else sequences
        output.sequences = sequences
        if return_selection:
            return NTLBGGenerateOutput(sequences=sequences, selections=selections, base_output=output)
        return output


_BASE_INPUTS = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "inputs_embeds",
    "pixel_values",
    "image_grid_thw",
    "mm_token_type_ids",
)
_PREPARED_INPUTS = (
    *_BASE_INPUTS,
    "labels",
    "pixel_values_videos",
    "video_grid_thw",
    "second_per_grid_ts",
    "query_input_ids",
    "query_attention_mask",
    "group_timestamps",
    "kept_group_indices",
    "kept_group_counts",
    "video_features",
    "selection",
    "num_representatives",
    "max_visual_tokens",
)


__all__ = ["NTLBGForConditionalGeneration", "NTLBGGenerateOutput", "NTLBGOutput", "NTLBGPreTrainedModel"]
