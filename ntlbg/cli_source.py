"""Which video a command is given: a file, an address, a clip, a folder or a list of pictures; and what it may cost."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntlbg.cli_common import Stages, UsageError, positive_float


if TYPE_CHECKING:
    from ntlbg.processors.video_images_ntlbg import ImageFiles
    from ntlbg.processors.video_source_ntlbg import VideoLimits


IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


def seconds(text: str) -> float:
    """argparse type: seconds as 75.5, 1:15.5 or 0:01:15.5."""
    if not re.fullmatch(r"(?:\d+:){0,2}\d+(?:\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"seconds or h:mm:ss are expected, got {text!r}")
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total


def limit(text: str) -> tuple[str, float]:
    """argparse type: NAME=NUMBER, one of the numbers of `VideoLimits`."""
    from ntlbg.processors.video_source_ntlbg import VideoLimits

    numbers = [field.name for field in dataclasses.fields(VideoLimits) if not isinstance(field.default, bool)]
    name, _, value = text.partition("=")
    if name not in numbers:
        raise argparse.ArgumentTypeError(f"NAME=NUMBER is expected with one of {', '.join(numbers)}, got {text!r}")
    number = positive_float(value)
    return name, int(number) if isinstance(getattr(VideoLimits, name), int) else number


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """VIDEO, and the options that say what it is and what it may cost."""
    parser.add_argument("video", metavar="VIDEO", help="a video file, or an http(s) address with --allow-http")
    group = parser.add_argument_group("the video")
    group.add_argument("--start", type=seconds, metavar="S", help="look only from here on: seconds or h:mm:ss")
    group.add_argument("--end", type=seconds, metavar="S", help="look only up to here")
    group.add_argument("--allow-http", action="store_true", help="download VIDEO if it is an address, once")
    group.add_argument(
        "--allow-private-hosts", action="store_true", help="also from hosts that are not on the public internet"
    )
    images = group.add_mutually_exclusive_group()
    images.add_argument(
        "--image-fps",
        type=positive_float,
        metavar="F",
        help="VIDEO is a folder of pictures, F a second, in the order of their names (2.png before 10.png)",
    )
    images.add_argument(
        "--image-list",
        action="store_true",
        help="VIDEO is a text file: on each line the seconds and, after a space, the path of a picture",
    )
    group.add_argument(
        "--limit",
        type=limit,
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="raise or lower what a video may cost, such as max_pixels=60e6 or decode_timeout=7200 (see VideoLimits)",
    )


def add_scan_option(parser: argparse.ArgumentParser) -> None:
    """How candidates are looked for in a video file."""
    parser.add_argument(
        "--scan",
        choices=("auto", "grid", "keyframes"),
        default="auto",
        help="look at keyframes, and between them where they stand far apart (keyframes), at even steps (grid), or at "
        "keyframes in long videos only (auto, the default)",
    )


def limits_of(args: argparse.Namespace) -> VideoLimits:
    """What the arguments allow a video to cost."""
    from ntlbg.processors.video_source_ntlbg import VideoLimits

    return VideoLimits(**dict(args.limit), allow_http=args.allow_http, allow_private_hosts=args.allow_private_hosts)


def source_of(args: argparse.Namespace, limits: VideoLimits, quiet: bool = True) -> Any:
    """The video that the arguments name, as every function of the library takes it; an address is downloaded here.

    Raises:
        UsageError: the options do not fit VIDEO. VideoError: it cannot be downloaded.
    """
    from ntlbg.processors.video_download_ntlbg import download_video, is_address, shown_address
    from ntlbg.processors.video_source_ntlbg import VideoClip

    source: Any = args.video
    if not args.video:
        raise UsageError("VIDEO is empty; give the path of a video file (is a variable of the shell not set?)")
    if args.image_fps is not None:
        source = _folder(Path(args.video), args.image_fps)
    elif args.image_list:
        source = _listed(Path(args.video))
    elif is_address(args.video):
        if not args.allow_http:
            raise UsageError(f"{shown_address(args.video)} is an address; pass --allow-http to download it")
        stages = Stages(1, quiet)
        try:
            with stages("download"):
                source = download_video(args.video, limits)
        finally:
            stages.close()
    elif Path(args.video).is_dir():
        raise UsageError(f"{args.video!r} is a folder; give a video file, or --image-fps for a folder of pictures")
    if args.start is None and args.end is None:
        return source
    if args.end is not None and args.end < (args.start or 0.0):
        raise UsageError(f"--end {args.end:g} lies before --start {args.start:g}; swap them")
    return VideoClip(source, args.start, args.end)


def check_opens(source: Any, limits: VideoLimits) -> None:
    """Refuse what is no video at all, before the libraries of seconds' import time are needed; reads its head only.

    Raises:
        VideoError: see `decode_candidates`.
    """
    from ntlbg.processors.video_index_ntlbg import open_container, picture_stream, source_name
    from ntlbg.processors.video_source_ntlbg import is_image_files, unclipped

    video, _ = unclipped(source)
    if is_image_files(video):
        return
    with open_container(video, limits) as container:
        picture_stream(container, source_name(video), limits)


def check_video(source: Any, limits: VideoLimits) -> None:
    """Refuse a file that holds no pictures before a model is loaded for it; reads all its packets.

    Raises:
        VideoError: see `decode_candidates`.
    """
    from ntlbg.processors.video_decoding_ntlbg import open_video

    with open_video(source, limits):
        pass


def _folder(folder: Path, fps: float) -> ImageFiles:
    from ntlbg.processors.video_images_ntlbg import ImageFiles

    if not folder.is_dir():
        raise UsageError(f"--image-fps needs a folder of pictures, got {str(folder)!r}; drop it for a video file")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not paths:
        raise UsageError(f"{str(folder)!r} holds no pictures ({', '.join(IMAGE_SUFFIXES)}); give another folder")
    return ImageFiles(sorted(paths, key=_natural), fps=fps)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    # numbers by value and before letters: 2.png, 10.png, a.png
    pieces = re.findall(r"(\d+)|(\D+)", path.name)
    return [(0, int(digits), "") if digits else (1, 0, text) for digits, text in pieces]


def _listed(file: Path) -> ImageFiles:
    from ntlbg.processors.video_images_ntlbg import ImageFiles

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"--image-list {str(file)!r} is no text in UTF-8; give lines of `SECONDS PATH`") from error
    times, paths = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        moment, _, path = line.strip().partition(" ")
        try:
            times.append(seconds(moment))
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"line {number} of {str(file)!r} must be `SECONDS PATH`, got {line[:80]!r}") from error
        paths.append(file.parent / path.strip())
    if not paths:
        raise UsageError(f"--image-list {str(file)!r} names no pictures; give lines of `SECONDS PATH`")
    return ImageFiles(paths, seconds=times)
