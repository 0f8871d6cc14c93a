"""`ntlbg select`: the frames that stand for a video, without any language model."""

from __future__ import annotations

import argparse
import sys
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ntlbg.cli_common import (
    DEFAULT_CANDIDATES,
    DEFAULT_FPS,
    Stages,
    UsageError,
    add_common_options,
    add_selector_option,
    add_subtitle_options,
    check_device,
    check_outputs,
    positive_int,
    print_notes,
    quiet_libraries,
    read_subtitles,
    said_text,
    write_json,
)
from ntlbg.cli_source import add_scan_option, add_source_options, check_opens, check_video, limits_of, source_of


if TYPE_CHECKING:
    from ntlbg.selection.features import FrameSelection


EPILOG = """\
examples:
  ntlbg select talk.mp4 -k 16                                for the video as a whole; needs no model
  ntlbg select talk.mp4 "who opens the door?" -k 8           for a question; SigLIP 2 from the Hub or its cache
  ntlbg select talk.mp4 "a dog" --encoder ./clip --out shots/   frames as PNG and a contact sheet
  ntlbg select talk.mp4 "the demo" --subtitles talk.srt --report talk.html   with what is said at each frame
  ntlbg select talk.mp4 --json - | jq .indices               picture numbers for another program
  ntlbg select talk.mp4 --start 1:10:00 --end 1:15:00        five minutes of it
  ntlbg select photos/ --image-fps 0.5                       a folder of pictures, one every two seconds
"""


def add_command(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "select",
        help="choose the frames that stand for a video",
        description="Choose the k frames that stand for a video, and say why each was taken.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add_source_options(parser)
    parser.add_argument(
        "query", metavar="QUERY", nargs="?", help="the bare question; without one, for the whole video"
    )
    parser.add_argument("-k", type=positive_int, default=16, help="number of frames (default: 16)")
    parser.add_argument(
        "--max-side",
        type=positive_int,
        metavar="PIXELS",
        help="longest side of the frames written (default: full size)",
    )
    add_common_options(
        parser,
        encoder_help="dual encoder of transformers (CLIP, SigLIP, SigLIP 2, X-CLIP ...) that judges frames against "
        "the query, Hub name or folder (default with a query: google/siglip2-base-patch16-224; without one: no model "
        "is needed)",
        cache_help="folder that keeps what was seen, so that the same video is looked at once",
    )
    add_scan_option(parser)
    add_selector_option(parser)
    parser.add_argument("--out", metavar="DIR", help="write the frames as PNG and contact_sheet.png into this folder")
    add_subtitle_options(parser, "each cue is shown with the frame it is nearest to")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Choose, print, write.

    Raises:
        UsageError, VideoError, EncoderError: see their messages.
    """
    check_outputs(args)
    if args.query is not None and not args.query.strip():
        raise UsageError("the query is empty; give a question or leave it away")
    if args.out is not None and Path(args.out).exists() and not Path(args.out).is_dir():
        raise UsageError(f"--out {args.out!r} is a file; give a folder")
    subtitles = read_subtitles(args)
    check_device(args.device)
    limits = limits_of(args)
    source = source_of(args, limits, args.quiet)
    check_opens(source, limits)

    from ntlbg.selection.api import FrameSelector
    from ntlbg.selection.choosing import check_selector
    from ntlbg.selection.encoders import DEFAULT_ENCODER

    check_selector(args.selector)
    encoder = args.encoder if args.encoder is not None or args.query is None else DEFAULT_ENCODER
    if encoder is not None:
        check_video(source, limits)
        quiet_libraries()
    needs_pictures = args.out is not None or args.report is not None
    stages = Stages(4 if needs_pictures else 3, args.quiet)
    try:
        with stages("load the encoder"):
            selector = FrameSelector(
                encoder,
                candidate_fps=args.candidate_fps or DEFAULT_FPS,
                max_candidates=args.max_candidates or DEFAULT_CANDIDATES,
                scan=args.scan,
                device=args.device,
                cache_dir=args.cache,
                limits=limits,
                progress=not args.quiet and sys.stderr.isatty(),
            )
        with stages("look at the candidates"):
            features = selector.encode(source)
        with stages("choose and read the frames" if needs_pictures else "choose"):
            selection = selector.select(
                features,
                args.query,
                args.k,
                selector=args.selector,
                max_side=args.max_side,
                with_frames=needs_pictures,
            )
        spoken = None
        if subtitles is not None:
            spoken, notes = selection.spoken(subtitles, args.subtitle_seconds)
            selection.warnings += notes
        if needs_pictures:
            with stages("write"):
                written = _write_pictures(args, selection, spoken, stages.timings)
    finally:
        stages.close()
    if args.json is not None:
        said = {} if spoken is None else {"spoken": [[asdict(cue) for cue in cues] for cues in spoken]}
        write_json(args.json, selection.to_dict() | said | {"timings": stages.timings})
    if args.json != "-":
        print(selection)
        if spoken is not None:
            print("\n" + said_text(selection.seconds, spoken))
        if needs_pictures:
            print("\n".join(f"wrote {path}" for path in written))
    print_notes(selection.warnings)


def _write_pictures(
    args: argparse.Namespace, selection: FrameSelection, spoken: list | None, timings: dict[str, float]
) -> list[Path]:
    from ntlbg.report import ReportQuestion, VideoFacts, contact_sheet, write_report
    from ntlbg.tables import clock

    written: list[Path] = []
    if args.out is not None:
        folder = Path(args.out)
        folder.mkdir(parents=True, exist_ok=True)
        for rank, (index, image) in enumerate(zip(selection.indices, selection.images(), strict=True), start=1):
            image.save(folder / f"frame_{rank:03d}_picture_{int(index):07d}.png")
        labels = [
            f"{rank}  {clock(float(second), tenths=True)} · {stratum} · {weight:.1%}"
            for rank, (second, stratum, weight) in enumerate(
                zip(selection.seconds, selection.strata, selection.weights, strict=True), start=1
            )
        ]
        sheet = folder / "contact_sheet.png"
        contact_sheet(selection.frames, labels, sheet, strata=selection.strata)
        written += [folder / f"frame_*.png ({selection.k})", sheet]
    if args.report is not None:
        question = ReportQuestion(question=args.query, selection=selection, spoken=spoken, timings=dict(timings))
        written += write_report(
            args.report, video=VideoFacts.of(selection), questions=[question], command="ntlbg select"
        )
    return written
