"""Many questions to one video: look once, choose per question, let a language model answer from what was chosen.

`VideoAnswerer` drives NTLBG checkpoints and plain bases of the families that NTLBG knows (k counts groups);
`ImageAnswerer` drives any other vision-language model of transformers through its images (k counts frames);
`server_answering` one behind a server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig

from ntlbg.configuration.configuration_ntlbg import SUPPORTED_BASES
from ntlbg.errors import InputError
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.scorer_ntlbg import cosines_to, scorer_k, scorer_query
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.first_look_ntlbg import SCORER_DECODE_SIDE
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.processors.video_download_ntlbg import downloaded
from ntlbg.processors.video_source_ntlbg import CandidateFrames, VideoLimits
from ntlbg.selection.api import NOTHING_RELEVANT, FrameSelector
from ntlbg.selection.chat import transcript
from ntlbg.selection.choosing import OURS, check_selector, given_selection
from ntlbg.selection.encoders import DEFAULT_ENCODER, LOADING_ERRORS, needs_own_code, reason_of
from ntlbg.selection.features import CandidateFeatures, FrameSelection
from ntlbg.selection.subtitles import Cue, Subtitles


# Pixels of a frame that is handed to a model as an image: what most VLMs scale down to anyway.
IMAGE_SIDE = 1280

# How many of them where nothing is asked for.
IMAGES = 16


class ModelError(InputError):
    """A model cannot be had or cannot do what is asked; one sentence: what is wrong, what came, how to fix it."""


@dataclass
class Answer:
    """One answer with the evidence it was given from.

    Args:
        question: as asked.
        text: the model's answer.
        selection: the groups (`Selection`) or frames (`FrameSelection`) it was given from.
        frames: one picture per representative, uint8 (H, W, 3), its first one where groups were chosen.
        num_frames: pictures the model saw (a group holds `temporal_patch_size` of them).
        timings: seconds per stage.
        spoken: what is said at each representative, if there are subtitles.
    """

    question: str
    text: str
    selection: Selection | FrameSelection
    frames: list[np.ndarray]
    num_frames: int
    timings: dict[str, float] = field(default_factory=dict)
    spoken: list[list[Cue]] | None = None

    @property
    def num_groups(self) -> int:
        """Groups in time the model saw."""
        return len(self.frames)

    @property
    def notes(self) -> list[str]:
        """What the reader should know of the choice."""
        return list(self.selection.warnings if isinstance(self.selection, FrameSelection) else self.selection.notes)

    def to_dict(self) -> dict:
        """Everything but the pictures, ready for JSON."""
        return {
            "question": self.question,
            "answer": self.text,
            "num_groups": self.num_groups,
            "num_frames": self.num_frames,
            "timings": self.timings,
            "selection": self.selection.to_dict(),
            "spoken": None if self.spoken is None else [[asdict(cue) for cue in cues] for cues in self.spoken],
        }


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
        _check_question(question)
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


class FrameAnswerer:
    """A vision-language model that takes several images, behind a `FrameSelector`; `reply` says where the model is.

    Args:
        frames: looks at the video and chooses the frames; its encoder may be None, then they stand for the video as a
            whole.
        selector: the rule that chooses, of `choosing.SELECTORS`.
    """

    def __init__(self, frames: FrameSelector, *, selector: str = OURS):
        self.frames = frames
        self.selector = check_selector(selector)

    def open(
        self, video: Any, subtitles: str | Subtitles | None = None, subtitle_seconds: float | None = None
    ) -> OpenImages:
        """Look at the candidates once; ask the result as often as needed.

        Args:
            video: see `decode_candidates`.
            subtitles: a .srt or .vtt file; what is said goes behind the frame it is nearest to.
            subtitle_seconds: leave out what is said more than so many seconds from every chosen frame; None tells all.

        Raises:
            VideoError: the video cannot be read. SubtitleError: the subtitles cannot be read.
        """
        subtitles = None if subtitles is None else Subtitles.of(subtitles)
        timings: dict[str, float] = {}
        with timed(timings, "look at the candidates"):
            features = self.frames.encode(video)
        return OpenImages(self, features, timings, subtitles, subtitle_seconds)

    def reply(
        self, selection: FrameSelection, question: str, subtitles: Subtitles | None, subtitle_seconds: float | None
    ) -> str:
        """The model's answer from the chosen frames, which have their pictures."""
        raise NotImplementedError

    def answer_from(
        self,
        selection: FrameSelection,
        question: str,
        subtitles: Subtitles | None,
        subtitle_seconds: float | None,
        timings: dict[str, float],
    ) -> Answer:
        """One answer with its evidence, from chosen frames.

        Raises:
            ModelError: the question is empty.
        """
        _check_question(question)
        told = None
        if subtitles is not None:
            told, notes = selection.spoken(subtitles, subtitle_seconds)
            selection = replace(selection, warnings=[*selection.warnings, *notes])
        with timed(timings, "answer"):
            text = self.reply(selection, question, subtitles, subtitle_seconds)
        return Answer(question, text, selection, list(selection.frames), selection.k, timings, told)


