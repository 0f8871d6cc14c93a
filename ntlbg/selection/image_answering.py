"""Many questions to one video with a model that takes several images: look once, choose frames per question, show
those."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ntlbg.configuration.configuration_ntlbg import SUPPORTED_BASES
from ntlbg.selection.answers import Answer, ModelError, check_question, timed
from ntlbg.selection.api import FrameSelector
from ntlbg.selection.choosing import OURS, check_selector
from ntlbg.selection.features import CandidateFeatures, FrameSelection
from ntlbg.selection.subtitles import Subtitles


# Pixels of a frame that is handed to a model as an image: what most VLMs scale down to anyway.
IMAGE_SIDE = 1280

# How many of them where nothing is asked for.
IMAGES = 16


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
        check_question(question)
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
        check_question(question)
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
