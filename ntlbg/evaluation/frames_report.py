"""The page, the picture and the README's table of `frames_benchmark`, from its JSON.

python -m ntlbg.evaluation.frames_report docs/benchmarks/frames.json --readme README.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ntlbg.evaluation.bench_page import write_bench, write_between
from ntlbg.evaluation.selector_report import table
from ntlbg.evaluation.world_answers import EVERYTHING, ORACLE, SHUFFLED
from ntlbg.selection.choosing import OURS


# Drawn by name; the rest as thin grey lines, so that the picture stays readable.
NAMED = {
    OURS: ("#c04a00", "o"),
    "uniform": ("#0068a8", "s"),
    "top_k": ("#a5417f", "^"),
    "temporal_nms": ("#4f6228", "v"),
    SHUFFLED: ("#6b6b6b", "x"),
    ORACLE: ("#1c2127", "D"),
}
REFERENCE = 8
# Rules that never read the question.
BLIND = ("uniform", "random", "farthest_point", "k_means", "k_medoids", "scene_tiling")
# Of the baselines the README names the best at the reference, and these.
ALWAYS = ("top_k", "uniform")
BEST = 4
README_START = "<!-- frames-table: written by `make bench-frames` -->"
README_END = "<!-- /frames-table -->"


def rivals(result: dict) -> list[str]:
    """The baselines: neither ours, nor ours asked another question, nor told the answer, nor shown everything."""
    return [name for name in result["selectors"] if name not in (OURS, SHUFFLED, ORACLE, EVERYTHING)]


def best_rival(result: dict, k: str, of: str = "macro") -> str:
    """The baseline with the highest `of`, macro average or events, at k."""
    return max(rivals(result), key=lambda name: result["selectors"][name][k][of])


def verdicts(result: dict) -> list[str]:
    """What the figures say of the promises, in sentences."""
    by, k = result["selectors"], str(REFERENCE)
    lines = []
    if k in by[OURS]:
        ours = by[OURS][k]["macro"]
        best = best_rival(result, k)
        low, high = by[best][k]["ours_less"]
        lines.append(
            f"With {k} groups ntlbg has a macro average of {ours:.1f} %; the best baseline is {best}, "
            f"{by[best][k]['macro']:.1f} % (difference {ours - by[best][k]['macro']:+.1f} [{low:+.1f}, {high:+.1f}])."
        )
        strongest = best_rival(result, k, "events")
        lines.append(
            f"On questions about events alone ntlbg has {by[OURS][k]['events']:.1f} %, the best baseline, "
            f"{strongest}, {by[strongest][k]['events']:.1f} %."
        )
        if "uniform" in by and "32" in by["uniform"]:
            lines.append(f"uniform with 32 groups has {by['uniform']['32']['macro']:.1f} %.")
        if SHUFFLED in by and "uniform" in by:
            low, high = by[SHUFFLED][k]["events_less_uniform"]
            lines.append(
                f"On questions about events, ntlbg asked another question has {by[SHUFFLED][k]['events']:.1f} %, "
                f"uniform {by['uniform'][k]['events']:.1f} % (difference [{low:+.1f}, {high:+.1f}]), ntlbg "
                f"{by[OURS][k]['events']:.1f} %" + (": the lead comes from the question." if low <= 0 else ".")
            )
    blind = [name for name in BLIND if name in by]
    for other in (str(n) for n in result["groups"] if n > REFERENCE):
        if blind and other in by[OURS]:
            best = max(blind, key=lambda name: by[name][other]["macro"])
            lines.append(
                f"With {other} groups {best}, which never reads the question, has {by[best][other]['macro']:.1f} %, "
                f"ntlbg {by[OURS][other]['macro']:.1f} %."
            )
    if EVERYTHING in by and ORACLE in by and k in by[ORACLE]:
        (groups, everything), oracle = next(iter(by[EVERYTHING].items())), by[ORACLE][k]["macro"]
        lines.append(
            f"All {groups} groups have {everything['macro']:.1f} %, {100 * everything['macro'] / oracle:.0f} % of the "
            f"oracle's {oracle:.1f} %."
        )
    return lines


def to_markdown(result: dict, picture: str) -> str:
    """The page; `picture` is the PNG's name without suffix."""
    by, ks = result["selectors"], [str(k) for k in result["groups"]]
    kinds = list(result["kinds"])
    # Those that have every k, the best at the reference first; all groups, which have one k, at the end.
    key = str(REFERENCE) if str(REFERENCE) in ks else ks[0]
    order = sorted((name for name in by if name != EVERYTHING), key=lambda name: -by[name][key]["macro"])
    curves = table(
        ["macro average, %", *(f"k = {k}" for k in ks)],
        [[name, *(f"{by[name][k]['macro']:.1f}" for k in ks)] for name in order],
    )
    rows = []
    for name in order:
        row = by[name][key]
        gap = "" if name == OURS else "{:+.1f}, {:+.1f}".format(*row["ours_less"])
        cells = [row["events"], *(row["accuracy"][kind] for kind in kinds)]
        rows.append([name, f"{row['macro']:.1f}", gap and f"[{gap}]", *(f"{cell:.1f}" for cell in cells)])
    for groups, row in by.get(EVERYTHING, {}).items():
        cells = [row["events"], *(row["accuracy"][kind] for kind in kinds)]
        rows.append([f"all {groups}", f"{row['macro']:.1f}", "", *(f"{cell:.1f}" for cell in cells)])
    heads = [f"{kind} (n = {count})" for kind, count in result["kinds"].items()]
    at_reference = table([f"exact match at k = {key}, %", "macro", "ours less it", "events", *heads], rows)
    pieces = list(by[OURS][key]["pieces"])
    by_pieces = table(
        [f"pieces of evidence, k = {key}, %", *pieces],
        [[name, *(f"{by[name][key]['pieces'][n]:.1f}" for n in pieces)] for name in order],
    )
    figures = table(
        [f"figures at k = {key}", "evidence seen", "constraint", "uniformity", "information loss"],
        [[name, *(f"{value:.3f}" for value in by[name][key]["figures"].values())] for name in order],
    )
    sampled = (
        f"N = {result['candidates']} candidates at {result['candidate_fps']:g} a second "
        f"({result['seconds'] // 2} groups)"
    )
    sentences = "\n".join(f"- {line}" for line in verdicts(result))
    return (
        f"# Accuracy against groups shown\n\n{result['videos']} videos of {result['seconds']} seconds of the split "
        f"`{result['split']}`, {sampled} in every row, questions in wordings never used in training. Every selector "
        "hands the same model k groups of the same features; published rules see the groups' descriptors and our "
        "trained relevance in the place of their scores, rules that draw are the mean of three draws. The macro "
        "average is over kinds of question, `events` over those that ask about events; intervals are 95 %, by "
        "bootstrap over videos, paired; they are those of one trained model, of one training seed "
        f"(`make bench-seeds` has others).\n\n{sentences}\n\n![Macro average against groups]({picture}.png)\n\n"
        f"## Curves\n\n{curves}\n\n## At k = {key}\n\n{at_reference}\n\n"
        "## By number of pieces of evidence\n\nQuestions about events only; 0 is a count of "
        f"something that never came.\n\n{by_pieces}\n\n## The specification's figures\n\nConstraint: Var(m)/mean(m)² "
        "of the chosen groups' squared Mahalanobis distances m. Uniformity: entropy of their times over its largest "
        "value. Information loss: mean squared distance to the nearest chosen descriptor over the video's variance. "
        "None of them measures quality by itself."
        f"\n\n{figures}\n\nCommit {result['commit']}, {result['machine']}, `{result['command']}`.\n"
    )


