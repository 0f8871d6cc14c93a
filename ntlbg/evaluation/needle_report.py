"""The page and the heat maps of `needle_grid`, from its JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ntlbg.evaluation.selector_report import table


# (longest video in minutes, groups, mean share) that the grid is held to.
PROMISES = ((10, 8, 0.95), (60, 32, 0.9))


def mean_share(result: dict, selector: str, k: int, most_minutes: float, of: str = "right") -> float:
    """Share of answers that are right (or of needles "seen") over all cells of videos of at most so many minutes."""
    grid = result["grids"][selector][str(k)]
    lines = [number for number, minutes in enumerate(result["minutes"]) if minutes <= most_minutes]
    return float(np.array(grid[of])[lines].sum() / np.array(grid["asked"])[lines].sum())


def verdicts(result: dict) -> list[str]:
    """Each promise with the figure it is held to, in a sentence."""
    said = []
    for most, k, wanted in PROMISES:
        if k in result["groups"] and max(result["minutes"]) >= most:
            ours, theirs = (mean_share(result, name, k, most) for name in ("ntlbg", "uniform"))
            seen, theirs_seen = (mean_share(result, name, k, most, "seen") for name in ("ntlbg", "uniform"))
            word = "held" if ours >= wanted else "not held"
            said.append(
                f"Up to {most} minutes with {k} groups: ntlbg {ours:.3f} (promised {wanted}: {word}; the needle is "
                f"among its groups in {seen:.3f}), uniform {theirs:.3f} (in {theirs_seen:.3f})."
            )
    return said


def to_markdown(result: dict, picture: str) -> str:
    """The page; `picture` is the PNG's name without suffix."""
    parts = []
    for selector, by_k in result["grids"].items():
        for k, grid in by_k.items():
            rows = []
            for line, minutes in enumerate(result["minutes"]):
                cells = [
                    f"{right / asked:.2f} [{low:.2f}, {high:.2f}]"
                    for right, asked, low, high in zip(
                        *(grid[name][line] for name in ("right", "asked", "low", "high")), strict=True
                    )
                ]
                candidates = result["candidates"][f"{minutes:g}"]
                rows.append([f"{minutes:g} min, N = {candidates}", *cells])
            heads = [f"{selector}, k = {k}", *(f"depth {low:.1%} to {high:.1%}" for low, high in result["depths"])]
            parts.append(table(heads, rows))
    asked = np.array(next(iter(next(iter(result["grids"].values())).values()))["asked"])
    grids = "\n\n".join(parts)
    sentences = "\n".join(f"- {line}" for line in verdicts(result))
    return (
        f"# Needles in long videos\n\nA needle is an event of {result['needle_seconds']} seconds in the pixels of a "
        f"real mp4, asked about by what only it has; the other events of the video are there to be mistaken for it. "
        "Each seed draws where in its eighth of the video it lies. Candidates at "
        f"{result['candidate_fps']:g} a second in every cell, N of them; two make a group. Each cell: "
        f"share of right answers of {asked.min()} needles ({result['seeds']} seeds of the split `{result['split']}`) "
        f"with its 95 % interval (Wilson), of one trained model, of one training "
        f"seed.\n\n{sentences}\n\n![Right answers by length and depth]({picture}.png)\n\n"
        f"{grids}\n\nCommit {result['commit']}, {result['machine']}, `{result['command']}`.\n"
    )


def draw(result: dict, path: Path) -> None:
    """A heat map for each selector and k, 0 to 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    selectors, ks = list(result["grids"]), result["groups"]
    figure, axes = plt.subplots(
        len(selectors), len(ks), figsize=(5.6 * len(ks), 3.2 * len(selectors)), layout="constrained", squeeze=False
    )
    for row, selector in enumerate(selectors):
        for column, k in enumerate(ks):
            grid, place = result["grids"][selector][str(k)], axes[row][column]
            share = np.array(grid["right"]) / np.array(grid["asked"])
            image = place.imshow(share.T, vmin=0, vmax=1, cmap="viridis", aspect="auto")
            for (minutes, depth), value in np.ndenumerate(share):
                ink = "black" if value > 0.6 else "white"
                place.text(minutes, depth, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
            place.set_title(f"{selector}, {k} groups: mean {share.mean():.3f}", fontsize=10)
            place.set_xticks(range(len(result["minutes"])), [f"{minutes:g}" for minutes in result["minutes"]])
            place.set_yticks(
                range(len(result["depths"])), [f"{low:.1%} to {high:.1%}" for low, high in result["depths"]]
            )
            place.set_xlabel("minutes of video")
            place.set_ylabel("depth of the needle")
    figure.colorbar(image, ax=axes, label="share of right answers", shrink=0.7)
    figure.savefig(path, dpi=130)
    plt.close(figure)
