"""One measurement of the decoder bench, in a process of its own: `python -m ntlbg.evaluation.decode_jobs JOB`.

JOB and what is printed last are JSON objects. CPU seconds are of the whole process, all threads, without imports.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


WIDTH, HEIGHT = 224, 126
# How candidates are taken; `gap` in seconds.
WAYS = {
    "grid of 4096": {"grid": 4096},
    "scan, gaps of 2 s": {"gap": 2.0},
    "scan, gaps of 4 s": {"gap": 4.0},
    "keyframes alone": {"gap": None},
}
# An event counts as found where one of this many candidates nearest to a picture of it lies in it.
FOUND_BY = 8


def _memory(name: str) -> float:
    """MiB of `VmRSS` or `VmHWM` of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def measured(work: Callable) -> tuple[dict, object]:
    """CPU and wall seconds and peak memory of `work()`, and what it returns."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    memory, wall, before = _memory("VmRSS"), time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    result = work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu, "wall": time.perf_counter() - wall, "memory": _memory("VmHWM") - memory}, result


def even_pictures(total: int, count: int) -> np.ndarray:
    """int64 (N,): `count` picture numbers at even steps; the films have a constant rate."""
    return np.unique(np.arange(count) * total // count)


def _ours(path: str, count: int, threads: int) -> Callable[[], np.ndarray]:
    from ntlbg.processors.video_decoding_ntlbg import VideoFile

    def work():
        with VideoFile(path, threads=threads) as video:
            return video.read(even_pictures(len(video.times), count), WIDTH).frames

    return work


def _torchcodec(path: str, count: int, threads: int) -> Callable[[], np.ndarray]:
    import torch
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    torch.set_num_threads(1)
    VideoDecoder(path)  # loads the library

    def work():
        decoder = VideoDecoder(
            path, num_ffmpeg_threads=threads, dimension_order="NHWC", transforms=[Resize((HEIGHT, WIDTH))]
        )
        return decoder.get_frames_at(even_pictures(decoder.metadata.num_frames, count).tolist()).data.numpy()

    return work


def _decord(path: str, count: int, threads: int) -> Callable[[], np.ndarray]:
    import decord

    def work():
        reader = decord.VideoReader(path, width=WIDTH, height=HEIGHT, num_threads=threads)
        return reader.get_batch(even_pictures(len(reader), count)).asnumpy()

    return work


def grid(path: str, count: int, library: str, threads: int = 1, **_) -> dict:
    """`count` frames of 224 x 126 at even steps, by one of the libraries with so many decoding threads."""
    costs, frames = measured(
        {"ours": _ours, "torchcodec": _torchcodec, "decord": _decord}[library](path, count, threads)
    )
    # A coarse view of some frames tells whether the libraries gave the same pictures.
    few = frames[even_pictures(len(frames), min(32, len(frames)))]
    blocks = few.reshape(len(few), 9, HEIGHT // 9, 16, WIDTH // 16, 3).mean(axis=(2, 4))
    return costs | {"frames": len(frames), "looks": blocks.round().astype(int).ravel().tolist()}


def passes(path: str, way: str, k: int, **_) -> dict:
    """From the file to k frames at full size without a question, and which events the candidates show."""
    import torch

    from ntlbg.modeling_ntlbg.strata_ntlbg import select_representatives
    from ntlbg.processors.video_decoding_ntlbg import VideoFile
    from ntlbg.processors.video_scan_ntlbg import scan_pictures
    from ntlbg.selection.api import DESCRIPTOR_SIDE
    from ntlbg.selection.descriptors import describe_frames

    torch.set_num_threads(1)
    how = WAYS[way]

    def look():
        with VideoFile(path, threads=1) as video:
            if "grid" in how:
                return video.read(video.candidate_pictures(None, how["grid"]), DESCRIPTOR_SIDE)
            numbers = video.keyframes
            if how["gap"] is not None:
                limits = {"candidate_fps": 2.0, "max_candidates": 4096, "gap": how["gap"]}
                numbers = scan_pictures(video.times, video.keyframes, video.end, **limits)
            return video.read(numbers, DESCRIPTOR_SIDE, draft=True)

    def choose():
        descriptors = describe_frames(candidates.frames)
        return descriptors, candidates.indices[select_representatives(descriptors, k).indices.numpy()]

    def read(numbers, max_side=None):
        with VideoFile(path, threads=1) as video:
            return video.read(numbers, max_side)

    first, candidates = measured(look)
    between, (descriptors, chosen) = measured(choose)
    second, _ = measured(lambda: read(chosen))
    times = candidates.timestamps
    events = json.loads(Path(path).with_suffix(".json").read_text())["events"]
    middles = [int((event["start"] + event["end"]) / 2 * candidates.fps) for event in events]
    examples = describe_frames(read(np.array(middles), DESCRIPTOR_SIDE).frames)
    near = torch.cdist(examples, descriptors).topk(min(FOUND_BY, len(times)), largest=False).indices.numpy()
    within = [(times >= event["start"] - 1e-6) & (times < event["end"] - 1e-6) for event in events]
    return {
        "cpu": first["cpu"] + between["cpu"] + second["cpu"],
        "first": first["cpu"],
        "choose": between["cpu"],
        "second": second["cpu"],
        "memory": max(first["memory"], second["memory"]),
        "candidates": len(times),
        "widest": round(float(np.diff(times).max()), 3),
        "seen": [bool(inside.any()) for inside in within],
        "found": [bool(inside[nearest].any()) for inside, nearest in zip(within, near, strict=True)],
    }


def encoder(**_) -> dict:
    """CPU seconds per candidate of a vision tower shaped like SigLIP's base, with random weights."""
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.set_num_threads(1)
    tower = SiglipVisionModel(SiglipVisionConfig(image_size=224, patch_size=16)).eval()
    pixels = torch.rand(8, 3, 224, 224)
    with torch.inference_mode():
        tower(pixels[:1])
        costs, _ = measured(lambda: tower(pixels))
    return {"cpu": costs["cpu"] / len(pixels)}


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    print(json.dumps({"grid": grid, "passes": passes, "encoder": encoder}[job.pop("task")](**job)))
