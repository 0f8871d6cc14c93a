"""`ntlbg config`: a training configuration that fits a card, and why."""

from __future__ import annotations

import argparse
import json
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING

from ntlbg.cli_common import Parser, UsageError, positive_int, print_notes, write_json
from ntlbg.plain_text import printable
from ntlbg.tables import table


if TYPE_CHECKING:
    from ntlbg.training.fit import Step
    from ntlbg.training.memory import Estimate
    from ntlbg.training.tiers import Card


EPILOG = """\
examples:
  ntlbg config generate --category long --gpu A100_40GB --out long.json
  ntlbg config validate --config long.json --gpu A100_40GB
  ntlbg config analyze --dataset my.jsonl
  ntlbg config optimize --config long.json --gpu RTX4090_24GB --gpus 8 --out small.json

Nothing is downloaded and no weight is made: sizes come from built-in tables or a config.json, memory from formulas
whose assumptions stand in ntlbg/training/memory.py.

exit codes: 0 done, 2 bad input or usage, problems found (validate), or nothing fits (generate, optimize)
"""
_GIB = 2**30


def add_command(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "config",
        help="make, check and fit training configurations",
        description="Make, check and fit training configurations.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=Parser)
    generate = _action(actions, "generate", "write a level's configuration that fits a card", run_generate)
    generate.add_argument("--category", required=True, metavar="LEVEL", help="moderate_long, long or very_long")
    _add_card(generate, required=True)
    generate.add_argument("--model", metavar="NAME|DIR", help="base model: a published name, or a config.json")
    _add_out(generate)
    validate = _action(actions, "validate", "name each problem of a configuration and its fix", run_validate)
    validate.add_argument("--config", required=True, metavar="FILE", help="a JSON or YAML configuration")
    _add_card(validate, required=False)
    _add_json(validate)
    analyze = _action(actions, "analyze", "say which level fits a data set, and what each level costs", run_analyze)
    analyze.add_argument("--dataset", required=True, metavar="FILE.jsonl", help="rows with `duration`, or with files")
    analyze.add_argument("--video-root", metavar="DIR", help="folder of the videos (default: the data set's own)")
    analyze.add_argument("--model", metavar="NAME|DIR", help="base model of the memory column")
    _add_json(analyze)
    optimize = _action(actions, "optimize", "change a configuration until it fits a card", run_optimize)
    optimize.add_argument("--config", required=True, metavar="FILE", help="a JSON or YAML configuration")
    _add_card(optimize, required=True)
    _add_out(optimize)


def _action(actions, name: str, text: str, run) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_card(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument("--gpu", required=required, metavar="CARD", help="V100_32GB, A100_40GB, A100_80GB, H100_80GB, "
                        "H200_141GB or RTX4090_24GB")  # fmt: skip
    parser.add_argument("--gpus", type=positive_int, default=1, metavar="N", help="how many of them (default: 1)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE|-", help="write the result as JSON; - prints it instead")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE.json", help="write the configuration here (default: print it)")
    parser.add_argument("--png", metavar="FILE.png", help="draw the memory of each part beside the card")
    _add_json(parser)


def _check_outputs(args: argparse.Namespace) -> None:
    for option in ("out", "png", "json"):
        name = getattr(args, option, None)
        if name in (None, "-"):
            continue
        if Path(name).is_dir():
            raise UsageError(f"--{option} names the folder {name!r}; give a file")
        if not Path(name).parent.is_dir():
            raise UsageError(
                f"--{option} {name!r} lies in a folder that does not exist; create {str(Path(name).parent)!r}"
            )


def run_generate(args: argparse.Namespace) -> int:
    """Make a configuration for a level and a card.

    Raises:
        InputError: an unknown level, card or model.
    """
    _check_outputs(args)
    from ntlbg.training.fit import generate
    from ntlbg.training.tiers import LEVELS, card_of

    if args.category not in LEVELS:
        raise UsageError(f"--category {args.category!r} is no level; choose one of {', '.join(LEVELS)}")
    level, card = LEVELS[args.category], card_of(args.gpu)
    head = f"{level.name}: videos of {level.span}, on {args.gpus} x {card.name}"
    return _tell(args, head, card, *generate(level, card, args.gpus, args.model), near=None)


def run_optimize(args: argparse.Namespace) -> int:
    """Fit a configuration to a card.

    Raises:
        InputError: an unreadable configuration, an unknown card or model.
    """
    _check_outputs(args)
    from ntlbg.training.fit import fit
    from ntlbg.training.run_config import find_problems, read_run
    from ntlbg.training.tiers import card_of

    card, run, near = card_of(args.gpu), read_run(args.config), Path(args.config).parent
    problems = find_problems(run, None, args.gpus, near)
    if problems:
        raise UsageError(f"{args.config!r} has {len(problems)} problems, the first is {problems[0]}")
    return _tell(
        args, f"{args.config} on {args.gpus} x {card.name}", card, *fit(run, card, args.gpus, near), near=near
    )


def _tell(
    args: argparse.Namespace,
    head: str,
    card: Card,
    run: dict,
    steps: list[Step],
    estimate: Estimate,
    near: Path | None,
) -> int:
    from ntlbg.training.fit import usable
    from ntlbg.training.run_config import shape_and_job
    from ntlbg.training.step_time import UTILISATION, step_time

    fits = estimate.peak <= usable(card)
    seconds = step_time(*shape_and_job(run, args.gpus, near), card).seconds
    if args.out is not None:
        write_json(args.out, run)
    if args.png is not None:
        from ntlbg.report.memory_plot import draw_memory

        draw_memory(args.png, [(head, estimate)], card)
    if args.json is not None:
        write_json(
            args.json,
            {
                "config": run,
                "fits": fits,
                "card_bytes": usable(card),
                "peak_bytes": estimate.peak,
                "peak_moment": estimate.peak_moment,
                "parts": estimate.parts,
                "moments": {name: sum(parts.values()) for name, parts in estimate.moments.items()},
                "host": estimate.host,
                "step_seconds": seconds,
                "changes": [{"what": step.what, "why": step.why} for step in steps],
            },
        )
    told = [
        head,
        "",
        _parts_table(estimate, card),
        "",
        "changed:" if steps else "nothing had to be changed",
        *(f"  {step}" for step in steps),
        f"one update takes about {_time(seconds)} at {UTILISATION:.0%} of the card's peak, decoding aside",
    ]
    if estimate.host:
        told.append(f"in the host's memory, each process: {sum(estimate.host.values()) / _GIB:.1f} GiB")
    # The configuration itself goes to the standard output when nobody named a file, so that it can be piped.
    printed = args.out is None and args.json is None
    print(printable("\n".join(told)), file=sys.stderr if printed or args.json == "-" else sys.stdout)
    if printed:
        print(json.dumps(run, indent=1, ensure_ascii=False))
    if not fits:
        raise UsageError(
            f"no measure makes this fit {args.gpus} x {card.name}: {estimate.peak / _GIB:.1f} GiB of "
            f"{usable(card) / _GIB:.1f}; choose a larger card, a smaller model, or fewer or smaller frames"
        )
    return 0


def _parts_table(estimate: Estimate, card: Card) -> str:
    from ntlbg.training.fit import usable

    rows = [[name, f"{size / _GIB:.2f}", f"{size / estimate.peak:.0%}"] for name, size in estimate.parts.items()]
    rows.append(["peak", f"{estimate.peak / _GIB:.2f}", ""])
    rows.append([card.name, f"{usable(card) / _GIB:.2f}", "usable"])
    return table([f"at the peak ({estimate.peak_moment})", "GiB", "share"], rows)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def run_validate(args: argparse.Namespace) -> int:
    """Print every problem; 2 if there are any.

    Raises:
        InputError: the file cannot be read, or the card is unknown.
    """
    _check_outputs(args)
    from ntlbg.training.run_config import find_problems, read_run
    from ntlbg.training.tiers import card_of

    run = read_run(args.config)
    card = None if args.gpu is None else card_of(args.gpu)
    problems = find_problems(run, card, args.gpus, Path(args.config).parent)
    if args.json is not None:
        write_json(args.json, {"problems": [vars(problem) for problem in problems]})
    if args.json != "-":
        for problem in problems:
            print(printable(str(problem)))
        if not problems:
            print("no problems" + ("" if card is None else f" on {args.gpus} x {card.name}"))
    if card is None and not problems:
        print_notes(["memory was not checked; name a card with --gpu"])
    if not run.get("dataset"):
        print_notes(["the file names no data set; give one to train.py as --dataset"])
    return 2 if problems else 0


def run_analyze(args: argparse.Namespace) -> int:
    """Print the histogram, the level, and the memory of each level.

    Raises:
        InputError: the data set or the model cannot be read.
    """
    _check_outputs(args)
    from ntlbg.training.dataset_lengths import read_lengths
    from ntlbg.training.memory import estimate_memory
    from ntlbg.training.run_config import preset, shape_and_job
    from ntlbg.training.tiers import LEVELS

    lengths = read_lengths(args.dataset, args.video_root)
    level, shares = lengths.level(), lengths.shares()
    memory = {}
    for name in LEVELS:
        run = preset(name) | ({} if args.model is None else {"model_name_or_path": args.model})
        memory[name] = estimate_memory(*shape_and_job(run)).peak
    histogram = lengths.histogram()
    if args.json is not None:
        write_json(
            args.json,
            {
                "rows": lengths.rows,
                "videos": len(lengths.seconds),
                "probed": lengths.probed,
                "bad": [{"line": line, "why": why} for line, why in lengths.bad],
                "histogram": [{"from": low, "to": high, "videos": n} for low, high, n in histogram if high < 1e9]
                + [{"from": histogram[-1][0], "to": None, "videos": histogram[-1][2]}],
                "shares": shares,
                "level": level.name,
                "peak_bytes": memory,
            },
        )
    if args.json != "-":
        print(_analysis(lengths, histogram, level, shares, memory))
    notes = [f"line {line}: {why}" for line, why in lengths.bad[:3]]
    if lengths.bad:
        print_notes([f"{len(lengths.bad)} of {lengths.rows} rows have no length", *notes])
    return 0


def _analysis(lengths, histogram, level, shares, memory) -> str:
    from ntlbg.training.tiers import LEVELS

    most = max(count for _, _, count in histogram)
    bars = []
    for low, high, count in histogram:
        name = f"{low:g} min and more" if high == float("inf") else f"{low:g} to {high:g} min"
        bars.append(f"{name:>16}  {count:>7}  {'#' * round(40 * count / most)}".rstrip())
    rows = [
        [
            found.name,
            found.span,
            f"{shares[found.name]:.0%}",
            str(found.representatives),
            str(found.max_frames),
            f"{memory[found.name] / _GIB:.1f}",
            found.card,
        ]
        for found in LEVELS.values()
    ]
    head = ["level", "videos of", "share", "k", "frames", "GiB", "card of the specification"]
    return "\n".join(
        [
            f"{len(lengths.seconds)} videos in {lengths.rows} rows"
            + (f", {lengths.probed} lengths read from the files" if lengths.probed else ""),
            *bars,
            "",
            table(head, rows),
            "",
            f"{level.name} fits: 95 % of the videos are at most {lengths.quantile(0.95) / 60:.1f} minutes long"
            + (f", {shares['shorter']:.0%} are shorter than any level is for" if shares["shorter"] else ""),
        ]
    )
