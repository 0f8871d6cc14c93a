"""`ntlbg ground` and `ntlbg highlights`: when something happens in a video, without training anything."""

from __future__ import annotations

import argparse
from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING

from ntlbg.cli_common import (
    Stages,
    UsageError,
    add_common_options,
    add_remote_code_option,
    check_device,
    check_outputs,
    positive_int,
    print_notes,
    quiet_libraries,
    write_json,
)
from ntlbg.cli_source import add_source_options, check_video, limits_of, source_of
from ntlbg.grounding.names import TIME_FORMATS
from ntlbg.plain_text import printable


if TYPE_CHECKING:
    from ntlbg.grounding.finding import Found


EPILOG = """\
examples:
  ntlbg ground match.mp4 "the goalkeeper saves a penalty"               SigLIP 2, or --encoder any dual encoder
  ntlbg ground match.mp4 "the first goal" --model ./my-ntlbg --json -   a checkpoint's span head, or its relevance
  ntlbg ground match.mp4 "a goal" --model ./some-vlm                    reads numbers drawn on the frames
  ntlbg ground match.mp4 "a goal" --model ./my-ntlbg --time-format tokens   it writes the times, as it has learnt to
  ntlbg highlights match.mp4 "goals" --best 3 --report goals.html       saliency curve and clips on a timeline

A confidence is told with each moment. From a curve it is the probability that noise with the curve's own median and
spread stays below the moment's peak everywhere; from a model's answer the geometric mean of its tokens' probabilities;
from a span head the overlap (IoU) it expects. None is the probability of being right. Exit code 1: no moment stands
out, or the model's answer names none.
"""


def add_command(commands: argparse._SubParsersAction) -> None:
    """Declare both commands and their options."""
    for name, told, function in (
        ("ground", "say from when to when something happens", _ground),
        ("highlights", "the saliency curve and the best clips for a query", _highlights),
    ):
        parser = commands.add_parser(
            name,
            help=told,
            description=f"{told[0].upper()}{told[1:]}: start, end and confidence, without any training.",
            epilog=EPILOG,
            formatter_class=RawDescriptionHelpFormatter,
        )
        add_source_options(parser)
        parser.add_argument("query", metavar="QUERY", help="what to look for")
        parser.add_argument(
            "--model",
            metavar="NAME|DIR",
            help="an NTLBG checkpoint, or a vision-language model that reads numbers off frames",
        )
        parser.add_argument(
            "--time-format",
            choices=TIME_FORMATS,
            help="have an NTLBG model write the times, in the format it has learnt (default: its relevance is read)",
        )
        parser.add_argument("-k", type=positive_int, default=16, help="frames shown as evidence (default: 16)")
        parser.add_argument(
            "--best",
            type=positive_int,
            default=1 if name == "ground" else 5,
            metavar="N",
            help="at most N moments, the surest first (default: %(default)s)",
        )
        add_remote_code_option(parser)
        add_common_options(
            parser,
            encoder_help="dual encoder that judges frames, Hub name or folder (default without --model: "
            "google/siglip2-base-patch16-224)",
            cache_help="folder that keeps what --encoder saw",
            defaults_of="the checkpoint's own, else ",
        )
        parser.set_defaults(run=function, command=name)


def _ground(args: argparse.Namespace) -> int:
    return _run(args, highlights=False)


def _highlights(args: argparse.Namespace) -> int:
    return _run(args, highlights=True)


def _run(args: argparse.Namespace, highlights: bool) -> int:
    """Look, find, print, write.

    Returns:
        0 if a moment was found, else 1.

    Raises:
        UsageError, ModelError, VideoError, EncoderError: see their messages.
    """
    check_outputs(args)
    if not args.query.strip():
        raise UsageError("the query is empty; say what to look for")
    if args.encoder == "none" and args.model is None:
        raise UsageError("without an encoder and a model nothing tells when the query happens; give one of them")
    if args.time_format is not None and args.model is None:
        raise UsageError("--time-format is how a model writes times; give --model")
    check_device(args.device)
    limits = limits_of(args)
    source = source_of(args, limits, args.quiet)
    check_video(source, limits)
    quiet_libraries()

    stages = Stages(2, args.quiet)
    try:
        with stages("load the model"):
            find = _finder(args, limits, highlights)
        with stages("look and find"):
            found, video = find(source)
    finally:
        stages.close()
    _write(args, found, video, stages.timings)
    return 0 if found.spans else 1


