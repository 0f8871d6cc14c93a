"""What the commands share: one-sentence errors, options, outputs, and progress."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tqdm import tqdm

from ntlbg.errors import InputError, first_sentence
from ntlbg.plain_text import printable


if TYPE_CHECKING:
    from ntlbg.selection.subtitles import Cue, Subtitles


# Seconds of work before a bar appears in a log file; someone who watches a terminal sees it at once.
LOG_DELAY = 20.0

DEFAULT_FPS, DEFAULT_CANDIDATES = 2.0, 768


class UsageError(InputError):
    """Arguments that cannot be followed."""


class Parser(argparse.ArgumentParser):
    """argparse with errors of one sentence, so that scripts and people read the same line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"ntlbg: error: {one_line(message)}; see `{self.prog} --help`\n")


def one_line(text: object) -> str:
    """A message without line breaks or a final full stop."""
    return printable(" ".join(str(text).split())).rstrip(".")


def refusal(error: ValueError | OSError) -> str:
    """The sentence of an error that its cause can be told by: bad input, a bad video, trouble with a file.

    Raises:
        ValueError: the error itself, if it is none of these.
    """
    if isinstance(error, InputError | OSError):
        return one_line(error)
    # The decoder travels with checkpoints, so its error cannot derive from ours.
    from ntlbg.processors.video_source_ntlbg import VideoError

    if not isinstance(error, VideoError):
        raise error
    return one_line(_with_our_options(str(error)))


def _with_our_options(text: str) -> str:
    """A message of the library, with the options of the command line instead of the fields of `VideoLimits`."""
    text = re.sub(r"VideoLimits\.(allow_\w+)", lambda field: "--" + field[1].replace("_", "-"), text)
    return re.sub(r"VideoLimits\.(\w+)", r"--limit \1=", text)


def positive_int(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is expected, got {text!r}")
    return number


def positive_float(text: str) -> float:
    """argparse type: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is expected, got {text!r}")
    return number


def seconds_or_more(text: str) -> float:
    """argparse type: a finite number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of at least 0 is expected, got {text!r}")
    return number


def share(text: str) -> float:
    """argparse type: a share from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"a share from 0 to 1 is expected, got {text!r}")
    return number


def add_common_options(
    parser: argparse.ArgumentParser, *, encoder_help: str, cache_help: str, defaults_of: str = ""
) -> None:
    """Options of every command that looks at a video.

    Args:
        encoder_help: what --encoder does in this command.
        cache_help: what --cache keeps in this command.
        defaults_of: whose defaults go before ours, for the help.
    """
    look = parser.add_argument_group("which frames are looked at")
    look.add_argument("--encoder", metavar="NAME|DIR", help=encoder_help)
    look.add_argument(
        "--candidate-fps",
        type=positive_float,
        metavar="F",
        help=f"candidate frames per second (default: {defaults_of}{DEFAULT_FPS:g})",
    )
    look.add_argument(
        "--max-candidates",
        type=positive_int,
        metavar="N",
        help=f"at most so many; a longer video gets a wider grid (default: {defaults_of}{DEFAULT_CANDIDATES})",
    )
    look.add_argument("--device", help="where the models run: cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    cache = look.add_mutually_exclusive_group()
    # On unless switched off: whoever asks a second time about a video expects the answer sooner.
    cache.add_argument(
        "--cache",
        metavar="DIR",
        default=True,
        help=f"{cache_help} (default: $NTLBG_CACHE, else ntlbg in the user's cache folder; at most 2 GB)",
    )
    cache.add_argument(
        "--no-cache", dest="cache", action="store_const", const=None, help="keep nothing, reuse nothing"
    )
    out = parser.add_argument_group("output")
    out.add_argument("--json", metavar="FILE|-", help="write the result as JSON; - prints it instead of the table")
    out.add_argument(
        "--report", metavar="FILE.html", help="write a self-contained HTML report, and its JSON beside it"
    )
    out.add_argument("--quiet", action="store_true", help="no progress bars")


def add_row_options(parser: argparse.ArgumentParser) -> None:
    """Declare what says which rows of a data set are read, as `load_qa` takes it."""
    parser.add_argument("--split", default="test", help="of a builder or a set on the Hub (default: %(default)s)")
    parser.add_argument("--dataset-config", metavar="NAME", help="its configuration")
    parser.add_argument("--max-rows", type=positive_int, metavar="N", help="the first N rows only")
    parser.add_argument(
        "--max-bad", type=share, default=0.0, metavar="SHARE", help="share of bad rows that is left out (default: 0)"
    )


def add_selector_option(parser: argparse.ArgumentParser) -> None:
    """Declare --selector, for commands that compare rules."""
    parser.add_argument(
        "--selector",
        metavar="NAME",
        default="ntlbg",
        help="the rule that chooses: ntlbg (the default), or a published one to hold it against: uniform, top_k, aks, "
        "bolt, mdp3 ...; a wrong name prints them all",
    )


def add_remote_code_option(parser: argparse.ArgumentParser) -> None:
    """Declare --trust-remote-code, for commands that load a model."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the code that comes with a model, be it from the Hub or in a folder",
    )


