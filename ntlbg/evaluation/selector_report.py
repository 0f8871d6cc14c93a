"""The selector bench's page and picture, from its JSON."""

from pathlib import Path

import numpy as np


_PLOTTED = ("uniform", "top_k", "temporal_nms", "mmr", "aks", "facility_location", "farthest_point", "greedy_dpp")

_SCATTERED = 16


def table(heads: list[str], rows: list[list[str]], others: str = "---:") -> str:
    """A Markdown table: the first column to the left, the others to the right (or as `others` says)."""
    rule = "|---|" + f"{others}|" * (len(heads) - 1)
    return "\n".join([_line(heads), rule, *map(_line, rows)])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split("\n")) for cell in cells) + " |"


def _gap(row: dict) -> str:
    """Recall of ours, the best baseline and its recall, the paired gap; bold where the interval is all below zero."""
    interval = f"[{row['low']:+.1f}, {row['high']:+.1f}]"
    text = f"{row['ours']:.0f} · {row['best']} {row['best_recall']:.0f} · {row['mean']:+.1f} {interval}"
    return f"**{text}**" if row["high"] < 0 else text


def _verdict(k: str, row: dict) -> str:
    word = "ahead" if row["low"] > 0 else "behind" if row["high"] < 0 else "level"
    return (
        f"k = {k}: strata {row['ours']:.1f} %, best baseline {row['best']} {row['best_recall']:.1f} %: {word}, "
        f"{row['mean']:+.1f} points [{row['low']:+.1f}, {row['high']:+.1f}]."
    )


def _verdicts(result: dict) -> list[str]:
    """What holds and what does not, in sentences."""
    compared = result["compared"]
    lines = [f"- {_verdict(k, row)}" for k, row in compared["by_k"].items()]
    later = " ".join(_verdict(k, row) for k, row in compared["written_later_by_k"].items())
    lines.append(f"- The worlds written after the selector was frozen ({', '.join(result['written_later'])}): {later}")
    lost = [
        f"{world} at k = {k} (to {row['best']}, {row['mean']:+.1f})"
        for world, by_k in result["compared"]["by_world"].items()
        for k, row in by_k.items()
        if row["high"] < 0
    ]
    lines.append(f"- Strata lose recall clearly (interval below zero) in: {'; '.join(lost) if lost else 'no world'}.")
    names = result["without_query"]["selectors"]
    mse = np.array(result["without_query"]["mean"])[..., result["measures"].index("relative_mse")].mean(axis=1)
    ratio = mse[names.index("strata")] / mse[names.index("facility_location")]
    parts = ", ".join(f"{100 * (value - 1):+.0f} % at k = {k}" for k, value in zip(result["k"], ratio, strict=True))
    lines.append(f"- Without a query, the relative MSE of strata against facility location's: {parts}.")
    return lines


