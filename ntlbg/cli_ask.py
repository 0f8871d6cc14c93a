"""`ntlbg ask`: questions about a video, answered by a vision-language model from representative frames alone."""

from __future__ import annotations

import argparse
import os
from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING

from ntlbg.cli_common import (
    Stages,
    UsageError,
    add_common_options,
    add_remote_code_option,
    add_selector_option,
    add_subtitle_options,
    check_device,
    check_outputs,
    positive_float,
    positive_int,
    print_notes,
    quiet_libraries,
    read_subtitles,
    write_json,
)
from ntlbg.cli_source import add_source_options, check_video, limits_of, source_of
from ntlbg.plain_text import printable


if TYPE_CHECKING:
    from ntlbg.processors.video_source_ntlbg import VideoLimits
    from ntlbg.selection.answers import Answer
    from ntlbg.selection.chat_server import ChatServer
    from ntlbg.selection.features import FrameSelection
    from ntlbg.selection.image_answering import FrameAnswerer
    from ntlbg.selection.video_answering import VideoAnswerer


EPILOG = """\
examples:
  ntlbg ask lecture.mkv "What is on the third slide?" --model ./my-ntlbg -k 32
  ntlbg ask trip.mp4 "Where do they eat?" "Who drives?" --model Qwen/Qwen2-VL-7B-Instruct --max-visual-tokens 8192
  ntlbg ask talk.mp4 "Who is thanked?" --model Qwen/Qwen2-VL-7B-Instruct --subtitles talk.vtt
  ntlbg ask trip.mp4 "Who drives?" --model ./some-vlm --encoder none --report trip.html
  ntlbg ask trip.mp4 "Who drives?" --server http://127.0.0.1:8000/v1 --server-model Qwen/Qwen3-VL-8B-Instruct -k 16

The video is looked at once, however many questions there are. -k counts groups for NTLBG checkpoints and for plain
Qwen2-VL, Qwen2.5-VL and Qwen3-VL (a group is two frames), and frames for any other model, which gets them as images.
So does a server that speaks OpenAI's protocol (vLLM, SGLang, transformers serve, ...): frames are chosen here and sent
as JPEG, each after its time. A key, if it wants one, comes from an environment variable. Proxies are not used.
"""

NO_MODEL = (
    "ask needs --model: the embedded ntlbg-tiny knows only the procedural world it was trained on (`make demo`) and "
    "nothing of real footage, so give a folder or a Hub name such as Qwen/Qwen2-VL-7B-Instruct, or --server"
)
DEFAULT_TIMEOUT = 600.0


