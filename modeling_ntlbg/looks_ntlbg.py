"""The two looks: choosing among all groups, and enriching the chosen ones, be they encoded already or read again
large.

Shapes: V videos (flat over rows, in order), T groups of a video, k kept, n visual tokens per group, D width, d
descriptor width.
"""

import dataclasses

import torch

from ntlbg.modeling_ntlbg.base_adapter_ntlbg import VideoFeatures
from ntlbg.modeling_ntlbg.durations_ntlbg import check_durations, until_next
from ntlbg.modeling_ntlbg.gate_ntlbg import TaskPull, gate_points
from ntlbg.modeling_ntlbg.gaussian_ntlbg import LowRankGaussian, fit_gaussian
from ntlbg.modeling_ntlbg.losses_ntlbg import align_loss, context_loss, evidence_loss, ntlbg_loss
from ntlbg.modeling_ntlbg.outputs_ntlbg import Choice
from ntlbg.modeling_ntlbg.rich_points_ntlbg import evidence_log_probabilities, soft_cell_pool
from ntlbg.modeling_ntlbg.scorer_ntlbg import scorer_descriptors, scorer_k, scorer_relevance
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.modeling_ntlbg.strata_ntlbg import STRATA, select_representatives


RELEVANCE_FLOOR = 0.1


