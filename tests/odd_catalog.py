"""Every kind of odd file that opens, by name: what exactness is checked on. Files are made at run time with PyAV."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from odd_videos import remux, turn_clockwise, write_audio, write_video


COUNT = 160  # pictures, so that jumps of more than 64 packets happen
_X264 = "log-level=none:scenecut=0:"
_VPX = {"g": "40", "cpu-used": "8", "deadline": "realtime"}


def textured_frames(count: int, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """uint8 (N, H, W, 3): noise that scrolls unevenly, so that each picture needs the right references."""
    rng = np.random.default_rng(seed)
    grid = rng.uniform(0, 255, (height // 2 + 1, width + 1, 3))
    picture = np.kron(grid, np.ones((4, 4, 1))).astype(np.uint8)
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for number in range(count):
        top, left = (number * 5) % height, (number * number // 7 + 2 * number) % (2 * width)
        frames[number] = picture[top : top + height, left : left + width]
        frames[number, : height // 4] = 20 + (number * 7) % 200
    return frames


def _x265(params: str) -> dict[str, str]:
    return {"preset": "superfast", "x265-params": f"{params}:log-level=none"}


def _x264(params: str, *, count: int = COUNT, **kwargs) -> Callable[[Path], Path]:
    return _coded(count=count, options={"x264-params": _X264 + params, "preset": "veryfast"}, **kwargs)


def _coded(*, count: int = COUNT, height: int = 64, width: int = 96, **kwargs) -> Callable[[Path], Path]:
    return lambda path: write_video(path, textured_frames(count, height, width), **kwargs)


def _remuxed(change, container_options: dict | None = None, **kwargs) -> Callable[[Path], Path]:
    """A file whose packets `change(number, packet)` altered; coded as `kwargs` say, else H.264 with B-frames."""

    def make(path: Path) -> Path:
        source = write_video(
            path.with_name(f"source_of_{path.stem}.mp4"),
            textured_frames(COUNT),
            **(kwargs or {"options": {"x264-params": _X264 + "keyint=25:bframes=3"}}),
        )
        return remux(source, path, change, container_options)

    return make


def _later(ticks: int, number: int, packet):
    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
    return packet


def _from(first: int, number: int, packet):
    return packet if number >= first else None


def _same_time_twice(number: int, packet):
    packet.dts -= 5 * 512
    if number in (40, 90):
        packet.pts -= 512  # ticks of 1/12800 s: one picture earlier
    return packet


def _jump_of_an_hour(number: int, packet):
    if number >= 75:
        packet.pts, packet.dts = packet.pts + 3600 * 12800, packet.dts + 3600 * 12800
    return packet


def _swapped_times(number: int, packet):
    """Two P pictures that say each other's time: they leave the decoder in another order than they are shown in."""
    packet.dts -= 5 * 512
    packet.pts += {60: 512, 61: -512}.get(number, 0)
    return packet


def _some_without_times(path: Path) -> Path:
    """A transport stream of which two pictures in three carry no times (ISO/IEC 13818-1, 2.4.3.6: PTS_DTS_flags)."""
    content = bytearray(_x264("keyint=25:bframes=2")(path).read_bytes())
    at, number = content.find(b"\0\0\1\xe0"), 0
    while at >= 0:
        if number % 3:
            content[at + 7] &= 0x3F
            content[at + 9 : at + 9 + content[at + 8]] = b"\xff" * content[at + 8]
        at, number = content.find(b"\0\0\1\xe0", at + 1), number + 1
    path.write_bytes(content)
    return path


def intact_twin(path: Path) -> Path:
    """Where the file is that `path` was before it was damaged."""
    return path.with_name(f"intact_{path.name}")


