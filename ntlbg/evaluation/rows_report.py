"""The page and the picture of `rows_benchmark`, from its JSON."""

from __future__ import annotations

from pathlib import Path

from ntlbg.evaluation.selector_report import table


PARTS = (("lengths", "by length of the video"), ("types", "by type of question"), ("pieces", "by pieces of evidence"))
# Fewer make intervals that are far too narrow.
FEW_VIDEOS = 10
# More kinds than this make a table that nobody reads.
MOST_PARTS = 12


def to_markdown(result: dict, picture: str) -> str:
    """The page; `picture` is the PNG's name without suffix."""
    rows = []
    circular = "chance" in result
    for name, row in result["settings"].items():
        gap = "" if row["less_first"] is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*row["less_first"])
        seen = "" if row["seen"] is None else f"{100 * row['seen']:.1f}"
        fewer = f" (no more than {row['shown']} there)" if row["shown"] < row["k"] else ""
        rows.append(
            [
                name + fewer,
                _accuracy(row),
                *([_accuracy(row["circular"])] if circular else []),
                gap,
                seen,
                f"{100 * row['unread']:.1f}",
                f"{row['seconds']:.2f}",
            ]
        )
    first = next(iter(result["settings"].values()))["selector"]
    whole = ["right in all rotations, %"] if circular else []
    heads = [
        "selector, shown",
        "right, %",
        *whole,
        f"less {first}, points",
        "evidence seen, %",
        "not read, %",
        "s a question",
    ]
    parts = [table(heads, rows)]
    for name, title in PARTS:
        kinds = list(next(iter(result["settings"].values()))[name])
        if 1 < len(kinds) <= MOST_PARTS:
            lines = [[setting, *_shares(row[name])] for setting, row in result["settings"].items()]
            parts.append(table([f"right, %, {title} (asked)", *kinds], lines))
    if circular:
        kinds = list(next(iter(result["settings"].values()))["circular"]["types"])
        if 1 < len(kinds) <= MOST_PARTS:
            lines = [[setting, *_shares(row["circular"]["types"])] for setting, row in result["settings"].items()]
            parts.append(table(["right in all rotations, %, by type of question (asked)", *kinds], lines))
    tables = "\n\n".join(parts)
    lost = "".join(f"- {count} of the rows left out: {sentence}\n" for sentence, count in result["left_out"].items())
    variant = ", with subtitles" if "told" in result else ""
    return (
        f"# Selectors on {result['rows']}{variant}\n\n{result['asked']} questions to {result['videos']} videos, "
        f"answered by `{result['model']}` from what each selector took of the same candidates. Intervals are 95 %, by "
        "bootstrap over videos; differences are paired by question. An answer that names no option counts as wrong."
        f"{_notes(result)}\n\n{lost}{chr(10) if lost else ''}![Accuracy by selector]({picture}.png)\n\n{tables}\n\n"
        f"Version {result['version']}, {result['machine']}, `{result['command']}`.\n"
    )


def _notes(result: dict) -> str:
    notes = ""
    if result["videos"] < FEW_VIDEOS:
        notes += f" Of {result['videos']} videos an interval says next to nothing."
    if "chance" in result:
        once, circular = result["chance"]
        notes += (
            f" The {result['with_options']} questions with options are asked in every rotation of them: right is the "
            "share of the rotations that are, and right in all rotations is a question of which none is wrong. Of "
            f"these questions, guessing each time anew gets {once:.1f} % and {circular:.2f} %."
        )
    if "told" in result:
        near = "" if result["told_within"] is None else f", up to {result['told_within']:g} s from one"
        told = f"{result['told']} of the rows have subtitles"
        notes += f" The model is told what is said at the chosen moments{near}: {told}."
    return notes


def _shares(parts: dict) -> list[str]:
    return [f"{100 * right / asked:.1f} ({asked})" for right, asked in parts.values()]


def _accuracy(row: dict) -> str:
    return f"{row['accuracy']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


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
