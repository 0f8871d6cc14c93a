"""`ntlbg bench`: selectors compared on rows with a model of the user's, and the project's own benches."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import shlex
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from ntlbg.cli_common import (
    UsageError,
    add_remote_code_option,
    add_row_options,
    check_device,
    positive_float,
    positive_int,
    quiet_libraries,
    seconds_or_more,
)


EPILOG = """\
examples:
  ntlbg bench real rows.jsonl --model Qwen/Qwen2-VL-7B-Instruct --selectors uniform ntlbg -k 8 32 --out bench/
  ntlbg bench real videomme --annotations test.parquet --videos videos/ --model ./my-ntlbg --max-rows 300 --out bench/
  ntlbg bench real ntlbg.data.world_builder:World --dataset-config test-options --circular --model ./m --out bench/
  ntlbg bench frames --videos 50 --out frames             accuracy against groups shown, on the procedural world
  ntlbg bench needles --seeds 5 --minutes 10 60 --out needles
  ntlbg bench efficiency --frames frames.json --out efficiency
"""

REAL_EPILOG = """\
The answers are kept in OUT/answers.jsonl: the same command goes on where it was cut off. The table is written to
OUT/table.md, table.json and table.png, and printed. A video that cannot be read is told and left out.

exit codes: 0 done, 1 done except for videos that cannot be read, 2 bad input or usage, 130 interrupted
"""

# Benches of this repository, by name: each module has a `main(arguments)`.
BENCHES = {
    "frames": ("frames_benchmark", "accuracy against groups shown, every selector, on the procedural world"),
    "needles": ("needle_grid", "needles in videos of up to an hour, length by depth"),
    "efficiency": ("efficiency", "seconds, operations and memory against groups shown"),
    "candidates": ("candidates_cost", "latency and memory against candidates, all frames beside NTLBG"),
    "checkpoints": ("checkpoint_comparison", "two checkpoints, asked the same questions"),
    "seeds": ("training_seeds", "checkpoints trained from several seeds, and the published rules with each"),
}


def add_command(commands: argparse._SubParsersAction) -> None:
    """Declare the command and those below it."""
    parser = commands.add_parser(
        "bench",
        help="compare selectors, lengths, depths and costs",
        description="Compare selectors on your rows with your model, or run one of the project's own benches.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    benches = parser.add_subparsers(title="benches", metavar="BENCH", required=True)
    _add_real(benches)
    for name, (_, what) in BENCHES.items():
        # Nothing is an option here: all that follows, --help too, is the bench's own.
        bench = benches.add_parser(name, help=what, add_help=False, prefix_chars="\0")
        bench.add_argument("arguments", nargs="*")
        bench.set_defaults(run=run_own, bench=name)


def _add_real(benches: argparse._SubParsersAction) -> None:
    parser = benches.add_parser(
        "real",
        help="selectors side by side on rows of questions, with any model",
        description="Answer every row from what each selector takes of its video, and say which is better.",
        epilog=REAL_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "rows",
        metavar="ROWS",
        help="a JSONL file, package.module:Builder, a name on the Hub; or a benchmark's name with --annotations and "
        "--videos (see `ntlbg data prepare`)",
    )
    parser.add_argument("--annotations", metavar="FILE", help="of the benchmark named, as its authors publish them")
    parser.add_argument("--videos", metavar="DIR", help="folder of its videos, or of the rows' relative paths")
    add_row_options(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of answers and tables")
    parser.add_argument("--model", metavar="NAME|DIR", required=True, help="an NTLBG checkpoint or any other VLM")
    parser.add_argument("--encoder", metavar="NAME|DIR", help="dual encoder that judges frames for other models")
    parser.add_argument(
        "--selectors", nargs="+", default=["uniform", "ntlbg"], metavar="NAME", help="(default: uniform ntlbg)"
    )
    parser.add_argument("-k", type=positive_int, nargs="+", default=[32], help="representatives shown (default: 32)")
    parser.add_argument(
        "--circular",
        action="store_true",
        help="ask every row with options in all rotations of them; the table tells what is right in all",
    )
    parser.add_argument(
        "--subtitles",
        action="store_true",
        help="tell the model what the rows' subtitles say at the chosen moments: another task than without",
    )
    parser.add_argument(
        "--subtitle-seconds",
        type=seconds_or_more,
        metavar="S",
        help="leave out what is said more than S seconds from every chosen moment (default: leave out nothing)",
    )
    parser.add_argument("--candidate-fps", type=positive_float, metavar="F", help="candidate frames per second")
    parser.add_argument("--max-candidates", type=positive_int, metavar="N", help="at most so many")
    parser.add_argument("--max-new-tokens", type=positive_int, default=32, metavar="N", help="longest answer")
    parser.add_argument("--dtype", default="auto", help="of the model: auto, bfloat16, float32 ... (default: auto)")
    parser.add_argument("--attn-implementation", metavar="NAME", help="such as sdpa or flash_attention_2")
    parser.add_argument(
        "--device", help="where the models run: cpu, cuda, cuda:1 ... (default: a GPU if there is one)"
    )
    add_remote_code_option(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run_real)


def run_own(args: argparse.Namespace) -> None:
    """Hand everything after the bench's name to it."""
    module, _ = BENCHES[args.bench]
    quiet_libraries()
    importlib.import_module(f"ntlbg.evaluation.{module}").main(args.arguments)


