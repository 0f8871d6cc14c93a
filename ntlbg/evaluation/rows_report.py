"""The page and the picture of `rows_benchmark`, from its JSON."""

from __future__ import annotations

from pathlib import Path

from ntlbg.evaluation.selector_report import table


PARTS = (("lengths", "by length of the video"), ("types", "by type of question"), ("pieces", "by pieces of evidence"))
# More kinds than this make a table that nobody reads.
MOST_PARTS = 12


def to_markdown(result: dict, picture: str) -> str:
    """The page; `picture` is the PNG's name without suffix."""
    rows = []
    for name, row in result["settings"].items():
        gap = "" if row["less_first"] is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*row["less_first"])
        seen = "" if row["seen"] is None else f"{100 * row['seen']:.1f}"
        rows.append(
            [
                name,
                f"{row['accuracy']:.1f} [{row['low']:.1f}, {row['high']:.1f}]",
                gap,
                seen,
                f"{100 * row['unread']:.1f}",
                f"{row['seconds']:.2f}",
            ]
        )
    first = next(iter(result["settings"].values()))["selector"]
    heads = ["selector, shown", "right, %", f"less {first}, points", "evidence seen, %", "not read, %", "s a question"]
    parts = [table(heads, rows)]
    for name, title in PARTS:
        kinds = list(next(iter(result["settings"].values()))[name])
        if 1 < len(kinds) <= MOST_PARTS:
            lines = [
                [setting, *(f"{100 * right / asked:.1f} ({asked})" for right, asked in row[name].values())]
                for setting, row in result["settings"].items()
            ]
            parts.append(table([f"right, %, {title} (asked)", *kinds], lines))
    tables = "\n\n".join(parts)
    lost = "".join(f"- {count} of the rows left out: {sentence}\n" for sentence, count in result["left_out"].items())
    return (
        f"# Selectors on {result['rows']}\n\n{result['asked']} questions to {result['videos']} videos, answered by "
        f"`{result['model']}` from what each selector took of the same candidates. Intervals are 95 %, by bootstrap "
        f"over videos; differences are paired by question. An answer that names no option counts as wrong.\n\n{lost}"
        f"{chr(10) if lost else ''}![Accuracy by selector]({picture}.png)\n\n{tables}\n\nVersion {result['version']}, "
        f"{result['machine']}, `{result['command']}`.\n"
    )


def draw(result: dict, path: Path) -> None:
    """Accuracy with its interval against what is shown, a line a selector."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    selectors = list(dict.fromkeys(row["selector"] for row in result["settings"].values()))
    ks = sorted({row["k"] for row in result["settings"].values()})
    for number, selector in enumerate(selectors):
        rows = sorted(
            (row for row in result["settings"].values() if row["selector"] == selector), key=lambda r: r["k"]
        )
        # A little apart, so that intervals at one k can be told from each other.
        places = [row["k"] * 1.03 ** (number - len(selectors) / 2) for row in rows]
        middle = [row["accuracy"] for row in rows]
        reach = [[row["accuracy"] - row["low"] for row in rows], [row["high"] - row["accuracy"] for row in rows]]
        axes.errorbar(places, middle, yerr=reach, marker="o", capsize=3, label=selector)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.set_xlabel("shown")
    axes.set_ylabel("right answers (%)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


__all__ = ["draw", "to_markdown"]
