"""`ntlbg data`: many videos at once, for later."""

from __future__ import annotations

import argparse
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from ntlbg.cli_common import (
    DEFAULT_CANDIDATES,
    DEFAULT_FPS,
    Parser,
    UsageError,
    check_device,
    positive_float,
    positive_int,
    quiet_libraries,
    share,
)
from ntlbg.cli_prepare import add_kind as add_prepare


EPILOG = """\
examples:
  ntlbg data features questions.jsonl --out features/ --workers 8
  ntlbg data features a.mp4 b.mkv --out features/ --encoder ./siglip2 --max-bad 0.1

A run that was cut off, even by kill -9, is taken up again by the same command: videos whose features are there are
skipped. features/report.jsonl says of every video which file is its, or why it has none.

exit codes: 0 all videos have features, 1 some are bad, 2 bad usage or more bad videos than --max-bad, 130 interrupted
"""


def add_command(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "data",
        help="prepare many videos at once",
        description="Prepare many videos at once.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    features = kinds.add_parser(
        "features",
        help="look at every video once and keep what was seen",
        description="Look at every video once, with many workers, and keep what was seen (CandidateFeatures, .npz).",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    features.add_argument(
        "videos", metavar="VIDEO|LIST.jsonl", nargs="+", help="video files, and JSONL lists of them, one object a line"
    )
    features.add_argument("--out", metavar="DIR", required=True, help="folder for the features and report.jsonl")
    features.add_argument(
        "--field", default="video_path", help="which field of a list names the video (default: video_path)"
    )
    look = features.add_argument_group("which frames are looked at")
    look.add_argument(
        "--encoder", metavar="NAME|DIR", help="dual encoder, Hub name or folder (default: the weight-free descriptor)"
    )
    look.add_argument(
        "--candidate-fps",
        type=positive_float,
        default=DEFAULT_FPS,
        metavar="F",
        help="candidate frames per second (default: %(default)g)",
    )
    look.add_argument(
        "--max-candidates",
        type=positive_int,
        default=DEFAULT_CANDIDATES,
        metavar="N",
        help="at most so many; a longer video gets a wider grid (default: %(default)s)",
    )
    look.add_argument(
        "--device", help="where the encoder runs: cpu, cuda, cuda:1 ... (default: a GPU if there is one)"
    )
    look.add_argument(
        "--batch-size", type=positive_int, default=32, metavar="N", help="frames per step of it (default: %(default)s)"
    )
    work = features.add_argument_group("work")
    work.add_argument(
        "--workers", type=positive_int, metavar="N", help="processes that decode (default: one per core, at most 8)"
    )
    work.add_argument(
        "--memory",
        type=positive_float,
        default=2.0,
        metavar="GIB",
        help="bound on the decoded frames in flight (default: %(default)g)",
    )
    work.add_argument(
        "--timeout",
        type=positive_float,
        default=600.0,
        metavar="S",
        help="seconds one video may take (default: %(default)g)",
    )
    work.add_argument(
        "--max-bad",
        type=share,
        default=1.0,
        metavar="SHARE",
        help="stop when more than this share of the videos is bad (default: %(default)g, never)",
    )
    work.add_argument("--quiet", action="store_true", help="no progress bar")
    features.set_defaults(run=run)
    add_prepare(kinds)


def run(args: argparse.Namespace) -> int:
    """Look, keep, report.

    Raises:
        InputError, EncoderError: see their messages.
    """
    if Path(args.out).exists() and not Path(args.out).is_dir():
        raise UsageError(f"--out {args.out!r} is a file; give a folder")
    check_device(args.device)

    from ntlbg.data.feature_files import make_feature_files, read_video_list
    from ntlbg.selection.api import FrameSelector

    videos: list[str] = []
    for name in args.videos:
        videos += read_video_list(name, args.field) if name.endswith(".jsonl") else [name]
    if args.encoder is not None:
        quiet_libraries()
    selector = FrameSelector(
        args.encoder,
        candidate_fps=args.candidate_fps,
        max_candidates=args.max_candidates,
        device=args.device,
        batch_size=args.batch_size,
    )
    files = make_feature_files(
        videos,
        args.out,
        selector,
        max_bad=args.max_bad,
        workers=args.workers,
        max_bytes=round(args.memory * 2**30),
        timeout=args.timeout,
        progress=not args.quiet and sys.stderr.isatty(),
    )
    print(f"{files.made} made, {files.kept} kept from before, {files.bad} bad; see {files.report}")
    return 1 if files.bad else 0