def to_summary(result: dict) -> str:
    """The table of the README and of the model's card: ours, the best baselines, and what they are held against."""
    by, kinds, k = result["selectors"], list(result["kinds"]), str(REFERENCE)
    baselines = sorted(rivals(result), key=lambda name: -by[name][k]["macro"])
    shown = {OURS, SHUFFLED, ORACLE, *ALWAYS, *baselines[:BEST]} & set(by)
    further = [str(other) for other in result["groups"] if other > REFERENCE]
    rows = []
    for name in sorted(shown, key=lambda name: (-by[name][k]["macro"], name)):
        row = by[name][k]
        gap = "" if name == OURS else "[{:+.1f}, {:+.1f}]".format(*row["ours_less"])
        cells = [*(row["accuracy"][kind] for kind in kinds), row["events"], row["macro"]]
        later = [f"{by[name][other]['macro']:.1f}" for other in further]
        rows.append([name, *(f"{cell:.1f}" for cell in cells), gap, *later])
    for groups, row in by.get(EVERYTHING, {}).items():
        cells = [*(row["accuracy"][kind] for kind in kinds), row["events"], row["macro"]]
        rows.append([f"all {groups}", *(f"{cell:.1f}" for cell in cells), *[""] * (1 + len(further))])
    heads = [f"{kind} (n = {count})" for kind, count in result["kinds"].items()]
    head = [
        f"k = {k}",
        *heads,
        "events",
        "macro average",
        "ntlbg less it",
        *(f"macro, k = {other}" for other in further),
    ]
    return (
        f"Exact match in percent on {result['videos']} unseen videos of {result['seconds']} seconds, in wordings "
        f"never used in training: k of {result['seconds'] // 2} groups, N = {result['candidates']} candidates at "
        f"{result['candidate_fps']:g} a second. Of {len(baselines)} published rules the best {BEST} at k = {k}, and "
        f"{' and '.join(ALWAYS)}; those that rank by the question have our trained relevance to rank by. `oracle` "
        "knows where the evidence is; `events` is the mean of the kinds that ask about events, and `ntlbg, other "
        "question` chooses "
        f"for a question about another video.\n\n{table(head, rows)}\n\nCommit {result['commit']}, "
        f"{result['machine']}, `{result['command']}`.\n"
    )


