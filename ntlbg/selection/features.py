"""The two things that travel: what an encoder saw of a video, and the frames that were chosen from it.

Shapes: N candidates, d descriptor width, k chosen frames.
"""

from __future__ import annotations

import json
import os
import secrets
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ntlbg.plain_text import one_line
from ntlbg.processors.video_decoding_ntlbg import VideoLimits, open_video, take_frames
from ntlbg.processors.video_source_ntlbg import frames_in_memory, is_encoded_source, unclipped
from ntlbg.selection.chat import frames_message, image_part, image_url_part
from ntlbg.selection.selection_file import FORMAT, SelectionError, checked_fields, read_json
from ntlbg.selection.subtitles import Cue, Subtitles
from ntlbg.tables import borders, clock, stretches, stretches_text, table


if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata


# Two times of one picture may differ by so many seconds: FFmpeg's versions do not agree in the last digits.
_SAME_SECONDS = 0.002


@dataclass
class CandidateFeatures:
    """The descriptors of one video's candidates: encode once, ask many questions, keep in a file.

    Args:
        descriptors: float32 tensor (N, d) on the CPU.
        candidate_indices: int64 (N,), presentation numbers of the candidates' pictures.
        candidate_seconds: float64 (N,), their presentation times.
        encoder: name of the dual encoder, or None for the weight-free descriptor.
        fps, total_num_frames, duration, height, width, name, warnings, clip: of the source, see `CandidateFrames`.
        source: what was encoded, so that the chosen pictures can be read again; None after `load`, unless given there.
        source_fps: rate of the source if it is frames in memory.
    """

    descriptors: torch.Tensor
    candidate_indices: np.ndarray
    candidate_seconds: np.ndarray
    encoder: str | None
    fps: float
    total_num_frames: int
    duration: float
    height: int
    width: int
    name: str
    warnings: list[str] = field(default_factory=list)
    clip: tuple[float, float] | None = None
    source: Any = None
    source_fps: float | None = None

    @property
    def candidate_durations(self) -> np.ndarray:
        """float64 (N,): seconds each candidate stands for, from its time until the next one's; the candidates of a
        scan do not stand at equal steps."""
        start, end = self.clip or (0.0, self.duration)
        return np.diff(borders(self.candidate_seconds, end, start))

    def save(self, path: str | Path) -> Path:
        """Write everything but the pictures to one `.npz` file (no pickle inside), whole or not at all."""
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"features are kept in a .npz file, got {path.name!r}; give a name that ends in .npz")
        facts = {
            "format": FORMAT,
            "encoder": self.encoder,
            "fps": self.fps,
            "total_num_frames": self.total_num_frames,
            "duration": self.duration,
            "height": self.height,
            "width": self.width,
            "name": self.name,
            "warnings": self.warnings,
            "clip": self.clip,
        }
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as file:
                np.savez(
                    file,
                    descriptors=self.descriptors.numpy(),
                    candidate_indices=self.candidate_indices,
                    candidate_seconds=self.candidate_seconds,
                    facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
                )
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return path

    @classmethod
    def load(cls, path: str | Path, source: Any = None) -> CandidateFeatures:
        """Read what `save` wrote; give the video again as `source` if its frames shall be returned.

        Raises:
            ValueError: the file is not one of ours, or of another format version.
        """
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} holds no video features (it is no .npz archive); encode again")
        with np.load(path, allow_pickle=False) as archive:
            missing = {"descriptors", "candidate_indices", "candidate_seconds", "facts"} - set(archive.files)
            if missing:
                raise ValueError(f"{path} holds no video features: {', '.join(sorted(missing))} missing; encode again")
            facts = json.loads(archive["facts"].tobytes())
            version = facts.pop("format", None)
            if version != FORMAT:
                raise ValueError(f"{path} has feature format {version}, this version reads {FORMAT}; encode again")
            facts["clip"] = None if facts["clip"] is None else tuple(facts["clip"])
            return cls(
                descriptors=torch.from_numpy(archive["descriptors"]),
                candidate_indices=archive["candidate_indices"],
                candidate_seconds=archive["candidate_seconds"],
                source=source,
                **facts,
            )


