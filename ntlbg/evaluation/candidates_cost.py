"""Latency and memory against the number of candidates: all of them shown, or the few that NTLBG chooses.

    python -m ntlbg.evaluation.candidates_cost --shape qwen2-vl-7b --device cuda --candidates 512 1024 2048 4096

A random-weight model of a shape's real classes answers one question about one film, as in `efficiency`, each case in a
process of its own. What does not fit into memory is said in its row. Writes JSON, a page and a picture.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

from tqdm import tqdm

from ntlbg.evaluation.bench_page import current_commit, write_bench
from ntlbg.evaluation.efficiency import FPS, SECONDS, SIDE, film, measure, totals
from ntlbg.evaluation.efficiency_run import STAGES
from ntlbg.evaluation.selector_report import table
from ntlbg.evaluation.shapes import read_shape


OURS, ALL = "ntlbg", "even"
NO_MEMORY = ("OutOfMemoryError", "DefaultCPUAllocator: can't allocate memory")


def run_cases(shape: dict, candidates: list[int], groups: int, common: dict) -> list[dict]:
    """
    Every number of candidates, both ways.

    Returns:
        `efficiency.measure` and `totals` of each, with "way", "candidates" and "groups"; "failed" instead, where the
        memory does not suffice.
    """
    cases = []
    for count in tqdm(candidates, desc="numbers of candidates"):
        for way, shown in ((OURS, min(groups, count // 2)), (ALL, count // 2)):
            case = {"way": way, "candidates": count, "groups": shown}
            try:
                measured = measure({**common, **case, "shape": shape})
            except RuntimeError as error:
                if not any(sign in str(error) for sign in NO_MEMORY):
                    raise
                cases.append({**case, "failed": "out of memory"})
                continue
            cases.append({**case, **measured, **totals(measured)})
    return cases


def to_markdown(result: dict, picture: str) -> str:
    """The page; `picture` is the PNG's name without suffix."""
    cases = result["cases"]
    stages = [stage for stage in STAGES if any(stage in case.get("stages", ()) for case in cases)]
    rows = []
    for case in cases:
        name = "NTLBG" if case["way"] == OURS else "all frames"
        head = [str(case["candidates"]), name, str(case["groups"])]
        if "failed" in case:
            rows.append([*head, case["failed"], *[""] * (len(stages) + 3)])
            continue
        cells = (f"{case['stages'][stage]:.2f}" if stage in case["stages"] else "" for stage in stages)
        totalled = [f"{case['end_to_end']:.2f}", f"{case['language_model']:.2f}", f"{case['peak_mib'] / 1024:.2f}"]
        rows.append([*head, str(case["tokens"]), *cells, *totalled])
    ratios = []
    for ours, everything in zip(cases[::2], cases[1::2], strict=True):
        if "failed" not in ours and "failed" not in everything:
            ratios.append(
                [
                    str(ours["candidates"]),
                    *(f"{everything[part] / ours[part]:.1f}" for part in ("end_to_end", "language_model")),
                    f"{1 - ours['peak_mib'] / everything['peak_mib']:.0%}",
                ]
            )
    heads = ["candidates", "way", "groups shown", "visual tokens", *(f"{stage}, s" for stage in stages)]
    costs = table([*heads, "end to end, s", "language model, s", "peak, GiB"], rows)
    ratio = table(["candidates", "end to end, times", "language model, times", "memory saved"], ratios)
    return (
        f"# Latency and memory against candidates\n\nOne question to a film of {SECONDS} seconds ({FPS} pictures a "
        f"second, {SIDE} pixels wide) by a random-weight Qwen2-VL of the shape `{result['shape_name']}` "
        f"({result['shape']['dtype']}, frames of {result['shape']['side']} pixels): all candidates shown, or the "
        f"{result['groups']} groups that NTLBG chooses after a look at all of them with a CLIP ViT-B/32. Medians of "
        f"{result['repeats']} runs after one that warms up, or the one run where it takes more than "
        f"{result['patience']:g} seconds.\n\n## All frames over NTLBG\n\n{ratio}\n\n"
        f"![Seconds and memory]({picture}.png)\n\n"
        f"## Each case\n\n{costs}\n\nCommit {result['commit']}, {result['machine']}, `{result['command']}`.\n"
    )


def draw(result: dict, path: Path) -> None:
    """End-to-end seconds and peak memory against candidates, both ways."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.2, 4.2), layout="constrained")
    measures = (
        ("end to end, seconds", lambda case: case["end_to_end"]),
        ("peak memory, GiB", lambda case: case["peak_mib"] / 1024),
    )
    looks = {OURS: ("NTLBG", "#c04a00", "o"), ALL: ("all frames", "#0068a8", "s")}
    for place, (title, value) in zip(axes, measures, strict=True):
        for way, (name, colour, mark) in looks.items():
            cases = [case for case in result["cases"] if case["way"] == way and "failed" not in case]
            xs, ys = [case["candidates"] for case in cases], [value(case) for case in cases]
            place.plot(xs, ys, color=colour, marker=mark, label=name)
        place.set_xscale("log", base=2)
        numbers = sorted({case["candidates"] for case in result["cases"]})
        place.set_xticks(numbers, [str(number) for number in numbers])
        place.set_ylim(bottom=0)
        place.set_xlabel("candidates")
        place.set_ylabel(title)
        place.grid(alpha=0.25)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Measure and write JSON, page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small", help="a name or a JSON file of `shapes` (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda ... (default: %(default)s)")
    parser.add_argument("--candidates", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--groups", type=int, default=32, help="that NTLBG shows (default: %(default)s)")
    parser.add_argument("--tokenizer-of", default="checkpoints/ntlbg-tiny", help="checkpoint with the tokenizer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--patience", type=float, default=60, help="seconds: a longer run is not repeated (60)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--films", type=Path, default=Path("build/films"), help="folder that keeps the film")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/candidates"), help="path without suffix")
    args = parser.parse_args(arguments)
    if odd := [count for count in args.candidates if count < 2 or count % 2 or count > SECONDS * FPS]:
        parser.error(f"candidates come in groups of two, {SECONDS * FPS} at most, but --candidates has {odd}")
    commit = current_commit()
    shape = read_shape(args.shape, args.device)
    common = {
        "tokenizer_of": args.tokenizer_of,
        "video": str(film(args.films)),
        "repeats": args.repeats,
        "patience": args.patience,
        "threads": args.threads,
        "count": False,
    }
    result = {
        "cases": run_cases(shape, args.candidates, args.groups, common),
        "shape_name": args.shape,
        "shape": shape,
        "groups": args.groups,
        "repeats": args.repeats,
        "patience": args.patience,
        "commit": commit,
        "machine": f"{platform.machine()} {args.device}, {args.threads} threads",
        "command": f"python -m ntlbg.evaluation.candidates_cost --shape {args.shape} --device {args.device} "
        f"--candidates {' '.join(map(str, args.candidates))} --groups {args.groups} --repeats {args.repeats} "
        f"--patience {args.patience:g} --threads {args.threads}",
    }
    write_bench(args.out, result, lambda path: draw(result, path), to_markdown(result, args.out.name))


if __name__ == "__main__":
    main()