class ImageAnswerer(FrameAnswerer):
    """Any vision-language model of transformers that takes several images.

    Args:
        model, processor: of transformers, with a chat template.
        frames, selector: see `FrameAnswerer`.
        max_new_tokens: longest answer.
    """

    def __init__(
        self, model: Any, processor: Any, frames: FrameSelector, *, max_new_tokens: int = 128, selector: str = OURS
    ):
        super().__init__(frames, selector=selector)
        self.model = model.eval()
        self.processor = processor
        self.max_new_tokens = max_new_tokens

    def reply(
        self, selection: FrameSelection, question: str, subtitles: Subtitles | None, subtitle_seconds: float | None
    ) -> str:
        """The model's answer from the chosen frames, each shown as an image after its time."""
        return self._generate(selection.messages(question, subtitles=subtitles, subtitle_seconds=subtitle_seconds))

    @torch.no_grad()
    def _generate(self, messages: list[dict], **options) -> str:
        inputs = self.processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        ).to(self.model.device, self.model.dtype)
        output = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False, **options)
        return self.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@dataclass
class OpenImages:
    """A video that was looked at for one answerer; see `FrameAnswerer.open`."""

    answerer: FrameAnswerer
    candidates: CandidateFeatures
    timings: dict[str, float]
    subtitles: Subtitles | None = None
    subtitle_seconds: float | None = None

    def ask(
        self, question: str, k: int | None = None, max_visual_tokens: int | None = None, *, prompt: str | None = None
    ) -> Answer:
        """Choose k frames (`IMAGES` if None) for the question and answer from them as images.

        Args:
            prompt: see `OpenVideo.ask`.

        Raises:
            ModelError: a token budget was given; only NTLBG models know how many tokens a frame takes.
        """
        _check_question(question)
        if max_visual_tokens is not None:
            raise ModelError(
                "a budget of visual tokens needs an NTLBG model or one of its bases "
                f"({', '.join(SUPPORTED_BASES)}); give -k instead of --max-visual-tokens"
            )
        frames = self.answerer.frames
        timings: dict[str, float] = {}
        with timed(timings, "choose and read the frames"):
            query = None if frames.encoder is None else question
            selection = frames.select(
                self.candidates,
                query,
                IMAGES if k is None else k,
                selector=self.answerer.selector,
                max_side=IMAGE_SIDE,
            )
            if query is None:
                selection.warnings.append("The question was not used to choose the frames: there is no encoder.")
        told = question if prompt is None else prompt
        answer = self.answerer.answer_from(selection, told, self.subtitles, self.subtitle_seconds, timings)
        return replace(answer, question=question)


