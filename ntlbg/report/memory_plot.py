"""A picture of training memory: one bar per run, stacked by part, beside what the card holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ntlbg.training.memory import Estimate
    from ntlbg.training.tiers import Card

_GIB = 2**30


def draw_memory(path: str, runs: Sequence[tuple[str, Estimate]], card: Card | None = None, measured=None) -> None:
    r"""
    Write a PNG (or what the name's suffix says) of the parts at each run's peak.

    Args:
        runs: a name and an estimate for each bar.
        card: its memory is drawn as a line.
        measured: bytes that each run was measured to take, drawn as a mark, or None.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(part for _, estimate in runs for part in estimate.parts))
    figure = Figure(figsize=(9, 1.6 + 0.45 * len(runs)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(runs)
    for number, name in enumerate(names):
        sizes = [estimate.parts.get(name, 0.0) / _GIB for _, estimate in runs]
        axes.barh(range(len(runs)), sizes, left=left, label=name, color=f"C{number}", edgecolor="white", linewidth=0.5)
        left = [start + size for start, size in zip(left, sizes, strict=True)]
    if measured is not None:
        axes.plot([size / _GIB for size in measured], range(len(runs)), "k|", markersize=18, label="measured")
    if card is not None:
        axes.axvline(card.memory / _GIB, color="black", linestyle="--", label=card.name)
    axes.set_yticks(range(len(runs)), [name for name, _ in runs])
    axes.invert_yaxis()
    axes.set_xlabel("GiB at the peak")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)