def add_command(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "ask",
        help="answer questions about a video from its representatives",
        description="Answer questions about a video from its representative frames alone, and show the evidence.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add_source_options(parser)
    parser.add_argument("questions", metavar="QUESTION", nargs="+", help="one or more questions")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--model", metavar="NAME|DIR", help="an NTLBG checkpoint or another vision-language model")
    where.add_argument("--server", metavar="URL", help="or a server that answers, such as http://127.0.0.1:8000/v1")
    served = parser.add_argument_group("a model on a server")
    served.add_argument("--server-model", metavar="NAME", help="the name that --server knows the model by")
    served.add_argument("--server-key-env", metavar="VAR", help="environment variable that holds its key")
    served.add_argument(
        "--server-timeout",
        type=positive_float,
        metavar="S",
        help=f"seconds that an answer may take (default: {DEFAULT_TIMEOUT:g})",
    )
    served.add_argument(
        "--selection", metavar="FILE", help="send the frames of `ntlbg select --json FILE` instead of choosing some"
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "-k",
        type=positive_int,
        help="number of representatives (default: the checkpoint's own; 32 groups for a plain Qwen-VL; 16 frames for "
        "any other model)",
    )
    amount.add_argument("--max-visual-tokens", type=positive_int, metavar="N", help="as many as fit into N tokens")
    parser.add_argument(
        "--max-new-tokens", type=positive_int, default=128, metavar="N", help="longest answer (default: 128)"
    )
    add_remote_code_option(parser)
    add_selector_option(parser)
    add_common_options(
        parser,
        encoder_help="dual encoder of transformers that judges frames for a model that is no NTLBG checkpoint (those "
        "bring their own), Hub name or folder; `none`: choose without the question (default: "
        "google/siglip2-base-patch16-224)",
        cache_help="folder that keeps what --encoder saw, for models that get frames as images; others look anew",
        defaults_of="the checkpoint's own, else ",
    )
    add_subtitle_options(
        parser,
        "told to the model: behind the frame each cue is nearest to, or all before the question where frames go in as "
        "one video",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Look once, answer each question, print, write.

    Raises:
        UsageError, ModelError, ServerError, SelectionError, VideoError, EncoderError: see their messages.
    """
    server = _server(args)
    check_outputs(args)
    if not all(question.strip() for question in args.questions):
        raise UsageError("a question is empty; ask something")
    subtitles = read_subtitles(args)
    selection = _selection(args)
    check_device(args.device)
    limits = limits_of(args)
    source = source_of(args, limits, args.quiet)
    check_video(source, limits)
    quiet_libraries()

    from ntlbg.selection.choosing import check_selector

    check_selector(args.selector)

    first = "load the model" if server is None else "reach the server"
    stages = Stages(2 + len(args.questions), args.quiet)
    try:
        with stages(first):
            answerer = _answerer(args, server, selection, limits)
        with stages("look at the video"):
            if selection is None:
                opened = answerer.open(source, subtitles, args.subtitle_seconds)
            else:
                opened = answerer.open_selection(source, selection, subtitles, args.subtitle_seconds)
        answers = []
        for number, question in enumerate(args.questions, start=1):
            with stages(f"question {number} of {len(args.questions)}"):
                answers.append(opened.ask(question, args.k, args.max_visual_tokens))
    finally:
        stages.close()
    _write(args, opened.candidates, answers, {first: stages.timings[first], **opened.timings})


def _server(args: argparse.Namespace) -> ChatServer | None:
    """What --server and its options name.

    Raises:
        UsageError: there is neither a model nor a server, or an option has nothing to go with.
        ServerError: the address, the name or the key cannot be used.
    """
    if args.server is None:
        for option in ("server_model", "server_key_env", "server_timeout", "selection"):
            if getattr(args, option) is not None:
                raise UsageError(f"--{option.replace('_', '-')} goes with --server URL")
        if args.model is None:
            raise UsageError(NO_MODEL)
        return None
    if args.server_model is None:
        raise UsageError("--server needs --server-model NAME: the name that it knows the model by")
    if args.trust_remote_code:
        raise UsageError("--trust-remote-code is for a --model that runs here; drop it")
    if args.max_visual_tokens is not None:
        raise UsageError("what a server's model makes of a frame is not known here; give -k, not --max-visual-tokens")
    key = None if args.server_key_env is None else os.environ.get(args.server_key_env, "")
    if key == "":
        raise UsageError(f"--server-key-env: the environment variable {args.server_key_env!r} is not set; export it")

    from ntlbg.selection.chat_server import ChatServer

    return ChatServer(args.server, args.server_model, key, args.server_timeout or DEFAULT_TIMEOUT)


def _selection(args: argparse.Namespace) -> FrameSelection | None:
    """The frames of --selection.

    Raises:
        UsageError: an option would choose others. SelectionError: it cannot be read.
    """
    if args.selection is None:
        return None
    from ntlbg.selection.choosing import OURS
    from ntlbg.selection.features import FrameSelection

    for option, value in (
        ("-k", args.k),
        ("--encoder", args.encoder),
        ("--selector", None if args.selector == OURS else args.selector),
        ("--candidate-fps", args.candidate_fps),
        ("--max-candidates", args.max_candidates),
        ("--start", args.start),
        ("--end", args.end),
    ):
        if value is not None:
            raise UsageError(f"{option} chooses frames, but those of --selection {args.selection!r} are chosen")
    return FrameSelection.load(args.selection)


def _answerer(
    args: argparse.Namespace, server: ChatServer | None, selection: FrameSelection | None, limits: VideoLimits
) -> VideoAnswerer | FrameAnswerer:
    options = {
        "encoder": args.encoder if selection is None else "none",
        "device": args.device,
        "max_new_tokens": args.max_new_tokens,
        "selector": args.selector,
        "candidate_fps": args.candidate_fps,
        "max_candidates": args.max_candidates,
        "cache_dir": args.cache,
        "limits": limits,
    }
    if server is not None:
        from ntlbg.selection.server_answering import load_server_answerer

        return load_server_answerer(server, **options)
    from ntlbg.selection.answering import load_answerer

    return load_answerer(args.model, trust_remote_code=args.trust_remote_code, **options)


def describe(answer: Answer, looked_at: tuple[float, float]) -> str:
    """One answer with its evidence as a table; `looked_at` are the (start, end) seconds there were to choose from."""
    from ntlbg.report.evidence import Evidence
    from ntlbg.tables import clock, stretches_text, table

    evidence = Evidence.of(answer.selection)
    groups = "1 group" if answer.num_groups == 1 else f"{answer.num_groups} groups"
    frames = "1 frame" if answer.num_frames == 1 else f"{answer.num_frames} frames"
    rows = [
        (
            str(rank),
            clock(float(second), tenths=True),
            f"{second:.3f}",
            stratum,
            f"{weight:.1%}",
            stretches_text(found, float(second)),
        )
        for rank, (second, stratum, weight, found) in enumerate(
            zip(
                evidence.seconds,
                evidence.strata,
                evidence.weights,
                evidence.windows(*reversed(looked_at)),
                strict=True,
            ),
            start=1,
        )
    ]
    return (
        f"{printable(answer.question)}\n{printable(answer.text)}\n\n"
        f"from {groups} = {frames}, of {len(evidence.candidate_seconds)} candidate {evidence.unit}s\n"
        + table(("rank", "time", "seconds", "stratum", "weight", "stands for"), rows)
    )


def _write(args: argparse.Namespace, candidates, answers: list[Answer], timings: dict[str, float]) -> None:
    if args.json is not None:
        content = {
            "video": candidates.name,
            "model": args.model or args.server_model,
            "server": args.server,
            "warnings": list(candidates.warnings),
            "timings": timings,
            "answers": [answer.to_dict() for answer in answers],
        }
        write_json(args.json, content)
    if args.json != "-":
        looked_at = candidates.clip or (0.0, candidates.duration)
        print("\n\n".join(describe(answer, looked_at) for answer in answers))
    if args.report is not None:
        from ntlbg.report import ReportQuestion, VideoFacts, write_report

        questions = [
            ReportQuestion(
                question=answer.question,
                selection=answer.selection,
                frames=answer.frames,
                answer=answer.text,
                spoken=answer.spoken,
                # Loading and looking happen once; the first question's table shows them.
                timings=(timings if number == 0 else {}) | answer.timings,
            )
            for number, answer in enumerate(answers)
        ]
        paths = write_report(
            args.report,
            video=VideoFacts.of(candidates),
            questions=questions,
            command=f"ntlbg ask --model {args.model}"
            if args.server is None
            else f"ntlbg ask --server {args.server} --server-model {args.server_model}",
        )
        if args.json != "-":
            print("\n" + "\n".join(f"wrote {path}" for path in paths))
    notes = [*candidates.warnings, *(note for answer in answers for note in answer.notes)]
    print_notes(list(dict.fromkeys(notes)))
