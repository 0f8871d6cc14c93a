"""What an answer costs against the number of groups shown, and what our selection saves at equal accuracy.

    python -m ntlbg.evaluation.efficiency --out docs/benchmarks/efficiency

Accuracies are those of `frames_benchmark` (ntlbg-tiny answers, T = 128 groups of N = 256 candidates). Times and memory
at these very numbers of groups are measured with a random-weight Qwen2-VL shape large enough that the model decides
(half a billion parameters; `--shape` takes another one), each case in a process of its own. What is measured is kept
in the --work folder, so that a run that was cut off goes on where it stopped. Writes JSON, a page and a picture.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ntlbg.data.world import build_video, split_seed
from ntlbg.data.world_video import write_video
from ntlbg.evaluation.bench_page import commits_of, current_commit, write_bench
from ntlbg.evaluation.efficiency_report import draw, to_markdown
from ntlbg.evaluation.efficiency_run import LANGUAGE
from ntlbg.evaluation.ledger import open_ledger
from ntlbg.evaluation.shapes import read_shape


OURS, REFERENCE = "ntlbg", 8
# One film, as films are: 25 pictures a second.
SECONDS, FPS, SIDE = 256, 25, 448


def film(folder: Path) -> Path:
    """The video that every case reads, rendered once."""
    path = folder / f"film-{SECONDS}s-{FPS}fps-{SIDE}.mp4"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        write_video(build_video(split_seed("test", 0), SECONDS), part, fps=FPS, size=SIDE)
        part.replace(path)
    return path


def measure(case: dict) -> dict:
    """`efficiency_run` of one case in a fresh process.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.json"
        path.write_text(json.dumps(case), encoding="utf-8")
        ended = subprocess.run(
            [sys.executable, "-m", "ntlbg.evaluation.efficiency_run", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
    if ended.returncode != 0:
        raise RuntimeError(f"{case['way']} with {case['groups']} groups failed: {ended.stderr[-2000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def totals(measured: dict) -> dict:
    """Medians over the repeats: seconds by stage, of the whole and of the language model alone."""
    repeats = measured["seconds"]
    return {
        "stages": {stage: float(np.median([one[stage] for one in repeats])) for stage in repeats[0]},
        "end_to_end": float(np.median([sum(one.values()) for one in repeats])),
        "language_model": float(np.median([sum(one[stage] for stage in LANGUAGE) for one in repeats])),
    }


def equal_accuracy(curves: dict, reference: int = REFERENCE) -> dict:
    """
    How many even groups are as good as ours.

    Args:
        curves: {"ours": {k: draws}, "even": {k: draws}}, bootstrap draws of the macro average, paired.

    Returns:
        "groups": the smallest K of even groups whose mean reaches ours at `reference`, None where none does; "draws":
        the same for every draw.
    """

    def smallest(even: dict[int, float], ours: float) -> int | None:
        return next((k for k in sorted(even) if even[k] >= ours), None)

    ours = np.asarray(curves["ours"][reference])
    even = {k: np.asarray(draws) for k, draws in curves["even"].items()}
    return {
        "groups": smallest({k: float(draws.mean()) for k, draws in even.items()}, float(ours.mean())),
        "draws": [smallest({k: draws[i] for k, draws in even.items()}, ours[i]) for i in range(len(ours))],
    }


def speed_up(even_seconds: dict[int, float], ours: float, matched: dict) -> dict:
    """
    t_even(K*)/t_ours at equal accuracy.

    Returns:
        "ratio"; "at_least": even groups never were as good, and the ratio is that of all of them; "low", "high": 95 %
        of the draws of K*, counted alike.
    """
    most = max(even_seconds)

    def ratio(k: int | None) -> float:
        return even_seconds[most if k is None else k] / ours

    low, high = np.quantile([ratio(k) for k in matched["draws"]], (0.025, 0.975))
    return {
        "ratio": ratio(matched["groups"]),
        "at_least": matched["groups"] is None,
        "low": float(low),
        "high": float(high),
    }


def curves_of(frames: dict) -> dict:
    """The paired draws of `frames_benchmark`'s JSON; all groups are the largest even number."""
    draws = frames["draws"]
    even = {int(k): values for k, values in draws["uniform"].items()}
    even |= {int(k): values for k, values in draws["all"].items()}
    return {"ours": {int(k): values for k, values in draws["ntlbg"].items()}, "even": even}


def compare(frames: dict, cases: list[dict]) -> dict:
    """The promised ratios, from accuracies and the measured cases."""
    even = {case["groups"]: case for case in cases if case["way"] == "even"}
    ours = next(case for case in cases if case["way"] == OURS and case["groups"] == REFERENCE)
    everything = even[max(even)]
    matched = equal_accuracy(curves_of(frames))
    speed = {
        part: speed_up({k: case[part] for k, case in even.items()}, ours[part], matched)
        for part in ("end_to_end", "language_model")
    }
    by = frames["selectors"]
    (all_row,) = by["all"].values()
    return {
        "speed": speed,
        "groups_for_equal_accuracy": matched["groups"],
        "share_of_draws_with_equal_accuracy": float(np.mean([k is not None for k in matched["draws"]])),
        "at_reference": {"groups": REFERENCE}
        | {
            way: {"end_to_end": case["end_to_end"], "peak_mib": case["peak_mib"]}
            for way, case in ((OURS, ours), ("even", even[REFERENCE]))
        },
        "memory_saved": 1 - ours["peak_mib"] / everything["peak_mib"],
        "memory_saved_above_weights": 1
        - (ours["peak_mib"] - ours["weights_mib"]) / (everything["peak_mib"] - everything["weights_mib"]),
        "accuracy": {
            "ours": by["ntlbg"][str(REFERENCE)]["macro"],
            "all": all_row["macro"],
            "oracle": by["oracle"][str(REFERENCE)]["macro"],
        },
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and write JSON, page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=Path, default=Path("docs/benchmarks/frames.json"), help="the accuracies")
    parser.add_argument("--tokenizer-of", default="checkpoints/ntlbg-tiny", help="checkpoint with the tokenizer")
    parser.add_argument("--shape", default="small", help="a name or a JSON file of `shapes` (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda ... (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--patience", type=float, default=180, help="seconds: a longer run is not repeated (180)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--work", type=Path, default=Path("build/efficiency"), help="folder that keeps what is measured"
    )
    parser.add_argument("--films", type=Path, default=Path("build/films"), help="folder that keeps the film")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/efficiency"), help="path without suffix")
    args = parser.parse_args(arguments)
    frames = json.loads(args.frames.read_text(encoding="utf-8"))
    commit = current_commit()
    shape = read_shape(args.shape, args.device)
    everything = frames["seconds"] // 2
    common = {
        "shape": shape,
        "tokenizer_of": args.tokenizer_of,
        "video": str(film(args.films)),
        "candidates": frames["candidates"],
        "repeats": args.repeats,
        "patience": args.patience,
        "threads": args.threads,
        "count": True,
    }
    groups = [*frames["groups"], everything]
    wanted = [(OURS, k) for k in frames["groups"]] + [("ntlbg one look", REFERENCE)] + [("even", k) for k in groups]
    ledger = open_ledger(parser, args, common, ("way", "groups"))
    for way, k in tqdm(wanted, desc="cases"):
        if (way, k) not in ledger.lines:
            measured = measure({**common, "way": way, "groups": k})
            ledger.add({"way": way, "groups": k, "commit": commit, **measured, **totals(measured)})
    cases = [ledger.lines[case] for case in wanted]
    result = {
        "cases": cases,
        "compared": compare(frames, cases),
        "candidates": frames["candidates"],
        "candidate_fps": frames["candidate_fps"],
        "shape": shape,
        "repeats": args.repeats,
        "patience": args.patience,
        "film": {"seconds": SECONDS, "fps": FPS, "side": SIDE},
        "accuracies": {"page": args.frames.name, "commit": frames["commit"]},
        "commit": commits_of(cases),
        "machine": f"{platform.machine()} {shape['device']}, {args.threads} threads, {shape['dtype']}",
        "command": f"python -m ntlbg.evaluation.efficiency --shape {args.shape} --device {args.device} --repeats "
        f"{args.repeats} --patience {args.patience:g} --threads {args.threads}",
    }
    write_bench(args.out, result, lambda path: draw(result, frames, path), to_markdown(result, args.out.name))


if __name__ == "__main__":
    main()
