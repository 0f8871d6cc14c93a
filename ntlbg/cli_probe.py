"""`ntlbg probe`: what a video is, what is wrong with it, and what would be decoded of it."""

from __future__ import annotations

import argparse
from argparse import RawDescriptionHelpFormatter

from ntlbg.cli_common import DEFAULT_CANDIDATES, DEFAULT_FPS, check_outputs, positive_float, positive_int, write_json
from ntlbg.cli_source import add_scan_option, add_source_options, check_opens, limits_of, source_of


EPILOG = """\
examples:
  ntlbg probe talk.mp4                    read its index; decodes one picture
  ntlbg probe talk.mp4 --thorough         decode every picture and count the damage
  ntlbg probe talk.mp4 --json | jq .plan  for another program

exit codes: 0 it can be read, be it damaged, 2 it cannot (one sentence on the standard error)
"""


def add_command(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "probe",
        help="say what a video is, what is wrong with it, and what would be decoded",
        description="Say what a video is, what is wrong with it, and what would be decoded of it.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add_source_options(parser)
    parser.add_argument("--thorough", action="store_true", help="decode every picture to find damage")
    parser.add_argument("-k", type=positive_int, default=16, help="frames that would be chosen (default: 16)")
    parser.add_argument(
        "--candidate-fps",
        type=positive_float,
        default=DEFAULT_FPS,
        metavar="F",
        help=f"candidate frames per second (default: {DEFAULT_FPS:g})",
    )
    parser.add_argument(
        "--max-candidates",
        type=positive_int,
        default=DEFAULT_CANDIDATES,
        metavar="N",
        help=f"at most so many (default: {DEFAULT_CANDIDATES})",
    )
    add_scan_option(parser)
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="JSON instead of lines for people, to FILE if one is named",
    )
    parser.set_defaults(run=run, report=None, cache=None)


def run(args: argparse.Namespace) -> None:
    """Look, print.

    Raises:
        UsageError, VideoError: see their messages.
    """
    check_outputs(args)
    limits = limits_of(args)
    source = source_of(args, limits)
    check_opens(source, limits)

    from ntlbg.probe import probe

    found = probe(
        source,
        k=args.k,
        candidate_fps=args.candidate_fps,
        max_candidates=args.max_candidates,
        scan=args.scan,
        limits=limits,
        thorough=args.thorough,
    )
    if args.json is None:
        print(found)
    else:
        write_json(args.json, found.to_dict())
