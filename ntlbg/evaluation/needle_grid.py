"""Needles in a haystack of up to an hour: how often each selector's k groups hold the needle and the model names it.

    python -m ntlbg.evaluation.needle_grid --out docs/benchmarks/needles

Every cell (length of the video, depth of the needle in eighths) is asked with as many seeds, each of which draws where
in its eighth the needle lies, so that no rule's even steps are always on it or always beside it. Every needle is in
the pixels of a real mp4 file. Ours and uniform sampling see the same candidates, and the same model answers. Results
are kept in the --work folder, a line a file, so that a run that was cut off goes on. Writes JSON, a Markdown page and
heat maps.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ntlbg.data.needles import NEEDLES, needle_video
from ntlbg.data.questions import Question, span_groups
from ntlbg.data.world import split_seed
from ntlbg.data.world_video import write_video
from ntlbg.evaluation.bench_page import commits_of, current_commit, write_bench
from ntlbg.evaluation.ledger import open_ledger
from ntlbg.evaluation.needle_report import draw, to_markdown
from ntlbg.evaluation.world_answers import WorldAnswerer


MINUTES = (2.5, 5, 10, 20, 40, 60)
DEPTHS = 8
GROUPS = (8, 32)
SELECTED = ("ntlbg", "uniform")
NEEDLE_SECONDS = 4
CANDIDATE_FPS = 1.0


def depths_of_files() -> list[list[int]]:
    """The numbers of the depths at which the needles of each file of one seed and length lie: as far apart as can
    be."""
    parts = DEPTHS // NEEDLES
    return [list(range(part, DEPTHS, parts)) for part in range(parts)]


def drawn_shares(seed: int, minutes: float, depths: Sequence[int]) -> list[float]:
    """Where in its eighth of the video each needle of a file lies, as a share of the whole, drawn evenly."""
    drawn = np.random.default_rng([62, seed, round(minutes * 60), *depths]).random(len(depths))
    return [float((depth + share) / DEPTHS) for depth, share in zip(depths, drawn, strict=True)]


def run_file(answerer: WorldAnswerer, path: Path, questions: Sequence[Question], groups: Sequence[int]) -> dict:
    """
    One file, every selector, every number of groups.

    Returns:
        {selector: {k: {"right": one bool a needle, "seen": whether a chosen group shows it}}}, and the number of
        candidates under "candidates".
    """
    look = answerer.look(path, questions, candidate_fps=CANDIDATE_FPS, max_candidates=1_000_000)
    total = len(look.seconds)
    places, asked = [], []
    for selector in SELECTED:
        for k in groups:
            for row, selection in enumerate(answerer.choose(look, selector, k)):
                places.append((selector, str(k), row))
                asked.append((row, selection))
    result: dict = {"candidates": 2 * total}
    for (selector, k, row), (_, selection), text in zip(places, asked, answerer.answer(look, asked), strict=True):
        cell = result.setdefault(selector, {}).setdefault(k, {"right": [], "seen": []})
        (span,) = span_groups(questions[row], total)
        cell["right"].append(text == questions[row].answer)
        cell["seen"].append(bool(np.isin(span, selection.indices.numpy()).any()))
    return result


def wilson(right: int, asked: int) -> tuple[float, float]:
    """The 95 % interval of a share, right of asked, by Wilson's score (1927)."""
    z, share = 1.96, right / asked
    middle = (share + z**2 / (2 * asked)) / (1 + z**2 / asked)
    half = z / (1 + z**2 / asked) * (share * (1 - share) / asked + z**2 / (4 * asked**2)) ** 0.5
    return max(middle - half, 0.0), min(middle + half, 1.0)