def load_answerer(
    name: str,
    *,
    encoder: str | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    max_new_tokens: int = 128,
    selector: str = OURS,
    candidate_fps: float | None = None,
    max_candidates: int | None = None,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str | None = None,
    cache_dir: str | os.PathLike | bool | None = None,
    limits: VideoLimits | None = None,
) -> VideoAnswerer | ImageAnswerer:
    """Load a model by what it is.

    An NTLBG checkpoint is loaded by this package's own classes, never by the code beside it. A plain base of a known
    family gets an untrained selector in front. Any other model gets images.

    Args:
        name: Hub name or folder.
        encoder: dual encoder that judges frames for a model that is no NTLBG checkpoint; None: SigLIP 2 base; "none":
            frames stand for the video as a whole.
        device: a GPU if there is one, else the CPU.
        trust_remote_code: run code that comes with a model that is neither, be it from the Hub or in a folder.
        max_new_tokens, selector, candidate_fps, max_candidates: see the answerers.
        dtype, attn_implementation: of the model, as transformers' `from_pretrained` takes them.
        cache_dir: see `FrameSelector`; only a model that gets images uses one.
        limits: what a video may cost, see `VideoLimits`.

    Raises:
        ModelError: it cannot be loaded. EncoderError: the encoder cannot be loaded.
    """
    limits = limits or VideoLimits()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options = {"max_new_tokens": max_new_tokens, "selector": check_selector(selector)}
    sampling = {"candidate_fps": candidate_fps, "max_candidates": max_candidates}
    given = {option: value for option, value in sampling.items() if value is not None}
    loading = {"dtype": dtype} | ({"attn_implementation": attn_implementation} if attn_implementation else {})
    with _load_errors(name):
        model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    if model_type == "ntlbg":
        if encoder is not None:
            raise ModelError(
                f"{name!r} is an NTLBG checkpoint, which brings its own first look, but the encoder {encoder!r} was "
                "given; drop --encoder"
            )
        with _load_errors(name):
            model = NTLBGForConditionalGeneration.from_pretrained(name, **loading)
            processor = NTLBGProcessor.from_pretrained(name, trust_remote_code=False)
            _check_chat_template(processor, name)
        processor.video_processor.limits = limits
        return VideoAnswerer(model.to(device), processor, **options, **sampling)
    judge = None if encoder == "none" else encoder or DEFAULT_ENCODER
    frames = FrameSelector(judge, device=device, limits=limits, cache_dir=cache_dir, **given)
    if model_type in SUPPORTED_BASES:
        scorer = frames.encoder
        with _load_errors(name):
            model = NTLBGForConditionalGeneration.from_base(
                name, scorer=None if scorer is None else scorer.model, trust_remote_code=False, **loading
            )
            processor = NTLBGProcessor.from_base(
                str(name),
                scorer_processor=None if scorer is None else scorer.processor,
                trust_remote_code=False,
            )
            _check_chat_template(processor, name)
        processor.video_processor.limits = limits
        return VideoAnswerer(model.to(device), processor, **options, **sampling)
    with _load_errors(name):
        model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=trust_remote_code, **loading)
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
        _check_chat_template(processor, name)
    return ImageAnswerer(model.to(device), processor, frames, **options)


@contextmanager
def _load_errors(name: str) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except LOADING_ERRORS as error:
        if needs_own_code(error):
            raise ModelError(
                f"the model {name!r} needs the code that comes with it, which has not been allowed to run; read it, "
                "and give --trust-remote-code if you trust it"
            ) from error
        raise ModelError(
            f"the model {name!r} cannot be loaded ({reason_of(error, name)}): give a folder or a Hub name of a "
            "vision-language model with --model, and go online if it is not cached"
        ) from error


def _check_chat_template(processor: Any, name: str) -> None:
    if processor.chat_template is None:
        raise ModelError(
            f"the model {name!r} has no chat template, so it cannot be asked anything; give one that was tuned for "
            "conversation (its name often ends in Instruct)"
        )


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Keep the seconds that a stage takes."""
    start = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - start


def _check_question(question: str) -> None:
    if not question.strip():
        raise ModelError("the question is empty; ask something")
