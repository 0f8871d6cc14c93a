"""Questions about a video to a model behind a server: frames are chosen here, answered from there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ntlbg.processors.video_download_ntlbg import downloaded
from ntlbg.processors.video_source_ntlbg import VideoLimits
from ntlbg.selection.answers import Answer, ModelError, timed
from ntlbg.selection.api import FrameSelector
from ntlbg.selection.chat_server import ChatServer
from ntlbg.selection.choosing import OURS
from ntlbg.selection.encoders import DEFAULT_ENCODER
from ntlbg.selection.features import FrameSelection
from ntlbg.selection.image_answering import IMAGE_SIDE, FrameAnswerer
from ntlbg.selection.subtitles import Subtitles


class ServerAnswerer(FrameAnswerer):
    """A model behind a server that speaks OpenAI's protocol.

    Args:
        server: where the model is.
        frames, selector: see `FrameAnswerer`.
        max_new_tokens: longest answer.
    """

    def __init__(self, server: ChatServer, frames: FrameSelector, *, max_new_tokens: int = 128, selector: str = OURS):
        super().__init__(frames, selector=selector)
        self.server = server
        self.max_new_tokens = max_new_tokens

    def reply(
        self, selection: FrameSelection, question: str, subtitles: Subtitles | None, subtitle_seconds: float | None
    ) -> str:
        """The server's answer from the chosen frames, each sent as a picture after its time.

        Raises:
            ServerError: there is none.
        """
        messages = selection.openai_messages(question, subtitles=subtitles, subtitle_seconds=subtitle_seconds)
        return self.server.answer(messages, self.max_new_tokens)

    def open_selection(
        self,
        video: Any,
        selection: FrameSelection,
        subtitles: str | Subtitles | None = None,
        subtitle_seconds: float | None = None,
    ) -> OpenSelection:
        """Read the pictures of a selection that was made before; every question is answered from them.

        Args:
            video: the one it was made from, see `FrameSelection.with_frames`.
            selection: with or without its pictures.
            subtitles, subtitle_seconds: see `FrameAnswerer.open`.

        Raises:
            SelectionError: it is another video. VideoError, SubtitleError: see their messages.
        """
        limits = self.frames.limits
        timings: dict[str, float] = {}
        with timed(timings, "read the frames"):
            selection = selection.with_frames(downloaded(video, limits), max_side=IMAGE_SIDE, limits=limits)
        subtitles = None if subtitles is None else Subtitles.of(subtitles)
        return OpenSelection(self, selection, timings, subtitles, subtitle_seconds)


@dataclass
class OpenSelection:
    """Frames that were chosen before, for one answerer; see `ServerAnswerer.open_selection`."""

    answerer: ServerAnswerer
    candidates: FrameSelection
    timings: dict[str, float] = field(default_factory=dict)
    subtitles: Subtitles | None = None
    subtitle_seconds: float | None = None

    def ask(self, question: str, k: int | None = None, max_visual_tokens: int | None = None) -> Answer:
        """Answer from the frames of the selection.

        Raises:
            ModelError: another number of frames was asked for. ServerError: no answer came.
        """
        if k is not None or max_visual_tokens is not None:
            raise ModelError("a selection that was made before has its frames; drop -k and --max-visual-tokens")
        chosen = self.candidates
        if chosen.query != question:
            meant = "the video as a whole" if chosen.query is None else f"another question, {chosen.query!r}"
            chosen = replace(chosen, warnings=[*chosen.warnings, f"The frames were chosen for {meant}."])
        return self.answerer.answer_from(chosen, question, self.subtitles, self.subtitle_seconds, {})


def load_server_answerer(
    server: ChatServer,
    *,
    encoder: str | None = None,
    device: str | torch.device | None = None,
    max_new_tokens: int = 128,
    selector: str = OURS,
    candidate_fps: float | None = None,
    max_candidates: int | None = None,
    cache_dir: str | os.PathLike | bool | None = None,
    limits: VideoLimits | None = None,
) -> ServerAnswerer:
    """An answerer for a server, after a look whether it is there.

    Args:
        encoder: dual encoder that judges frames; None: SigLIP 2 base; "none": they stand for the video as a whole.
        device: where the encoder runs; a GPU if there is one, else the CPU.
        max_new_tokens, selector: see `ServerAnswerer`.
        candidate_fps, max_candidates, cache_dir, limits: see `FrameSelector`.

    Raises:
        ServerError: it is not there. EncoderError: the encoder cannot be loaded.
    """
    server.check()
    sampling = {"candidate_fps": candidate_fps, "max_candidates": max_candidates}
    frames = FrameSelector(
        None if encoder == "none" else encoder or DEFAULT_ENCODER,
        device=device,
        limits=limits,
        cache_dir=cache_dir,
        **{option: value for option, value in sampling.items() if value is not None},
    )
    return ServerAnswerer(server, frames, max_new_tokens=max_new_tokens, selector=selector)