def to_markdown(result: dict, picture: str) -> str:
    """The page; `picture` is the PNG's name without suffix."""
    names, ks, measures = result["selectors"], result["k"], result["measures"]
    mean = np.array(result["mean"])  # selectors, worlds, cues, k, measures
    recall = 100 * mean[..., 0]
    order = sorted(range(len(names)), key=lambda at: -recall[at].mean())
    by_k = table(
        ["recall, %", *(f"k = {k}" for k in ks)],
        [[names[at], *(f"{recall[at, :, :, i].mean():.1f}" for i in range(len(ks)))] for at in order],
    )
    middle = list(ks).index(32)
    by_world = table(
        ["recall at k = 32, %", *result["worlds"]],
        [[names[at], *(f"{value:.0f}" for value in recall[at, :, :, middle].mean(axis=1))] for at in order],
    )
    worlds = table(
        ["ours · best baseline · gap", *(f"k = {k}" for k in ks)],
        [[world, *(_gap(row) for row in by.values())] for world, by in result["compared"]["by_world"].items()]
        + [[f"{cue} cue", *(_gap(row) for row in by.values())] for cue, by in result["compared"]["by_cue"].items()],
    )
    others = table(
        ["at k = 32", "relative MSE", "log-det", "temporal entropy", "scenes seen", "CPU ms"],
        [
            [names[at], *(f"{value:.2f}" for value in mean[at, :, :, middle, 1:].mean(axis=(0, 1)))]
            for at in sorted(range(len(names)), key=lambda at: mean[at, :, :, middle, 1].mean())
        ],
    )
    blind_names, blind = result["without_query"]["selectors"], np.array(result["without_query"]["mean"])
    column = measures.index("relative_mse")
    blind_order = sorted(range(len(blind_names)), key=lambda at: blind[at, ..., column].mean())
    without = table(
        ["relative MSE, no query", *(f"k = {k}" for k in ks), "events found at k = 32, %"],
        [
            [
                blind_names[at],
                *(f"{blind[at, :, i, column].mean():.3f}" for i in range(len(ks))),
                f"{100 * blind[at, :, middle, 0].mean():.0f}",
            ]
            for at in blind_order
        ],
    )
    speed = result["speed"]
    rules = list(next(iter(speed["k"].values())))
    ours = {k: row[rules[0]] for k, row in speed["k"].items()}
    fast = table(
        ["CPU seconds (times the first row)", *(f"k = {k}" for k in speed["k"])],
        [[rule, *(f"{row[rule]:.3f} ({row[rule] / ours[k]:.1f})" for k, row in speed["k"].items())] for rule in rules],
    )
    measured = list(next(iter(speed["growth"].values())))
    growth = table(
        ["k = 256, d = 256", *(f"T = {count}" for count in speed["growth"])],
        [[name, *(f"{row[name]:.0f}" for row in speed["growth"].values())] for name in measured],
    )
    kinds = "\n".join(f"- `{world}`: {text}" for world, text in result["worlds"].items())
    verdicts = "\n".join(_verdicts(result))
    return f"""# Frame selectors under one roof

{result["videos"]} videos of {result["frames"]} frame descriptors in each of {len(result["worlds"])} synthetic worlds,
three strengths of the query's cue.
Nothing here is real footage or a real encoder: it says how the rules differ, not how well a product answers. Recall is
the share of the pieces of evidence of which at least one frame was chosen; gaps are paired by video, in points, with a
95 % bootstrap interval. Bold: the interval lies below zero, strata lose. `oracle` knows the evidence.
The best baseline is picked afresh for every cell, after the fact: a harder rival than any one rule.

Commit {result["commit"]}, {result["machine"]}, `{result["command"]}`.

## What holds and what does not

{verdicts}

![Recall and relative error of the selectors]({picture}.png)

## Recall, mean of all worlds and cues

{by_k}

## Recall by world

{by_world}

{kinds}

## Strata against the best baseline of each cell

{worlds}

## What the choice costs

Relative MSE: lower covers the video better. Log-det: higher is more diverse. Means of all worlds and cues.

{others}

## Without a query

{without}

## Speed

T = {speed["frames"]}, d = {speed["channels"]}, descriptors in memory, one thread, all in one run at commit
{speed["commit"]}. The first two rows are `strata`.

{fast}

{growth}
"""


def draw(result: dict, path: Path) -> None:
    """Recall against k, and recall against relative MSE at one k, to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, ks = result["selectors"], result["k"]
    mean = np.array(result["mean"]).mean(axis=(1, 2))  # selectors, k, measures
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for name in (name for name in (*_PLOTTED, "strata") if name in names):
        ours = name == "strata"
        left.plot(
            ks,
            100 * mean[names.index(name), :, 0],
            marker="o",
            label=name,
            color="black" if ours else None,
            linewidth=3 if ours else 1.2,
        )
    left.set_xscale("log", base=2)
    left.set_xticks(ks, [str(k) for k in ks])
    left.set(xlabel="k", ylabel="evidence recall, %", title="All worlds and cues", ylim=(0, 103))
    left.legend(fontsize=8, ncols=2)
    middle = list(ks).index(_SCATTERED)
    labels: list[tuple[float, float]] = []
    for at in sorted(range(len(names)), key=lambda at: -mean[at, middle, 0]):
        x, y = mean[at, middle, 1], 100 * mean[at, middle, 0]
        ours = names[at] == "strata"
        right.scatter(x, y, color="black" if ours else "tab:blue", s=60 if ours else 18, zorder=3)
        # A label goes down until it stands clear of those above it.
        height = min([y, *(other - 3 for beside, other in labels if abs(beside - x) < 0.22)])
        labels.append((x, height))
        right.annotate(
            names[at],
            (x, y),
            xytext=(x + 0.025, height - 0.8),
            fontsize=8,
            fontweight="bold" if ours else None,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "grey"},
        )
    right.set(
        xlabel="relative MSE (left is better)",
        ylabel="evidence recall, % (up is better)",
        title=f"k = {_SCATTERED}: evidence against coverage",
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
