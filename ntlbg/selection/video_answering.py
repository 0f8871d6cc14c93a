"""Many questions to one video with an NTLBG model: look once, choose groups per question, answer from those."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.scorer_ntlbg import cosines_to, scorer_k, scorer_query
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.first_look_ntlbg import SCORER_DECODE_SIDE
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.processors.video_download_ntlbg import downloaded
from ntlbg.processors.video_source_ntlbg import CandidateFrames
from ntlbg.selection.answers import Answer, ModelError, check_question, timed
from ntlbg.selection.api import NOTHING_RELEVANT
from ntlbg.selection.chat import transcript
from ntlbg.selection.choosing import OURS, check_selector, given_selection
from ntlbg.selection.subtitles import Cue, Subtitles


class VideoAnswerer:
    """An NTLBG model with its processor.

    Without a scorer the vision tower encodes all groups once per video and each question chooses among them (one
    look). With a scorer, which sees all groups once per video, it sees only what was chosen, at full size (two looks).

    Args:
        model: in evaluation mode.
        processor: its processor.
        max_new_tokens: longest answer.
        selector: the rule that chooses, of `choosing.SELECTORS`; the published ones see the same descriptors as ours,
            and the trained relevance or the scorer's cosines.
        candidate_fps, max_candidates: the processor's own if None.
    """

    def __init__(
        self,
        model: NTLBGForConditionalGeneration,
        processor: NTLBGProcessor,
        *,
        max_new_tokens: int = 128,
        selector: str = OURS,
        candidate_fps: float | None = None,
        max_candidates: int | None = None,
    ):
        self.model = model.eval()
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.selector = check_selector(selector)
        sampling = {"candidate_fps": candidate_fps, "max_candidates": max_candidates}
        self.sampling = {name: value for name, value in sampling.items() if value is not None}

    @property
    def two_looks(self) -> bool:
        """Whether a scorer makes the first look."""
        return self.model.scorer is not None

    def open(
        self, video: Any, subtitles: str | Subtitles | None = None, subtitle_seconds: float | None = None
    ) -> OpenVideo:
        """Decode the candidates and encode them, with the scorer or else the vision tower; ask as often as needed.

        Args:
            video: see `decode_candidates`.
            subtitles: a .srt or .vtt file, told before the question, each cue after its time.
            subtitle_seconds: leave out what is said more than so many seconds from every chosen group; None tells all.

        Raises:
            VideoError: the video cannot be read. SubtitleError: the subtitles cannot be read.
        """
        subtitles = None if subtitles is None else Subtitles.of(subtitles)
        timings: dict[str, float] = {}
        # once, for both looks
        video = downloaded(video, self.processor.video_processor.limits)
        with timed(timings, "decode candidates"):
            # The scorer looks at small pictures; the large ones are read again for the chosen groups alone.
            side = {"max_side": SCORER_DECODE_SIDE} if self.two_looks else {}
            candidates = self.processor.video_processor.fetch(video, **side, **self.sampling)[0]
        if self.two_looks:
            with timed(timings, "encode candidates"):
                look = self.processor.first_look(candidates).to(self.model.device)
                seen = {name: look[name] for name in ("group_timestamps", "frames_indices")}
                seen["scorer_features"] = self.model.encode_for_scorer(**look)
        else:
            inputs = self._inputs(candidates, "")
            with timed(timings, "encode candidates"):
                seen = {"video_features": self.model.encode_video(**inputs)}
        return OpenVideo(self, video, candidates, seen, timings, subtitles, subtitle_seconds)

    # The two methods below hold every call of the model and of its processor's tensors.

    def _inputs(
        self, video: Any, question: str, selection: Selection | None = None, said: str = "", prompt: str | None = None
    ) -> dict:
        texts = (said, question if prompt is None else prompt)
        content = [{"type": "video"}, *({"type": "text", "text": text} for text in texts if text)]
        inputs = self.processor(
            [{"role": "user", "content": content}],
            videos=[video],
            query=question,
            selection=selection,
            add_generation_prompt=True,
        )
        return dict(inputs.to(self.model.device))

    @torch.no_grad()
    def _generate(
        self,
        opened: OpenVideo,
        question: str,
        k: int | None,
        budget: int | None,
        timings: dict[str, float],
        *,
        prompt: str | None = None,
        **options,
    ) -> tuple[str, Selection, list[list[Cue]] | None, list[str]]:
        if self.two_looks:
            with timed(timings, "choose"):
                if k is None and budget is None:
                    budget = self.model.config.max_visual_tokens
                if budget is not None:
                    k = self._groups_within(opened.candidates, budget)
                query = self.processor.scorer_query(question).to(self.model.device)
                if self.selector == OURS:
                    selection = self.model.select(**opened.seen, **query, num_representatives=k)
                else:
                    looked = opened.seen["scorer_features"]
                    scores = cosines_to(looked, scorer_query(self.model.scorer, query))
                    k = scorer_k(self.model.config, len(looked), k, None)
                    selection = self._given(looked, opened.seen["group_timestamps"], k, scores)
                    # The second look reads these, and not the processor's own grid.
                    selection.frames_indices = torch.as_tensor(opened.seen["frames_indices"])
            with timed(timings, "read the chosen"):
                told, notes = opened.told_at(selection.timestamps)
                inputs = self._inputs(opened.source, question, selection, transcript(told or []), prompt)
            inputs["selection"] = [selection]
        else:
            with timed(timings, "prepare the prompt"):
                inputs = self._inputs(opened.candidates, question, prompt=prompt)
                inputs.pop("pixel_values_videos")
                inputs.update(opened.seen)
                grid = inputs["video_grid_thw"][0]
                try:
                    inputs["num_representatives"] = self.model.representatives_for(grid, k, budget)
                except ValueError as error:
                    raise ModelError(str(error)) from error
                if self.selector != OURS:
                    features, k = opened.seen["video_features"][0], inputs.pop("num_representatives")
                    scores = None
                    if self.model.config.selector_trained:
                        query = inputs["query_input_ids"], inputs.get("query_attention_mask")
                        scores = self.model.relevance_logits(features, *query)[0]
                    selection = self._given(features.descriptors, inputs["group_timestamps"], k, scores)
                    inputs["selection"] = [selection]
                told, notes = None, []
                if opened.subtitles is not None:
                    # What is told may depend on what is chosen, so the choice comes before the prompt.
                    if self.selector == OURS:
                        selection = self.model.select(**inputs)
                    told, notes = opened.told_at(selection.timestamps)
                    inputs = self._inputs(opened.candidates, question, said=transcript(told), prompt=prompt)
                    inputs.pop("pixel_values_videos")
                    inputs.update(opened.seen, selection=[selection])
        with timed(timings, "answer"):
            output = self.model.generate(
                **inputs, return_selection=True, max_new_tokens=self.max_new_tokens, do_sample=False, **options
            )
        new = output.sequences[0, inputs["input_ids"].shape[1] :]
        text = self.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
        return text, output.selections[0], told, notes

    def _given(self, descriptors: torch.Tensor, seconds: torch.Tensor, k: int, scores: torch.Tensor | None):
        return given_selection(
            self.selector,
            descriptors,
            seconds,
            k,
            scores,
            temporal_patch_size=self.processor.video_processor.temporal_patch_size,
        )

    def _groups_within(self, candidates: CandidateFrames, budget: int) -> int:
        """The largest number of groups whose full-size pictures fit into `budget` visual tokens."""
        video_processor = self.processor.video_processor
        per_group, size = video_processor.temporal_patch_size, (candidates.height, candidates.width)
        # One by one: Qwen3-VL shares one budget of pixels among the frames, so that k groups are no k times one group.
        tokens = [
            video_processor.get_num_of_video_patches(k * per_group, *size) // video_processor.merge_size**2
            + k * self.model.segment_tokens
            for k in range(1, video_processor.num_groups(len(candidates)) + 1)
        ]
        fitting = [k for k, needed in enumerate(tokens, start=1) if needed <= budget]
        if not fitting:
            raise ModelError(
                f"the budget of {budget} visual tokens is below the least that this video can be read with, "
                f"{min(tokens)}; raise --max-visual-tokens or give -k"
            )
        return fitting[-1]


@dataclass
class OpenVideo:
    """A video that was decoded and encoded for one answerer; see `VideoAnswerer.open`.

    Args:
        source: what was opened; the second look reads it again.
        candidates: the decoded candidates, small ones if there is a second look.
        seen: what of it the model takes for every question: `video_features`, or `scorer_features` with the times.
        timings: seconds per stage.
        subtitles, subtitle_seconds: what is said, and how far from the chosen groups it is told.
    """

    answerer: VideoAnswerer
    source: Any
    candidates: CandidateFrames
    seen: dict[str, Any]
    timings: dict[str, float]
    subtitles: Subtitles | None = None
    subtitle_seconds: float | None = None

    def ask(
        self,
        question: str,
        k: int | None = None,
        max_visual_tokens: int | None = None,
        *,
        prompt: str | None = None,
        **options,
    ) -> Answer:
        """Choose k groups for the question (or as many as fit the budget; else the checkpoint's own) and answer.

        Args:
            prompt: what the model is told instead of the question, by which the groups are chosen all the same.
            options: further ones of `generate`.

        Raises:
            ModelError: the budget is below one group.
        """
        check_question(question)
        timings: dict[str, float] = {}
        text, selection, told, notes = self.answerer._generate(
            self, question, k, max_visual_tokens, timings, prompt=prompt, **options
        )
        pictures = torch.as_tensor(self.candidates.indices)
        selection = replace(selection.to("cpu"), query=question, frames_indices=pictures)
        if self.answerer.selector == OURS and selection.relevance is not None and "relevance" not in selection.strata:
            notes = [NOTHING_RELEVANT, *notes]
        selection.notes = [*selection.notes, *notes]
        shown = selection.candidate_indices
        firsts = shown[:: selection.temporal_patch_size]
        return Answer(
            question=question,
            text=text,
            selection=selection,
            frames=[self.candidates.frames[int(position)] for position in firsts],
            num_frames=len(set(shown.tolist())),
            timings=timings,
            spoken=told,
        )

    def told_at(self, seconds: torch.Tensor) -> tuple[list[list[Cue]] | None, list[str]]:
        """What is said at the chosen times (k,), and notes; None without subtitles."""
        if self.subtitles is None:
            return None, []
        video = self.candidates
        return self.subtitles.told_at(seconds.tolist(), video.duration, self.subtitle_seconds, video.clip)
