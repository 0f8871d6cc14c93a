"""How much of ntlbg's lead is the luck of one training: checkpoints that differ in their training's seed are asked the
same questions about the same unseen videos.

    python -m ntlbg.evaluation.training_seeds checkpoints/ntlbg-tiny build/seeds/*/selection --out seeds

Published rules have each checkpoint's own trained relevance to rank by. What is found is kept in the --work folder, so
that a run that was cut off goes on. Writes JSON, a page and a picture.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import tempfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ntlbg.data.world_dataset import split_questions
from ntlbg.data.world_video import write_video
from ntlbg.evaluation.bench_page import commits_of, current_commit, write_bench
from ntlbg.evaluation.frames_benchmark import run_video, summarise
from ntlbg.evaluation.ledger import open_ledger
from ntlbg.evaluation.selector_report import table
from ntlbg.evaluation.world_answers import ORACLE, WorldAnswerer
from ntlbg.fingerprints import hash_of, weights_digests
from ntlbg.selection.choosing import OURS


SECONDS = 256
RULES = (OURS, "uniform", "top_k", "temporal_nms", "stratified_top_k", "aks", "coselect", "greedy_dpp", ORACLE)


def pooled(summaries: list[dict], k: int, seed: int = 0) -> dict:
    """
    Several trainings as one.

    Args:
        summaries: `summarise`'s of each checkpoint, of the same videos.
        k: groups shown.

    Returns:
        by selector: "macro" of each checkpoint, "mean" and "sd" (of the sample) over them, and "ours_less", the 95 %
        interval of ntlbg's mean less its, by drawing checkpoints and videos, both paired.
    """
    rows = {name: [one["selectors"][name][str(k)] for one in summaries] for name in summaries[0]["selectors"]}
    draws = {name: np.stack([row["macro_draws"] for row in of]) for name, of in rows.items()}
    drawn = np.random.default_rng(seed).integers(len(summaries), size=draws[OURS].shape)
    found = {}
    for name, of in rows.items():
        macro = [row["macro"] for row in of]
        gaps = np.take_along_axis(draws[OURS] - draws[name], drawn, axis=0).mean(axis=0)
        found[name] = {
            "macro": macro,
            "mean": float(np.mean(macro)),
            "sd": float(np.std(macro, ddof=1)),
            "ours_less": np.quantile(gaps, (0.025, 0.975)).tolist(),
        }
    return found


def best_rival(rules: dict) -> str:
    """The published rule with the highest mean."""
    return max((name for name in rules if name not in (OURS, ORACLE)), key=lambda name: rules[name]["mean"])


def to_markdown(result: dict, picture: str) -> str:
    """The page; `picture` is the PNG's name without suffix."""
    rules, best = result["rules"], best_rival(result["rules"])
    (low, high), ours = rules[best]["ours_less"], rules[OURS]
    rows = [
        [
            name,
            *(f"{macro:.1f}" for macro in row["macro"]),
            f"{row['mean']:.1f} ± {row['sd']:.1f}",
            "" if name == OURS else "[{:+.1f}, {:+.1f}]".format(*row["ours_less"]),
        ]
        for name, row in sorted(rules.items(), key=lambda item: -item[1]["mean"])
    ]
    heads = [f"macro average, %, k = {result['k']}", *result["checkpoints"], "mean ± sd", "ntlbg less it"]
    return (
        "# Training seeds\n\nCheckpoints whose selectors were drawn and trained from seeds of their own, in front of "
        "one base, which was not trained again (`make bench-seeds`: the committed one, and two by today's recipe), on "
        f"{result['videos']} videos of {SECONDS} seconds of the split `test`; "
        f"{result['k']} of {SECONDS // 2} groups shown, N = {SECONDS} candidates at 1 a second. Published "
        "rules rank by each checkpoint's own trained relevance. Intervals are 95 %, by bootstrap over checkpoints and "
        "videos, paired; over so few checkpoints they are on the narrow side."
        f"\n\n- Over {len(ours['macro'])} trainings ntlbg has a macro average of {ours['mean']:.1f} % "
        f"(standard deviation {ours['sd']:.1f}), the best baseline, {best}, {rules[best]['mean']:.1f} % (difference "
        f"[{low:+.1f}, {high:+.1f}]).\n\n![Macro averages by rule]({picture}.png)\n\n{table(heads, rows)}\n\nCommit "
        f"{result['commit']}, {result['machine']}, `{result['command']}`.\n"
    )