@dataclass
class FrameSelection:
    """The frames that represent a video for a question, in the order of time, and why each was taken.

    Args:
        indices: int64 (k,), presentation numbers of the chosen pictures in the source; distinct and sorted.
        seconds: float64 (k,), their presentation times (true ones, also at a variable frame rate).
        weights: float64 (k,), the share of the video's time each stands for; sums to 1.
        strata: k names: "relevance", "novelty" or "coverage"; "given" where another rule chose.
        frames: uint8 (k, H, W, 3) RGB, or None when only indices were asked for.
        positions: int64 (k,), which candidates they are.
        candidate_indices, candidate_seconds: (N,), all candidates' picture numbers and times.
        cells: int64 (N,), which of the k stands for each candidate.
        mahalanobis: float64 (N,), squared distance of each candidate to the video's Gaussian.
        relevance: float64 (N,), centred cosine of each candidate to the query (the plain one where another rule
            chose), or None without a query.
        requested_k: how many frames were asked for; `k` is less where the video has fewer candidates.
        query, encoder: what was asked, and which dual encoder judged it (None: the weight-free descriptor).
        fps, total_num_frames, duration, height, width, name: of the source.
        clip: the seconds (start, end) of the source that were looked at; None for all.
        warnings: sentences on damage, dropped frames, or a relevance that was not used.
    """

    indices: np.ndarray
    seconds: np.ndarray
    weights: np.ndarray
    strata: list[str]
    frames: np.ndarray | None
    positions: np.ndarray
    candidate_indices: np.ndarray
    candidate_seconds: np.ndarray
    cells: np.ndarray
    mahalanobis: np.ndarray
    relevance: np.ndarray | None
    requested_k: int
    query: str | None
    encoder: str | None
    fps: float
    total_num_frames: int
    duration: float
    height: int
    width: int
    name: str
    clip: tuple[float, float] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def k(self) -> int:
        """Number of chosen frames."""
        return len(self.indices)

    @property
    def num_candidates(self) -> int:
        """Number of frames there were to choose from."""
        return len(self.candidate_indices)

    @property
    def stands_for(self) -> list[list[tuple[float, float]]]:
        """For each chosen frame the stretches of the video it stands for, (start, end) in seconds, in order.

        A frame may stand for several: where the picture comes back. Each candidate counts from its time until the next
        one's; together the stretches tile what was looked at, and their share of it is the frame's weight.
        """
        start, end = self.clip or (0.0, self.duration)
        return stretches(self.candidate_seconds, self.cells, self.k, end, start)

    def __str__(self) -> str:
        """A table: when, why, how much of the video, and which stretches each frame stands for."""
        counts = ", ".join(
            f"{self.strata.count(stratum)} {stratum}"
            for stratum in ("relevance", "novelty", "coverage", "given")
            if stratum in self.strata
        )
        rows = [
            (
                str(rank),
                str(int(index)),
                clock(float(second), tenths=True),
                f"{second:.3f}",
                stratum,
                f"{weight:.1%}",
                stretches_text(found, float(second)),
            )
            for rank, (index, second, stratum, weight, found) in enumerate(
                zip(self.indices, self.seconds, self.strata, self.weights, self.stands_for, strict=True), start=1
            )
        ]
        frames = "1 frame" if self.k == 1 else f"{self.k} frames"
        groups = "1 group" if self.k == 1 else f"{self.k} groups"
        judge = "the weight-free descriptor" if self.encoder is None else self.encoder
        clip = "" if self.clip is None else " from {} to {}".format(*(clock(s, tenths=True) for s in self.clip))
        return (
            f"{one_line(self.name)}{clip}: {frames} of {self.num_candidates} candidates ({counts}), "
            f"judged by {one_line(judge)}\n"
            f"as a video for a VLM that fuses frames in time, each frame is a group of its own: {groups}\n\n"
            + table(("rank", "picture", "time", "seconds", "stratum", "weight", "stands for"), rows)
        )

    def images(self) -> list[Image.Image]:
        """The chosen frames as PIL images, for models that take images."""
        return [Image.fromarray(frame) for frame in self._pixels()]

    def video_metadata(self, true_times: bool = False) -> VideoMetadata:
        """transformers' description of the chosen frames as a video.

        Args:
            true_times: `VideoMetadata.timestamps` is `frames_indices / fps`, which is wrong at a variable frame rate.
                False keeps `frames_indices` the picture numbers of the source; True counts in milliseconds instead
                (fps 1000), so that `timestamps` are the true times to the millisecond.
        """
        # Only here, so that choosing frames does not wait for transformers.
        from transformers.video_utils import VideoMetadata

        if true_times:
            return VideoMetadata(
                total_num_frames=max(round(self.duration * 1000), round(float(self.seconds[-1]) * 1000) + 1),
                fps=1000.0,
                width=self.width,
                height=self.height,
                duration=self.duration,
                video_backend="pyav",
                frames_indices=[round(float(second) * 1000) for second in self.seconds],
            )
        return VideoMetadata(
            total_num_frames=self.total_num_frames,
            fps=self.fps,
            width=self.width,
            height=self.height,
            duration=self.duration,
            video_backend="pyav",
            frames_indices=[int(index) for index in self.indices],
        )

    def for_vlm(self, temporal_patch_size: int = 2, true_times: bool = False) -> tuple[np.ndarray, VideoMetadata]:
        """The frames as a video for any VLM, each repeated so that distant frames never share a temporal patch.

        Qwen2-VL and its kin fuse every `temporal_patch_size` consecutive frames into one patch; frames that are far
        apart would be blended. Pass the result with sampling switched off:
        `processor(videos=[frames], video_metadata=[metadata], do_sample_frames=False, ...)`.

        Returns:
            frames uint8 (k * temporal_patch_size, H, W, 3), and metadata whose `frames_indices` repeat alike.
        """
        if temporal_patch_size < 1:
            raise ValueError(f"temporal_patch_size is at least 1, got {temporal_patch_size}")
        metadata = self.video_metadata(true_times)
        metadata.frames_indices = [index for index in metadata.frames_indices for _ in range(temporal_patch_size)]
        return np.repeat(self._pixels(), temporal_patch_size, axis=0), metadata

    def spoken(
        self, subtitles: str | os.PathLike | Subtitles, within: float | None = None
    ) -> tuple[list[list[Cue]], list[str]]:
        """What is said at each chosen frame: the cues of a .srt or .vtt file that are nearest to it, each once.

        Args:
            subtitles: the file, or what `Subtitles.of` made of it.
            within: leave out what is said more than so many seconds from every chosen frame; None tells all.

        Returns:
            k lists of cues, and notes on what was guessed or left out.

        Raises:
            SubtitleError: they cannot be read.
        """
        return Subtitles.of(subtitles).told_at(self.seconds, self.duration, within, self.clip)

    def messages(
        self,
        question: str | None = None,
        *,
        subtitles: str | os.PathLike | Subtitles | None = None,
        subtitle_seconds: float | None = None,
    ) -> list[dict]:
        """Chat messages for any VLM that takes images: each frame after its time, then the question.

        Args:
            question: what to ask; the query of the selection if None.
            subtitles: a .srt or .vtt file; what is said goes behind the frame it is nearest to, see `spoken`, which
                also gives notes on what was left out.
            subtitle_seconds: leave out what is said more than so many seconds from every chosen frame; None tells all.

        Raises:
            ValueError: nothing to ask, or no pictures. SubtitleError: the subtitles cannot be read.
        """
        return self._messages(question, subtitles, subtitle_seconds, image_part)

    def openai_messages(
        self,
        question: str | None = None,
        *,
        subtitles: str | os.PathLike | Subtitles | None = None,
        subtitle_seconds: float | None = None,
    ) -> list[dict]:
        """The same for a server that speaks OpenAI's protocol: pictures are `data:` URLs of JPEG.

        `client.chat.completions.create(model=..., messages=selection.openai_messages("what is it?"))`. Pictures
        have the size they were selected with (`max_side`). Ready for JSON.
        """
        return self._messages(question, subtitles, subtitle_seconds, image_url_part)

    def _messages(self, question, subtitles, within, picture: Callable[[Image.Image], dict]) -> list[dict]:
        question = self.query if question is None else question
        if not question:
            raise ValueError("there is nothing to ask: the frames were chosen without a query; pass `question`")
        told = None if subtitles is None else self.spoken(subtitles, within)[0]
        return frames_message(self.seconds, self.images(), question, told, picture)

    def to_dict(self) -> dict:
        """Everything but the pixels, ready for JSON; `from_dict` gives an equal selection without frames."""
        described: dict[str, Any] = {"format": FORMAT}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name == "frames":
                continue
            described[name] = value.tolist() if isinstance(value, np.ndarray) else value
        described["clip"] = None if self.clip is None else list(self.clip)
        described["stands_for"] = self.stands_for
        return described

    @classmethod
    def from_dict(cls, described: dict) -> FrameSelection:
        """Undo `to_dict`; also reads what `ntlbg select --json` wrote.

        Raises:
            SelectionError: a field is missing, unknown, of another type or not finite, contradicts another, or the
                format is of another version.
        """
        return cls(frames=None, **checked_fields(described))

    def save(self, path: str | Path) -> Path:
        """Write everything but the pixels to one JSON file."""
        path = Path(path)
        path.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> FrameSelection:
        """Read what `save` or `ntlbg select --json` wrote; `with_frames` gives it its pictures again.

        Raises:
            SelectionError: the file cannot be read or holds no frame selection.
        """
        return cls.from_dict(read_json(path))

    def with_frames(
        self,
        video: Any,
        *,
        max_side: int | None = None,
        source_fps: float | None = None,
        limits: VideoLimits | None = None,
    ) -> FrameSelection:
        """The same selection with its pictures, read again from its video.

        The video is known by what it holds, not by its name: as many pictures, as long, the candidates shown at the
        same times, and of the same size. A copy is right; another film of exactly these measures is not found out.

        Args:
            video: whatever `FrameSelector.encode` takes.
            max_side: longest side in pixels of the frames; their full size if None.
            source_fps: rate of frames in memory, as it was when they were chosen.
            limits: what the video may cost, see `VideoLimits`.

        Raises:
            SelectionError: it is another video. VideoError: it cannot be read.
        """
        video, _ = unclipped(video)
        if is_encoded_source(video):
            with open_video(video, limits) as file:
                self._check_video(file.name, file.times, file.duration)
                decoded = file.read(self.indices, max_side)
        else:
            memory = frames_in_memory(video, fps=source_fps)
            self._check_video(memory.name, memory.timestamps, memory.duration)
            decoded = take_frames(memory, self.indices)
        if (decoded.height, decoded.width) != (self.height, self.width):
            raise self._another_video(
                decoded.name, f"is {decoded.width}x{decoded.height} pixels", f"{self.width}x{self.height}"
            )
        return replace(self, frames=bounded(decoded.frames, max_side))

    def _check_video(self, name: str, times: np.ndarray, duration: float) -> None:
        if len(times) != self.total_num_frames:
            raise self._another_video(name, f"has {len(times)} pictures", str(self.total_num_frames))
        late = np.abs(times[self.candidate_indices] - self.candidate_seconds) > _SAME_SECONDS
        if late.any():
            first = int(late.argmax())
            number, was = int(self.candidate_indices[first]), float(self.candidate_seconds[first])
            raise self._another_video(name, f"shows picture {number} at {times[number]:.3f} s", f"{was:.3f} s")
        if abs(duration - self.duration) > _SAME_SECONDS:
            raise self._another_video(name, f"lasts {duration:.3f} s", f"{self.duration:.3f} s")

    def _another_video(self, name: str, found: str, expected: str) -> SelectionError:
        return SelectionError(
            f"this selection was made from another video ({self.name!r}): {name!r} {found}, not {expected}; give the "
            "video it was made from, or select again"
        )

    def _pixels(self) -> np.ndarray:
        if self.frames is None:
            raise ValueError(
                "this selection holds no pictures (it was read from JSON or made with with_frames=False); read them "
                "with selection.with_frames(video)"
            )
        return self.frames


def bounded(frames: np.ndarray, max_side: int | None) -> np.ndarray:
    """`frames` (k, H, W, 3) scaled down to a longest side of `max_side` pixels.

    Files are scaled while decoding; frames that were in memory come at the size they have.
    """
    if max_side is None or max(frames.shape[1:3]) <= max_side:
        return frames
    scale = max_side / max(frames.shape[1:3])
    size = (max(round(frames.shape[2] * scale), 1), max(round(frames.shape[1] * scale), 1))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in frames])
