"""`ntlbg predict`: rows that ask for times, answered by a model or an encoder, as a file with its scores."""

from __future__ import annotations

import argparse
import json
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntlbg.cli_common import (
    UsageError,
    add_remote_code_option,
    add_row_options,
    add_selector_option,
    check_device,
    positive_float,
    positive_int,
    quiet_libraries,
    write_json,
)
from ntlbg.grounding.names import TASKS, TIME_FORMATS


if TYPE_CHECKING:
    from ntlbg.grounding.finding import Found

EPILOG = """\
examples:
  ntlbg predict moments.jsonl --encoder google/siglip2-base-patch16-224 --out curve.jsonl
  ntlbg predict moments.jsonl --model ./my-ntlbg --time-format tokens --out tokens.jsonl
  ntlbg predict moments.jsonl --model ./my-ntlbg --time-format tokens --selector uniform --out uniform.jsonl
  ntlbg predict highlights.jsonl --task highlights --model ./some-vlm --out numbers.jsonl

Each line of the file holds a row's id, its prediction and what the model said; an answer that cannot be read is null,
counted, and scores 0. Rows say by their answer_type what they ask: moment, highlights, dense_captions or
grounded_answer.

exit codes: 0 done, 1 done except for videos that cannot be read, 2 bad input or usage, 130 interrupted
"""

MOST = 10  # windows of one row that mAP looks at


