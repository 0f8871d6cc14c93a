"""Writes a `VideoSpec` as a real h264 mp4 and reads it back: what the model sees has been through a codec."""

import io
from fractions import Fraction
from os import PathLike

import av
import numpy as np

from ntlbg.data.world import VideoSpec
from ntlbg.data.world_render import Renderer


def write_video(
    spec: VideoSpec,
    target: str | PathLike | io.BytesIO,
    *,
    fps: int = 2,
    size: int = 224,
    crf: int = 23,
    preset: str = "veryfast",
) -> None:
    """Render `spec` and encode it with libx264 (yuv420p) into an mp4.

    Args:
        target: a path, or a `BytesIO` to keep the file in memory.
        fps: pictures per second; picture i shows second i / fps.
        size: side of the square frame in pixels, even.
        crf: x264 quality, 0 (lossless) .. 51.
        preset: x264 speed preset.
    """
    if size % 2:
        raise ValueError(f"`size` must be even for yuv420p, but is {size}")
    renderer = Renderer(spec, size)
    name = target if isinstance(target, io.BytesIO) else str(target)
    with av.open(name, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": preset})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # the same file everywhere, whatever the number of cores
        stream.time_base = Fraction(1, fps)
        for i in range(spec.duration * fps):
            picture = av.VideoFrame.from_ndarray(renderer.frame(i / fps), format="rgb24")
            picture.pts, picture.time_base = i, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def round_trip(
    spec: VideoSpec, *, fps: int = 1, size: int = 112, crf: int = 23, preset: str = "superfast"
) -> np.ndarray:
    """Encode `spec` in memory and decode it again: (duration * fps, size, size, 3) uint8 RGB."""
    buffer = io.BytesIO()
    write_video(spec, buffer, fps=fps, size=size, crf=crf, preset=preset)
    buffer.seek(0)
    with av.open(buffer) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return np.stack([picture.to_ndarray(format="rgb24") for picture in container.decode(stream)])