def add_subtitle_options(parser: argparse.ArgumentParser, told: str) -> None:
    """Options on what is said; `told` says where it goes."""
    said = parser.add_argument_group("what is said")
    said.add_argument("--subtitles", metavar="FILE", help=f"a .srt or .vtt file; {told}")
    said.add_argument(
        "--subtitle-seconds",
        type=seconds_or_more,
        metavar="S",
        help="leave out what is said more than S seconds from every chosen moment (default: leave out nothing)",
    )


def read_subtitles(args: argparse.Namespace) -> Subtitles | None:
    """What --subtitles names, before any work is done.

    Raises:
        SubtitleError: it cannot be read. UsageError: there is a distance and nothing to measure.
    """
    from ntlbg.selection.subtitles import Subtitles

    if args.subtitles is None:
        if args.subtitle_seconds is not None:
            raise UsageError("--subtitle-seconds needs --subtitles FILE")
        return None
    return Subtitles.of(args.subtitles)


def quiet_libraries() -> None:
    """Keep the bars, retries and hints of transformers and the Hub off the standard error: it is ours alone."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    hub_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse unwritable outputs before any work is done.

    Raises:
        UsageError: a folder is missing, a name has the wrong suffix, or a folder stands where a file shall go, or a
            file where a folder shall.
    """
    if isinstance(args.cache, str) and (
        not args.cache or (Path(args.cache).exists() and not Path(args.cache).is_dir())
    ):
        raise UsageError(f"--cache {args.cache!r} is no folder; give one, or --no-cache")
    if args.report is not None and Path(args.report).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report writes an HTML page, got {args.report!r}; give a name that ends in .html")
    for option, value in (("--json", args.json), ("--report", args.report)):
        if value is None or value == "-":
            continue
        path = Path(value)
        if path.is_dir():
            raise UsageError(f"{option} names the folder {value!r}; give a file")
        if not path.parent.is_dir():
            raise UsageError(f"{option} {value!r} lies in a folder that does not exist; create {str(path.parent)!r}")
    beside = None if args.report is None else str(Path(args.report).with_suffix(".json"))
    for option, value in (("--json", args.json), ("--report", args.report), ("--report", beside)):
        if value in (None, "-") or not Path(value).exists() or not Path(args.video).exists():
            continue
        if Path(value).samefile(args.video):
            raise UsageError(f"{option} would write over the video {args.video!r}; choose another name")
    both = args.json not in (None, "-") and args.report is not None
    if both and Path(args.json).resolve() == Path(args.report).with_suffix(".json").resolve():
        raise UsageError(f"--json {args.json!r} is the file the report writes beside itself; choose another name")


def check_device(name: str | None) -> None:
    """Refuse a device that cannot compute before anything is loaded.

    Raises:
        UsageError: torch does not know it, or it is absent or holds no values.
    """
    if name is None:
        return
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name!r} is no device; give cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name!r} is not there: {torch.cuda.device_count()} GPUs are visible; use cpu")
    try:
        (torch.ones(1, device=device) + 1).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        # Each backend has its own way of saying that it was not built in.
        raise UsageError(f"--device {name!r} cannot compute here ({first_sentence(error)}); use cpu") from error


def write_json(target: str, content: dict) -> None:
    """Write JSON to a file, or to the standard output for `-`."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    # Names of files that are no UTF-8 come as lone surrogates, which only JSON's own escapes can hold.
    text = re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n", encoding="utf-8")


def said_text(seconds: Sequence[float], spoken: Sequence[Sequence[Cue]]) -> str:
    """What is said at each chosen moment, one line each."""
    from ntlbg.tables import clock

    lines = [
        f"{clock(float(second), tenths=True)}  " + (" ".join(cue.text for cue in cues) or "(nothing)")
        for second, cues in zip(seconds, spoken, strict=True)
    ]
    return "\n".join(["said", *lines])


def print_notes(notes: Sequence[str]) -> None:
    """What the reader should know of a result, on the standard error, one line each."""
    for note in notes:
        print(f"ntlbg: note: {printable(' '.join(note.split()))}", file=sys.stderr)


class Stages:
    """Runs the stages of a command under a progress bar and keeps the seconds each took."""

    def __init__(self, total: int, quiet: bool):
        self.timings: dict[str, float] = {}
        self.watched = sys.stderr.isatty()
        self.bar = tqdm(
            total=total,
            disable=quiet,
            delay=0 if self.watched else LOG_DELAY,
            leave=False,
            file=sys.stderr,
            bar_format="{desc} {bar} {n_fmt}/{total_fmt} [{elapsed}]",
        )

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        # A refresh draws whatever the delay, so only a terminal gets one.
        self.bar.set_description(name, refresh=self.watched)
        start = time.perf_counter()
        yield
        self.timings[name] = time.perf_counter() - start
        self.bar.update()

    def close(self) -> None:
        """Take the bar away, whatever happened."""
        self.bar.close()