def add_command(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "predict",
        help="answer rows that ask for times, and score what comes",
        description="Answer rows that ask when something happens, write the predictions, and score them.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", metavar="ROWS", help="a JSONL file, package.module:Builder, or a name on the Hub")
    add_row_options(parser)
    parser.add_argument("--video-root", metavar="DIR", help="folder that relative video paths start from")
    parser.add_argument("--out", metavar="FILE.jsonl", required=True, help="the predictions, a line a row")
    parser.add_argument(
        "--json", metavar="FILE|-", help="write the scores as JSON; - prints them instead of the table"
    )
    asked = parser.add_argument_group("what is asked, and of whom")
    asked.add_argument("--task", choices=TASKS, help="what all rows ask (default: what each row's answer_type says)")
    asked.add_argument("--model", metavar="NAME|DIR", help="an NTLBG checkpoint or base, or any vision-language model")
    asked.add_argument(
        "--time-format",
        choices=TIME_FORMATS,
        help="how an NTLBG model writes times (default: it writes none, its relevance is read)",
    )
    asked.add_argument(
        "--number-frames",
        action=argparse.BooleanOptionalAction,
        help="draw numbers on an NTLBG model's frames (default: with the format numbers; without one as it was saved)",
    )
    asked.add_argument("--encoder", metavar="NAME|DIR", help="dual encoder that judges frames")
    add_selector_option(asked)
    asked.add_argument("-k", type=positive_int, help="groups or frames shown (default: the checkpoint's own, else 16)")
    asked.add_argument("--max-new-tokens", type=positive_int, default=128, metavar="N", help="longest answer")
    asked.add_argument("--candidate-fps", type=positive_float, metavar="F", help="candidate frames per second")
    asked.add_argument("--max-candidates", type=positive_int, metavar="N", help="at most so many")
    asked.add_argument("--device", help="where the models run: cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add_remote_code_option(asked)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer, write, score.

    Returns:
        0, or 1 if a video could not be read.

    Raises:
        InputError, EncoderError: see their messages.
    """
    if not Path(args.out).parent.is_dir() or Path(args.out).is_dir():
        raise UsageError(f"--out {args.out!r} is no file in a folder that is there; give a name ending in .jsonl")
    if Path(args.out).exists() and Path(args.rows).exists() and Path(args.out).samefile(args.rows):
        raise UsageError(f"--out would write over the rows {args.rows!r}; choose another name")
    if args.time_format is not None and args.model is None:
        raise UsageError("--time-format is how a model writes times; give --model")
    check_device(args.device)
    quiet_libraries()

    from tqdm import tqdm

    from ntlbg.data.qa_dataset import load_qa
    from ntlbg.evaluation.grounding_predictions import score_predictions

    data = load_qa(
        args.rows,
        split=args.split,
        config=args.dataset_config,
        video_root=args.video_root,
        max_bad_share=args.max_bad,
        max_rows=args.max_rows,
    )
    rows = [data[number] for number in range(len(data))]
    tasks = _tasks(rows, args.task)
    find = _finder(args)
    lost = 0
    with Path(args.out).open("w", encoding="utf-8") as file:
        quiet = args.quiet or not sys.stderr.isatty()
        for line, readable in tqdm(_lines(rows, tasks, find), total=len(rows), disable=quiet, desc="rows"):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            lost += not readable
    scores = score_predictions(args.out, rows, tasks)
    if args.json is not None:
        write_json(args.json, scores)
    if args.json != "-":
        print(describe(scores))
    if lost:
        print(f"ntlbg: note: {lost} of {len(rows)} rows have a video that cannot be read", file=sys.stderr)
    return 1 if lost else 0


def describe(scores: dict[str, dict]) -> str:
    """The scores as a table."""
    from ntlbg.tables import table

    rows = [
        (task, name, str(value) if isinstance(value, int) else f"{value:.4f}")
        for task, own in scores.items()
        for name, value in own.items()
    ]
    return table(("task", "score", "value"), rows)


def _tasks(rows: list[dict], task: str | None) -> list[str]:
    asked = [task or row["answer_type"] for row in rows]
    if wrong := [row for row, name in zip(rows, asked, strict=True) if name not in TASKS]:
        raise UsageError(
            f"{len(wrong)} of {len(rows)} rows ask for no times (answer_type {wrong[0]['answer_type']!r} of "
            f"{wrong[0]['id']!r}); give --task, one of {', '.join(TASKS)}"
        )
    return asked


def _lines(rows: list[dict], tasks: list[str], find: Callable[[Any, dict, str], Found]) -> Iterator[tuple[dict, bool]]:
    """A line a row and whether its video could be read; rows of one video come together, so that it is opened once."""
    from ntlbg.data.qa_records import video_source
    from ntlbg.evaluation.grounding_predictions import no_prediction, prediction_of
    from ntlbg.processors.video_source_ntlbg import VideoError

    of_video: dict[tuple, list[int]] = {}
    for number, row in enumerate(rows):
        name = row.get("video_path", row["id"] if "video_bytes" in row else None)
        of_video.setdefault((name, tuple(row.get("clip", ()))), []).append(number)
    for numbers in of_video.values():
        source = video_source(rows[numbers[0]])
        for number in numbers:
            row, task = rows[number], tasks[number]
            try:
                yield prediction_of(row, task, find(source, row, task)), True
            except VideoError as error:
                yield no_prediction(row, task, f"its video cannot be read: {error}"), False


def _finder(args: argparse.Namespace) -> Callable[[Any, dict, str], Found]:
    """A function from a video, a row about it and its task to what is found."""
    from ntlbg.grounding.finding import find_by_curve, find_by_numbers, find_by_relevance, find_by_text
    from ntlbg.grounding.tasks import Grounding
    from ntlbg.selection.answering import load_answerer
    from ntlbg.selection.api import FrameSelector
    from ntlbg.selection.encoders import DEFAULT_ENCODER
    from ntlbg.selection.video_answering import VideoAnswerer

    sampling = {"candidate_fps": args.candidate_fps, "max_candidates": args.max_candidates}
    given = {name: value for name, value in sampling.items() if value is not None}
    if args.model is None:
        selector = FrameSelector(args.encoder or DEFAULT_ENCODER, device=args.device, **given)
        look = _Last(selector.encode)

        def by_curve(source: Any, row: dict, task: str) -> Found:
            _only(task, "a relevance curve")
            return find_by_curve(selector, look(source), row["question"], args.k or 16, MOST)

        return by_curve
    answerer = load_answerer(
        args.model,
        encoder=args.encoder,
        selector=args.selector,
        device=args.device,
        trust_remote_code=args.trust_remote_code,
        max_new_tokens=1 if args.time_format is None else args.max_new_tokens,
        **sampling,
    )
    if not isinstance(answerer, VideoAnswerer):
        if args.time_format not in (None, "numbers"):
            raise UsageError(
                f"--time-format {args.time_format} is for NTLBG models; this one reads numbers off frames"
            )
        answerer.max_new_tokens = args.max_new_tokens
        seen = _Last(answerer.frames.encode)

        def by_numbers(source: Any, row: dict, task: str) -> Found:
            _only(task, "a model that reads numbers off single pictures")
            return find_by_numbers(
                answerer, seen(source), row["question"], args.k or 16, highlights=task == "highlights", most=MOST
            )

        return by_numbers
    if args.number_frames is not None:
        answerer.processor.video_processor.number_frames = args.number_frames
    elif args.time_format is not None:
        answerer.processor.video_processor.number_frames = args.time_format == "numbers"
    opened = _Last(answerer.open)
    if args.time_format is None:

        def by_relevance(source: Any, row: dict, task: str) -> Found:
            _only(task, "a relevance curve")
            return find_by_relevance(opened(source), row["question"], args.k, MOST)

        return by_relevance
    grounding = Grounding(args.time_format)

    def by_text(source: Any, row: dict, task: str) -> Found:
        return find_by_text(opened(source), row, grounding, task, args.k, MOST)

    return by_text


class _Last:
    """The result of an expensive function for the last argument it was given, by identity."""

    def __init__(self, function: Callable[[Any], Any]):
        self._function, self._source, self._result = function, None, None

    def __call__(self, source: Any) -> Any:
        if source is not self._source:
            self._result, self._source = self._function(source), source
        return self._result


def _only(task: str, what: str) -> None:
    if task not in ("moment", "highlights"):
        raise UsageError(f"{what} has no words for the task {task!r}; give an NTLBG model with --time-format")
