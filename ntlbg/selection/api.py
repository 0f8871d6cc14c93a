"""`select_frames`: the k frames of a video that represent it, for a question or for nothing in particular.

Training-free: a dual encoder of transformers (or, without a question, a weight-free descriptor) describes the
candidates, and `select_representatives` chooses. Here k counts frames.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import numpy as np
import torch

from ntlbg.modeling_ntlbg.scorer_ntlbg import cosines_to, pieces_notes, relevance_to
from ntlbg.modeling_ntlbg.strata_ntlbg import STRATA, select_representatives
from ntlbg.processors.video_decoding_ntlbg import VideoLimits, decode_candidates, decode_frames
from ntlbg.processors.video_download_ntlbg import downloaded
from ntlbg.processors.video_reader_ntlbg import SCANS
from ntlbg.processors.video_source_ntlbg import CandidateFrames, is_encoded_source, is_image_files, unclipped
from ntlbg.selection.choosing import OURS, check_selector, given_selection
from ntlbg.selection.descriptors import describe_frames
from ntlbg.selection.encoders import DEFAULT_ENCODER, DualEncoder, EncoderError
from ntlbg.selection.feature_cache import DEFAULT_MAX_BYTES, FeatureCache, default_cache_dir, encoder_fingerprint
from ntlbg.selection.features import CandidateFeatures, FrameSelection, bounded


# The weight-free descriptor averages over cells of a 32 x 32 grid; more pixels than this change nothing.
DESCRIPTOR_SIDE = 192

NOTHING_RELEVANT = "Nothing stands out as relevant to the question, so the choice stands for the video as a whole."


class FrameSelector:
    """Chooses frames from many videos for many questions; the encoder is loaded once.

    Args:
        encoder: Hub name or local path of a dual encoder, a `DualEncoder`, or None for the weight-free descriptor,
            which cannot judge a query.
        candidate_fps: candidates per second of video.
        max_candidates: cap on the candidates of one video; a longer video gets a wider grid.
        scan: "auto" looks at a long video's keyframes, and between them only where they stand far apart, instead of at
            a grid; "grid" never does, "keyframes" always: see `decode_candidates`. The chosen frames are exact anyway.
        device: where the encoder runs; a GPU if there is one, else the CPU.
        batch_size: frames per step of the encoder.
        limits: what a video may cost, see `VideoLimits`.
        progress: show a bar while the encoder runs.
        cache_dir: folder that keeps what was seen of files, addresses and bytes (not of image files and frames in
            memory), so that the same video is decoded and encoded once; True: `default_cache_dir()`. Nothing is
            written unless it is given. An encoder that is trained on needs a new selector: its weights are hashed at
            the first look.
        cache_bytes: bound on that folder.
    """

    def __init__(
        self,
        encoder: str | DualEncoder | None = DEFAULT_ENCODER,
        *,
        candidate_fps: float = 2.0,
        max_candidates: int = 768,
        scan: str = "auto",
        device: str | torch.device | None = None,
        batch_size: int = 32,
        limits: VideoLimits | None = None,
        progress: bool = False,
        cache_dir: str | os.PathLike | bool | None = None,
        cache_bytes: int = DEFAULT_MAX_BYTES,
    ):
        if candidate_fps <= 0:
            raise ValueError(f"candidate_fps is positive, got {candidate_fps}")
        if max_candidates < 1:
            raise ValueError(f"max_candidates is at least 1, got {max_candidates}")
        if scan not in SCANS:
            raise ValueError(f"scan is one of {', '.join(SCANS)}, got {scan!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1, got {batch_size}")
        self.encoder = (
            encoder if encoder is None or isinstance(encoder, DualEncoder) else DualEncoder.load(str(encoder), device)
        )
        self.candidate_fps = candidate_fps
        self.max_candidates = max_candidates
        self.scan = scan
        self.batch_size = batch_size
        self.limits = limits or VideoLimits()
        self.progress = progress
        self.cache = None
        if cache_dir is not None and cache_dir is not False:
            self.cache = FeatureCache(default_cache_dir() if cache_dir is True else cache_dir, cache_bytes)

    def encode(self, video: Any, *, source_fps: float | None = None) -> CandidateFeatures:
        """Look at the candidates of one video once; hand the result to `select` as often as there are questions.

        Args:
            video: path, binary file object, bytes, array (N, H, W, 3), list of frames, http(s) address where `limits`
                allow it, or `VideoClip` of one of these.
            source_fps: rate of frames in memory; unknown, they are all candidates, timed at 24 per second.

        Raises:
            VideoError: the video cannot be read or exceeds the limits.
        """
        video = downloaded(video, self.limits)

        def look() -> CandidateFeatures:
            return self.describe(decode_candidates(video, source_fps=source_fps, **self.sampling), video, source_fps)

        file, clip = unclipped(video)
        if self.cache is None or not is_encoded_source(file) or is_image_files(file):
            return look()
        settings = self.settings() | {"clip": None if clip is None else [clip.start, clip.end]}
        features = self.cache.features(file, settings, self.limits, look)
        name = None if self.encoder is None else self.encoder.name
        return dataclasses.replace(features, encoder=name, source=video, source_fps=source_fps)

    @property
    def sampling(self) -> dict:
        """The arguments of `decode_candidates` that this selector looks with."""
        return {
            "candidate_fps": self.candidate_fps,
            "max_candidates": self.max_candidates,
            "max_side": DESCRIPTOR_SIDE if self.encoder is None else 2 * self.encoder.input_side,
            "limits": self.limits,
            "scan": self.scan,
        }

    @functools.cached_property
    def _fingerprint(self) -> str:
        return encoder_fingerprint(self.encoder)

    def settings(self) -> dict:
        """All that decides descriptors and candidates, apart from the video and the code."""
        settings: dict[str, Any] = {
            "candidate_fps": float(self.candidate_fps),
            "max_candidates": int(self.max_candidates),
            "scan": self.scan,
            "max_side": self.sampling["max_side"],
            "limits": {name: float(value) for name, value in dataclasses.asdict(self.limits).items()},
        }
        if self.encoder is not None:
            # The device and the size of a batch change the last bits only; but what is kept equals what would be seen.
            settings["encoder"] = self._fingerprint
            settings["device"] = self.encoder.model.device.type
            settings["batch_size"] = int(self.batch_size)
        return settings

    def describe(
        self, candidates: CandidateFrames, source: Any = None, source_fps: float | None = None
    ) -> CandidateFeatures:
        """What `encode` makes of candidates that were decoded with `sampling`.

        Args:
            source, source_fps: the video, where its frames shall be read again.
        """
        if self.encoder is None:
            descriptors = describe_frames(candidates.frames)
        else:
            descriptors = self.encoder.encode_images(candidates.frames, self.batch_size, self.progress)
        return CandidateFeatures(
            descriptors=descriptors,
            candidate_indices=candidates.indices,
            candidate_seconds=candidates.timestamps,
            encoder=None if self.encoder is None else self.encoder.name,
            fps=candidates.fps,
            total_num_frames=candidates.total_num_frames,
            duration=candidates.duration,
            height=candidates.height,
            width=candidates.width,
            name=candidates.name,
            warnings=list(candidates.warnings),
            clip=candidates.clip,
            source=source,
            source_fps=source_fps,
        )

    def select(
        self,
        video: Any,
        query: str | None = None,
        k: int = 16,
        *,
        selector: str = OURS,
        max_side: int | None = None,
        with_frames: bool = True,
    ) -> FrameSelection:
        """Choose `min(k, N)` of the video's N candidates.

        Args:
            video: whatever `encode` takes, or what `encode` returned.
            query: the bare question; None chooses for the video as a whole.
            k: number of frames.
            selector: the rule that chooses, of `choosing.SELECTORS`; the published ones see the plain cosines.
            max_side: longest side in pixels of the returned frames; their full size if None.
            with_frames: decode the chosen pictures again at that size; False leaves `frames` None.

        Raises:
            EncoderError: there is a query but no encoder, or the features come from another encoder.
            InputError: an unknown selector, or one that ranks by a query and there is none.
            VideoError: the video cannot be read.
            ValueError: k is below 1, or the query is empty.
        """
        check_selector(selector)
        if k < 1:
            raise ValueError(f"k is the number of frames to choose, at least 1, got {k}")
        if query is not None and not query.strip():
            raise ValueError("the query is empty; give a question, or None to choose without one")
        if query is not None and self.encoder is None:
            raise EncoderError(
                "the weight-free descriptor cannot judge a query; give a dual encoder with encoder= (--encoder PATH), "
                "or drop the query"
            )
        features = video if isinstance(video, CandidateFeatures) else self.encode(video)
        if features.encoder != (None if self.encoder is None else self.encoder.name):
            raise EncoderError(
                f"these features were made with {features.encoder or 'the weight-free descriptor'}, but this selector "
                f"has {'none' if self.encoder is None else self.encoder.name}; encode the video again with it"
            )
        warnings = list(features.warnings)
        relevance = cosines = None
        if query is not None:
            pieces = self.encoder.encode_text(query)
            if pieces.shape[-1] != features.descriptors.shape[-1]:
                raise EncoderError(
                    f"{self.encoder.name} is no dual encoder: it makes {features.descriptors.shape[-1]} numbers of a "
                    f"picture and {pieces.shape[-1]} of a text, which cannot be compared; give one such as "
                    f"{DEFAULT_ENCODER}"
                )
            relevance = relevance_to(features.descriptors, pieces)
            cosines = cosines_to(features.descriptors, pieces)
            warnings += pieces_notes(len(pieces))
        count = len(features.candidate_indices)
        if count < k:
            remedy = "a higher candidate_fps gives more"
            if count >= features.total_num_frames:
                remedy = "the video has no more pictures"
            elif count >= self.max_candidates:
                remedy = "a higher max_candidates gives more"
            warnings.append(f"{k} frames were asked for, but there are {count} candidates; {remedy}.")
        durations = torch.from_numpy(features.candidate_durations)
        if selector == OURS:
            chosen = select_representatives(features.descriptors, k, durations=durations, relevance=relevance)
            strata = [STRATA[int(stratum)] for stratum in chosen.strata]
            if query is not None and "relevance" not in strata:
                warnings.append(NOTHING_RELEVANT)
        else:
            seconds = torch.from_numpy(features.candidate_seconds)
            chosen = given_selection(selector, features.descriptors, seconds, k, cosines, durations=durations)
            strata = chosen.strata
            warnings += chosen.notes
        positions = _numpy(chosen.indices, np.int64)
        indices = features.candidate_indices[positions]
        frames = None
        if with_frames:
            if features.source is None:
                raise ValueError(
                    "the features do not know their video: pass it to CandidateFeatures.load(path, source=video), or "
                    "ask for indices only with with_frames=False"
                )
            decoded = decode_frames(
                features.source, indices, max_side=max_side, source_fps=features.source_fps, limits=self.limits
            )
            frames = bounded(decoded.frames, max_side)
            warnings += [warning for warning in decoded.warnings if warning not in warnings]
        return FrameSelection(
            indices=indices,
            seconds=features.candidate_seconds[positions],
            weights=_numpy(chosen.weights, np.float64),
            strata=strata,
            frames=frames,
            positions=positions,
            candidate_indices=features.candidate_indices,
            candidate_seconds=features.candidate_seconds,
            cells=_numpy(chosen.cells, np.int64),
            mahalanobis=_numpy(chosen.mahalanobis, np.float64),
            relevance=None if chosen.relevance is None else _numpy(chosen.relevance, np.float64),
            requested_k=k,
            query=query,
            encoder=features.encoder,
            fps=features.fps,
            total_num_frames=features.total_num_frames,
            duration=features.duration,
            height=features.height,
            width=features.width,
            name=features.name,
            clip=features.clip,
            warnings=warnings,
        )


def select_frames(
    video: Any,
    query: str | None = None,
    k: int = 16,
    *,
    encoder: str | DualEncoder | None = None,
    selector: str = OURS,
    candidate_fps: float = 2.0,
    max_candidates: int = 768,
    scan: str = "auto",
    device: str | torch.device | None = None,
    max_side: int | None = None,
    batch_size: int = 32,
    source_fps: float | None = None,
    cache_dir: str | os.PathLike | bool | None = None,
    limits: VideoLimits | None = None,
) -> FrameSelection:
    """Choose the k frames that represent a video for a question; training-free, in one line.

    >>> selection = select_frames("holiday.mp4", "where do they park the car?", k=16, encoder="path/to/siglip2")
    >>> selection.seconds, selection.strata, selection.frames.shape  # doctest: +SKIP

    Args:
        video: whatever `FrameSelector.encode` takes.
        query: the bare question. None chooses for the video as a whole.
        k: number of frames (not groups); a video with fewer candidates gives them all.
        encoder: Hub name or local path of a dual encoder. None means SigLIP 2 base if there is a query, and the
            weight-free descriptor if not.
        selector: the rule that chooses, of `ntlbg.selection.choosing.SELECTORS`: ours, or a published one beside it.
        candidate_fps, max_candidates, scan, device, batch_size, cache_dir: see `FrameSelector`.
        max_side: longest side in pixels of the returned frames; their full size if None.
        source_fps: rate of frames in memory; unknown, they are all candidates, timed at 24 per second.
        limits: what a video may cost, and whether addresses are opened, see `VideoLimits`.

    Returns:
        `FrameSelection`: indices, seconds, weights, strata, frames and the curves behind them.

    Raises:
        EncoderError: the encoder cannot be loaded (a query is never silently ignored).
        VideoError: the video cannot be read.
    """
    if encoder is None and query is not None:
        encoder = DEFAULT_ENCODER
    chooser = FrameSelector(
        encoder,
        candidate_fps=candidate_fps,
        max_candidates=max_candidates,
        scan=scan,
        device=device,
        batch_size=batch_size,
        cache_dir=cache_dir,
        limits=limits,
    )
    features = chooser.encode(video, source_fps=source_fps)
    return chooser.select(features, query, k, selector=selector, max_side=max_side)


def _numpy(values: torch.Tensor, dtype: type) -> np.ndarray:
    return values.detach().cpu().numpy().astype(dtype)