def draw(result: dict, path: Path) -> None:
    """Macro average against k, a line a selector."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    by, ks = result["selectors"], result["groups"]
    figure, axes = plt.subplots(figsize=(8.4, 5.2), layout="constrained")
    for name in rivals(result):
        if name not in NAMED:
            axes.plot(ks, [by[name][str(k)]["macro"] for k in ks], color="#c9ced4", linewidth=1, zorder=1)
    axes.plot([], [], color="#c9ced4", label="the other published rules")
    for name, (colour, mark) in NAMED.items():
        if name not in by:
            continue
        middle = [by[name][str(k)]["macro"] for k in ks]
        low, high = zip(*(by[name][str(k)]["macro_interval"] for k in ks), strict=True)
        axes.fill_between(ks, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(ks, middle, color=colour, marker=mark, markersize=5, label=name, zorder=3)
    for groups, row in by.get(EVERYTHING, {}).items():
        axes.axhline(row["macro"], color="#1c2127", linestyle=":", linewidth=1)
        axes.annotate(f"all {groups} groups", (ks[0], row["macro"]), xytext=(0, 4), textcoords="offset points")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.set_xlabel(f"groups shown, of {result['seconds'] // 2}")
    axes.set_ylabel("exact match, macro average over kinds (%)")
    axes.set_ylim(0, 103)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Write page and picture anew, and the README's table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="what `frames_benchmark` wrote")
    parser.add_argument("--readme", type=Path, help="page whose table is written anew")
    args = parser.parse_args(arguments)
    result = json.loads(args.json.read_text(encoding="utf-8"))
    out = args.json.with_suffix("")
    write_bench(out, result, lambda path: draw(result, path), to_markdown(result, out.name))
    if args.readme is not None:
        write_between(args.readme, README_START, README_END, to_summary(result))


if __name__ == "__main__":
    main()
