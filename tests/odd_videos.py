"""Video files for the tests, made with PyAV at run time: regular ones and every kind of odd one."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter


REAL_VIDEOS = Path(__file__).resolve().parents[1].parent / "shared" / "videos"


def real_videos() -> list[Path]:
    """The real footage where it is present, else nothing."""
    return sorted(p for p in REAL_VIDEOS.glob("*.*") if p.suffix in (".mp4", ".mkv", ".webm"))


def numbered_frames(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """uint8 (N, H, W, 3): each frame's brightness grows with its number, and a bar moves to the right."""
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for number in range(count):
        frames[number] = 20 + (number * 7) % 200
        left = (number * 3) % (width - 8)
        frames[number, : height // 2, left : left + 8] = (250, 30, 30)
    return frames


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    rate: int = 25,
    ticks: list[int] | None = None,
    codec: str = "libx264",
    options: dict | None = None,
    container_options: dict | None = None,
    sample_aspect_ratio: Fraction | None = None,
    format: str | None = None,
    pixels: str = "yuv420p",
) -> Path:
    """Encodes `frames` (N, H, W, 3); `ticks` are presentation times in thousandths of a second (a variable rate)."""
    with av.open(str(path), "w", format=format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.options = options or {}
        if ticks is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if sample_aspect_ratio is not None:
            stream.sample_aspect_ratio = sample_aspect_ratio
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = ticks[number], Fraction(1, 1000)
            else:
                frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn_clockwise(source: Path, target: Path, quarter_turns: int) -> Path:
    """Copies an MP4 and asks players to turn it clockwise (the matrix of ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 44
    a, b = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns]
    content[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    target.write_bytes(content)
    return target


def write_audio(path: Path, codec: str = "pcm_s16le", cover: np.ndarray | None = None) -> Path:
    """One second of a tone, with a cover picture where one is given."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16000)
        picture_stream = None
        if cover is not None:
            picture_stream = container.add_stream("mjpeg")
            picture_stream.height, picture_stream.width = cover.shape[:2]
            picture_stream.pix_fmt = "yuvj420p"
            picture_stream.disposition = int(av.stream.Disposition.attached_pic.value)
        tone = (8000 * np.sin(np.arange(16000) / 20)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate = 16000
        if picture_stream is not None:
            container.mux(picture_stream.encode(av.VideoFrame.from_ndarray(cover, format="rgb24")))
            container.mux(picture_stream.encode(None))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, change, container_options: dict | None = None) -> Path:
    """Copies the packets of `source` to `target`; `change(number, packet)` may alter a packet or drop it (None)."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=container_options or {}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in old.demux(stream) if p.size):
            if (changed := change(number, packet)) is not None:
                changed.stream = copy
                new.mux(changed)
    return target


def full_decode(path: Path, max_side: int | None = None) -> tuple[np.ndarray, list[int]]:
    """Every picture by plain decoding from the beginning (M, H, W, 3), and its stamps: the reference for exactness."""
    reformatter, pictures, stamps = VideoReformatter(), [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for frame in container.decode(stream):
            scale = min(1.0, max_side / max(frame.width, frame.height)) if max_side else 1.0
            size = {"width": max(1, round(frame.width * scale)), "height": max(1, round(frame.height * scale))}
            pictures.append(reformatter.reformat(frame, format="rgb24", interpolation="BILINEAR", **size).to_ndarray())
            stamps.append(frame.pts)
    return np.stack(pictures), stamps