class LooksMixin:
    """Encoding, choosing and enriching; for a model with `config`, `adapter`, `scorer`, `selector`, `rich_points`,
    `transition`, the buffers `expected_mean` and `expected_variance`, and what `GroundingMixin` has."""

    @torch.no_grad()
    def encode_video(self, pixel_values_videos, video_grid_thw, **_) -> list[VideoFeatures]:
        r"""
        Encode videos once; pass the result as `video_features=` to `select`, `forward` or `generate`, for many
        questions.

        Takes (and ignores the rest of) what the processor returns, so that `model.encode_video(**inputs)` works.

        Returns:
            `list[VideoFeatures]`, one per video.
        """
        return self._encode(pixel_values_videos, video_grid_thw)

    def _encode(self, pixel_values_videos, video_grid_thw) -> list[VideoFeatures]:
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
            per_group = self.adapter.tokens_per_group(video_grid_thw) + self.segment_tokens
            if max_visual_tokens < per_group:
                raise ValueError(
                    f"`max_visual_tokens` is {max_visual_tokens}, but one group of this video has {per_group} visual "
                    "tokens; raise the budget or lower the frames' size."
                )
            num_representatives = max_visual_tokens // per_group
        if num_representatives < 1:
            raise ValueError(f"`num_representatives` should be at least 1, but it is {num_representatives}.")
        return min(num_representatives, int(video_grid_thw[0]))

    def _query_slots(self, query_input_ids, query_attention_mask) -> list | None:
        """Slots (m, s) of every row; None for a row without a question."""
        if query_input_ids is None:
            return None
        if query_attention_mask is None:
            query_attention_mask = torch.ones_like(query_input_ids)
        slots = self.selector.encode_query(self.get_input_embeddings()(query_input_ids), query_attention_mask)
        asked = query_attention_mask.bool().any(dim=1).tolist()
        return [row if has_question else None for row, has_question in zip(slots, asked, strict=True)]

    def _query_per_video(
        self, query_ids, query_mask, videos: int, input_ids, attention_mask, mm_token_type_ids, grids
    ) -> list:
        """Slots (m, s), or None, of the query of each video."""
        rows = self._query_slots(query_ids, query_mask)
        if rows is None:
            return [None] * videos
        if input_ids is not None and grids is not None:
            places = self.adapter.find_videos(input_ids, attention_mask, mm_token_type_ids, grids)
            return [rows[place.row] for place in places]
        if len(rows) not in (1, videos):
            raise ValueError(
                f"There are {len(rows)} queries for {videos} videos; pass one per video, one for all, or the prompt's "
                "`input_ids` and `video_grid_thw`, which tell them apart."
            )
        return rows if len(rows) == videos else rows * videos

    @torch.no_grad()
    def relevance_logits(self, video: VideoFeatures, query_input_ids, query_attention_mask=None) -> torch.Tensor:
        r"""
        The trained head's logits that each group holds evidence for each query.

        Args:
            video (`VideoFeatures`): one video of `encode_video`.
            query_input_ids, query_attention_mask (`torch.LongTensor` of shape `(Q, Lq)`)

        Returns:
            `torch.FloatTensor` of shape `(Q, T)`.
        """
        slots = self._query_slots(query_input_ids, query_attention_mask)
        if None in slots:
            raise ValueError(f"Query {slots.index(None)} is empty; there is no relevance to nothing.")
        return torch.stack([self.selector(video.tokens, query)[0] for query in slots])

    def _choose(self, tokens, descriptors, k: int, slots, scores, seconds) -> tuple[Selection, LowRankGaussian]:
        """Choose k of one video's groups. `scores` are a scorer's cosines (T,), `slots` the query's (m, s); either may
        be None."""
        config, notes = self.config, []
        relevance, calibrated, prior, worth = None, False, None, 0.0
        if slots is not None and config.selector_trained:
            relevance, *moments, worth = self.selector(tokens, slots)
            calibrated, prior = True, LowRankGaussian(*moments)
        elif scores is not None:
            relevance = scores
        elif slots is not None:
            notes.append(
                "Relevance to the question was not used: this checkpoint's selector is untrained and there is no "
                "scorer."
            )
        else:
            notes.append("Relevance was not used: no question was given to the selector.")
        # Candidates are a grid, but grid points meet where pictures stand further apart, and pictures may be missing.
        durations = None if seconds is None else until_next(seconds)
        durations = check_durations(durations, len(descriptors), descriptors.device)
        gaussian = fit_gaussian(
            descriptors,
            # Relevance weighs the moments towards E[F|Q]; the floor keeps the rest of the video in them, and all of it
            # when nothing is relevant, as for a question about the whole. It is given: L_NTLBG, which likes a Gaussian
            # that all of the video is likely under, would flatten it.
            weights=durations * (RELEVANCE_FLOOR + relevance.detach().sigmoid()) if calibrated else durations,
            rank=config.covariance_rank,
            prior=prior,
            kappa=worth,
        )
        with torch.no_grad():
            chosen = select_representatives(
                descriptors,
                k,
                durations=durations,
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
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        mm_token_type_ids: torch.IntTensor | None = None,
        scorer_pixel_values: torch.FloatTensor | None = None,
        scorer_features: torch.FloatTensor | None = None,
        frames_indices: torch.LongTensor | None = None,
        video_features: list[VideoFeatures] | None = None,
        num_representatives: int | None = None,
        max_visual_tokens: int | None = None,
        **others,
    ) -> list[Selection] | Selection:
        r"""
        The first look: choose without answering. `selection = model.select(**processor.first_look(video, query))`.

        Args:
            pixel_values_videos, video_grid_thw: as the processor returns them, small or large; or `video_features=` of
            `encode_video`.
            scorer_pixel_values (`torch.FloatTensor` of shape `(T, channels, size, size)`): one picture per group of
                ONE video, for the scorer; then the base's vision tower sees nothing in this look.
            scorer_features (`torch.FloatTensor` of shape `(T, d)`, *optional*): of `encode_for_scorer`, instead.
            others: all further `scorer_<name>` of the processor; anything else is ignored.
            query_input_ids, query_attention_mask (`torch.LongTensor` of shape `(B, Lq)`): one query per row.
            input_ids, attention_mask, mm_token_type_ids (`torch.LongTensor` of shape `(B, L)`, *optional*): the
                prompt, which tells which videos stand in which row; without it there has to be one query per video,
                or one for all.
            frames_indices (`torch.LongTensor` of shape `(N,)`, *optional*): picture numbers of one video's candidates,
                kept in its selection.

        Returns:
            `Selection` for one video, else `list[Selection]`; to be passed to the processor and to `generate` as
            `selection=`.
        """
        if scorer_pixel_values is not None or scorer_features is not None:
            if scorer_features is None:
                scorer_features = self.encode_for_scorer(scorer_pixel_values, **others)
            k = scorer_k(self.config, len(scorer_features), num_representatives, max_visual_tokens)
            return self._select_by_scorer(scorer_features, others, k, group_timestamps, frames_indices)
        if video_features is None:
            if pixel_values_videos is None or video_grid_thw is None:
                raise ValueError(
                    "There is no video to select from: pass `pixel_values_videos` and `video_grid_thw`, "
                    "`video_features`, or `scorer_pixel_values`, as the processor returns them."
                )
            video_features = self.encode_video(pixel_values_videos, video_grid_thw)
        queries = self._query_per_video(
            query_input_ids,
            query_attention_mask,
            len(video_features),
            input_ids,
            attention_mask,
            mm_token_type_ids,
            video_grid_thw,
        )
        seconds = self._split_times(group_timestamps, [len(video.tokens) for video in video_features])
        selections = []
        for number, video in enumerate(video_features):
            grid = (
                video_grid_thw[number]
                if video_grid_thw is not None
                else torch.tensor([len(video.tokens), self.adapter.merge_size**2 * video.tokens.shape[1], 1])
            )
            k = self.representatives_for(grid, num_representatives, max_visual_tokens)
            descriptors = video.descriptors
            selection, gaussian = self._choose(video.tokens, descriptors, k, queries[number], None, seconds[number])
            _, selection.context = self._contexts(selection, gaussian, descriptors)
            self._find_moments(selection, video.tokens, queries[number])
            if frames_indices is not None and len(video_features) == 1:
                selection.frames_indices = torch.as_tensor(frames_indices)
            selections.append(selection)
        return selections[0] if len(selections) == 1 else selections

    @torch.no_grad()
    def encode_for_scorer(self, scorer_pixel_values, **others) -> torch.Tensor:
        r"""
        The scorer's look at ONE video, once for many questions: `features = model.encode_for_scorer(**first_look)`,
        then per question `model.select(scorer_features=features, **processor.scorer_query(query))`.

        Takes (and ignores the rest of) what `processor.first_look` returns.

        Returns:
            `torch.FloatTensor` of shape `(T, d)`.
        """
        pictures = {"scorer_pixel_values": scorer_pixel_values, **others}
        return scorer_descriptors(self.scorer, pictures, self.config.vision_chunk_groups)

    def _select_by_scorer(self, descriptors, query: dict, k: int, seconds, frames_indices) -> Selection:
        scores, notes = scorer_relevance(self.scorer, descriptors, query)
        selection, _ = self._choose(None, descriptors, k, None, scores, seconds)
        selection.notes.extend(notes)
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
                "pass both from the same call of the processor."
            )
        return list(group_timestamps.split(sizes))

    def _enrich(self, selection: Selection, kept: VideoFeatures) -> VideoFeatures:
        tokens = self.rich_points(
            kept.tokens, selection.context, selection.weights, selection.timestamps.to(kept.tokens.device)
        )
        return VideoFeatures(tokens, kept.deepstack)

    @staticmethod
    def _split_evidence(group_evidence, sizes: list[int]) -> list:
        """Evidence (T,) of each video; None where it is unknown."""
        if group_evidence is None:
            return [None] * len(sizes)
        if group_evidence.shape != (sum(sizes),):
            raise ValueError(
                f"`group_evidence` is of shape {tuple(group_evidence.shape)}, but the videos have {sum(sizes)} groups "
                "in all; pass one number per group, flat over the videos."
            )
        parts = []
        for number, part in enumerate(group_evidence.split(sizes)):
            unknown = part.isnan()
            if unknown.all():
                parts.append(None)
            elif unknown.any() or part.min() < 0 or part.max() > 1:
                raise ValueError(
                    f"`group_evidence` of video {number} should be shares between 0 and 1, or NaN for all its groups "
                    f"where nothing is known, but it is {part.tolist()[:8]}...; make it from the row's spans."
                )
            else:
                parts.append(part)
        return parts

    def _first_and_only_look(self, video: VideoFeatures, k: int, query, seconds, evidence, with_losses) -> Choice:
        """Choose among encoded groups, enrich the chosen, and, if told, the losses that go with it."""
        descriptors = video.descriptors
        selection, gaussian = self._choose(video.tokens, descriptors, k, query, None, seconds)
        pooled, selection.context = self._contexts(selection, gaussian, descriptors)
        choice = Choice(selection, self._enrich(selection, video.take(selection.indices)), selection.relevance)
        added = self._find_moments(selection, video.tokens, query, evidence)
        if self.training:
            self.observe_tokens(video.tokens)
        if with_losses:
            choice.losses = self._auxiliary_losses(selection, gaussian, pooled, descriptors, choice.features.tokens)
            if evidence is not None and selection.relevance is not None:
                pictures = self.adapter.temporal_patch_size
                choice.losses["evidence"] = evidence_loss(selection.relevance, evidence, pictures)
            for name, loss in added.items():
                choice.losses[name] = choice.losses.get(name, 0.0) + loss
        selection.relevance = None if selection.relevance is None else selection.relevance.detach()
        return choice

    def _gate(self, choice: Choice, video: VideoFeatures, pull: TaskPull, row: int) -> VideoFeatures:
        """Let the task loss reach the relevance head through the hard choice, in training.

        With the points fully shown, a language model that has found the answer has a gradient near zero for all of
        them, and from blank ones it cannot tell what it would find. So a share of the videos, `config.fade_share`, is
        shown between a quarter and three quarters of the way from blank to shown: slopes along that way are what the
        points are worth to the answer (Aumann and Shapley 1974, of the whole way).
        """
        faded, amount = torch.rand(2).tolist()
        openness = 0.25 + 0.5 * amount if faded < self.config.fade_share else 1.0
        selection, points = choice.selection, choice.features
        # Of the groups that are not shown the answer says nothing: they do not compete.
        shown = evidence_log_probabilities(choice.relevance[selection.indices])
        weights = pull.attach(shown, row, selection.num_groups)
        layers = []
        for tokens, features in zip((points.tokens, *points.deepstack), (video.tokens, *video.deepstack), strict=True):
            # Segments were seen of the shown groups alone; of these is their part of the blank.
            segments = tokens[:, features.shape[1] :].detach()
            blank = torch.cat([features.detach().mean(dim=0), segments.mean(dim=0)])
            layers.append(gate_points(tokens, blank, weights, openness))
        return VideoFeatures(layers[0], layers[1:])

    def _given_look(self, video: VideoFeatures, selection: Selection, query=None) -> Choice:
        """All groups are encoded, but which to keep was decided elsewhere."""
        descriptors = video.descriptors
        if selection.num_groups != len(descriptors):
            raise ValueError(
                f"`selection` was made for a video of {selection.num_groups} groups, but this one has "
                f"{len(descriptors)}; make both with the same `candidate_fps` and `max_candidates`."
            )
        selection = selection.to(descriptors.device)
        if selection.context is None:
            gaussian = fit_gaussian(descriptors, rank=self.config.covariance_rank)
            _, context = self._contexts(selection, gaussian, descriptors)
            selection = dataclasses.replace(selection, context=context)
        if selection.moment_spans is None and not self.training:
            self._find_moments(selection, video.tokens, query)
        return Choice(selection, self._enrich(selection, video.take(selection.indices)))

    def _auxiliary_losses(self, selection, gaussian, pooled, descriptors, tokens) -> dict:
        with torch.autocast(tokens.device.type, enabled=False):
            losses = {"ntlbg": ntlbg_loss(gaussian, pooled, descriptors, self.config.likelihood_weight)}
            if self.statistics_seen:
                expected = (self.expected_mean.to(tokens.device), self.expected_variance.to(tokens.device))
                losses["align"] = align_loss(tokens, *expected)
            predicted = self.transition(selection.context, tokens.float().mean(dim=1), selection.timestamps)
            if len(predicted):
                losses["context"] = context_loss(predicted, selection.context)
            else:
                # Of a single group nothing is predicted; but the transition's gradients are then zero and not missing,
                # and come when they always come: DeepSpeed adds those of all processes in the order of their coming.
                losses["ntlbg"] = losses["ntlbg"] + predicted.sum()
        return losses

    def _second_look(self, video: VideoFeatures, selection: Selection, kept_groups: torch.Tensor) -> Choice:
        """The chosen groups were read again large: their features come in alone, all else from the first look."""
        selection = selection.to(video.tokens.device)
        if not torch.equal(selection.indices, kept_groups.to(selection.indices.device)):
            raise ValueError(
                "`selection` and the processor's `kept_group_indices` name different groups; pass the same selection "
                "to the processor and to the model."
            )
        if selection.context is None:
            # A scorer's descriptors are not the base's, so the context is made from the large features themselves.
            descriptors, place = video.descriptors, torch.arange(len(selection), device=video.tokens.device)
            context = self.rich_points.context(descriptors, place, descriptors)
            selection = dataclasses.replace(selection, context=context)
        return Choice(selection, self._enrich(selection, video))


__all__ = ["LooksMixin"]
