"""Many videos on worker processes: candidate frames for a training loop, or features for later.

A video that is bad, crashes the decoder or takes too long costs itself only and is reported; memory has a bound; what
comes back is not copied on its way. See `worker_pool` for how.

>>> for video in decode_videos(["a.mp4", "b.mp4"], workers=2, max_side=448):  # doctest: +SKIP
...     print(video.source, video.error or video.candidates.frames.shape)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ntlbg.data.worker_pool import Outcome, run_jobs
from ntlbg.processors.video_decoding_ntlbg import decode_candidates
from ntlbg.processors.video_source_ntlbg import CandidateFrames, VideoError, VideoLimits


if TYPE_CHECKING:
    from ntlbg.selection.api import FrameSelector
    from ntlbg.selection.features import CandidateFeatures


@dataclass(frozen=True, eq=False)
class BatchVideo:
    """
    One video of many: either what was asked for, or why it is not there.

    Args:
        number: position in the input.
        source: as given.
        candidates: its frames, from `decode_videos`.
        features: its features, from `encode_videos`.
        error: one sentence, or None if all went well.
    """

    number: int
    source: Any
    candidates: CandidateFrames | None = None
    features: CandidateFeatures | None = None
    error: str | None = None


def default_workers() -> int:
    """One per core, at most 8."""
    return min(os.cpu_count() or 1, 8)


def decode_videos(
    videos: Iterable[Any],
    *,
    candidate_fps: float = 2.0,
    max_candidates: int = 768,
    max_side: int | None = None,
    limits: VideoLimits | None = None,
    backend: str = "pyav",
    workers: int | None = None,
    in_order: bool = True,
    prefetch: int = 2,
    max_bytes: int = 2**31,
    timeout: float = 600.0,
    progress: bool = False,
) -> Iterator[BatchVideo]:
    """
    The candidate frames of many videos, decoded ahead by worker processes (POSIX systems).

    The workers are spawned: a script needs `if __name__ == "__main__":`. They end when the iterator is exhausted,
    closed or dropped, on an error and on Ctrl-C, and with this process however it ends. In a training loop with a
    DataLoader, put this into an `IterableDataset` and keep `num_workers=0`; with several ranks, give each its share of
    the videos.

    Args:
        videos: whatever `decode_candidates` takes and can be pickled, paths above all; read as they are needed, by
            another thread.
        candidate_fps, max_candidates, max_side, limits, backend: see `decode_candidates`.
        workers: processes; `default_workers()` if None.
        in_order: give the videos in the order of the input, else as they come.
        prefetch: videos begun ahead of the consumer, per worker.
        max_bytes: bound on the decoded frames in flight: being decoded, or waiting for the consumer. What the consumer
            holds comes on top. A video that needs more alone is an error that says so.
        timeout: seconds of work that one video may take.
        progress: show a bar.

    Yields:
        `BatchVideo` with `candidates` or `error`.

    Raises:
        WorkerError: no worker process can be started.
        ValueError: a number is out of range.
    """
    options = {"candidate_fps": candidate_fps, "max_candidates": max_candidates, "max_side": max_side}
    job = partial(_decode, **options, limits=_within(limits or VideoLimits(), max_bytes), backend=backend)
    pool = {"workers": workers, "in_order": in_order, "prefetch": prefetch, "max_bytes": max_bytes, "timeout": timeout}

    def decoded(outcome: Outcome) -> BatchVideo:
        return BatchVideo(outcome.number, outcome.item, candidates=outcome.value, error=outcome.error)

    return _each(_outcomes(job, videos, **pool), decoded, _bar(videos, "decode", progress))


def encode_videos(
    videos: Iterable[Any],
    selector: FrameSelector,
    *,
    workers: int | None = None,
    in_order: bool = True,
    prefetch: int = 2,
    max_bytes: int = 2**31,
    timeout: float = 600.0,
    progress: bool = False,
) -> Iterator[BatchVideo]:
    """
    The features of many videos. Worker processes decode; a dual encoder runs here, on its device, while they decode
    the next videos; the weight-free descriptor is computed by the workers too.

    Args:
        selector: how videos are looked at; a cache folder of its is left alone.
        videos, workers, in_order, prefetch, max_bytes, timeout, progress: see `decode_videos`.

    Yields:
        `BatchVideo` with `features` or `error`; the features equal those of `selector.encode`.

    Raises:
        WorkerError, ValueError: see `decode_videos`.
    """
    options = selector.sampling | {"limits": _within(selector.limits, max_bytes)}
    job = partial(_describe if selector.encoder is None else _decode, **options)
    pool = {"workers": workers, "in_order": in_order, "prefetch": prefetch, "max_bytes": max_bytes, "timeout": timeout}

    def encoded(outcome: Outcome) -> BatchVideo:
        features = outcome.value
        if outcome.error is None and selector.encoder is not None:
            features = selector.describe(outcome.value, outcome.item)
        return BatchVideo(outcome.number, outcome.item, features=features, error=outcome.error)

    return _each(_outcomes(job, videos, **pool), encoded, _bar(videos, "encode", progress))


def _decode(source: Any, allocate: Callable, **options) -> CandidateFrames:
    return decode_candidates(source, allocate=allocate, **options)


def _describe(source: Any, allocate: Callable, **options) -> CandidateFeatures:
    # Only here, so that workers that decode for an encoder do without torch.
    import torch

    from ntlbg.selection.api import FrameSelector

    # The workers share the cores already.
    torch.set_num_threads(1)
    return FrameSelector(None).describe(_decode(source, allocate, **options), source)


def _within(limits: VideoLimits, max_bytes: int) -> VideoLimits:
    # A video that can never have its memory is refused by the decoder, with its sentence.
    return replace(limits, max_output_bytes=min(limits.max_output_bytes, max_bytes))


def _bar(videos: Iterable[Any], what: str, progress: bool) -> tqdm:
    total = len(videos) if isinstance(videos, Sized) else None
    return tqdm(total=total, desc=what, unit="video", disable=not progress)


def _outcomes(job: Callable, videos: Iterable[Any], workers: int | None, **pool) -> Iterator[Outcome]:
    return run_jobs(
        job, videos, workers=default_workers() if workers is None else workers, expected=(VideoError,), **pool
    )


def _each(outcomes: Iterator[Outcome], convert: Callable, bar: tqdm) -> Iterator[BatchVideo]:
    bad = 0
    with closing(outcomes), bar:
        for outcome in outcomes:
            video = convert(outcome)
            if video.error is not None:
                bad += 1
                bar.set_postfix(bad=bad, refresh=False)
            # Nothing here keeps the pixels alive while others are awaited.
            del outcome
            bar.update()
            yield video
            del video


__all__ = ["BatchVideo", "decode_videos", "encode_videos"]