def run_real(args: argparse.Namespace) -> int:
    """Answer, score, write.

    Returns:
        0, or 1 if a video could not be read.

    Raises:
        InputError: see its message.
    """
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {args.out!r} is a file; give a folder")
    check_device(args.device)
    if args.subtitle_seconds is not None and not args.subtitles:
        raise UsageError("--subtitle-seconds needs --subtitles")
    quiet_libraries()

    from importlib.metadata import version

    from tqdm import tqdm

    from ntlbg.data.qa_dataset import load_qa
    from ntlbg.evaluation.ledger import Ledger
    from ntlbg.evaluation.rows_benchmark import KEY, Setting, in_rotations, run, summarise
    from ntlbg.evaluation.rows_report import draw, to_markdown
    from ntlbg.selection.answering import load_answerer
    from ntlbg.selection.choosing import check_selector

    settings = [Setting(check_selector(name), k) for k in args.k for name in args.selectors]
    if len(set(settings)) < len(settings):
        raise UsageError("a selector or a number of representatives is named twice; name each once")
    out.mkdir(parents=True, exist_ok=True)
    data = load_qa(
        _rows(args, out),
        split=args.split,
        config=args.dataset_config,
        video_root=args.videos,
        max_bad_share=args.max_bad,
        max_rows=args.max_rows,
    )
    rows = [data[number] for number in range(len(data))]
    told = sum(bool(row.get("subtitles")) for row in rows)
    if args.subtitles and not told:
        raise UsageError(f"none of the {len(rows)} rows has subtitles; leave out --subtitles")
    rows = in_rotations(rows) if args.circular else rows
    if len({row["id"] for row in rows}) < len(rows):
        raise UsageError(f"some of the {len(rows)} rows have one id; give each row its own")
    # Rows of different sets may have one id: what the sets are decides too.
    decides = ("rows", "annotations", "split", "dataset_config", "subtitles", "subtitle_seconds")
    decides += ("model", "encoder", "candidate_fps", "max_candidates", "max_new_tokens", "dtype")
    header = {name: getattr(args, name) for name in decides} | {"weights": _weights(args.model)}
    ledger = Ledger(out / "answers.jsonl", header, KEY)
    answerer = load_answerer(
        args.model,
        encoder=args.encoder,
        device=args.device,
        trust_remote_code=args.trust_remote_code,
        max_new_tokens=args.max_new_tokens,
        candidate_fps=args.candidate_fps,
        max_candidates=args.max_candidates,
        dtype=args.dtype,
        attn_implementation=args.attn_implementation,
    )
    quiet = args.quiet or not sys.stderr.isatty()
    with tqdm(total=len(rows) * len(settings), desc="answers", disable=quiet) as bar:
        said = {"subtitles": args.subtitles, "subtitle_seconds": args.subtitle_seconds}
        run(rows, answerer, settings, ledger, bar.update, **said)
    result = summarise(rows, settings, ledger, circular=args.circular) | {
        "rows": args.rows,
        "model": args.model,
        "version": f"ntlbg {version('ntlbg')}",
        "machine": f"{platform.machine()} {answerer.model.device}, {answerer.model.dtype}",
        "command": _command(args),
    }
    if args.subtitles:
        result |= {"told": told, "told_within": args.subtitle_seconds}
    (out / "table.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result, out / "table.png")
    page = to_markdown(result, "table")
    (out / "table.md").write_text(page, encoding="utf-8")
    print(page, end="")
    return 1 if result["left_out"] else 0


def _weights(model: str) -> list:
    """Name, size and time of a folder's files of weights: a model that was trained on is another one."""
    files = (path for path in Path(model).glob("*.safetensors") if path.is_file())
    return sorted([path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files)


def _command(args: argparse.Namespace) -> str:
    """The command again, but for the device and what only shows it."""
    words = ["ntlbg", "bench", "real", args.rows, "--selectors", *args.selectors, "-k", *map(str, args.k)]
    named = ("annotations", "videos", "split", "dataset_config", "max_rows", "max_bad", "model", "encoder")
    named += ("candidate_fps", "max_candidates", "max_new_tokens", "dtype", "attn_implementation", "subtitle_seconds")
    for name in (*named, "out"):
        value = getattr(args, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += [f"--{name}" for name in ("circular", "subtitles") if getattr(args, name)]
    return shlex.join(words)


def _rows(args: argparse.Namespace, out: Path) -> str:
    """What `load_qa` takes: the rows named, or those of a benchmark, converted into `out`."""
    from ntlbg.data.converters import BENCHMARKS

    if args.rows not in BENCHMARKS:
        if args.annotations is not None:
            raise UsageError(
                f"--annotations goes with a benchmark's name ({', '.join(BENCHMARKS)}), got the rows {args.rows!r}"
            )
        return args.rows
    if args.annotations is None or args.videos is None:
        raise UsageError(f"the benchmark {args.rows} needs --annotations FILE and --videos DIR")

    from ntlbg.data.prepare import prepare

    prepared = prepare(args.rows, args.annotations, args.videos, out / "rows", split=args.split)
    dropped = sum(prepared.dropped.values())
    if dropped:
        print(f"ntlbg: note: {dropped} items of {args.rows} left out: {prepared.dropped}", file=sys.stderr)
    return str(out / "rows" / prepared.file)