def grids(rows: list[dict], minutes: Sequence[float], groups: Sequence[int]) -> dict:
    """
    Finished files as grids.

    Args:
        rows: {"minutes", "depths": their numbers, and `run_file`'s result} of each file.

    Returns:
        {selector: {k: {"right", "seen", "asked": (lengths, DEPTHS) counts, "low", "high": each cell's interval}}}.
    """
    table: dict = {}
    for selector in SELECTED:
        for k in map(str, groups):
            counts = {name: np.zeros((len(minutes), DEPTHS), dtype=int) for name in ("right", "seen", "asked")}
            for row in rows:
                line = list(minutes).index(row["minutes"])
                for place, depth in enumerate(row["depths"]):
                    counts["asked"][line, depth] += 1
                    for name in ("right", "seen"):
                        counts[name][line, depth] += row[selector][k][name][place]
            intervals = [
                [wilson(int(right), int(asked)) for right, asked in zip(*pair, strict=True)]
                for pair in zip(counts["right"], counts["asked"], strict=True)
            ]
            table.setdefault(selector, {})[k] = {
                **{name: values.tolist() for name, values in counts.items()},
                "low": [[low for low, _ in line] for line in intervals],
                "high": [[high for _, high in line] for line in intervals],
            }
    return table


def main(arguments: list[str] | None = None) -> None:
    """Run, or go on, and write JSON, page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/ntlbg-tiny")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--minutes", type=float, nargs="+", default=list(MINUTES))
    parser.add_argument("--groups", type=int, nargs="+", default=list(GROUPS))
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--needle-seconds", type=int, default=NEEDLE_SECONDS)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/needles"), help="path without suffix")
    parser.add_argument("--work", type=Path, default=Path("build/needles"), help="folder that keeps finished files")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    commit = current_commit()
    settings = {name: getattr(args, name) for name in ("model", "minutes", "groups", "split", "needle_seconds")}
    settings["depths"] = f"drawn in {DEPTHS} parts"
    try:
        for minutes in args.minutes:
            for depths in depths_of_files():
                # As close to each other, two by two, as they could be drawn, and a second closer by rounding.
                closest = [(depth + 1 - place % 2) / DEPTHS for place, depth in enumerate(depths)]
                closest = [share - place % 2 / (60 * minutes) for place, share in enumerate(closest)]
                needle_video(split_seed(args.split, 0), round(minutes * 60), closest, args.needle_seconds)
    except ValueError as error:
        parser.error(str(error))
    ledger = open_ledger(parser, args, settings, ("number",))
    answerer = WorldAnswerer(args.model)
    # Seed by seed, so that a run that was cut off has whole grids of fewer seeds.
    jobs = [
        (seed, minutes, part, depths)
        for seed in range(args.seeds)
        for minutes in args.minutes
        for part, depths in enumerate(depths_of_files())
    ]
    wanted = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for seed, minutes, part, depths in tqdm(jobs, desc="files"):
            number = f"{seed}-{minutes:g}-{part}"
            wanted.append(number)
            if (number,) in ledger.lines:
                continue
            spec, questions = needle_video(
                split_seed(args.split, seed),
                round(minutes * 60),
                drawn_shares(seed, minutes, depths),
                args.needle_seconds,
            )
            write_video(spec, path, fps=1, size=112)
            found = run_file(answerer, path, questions, args.groups)
            ledger.add({"number": number, "commit": commit, "minutes": minutes, "depths": depths} | found)
    rows = [ledger.lines[(number,)] for number in wanted]
    result = {
        "grids": grids(rows, args.minutes, args.groups),
        "minutes": args.minutes,
        "depths": [[depth / DEPTHS, (depth + 1) / DEPTHS] for depth in range(DEPTHS)],
        "groups": args.groups,
        "candidates": {f"{row['minutes']:g}": row["candidates"] for row in rows},
        "candidate_fps": CANDIDATE_FPS,
        "needle_seconds": args.needle_seconds,
        "seeds": args.seeds,
        "split": args.split,
        "commit": commits_of(rows),
        "machine": f"{platform.machine()} CPU, 1 thread",
        "command": f"python -m ntlbg.evaluation.needle_grid --model {args.model} --seeds {args.seeds} --minutes "
        f"{' '.join(f'{m:g}' for m in args.minutes)} --groups {' '.join(map(str, args.groups))} --split {args.split} "
        f"--needle-seconds {args.needle_seconds}",
    }
    write_bench(args.out, result, lambda path: draw(result, path), to_markdown(result, args.out.name))


if __name__ == "__main__":
    main()