def _finder(args: argparse.Namespace, limits, highlights: bool):
    """A function from the video to what was found in it and to the video's facts."""
    from ntlbg.grounding.finding import find_by_checkpoint, find_by_curve, find_by_numbers, find_by_text
    from ntlbg.grounding.tasks import Grounding
    from ntlbg.report import VideoFacts
    from ntlbg.selection.answering import load_answerer
    from ntlbg.selection.api import FrameSelector
    from ntlbg.selection.encoders import DEFAULT_ENCODER
    from ntlbg.selection.video_answering import VideoAnswerer

    sampling = {"candidate_fps": args.candidate_fps, "max_candidates": args.max_candidates}
    given = {name: value for name, value in sampling.items() if value is not None}
    if args.model is None:
        selector = FrameSelector(
            args.encoder or DEFAULT_ENCODER, device=args.device, cache_dir=args.cache, limits=limits, **given
        )

        def by_curve(source):
            found = find_by_curve(selector, source, args.query, args.k, args.best)
            return found, VideoFacts.of(found.selection)

        return by_curve
    answerer = load_answerer(
        args.model,
        encoder=args.encoder,
        device=args.device,
        trust_remote_code=args.trust_remote_code,
        cache_dir=args.cache,
        limits=limits,
        **sampling,
    )
    if isinstance(answerer, VideoAnswerer) and args.time_format is not None:
        answerer.processor.video_processor.number_frames = args.time_format == "numbers"

        def by_text(source):
            row, task = {"question": args.query}, "highlights" if highlights else "moment"
            grounding = Grounding(args.time_format)
            found = find_by_text(answerer.open(source), row, grounding, task, args.k, args.best)
            return found, VideoFacts.of(found.video)

        return by_text
    if isinstance(answerer, VideoAnswerer):
        answerer.max_new_tokens = 1

        def by_checkpoint(source):
            found = find_by_checkpoint(answerer, source, args.query, args.k, args.best)
            return found, VideoFacts.of(found.video)

        return by_checkpoint
    if args.time_format not in (None, "numbers"):
        raise UsageError(f"--time-format {args.time_format} is for NTLBG models; this one reads numbers off frames")

    def by_numbers(source):
        found = find_by_numbers(answerer, source, args.query, args.k, highlights=highlights, most=args.best)
        return found, VideoFacts.of(found.selection)

    return by_numbers


def describe(found: Found) -> str:
    """The moments as a table, or the sentence that there is none."""
    from ntlbg.tables import clock, table

    rows = [
        (
            str(rank),
            clock(span.start, tenths=True),
            clock(span.end, tenths=True),
            f"{span.start:.3f}",
            f"{span.end:.3f}",
            f"{span.confidence:.3f}",
        )
        for rank, span in enumerate(found.spans, start=1)
    ]
    said = "" if found.answer is None else f"{printable(found.answer)}\n"
    if not rows:
        return f"{printable(found.query)}\n{said}no moment found"
    return f"{printable(found.query)}\n{said}\n" + table(("rank", "from", "to", "start", "end", "confidence"), rows)


def _write(args: argparse.Namespace, found: Found, video, timings: dict[str, float]) -> None:
    if args.json is not None:
        write_json(
            args.json,
            {"video": video.name, "model": args.model, "timings": timings, "warnings": video.warnings}
            | found.to_dict(),
        )
    if args.json != "-":
        print(describe(found))
    if args.report is not None:
        from ntlbg.report import ReportQuestion, write_report

        question = ReportQuestion(
            question=found.query,
            selection=found.selection,
            frames=found.frames,
            answer=found.answer,
            timings=timings,
            moments=[(span.start, span.end, span.confidence) for span in found.spans],
        )
        paths = write_report(args.report, video=video, questions=[question], command=f"ntlbg {args.command}")
        if args.json != "-":
            print("\n" + "\n".join(f"wrote {path}" for path in paths))
    print_notes(list(dict.fromkeys([*video.warnings, *found.notes])))