def draw(result: dict, path: Path) -> None:
    """Each rule's macro averages, a point a checkpoint."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rules = sorted(result["rules"].items(), key=lambda item: item[1]["mean"])
    figure, place = plt.subplots(figsize=(7.5, 0.45 * len(rules) + 1.2), layout="constrained")
    for at, (name, row) in enumerate(rules):
        colour = "#c04a00" if name == OURS else "#202428" if name == ORACLE else "#0068a8"
        place.plot(row["macro"], [at] * len(row["macro"]), "o", color=colour, alpha=0.75)
        place.plot(row["mean"], at, "|", color=colour, markersize=18)
    place.set_yticks(range(len(rules)), [name for name, _ in rules])
    place.set_xlabel(
        f"exact match, macro average over kinds (%), {result['k']} groups; a point a training, | their mean"
    )
    place.grid(axis="x", alpha=0.25)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Run, or go on, and write JSON, page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--videos", type=int, default=100)
    parser.add_argument("-k", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/seeds"), help="path without suffix")
    parser.add_argument("--work", type=Path, default=Path("build/seeds"), help="folder that keeps what is found")
    args = parser.parse_args(arguments)
    if args.videos < 1 or not 1 <= args.k <= SECONDS // 2:
        parser.error(f"--videos is 1 or more and -k 1 to {SECONDS // 2}, not {args.videos} and {args.k}")
    if strangers := [name for name in args.checkpoints if not Path(name).is_dir()]:
        parser.error(f"checkpoints are folders, but {strangers[0]!r} is none")
    torch.set_num_threads(1)
    commit = current_commit()
    ledger = open_ledger(parser, args, {"k": args.k}, ("weights", "number"))
    answerers = {name: WorldAnswerer(name) for name in args.checkpoints}
    weights = {name: hash_of(weights_digests(answerer.model))[:16] for name, answerer in answerers.items()}
    if len(set(weights.values())) < max(2, len(args.checkpoints)):
        parser.error(f"give two checkpoints or more, no two of them alike, not {args.checkpoints}")
    videos = split_questions("test", args.videos, duration=SECONDS, wording="heldout")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for number, (spec, questions) in enumerate(tqdm(videos, desc="videos")):
            missing = [name for name in args.checkpoints if (weights[name], number) not in ledger.lines]
            if missing:
                write_video(spec, path)
            for name in missing:
                found = run_video(answerers[name], path, questions, None, RULES, [args.k], SECONDS)
                ledger.add({"checkpoint": name, "weights": weights[name], "number": number, "commit": commit} | found)
    lines = {name: [ledger.lines[weights[name], number] for number in range(len(videos))] for name in args.checkpoints}
    result = {
        "checkpoints": args.checkpoints,
        "rules": pooled([summarise(lines[name]) for name in args.checkpoints], args.k),
        "videos": args.videos,
        "k": args.k,
        "commit": commits_of(line for of in lines.values() for line in of),
        "machine": f"{platform.machine()} CPU, 1 thread",
        "command": f"python -m ntlbg.evaluation.training_seeds {shlex.join(args.checkpoints)} --videos {args.videos} "
        f"-k {args.k}",
    }
    write_bench(args.out, result, lambda path: draw(result, path), to_markdown(result, args.out.name))


if __name__ == "__main__":
    main()
