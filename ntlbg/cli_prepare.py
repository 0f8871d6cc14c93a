"""`ntlbg data prepare`: a benchmark's annotations as rows that are ready to load."""

from __future__ import annotations

import argparse
import sys
from argparse import RawDescriptionHelpFormatter

from ntlbg.cli_common import UsageError, quiet_libraries, share
from ntlbg.data.converters import BENCHMARKS


EPILOG = """\
examples:
  ntlbg data prepare videomme --annotations test-00000-of-00001.parquet --videos videos/ --out videomme/
  ntlbg data prepare longvideobench --annotations lvb_val.json --videos videos/ --subtitles subtitles/ --out lvb/
  ntlbg data prepare charades_sta --annotations charades_sta_test.txt --videos Charades_v1_480/ --out charades/ \\
    --parquet --push-to me/charades-sta-rows

exit codes: 0 all annotations became rows, 1 some were left out (counted by reason), 2 bad input or usage, or more left
out than --max-bad, 130 interrupted
"""


def add_kind(kinds: argparse._SubParsersAction) -> None:
    """Declare the command under `ntlbg data`."""
    names = ", ".join(BENCHMARKS)
    parser = kinds.add_parser(
        "prepare",
        help="a benchmark's annotations as rows, beside its videos",
        description="Convert a benchmark's published annotations, check that the videos are there, read durations "
        "that the annotations lack, and write rows with their card. Benchmarks: " + names + ".",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", metavar="NAME", choices=tuple(BENCHMARKS), help="which benchmark")
    parser.add_argument("--annotations", metavar="PATH", required=True, help="as their authors publish them")
    parser.add_argument("--videos", metavar="DIR", required=True, help="the videos, in this folder or below it")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the rows and their card")
    parser.add_argument("--split", default="test", help="what these annotations are (default: %(default)s)")
    parser.add_argument("--parquet", action="store_true", help="write Parquet instead of JSONL")
    parser.add_argument(
        "--subtitles",
        metavar="DIR",
        help="add what is said (.srt, .vtt, LongVideoBench's .json), as a configuration of its own named subtitles",
    )
    parser.add_argument(
        "--max-bad",
        type=share,
        default=1.0,
        metavar="SHARE",
        help="write nothing when more than this share is left out (default: %(default)g, never)",
    )
    push = parser.add_argument_group("the Hub")
    push.add_argument("--push-to", metavar="REPO", help="push rows and card, no videos, to this data set")
    push.add_argument("--public", action="store_true", help="make the repository public if it is new")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prepare, report, push.

    Raises:
        InputError: see its message.
    """
    if args.public and args.push_to is None:
        raise UsageError("--public needs --push-to REPO")
    quiet_libraries()

    from ntlbg.data.prepare import prepare, push_prepared

    prepared = prepare(
        args.benchmark,
        args.annotations,
        args.videos,
        args.out,
        split=args.split,
        parquet=args.parquet,
        subtitles=args.subtitles,
        max_bad_share=args.max_bad,
    )
    left_out = sum(prepared.dropped.values())
    print(
        f"{prepared.rows} rows about {prepared.videos} videos in {args.out.rstrip('/')}/{prepared.file}; "
        f"{left_out} left out, {prepared.cut} spans cut to their video, {prepared.durations_read} durations read"
    )
    if prepared.with_subtitles is not None:
        print(f"{prepared.with_subtitles} of {prepared.rows} rows have subtitles")
    for reason, count in sorted(prepared.dropped.items()):
        print(f"ntlbg: left out: {count}: {reason}", file=sys.stderr)
    if args.push_to is not None:
        print(f"pushed to {push_prepared(args.out, args.push_to, private=not args.public)}")
    return 1 if left_out else 0