def _damaged(kind: str, **kwargs) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        x264 = {"options": {"x264-params": _X264 + "keyint=25:bframes=3"}}
        options = {"container_options": {"movflags": "faststart"}} if path.suffix == ".mp4" else {}
        intact = write_video(intact_twin(path), textured_frames(COUNT), **(kwargs or {**x264, **options}))
        content, rng = bytearray(intact.read_bytes()), np.random.default_rng(3)
        if kind == "cut":
            content = content[: int(len(content) * 0.6)]
        elif kind == "hole":
            start = len(content) // 2
            content[start : start + len(content) // 20] = bytes(len(content) // 20)
        else:
            for at in rng.integers(len(content) // 4, len(content), 12):
                content[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        return path

    return make


def _joined(path: Path) -> Path:
    """A stream whose pictures grow in mid-stream, as a broadcast's do."""
    options = {"x264-params": _X264 + "keyint=20"}
    small = write_video(path.with_name("part_a.ts"), textured_frames(60), options=options)
    large = write_video(path.with_name("part_b.ts"), textured_frames(60, 96, 128), options=options)
    second = remux(large, path.with_name("part_b_later.ts"), partial(_later, 90_000 * 60 // 25))
    path.write_bytes(small.read_bytes() + second.read_bytes())
    return path


def _turned(turns: int) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        source = _x264("keyint=25:bframes=3")(path.with_name(f"source_of_{path.stem}.mp4"))
        return turn_clockwise(source, path, turns)

    return make


def _raw_pictures(path: Path, codec: str, pixels: str, rate: int = 25, options: dict | None = None) -> Path:
    """`textured_frames` with an alpha channel, deep colour or a palette: whatever `pixels` is."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
        for number, picture in enumerate(textured_frames(COUNT)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _made(codec: str, pixels: str, **kwargs) -> Callable[[Path], Path]:
    return lambda path: _raw_pictures(path, codec, pixels, **kwargs)


def _with_sound_and_cover(path: Path) -> Path:
    """A film with a cover picture before and a sound track after its moving pictures."""
    film = _x264("keyint=25:bframes=3")(path.with_name("film_only.mp4"))
    sound = write_audio(path.with_name("sound_only.mp4"), "aac", cover=textured_frames(1)[0])
    with av.open(str(film)) as one, av.open(str(sound)) as two, av.open(str(path), "w") as new:
        streams = [*two.streams.video, *one.streams.video, *two.streams.audio]
        copies = [new.add_stream_from_template(stream) for stream in streams]
        copies[0].disposition = int(av.stream.Disposition.attached_pic.value)
        for stream, copy in zip(streams, copies, strict=True):
            for packet in stream.container.demux(stream):
                if packet.size:
                    packet.stream = copy
                    new.mux(packet)
    return path


_VARIABLE = np.concatenate([[0], np.cumsum(np.random.default_rng(1).integers(11, 700, COUNT - 1))]).tolist()
_DROPPED = (40 * np.setdiff1d(np.arange(COUNT + 5), [10, 11, 12, 80, 81])).tolist()

# name -> how it is made
ODD: dict[str, Callable[[Path], Path]] = {
    # groups of pictures
    "closed_gop.mp4": _x264("keyint=24:bframes=3:open-gop=0"),
    "open_gop.mp4": _x264("open-gop=1:bframes=3:keyint=30"),
    "open_gop.ts": _x264("open-gop=1:bframes=3:keyint=30"),
    "tiny_gop.mkv": _x264("keyint=2:min-keyint=1:bframes=1"),
    "all_intra.mp4": _x264("keyint=1"),
    "one_keyframe.mp4": _x264("keyint=9999:bframes=3"),
    "intra_refresh.mp4": _x264("intra-refresh=1:keyint=40:bframes=0"),
    "intra_refresh.ts": _x264("intra-refresh=1:keyint=40:bframes=0"),
    "many_references.mkv": _x264("keyint=50:bframes=8:b-pyramid=normal:ref=8:weightp=2"),
    "interlaced.ts": _x264("tff=1:keyint=25:bframes=2"),
    "zero_latency.mp4": _x264("keyint=60:bframes=0:slices=4"),
    "fragmented.mp4": _coded(options={"g": "40"}, container_options={"movflags": "frag_keyframe+empty_moov"}),
    "hevc_open_gop.mkv": _coded(codec="libx265", options=_x265("keyint=30:open-gop=1")),
    "hevc_10_bit.mp4": _made("libx265", "yuv420p10le", options=_x265("keyint=30")),
    "vp8.webm": _coded(codec="libvpx", options={**_VPX, "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9.webm": _coded(codec="libvpx-vp9", options=_VPX),
    "av1.mp4": _coded(codec="libsvtav1", options={"g": "40", "preset": "11"}),
    "program_stream.mpg": _coded(codec="mpeg2video", options={"bf": "2", "g": "12"}),
    "mpeg1.mpg": _coded(codec="mpeg1video", options={"bf": "2", "g": "12"}),
    "mpeg2.ts": _coded(codec="mpeg2video", options={"bf": "2", "g": "12"}),
    "b_frames.avi": _coded(codec="mpeg4", options={"bf": "2", "g": "12"}),
    "h264.avi": _x264("keyint=25:bframes=2"),
    "motion_jpeg.avi": _made("mjpeg", "yuvj420p"),
    "flash.flv": _coded(codec="flv", options={"g": "12"}),
    "windows.asf": _coded(codec="wmv2", options={"g": "12"}),
    # pixels
    "ten_bit.mp4": _made("libx264", "yuv420p10le", options={"x264-params": _X264 + "keyint=25:bframes=3"}),
    "full_range.mp4": _made("libx264", "yuvj420p", options={"x264-params": _X264 + "keyint=25:bframes=3"}),
    "alpha.webm": _made("libvpx-vp9", "yuva420p", options=_VPX),
    "alpha.mov": _made("qtrle", "argb"),
    "picture.gif": _made("gif", "rgb8"),
    "lossless.mkv": _made("ffv1", "yuv420p"),
    "odd_size.mkv": _coded(codec="ffv1", height=63, width=97),
    "anamorphic.mp4": _coded(sample_aspect_ratio=Fraction(4, 3), options={"g": "25"}),
    "turned_right.mp4": _turned(1),
    "upside_down.mp4": _turned(2),
    "turned_left.mp4": _turned(3),
    "size_change.ts": _joined,
    # times
    "variable_rate.mkv": _coded(ticks=_VARIABLE, options={"g": "25"}),
    "late_start.ts": _remuxed(partial(_later, 101 * 12800)),
    "edit_list.mp4": _remuxed(partial(_later, -10 * 512), {"avoid_negative_ts": "disabled"}),
    "no_duration.mkv": _remuxed(lambda number, packet: packet, {"live": "1"}),
    "repeated_times.mkv": _remuxed(_same_time_twice),
    "jump_in_time.mp4": _remuxed(_jump_of_an_hour),
    "swapped_times.mkv": _remuxed(_swapped_times, options={"x264-params": _X264 + "keyint=25:bframes=0"}),
    "missing_times.ts": _some_without_times,
    "dropped_pictures.avi": _coded(codec="mpeg4", ticks=_DROPPED, options={"bf": "2", "g": "12"}),
    "mid_gop.ts": _remuxed(partial(_from, 5), options={"x264-params": _X264 + "keyint=20:bframes=0"}),
    # several streams
    "sound_and_cover.mp4": _with_sound_and_cover,
    # damage
    "cut.mp4": _damaged("cut"),
    "cut.mkv": _damaged("cut"),
    "hole.mp4": _damaged("hole"),
    "hole.ts": _damaged("hole"),
    "flipped.mp4": _damaged("flipped"),
    "flipped.ts": _damaged("flipped"),
    "flipped.avi": _damaged("flipped", codec="mpeg4", options={"bf": "2", "g": "12"}),
}
