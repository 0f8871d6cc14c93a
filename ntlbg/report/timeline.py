"""The picture that explains a choice: candidates, representatives, context windows and curves on one time axis.

Every representative is marked by place, shape and colour of its stratum, so that the drawing reads without colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ntlbg.modeling_ntlbg.strata_ntlbg import STRATA
from ntlbg.plain_text import shown
from ntlbg.report.evidence import Evidence
from ntlbg.tables import clock


WIDTH = 960
LEFT, RIGHT = 118, 18
LANE = 26
CURVE = 74
GAP = 14

# Okabe-Ito colours, darkened for white paper and lightened for a dark screen; contrast >= 3:1 on either ground.
LIGHT = {"relevance": "#c04a00", "novelty": "#a5417f", "coverage": "#0068a8", "given": "#4f6228"}
DARK = {"relevance": "#ff9a52", "novelty": "#e79fca", "coverage": "#6cbcf0", "given": "#b9d08b"}
# What another rule chose has no stratum of ours: a lane of its own, in place of the three.
MARKS = (*STRATA, "given")

STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)

STYLE = (
    ".tl{font:12px system-ui,sans-serif;--ink:#1c2127;--dim:#5d6670;--rule:#d4d9de;--ground:#fff;"
    + "".join(f"--{name}:{colour};" for name, colour in LIGHT.items())
    + "}@media screen and (prefers-color-scheme:dark){.tl{--ink:#e8eaed;--dim:#a2abb5;--rule:#3a424b;--ground:#15181c;"
    + "".join(f"--{name}:{colour};" for name, colour in DARK.items())
    + "}}.tl text{fill:var(--ink)}.tl .dim{fill:var(--dim)}.tl .rule{stroke:var(--rule);fill:none}"
    ".tl .moment{fill:var(--relevance)}"
    ".tl .tick{stroke:var(--dim);fill:none}.tl .curve{stroke:var(--ink);fill:none;stroke-width:1.3;"
    "stroke-linejoin:round}.tl .edge{stroke:var(--ground);stroke-width:1}"
    + "".join(f".tl .{name}{{fill:var(--{name})}}" for name in MARKS)
)


def timeline_svg(
    evidence: Evidence,
    duration: float,
    title: str = "Timeline of the chosen frames",
    clip: tuple[float, float] | None = None,
    moments: Sequence[tuple[float, float, float]] = (),
) -> str:
    """Draw one choice as a self-contained inline SVG of 960 units' width.

    Top to bottom: one lane per stratum with its representatives (circle, diamond, square; for another rule's one
    lane of triangles), the band of context windows (a window is as opaque as its representative's weight), the
    candidates as ticks, the relevance curve (when there is one) and the Mahalanobis curve with the representatives
    marked on them, and the time axis.

    Args:
        evidence: the choice.
        duration: length of the video in seconds; the axis ends there or at the last candidate, whichever is later.
        title: text for screen readers; escaped here.
        clip: the seconds that were looked at, if not all; the axis shows only these.
        moments: (start, end, confidence) of spans that were found, in seconds: a lane of their own at the top, and a
            shade behind the curves, the denser the surer.
    """
    start, end = clip or (0.0, float(duration))
    end = max(end, float(evidence.candidate_seconds[-1]), start + 1e-3)
    lasts = max(float(duration), end)

    def x(second: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max((second - start) / (end - start), 0.0), 1.0)

    parts: list[str] = []
    y = 8.0
    size = 5.5 if len(evidence.positions) <= 48 else 4.0
    lanes = {}
    lane_of_moments = y
    if moments:
        parts.append(_left_label(f"moment{_s(len(moments))} ({len(moments)})", y + LANE / 2))
        y += LANE
    for stratum in drawn_marks(evidence.strata):
        lanes[stratum] = y + LANE / 2
        parts.append(f'<path class="rule" d="M{LEFT} {y + LANE / 2:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_lane_label(stratum, evidence.strata.count(stratum), y + LANE / 2))
        y += LANE
    band_top = y + 6
    band_height = 22
    parts += _bands(evidence, start, end, x, band_top, band_height)
    ticks = "".join(f"M{x(second):.1f} {band_top + band_height + 3:.0f}v7" for second in evidence.candidate_seconds)
    parts.append(f'<path class="tick" stroke-width="{_tick_width(len(evidence.candidate_seconds))}" d="{ticks}"/>')
    parts.append(_left_label("context windows", band_top + band_height / 2))
    parts.append(
        _left_label(
            f"{len(evidence.candidate_seconds)} candidate{_s(len(evidence.candidate_seconds))}",
            band_top + band_height + 9,
            dim=True,
        )
    )
    for rank, (second, stratum) in enumerate(zip(evidence.seconds, evidence.strata, strict=True)):
        parts.append(
            f"<g {_moment(evidence, rank)}><title>{shown(_mark_text(evidence, rank))}</title>"
            f"{shape(stratum, x(float(second)), lanes[stratum], size)}</g>"
        )
    y = band_top + band_height + 18
    curves_top = y + GAP

    if evidence.relevance is not None:
        parts += _curve("relevance", evidence.relevance, evidence, x, y + GAP, size)
        y += GAP + CURVE
    parts += _curve("Mahalanobis²", evidence.mahalanobis, evidence, x, y + GAP, size)
    y += GAP + CURVE + 4
    # First, so that the curves lie on top.
    parts[:0] = _moments(moments, x, lane_of_moments, curves_top, y - 4)
    parts += _axis(start, end, lasts, x, y)
    height = y + 40
    total = len(evidence.candidate_seconds)
    summary = (
        f"{len(evidence.positions)} of {total} candidate {evidence.unit}s: "
        + ", ".join(f"{evidence.strata.count(name)} by {name}" for name in drawn_marks(evidence.strata))
        + f"; the video lasts {clock(lasts, tenths=True)}."
    )
    return (
        f'<svg class="tl" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'data-axis="{start:.3f} {end:.3f} {LEFT} {WIDTH - RIGHT} {y:.0f}" '
        f'aria-label="{shown(title)}: {shown(summary)}"><style>{STYLE}</style>{"".join(parts)}</svg>'
    )


def shape(stratum: str, x: float, y: float, size: float) -> str:
    """The mark of a stratum as an SVG element: a circle (relevance), a diamond (novelty), a square (coverage), a
    triangle (given)."""
    if stratum == "relevance":
        return f'<circle class="relevance edge" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'
    if stratum == "novelty":
        reach = size * 1.3
        return (
            f'<path class="novelty edge" d="M{x:.1f} {y - reach:.1f}l{reach:.1f} {reach:.1f}'
            f'l{-reach:.1f} {reach:.1f}l{-reach:.1f} {-reach:.1f}z"/>'
        )
    if stratum == "coverage":
        half = size * 0.9
        return (
            f'<rect class="coverage edge" x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half:.1f}" '
            f'height="{2 * half:.1f}"/>'
        )
    if stratum == "given":
        return (
            f'<path class="given edge" d="M{x:.1f} {y - size:.1f}l{size * 1.1:.1f} {size * 1.9:.1f}'
            f'h{-size * 2.2:.1f}z"/>'
        )
    raise ValueError(f"a stratum is one of {', '.join(MARKS)}, got {stratum!r}")


def drawn_marks(strata: Sequence[str]) -> tuple[str, ...]:
    """The marks that a picture of these strata explains."""
    return ("given",) if "given" in strata else STRATA


def time_ticks(end: float, most: int = 9, start: float = 0.0) -> tuple[list[float], bool]:
    """At most `most` round instants to label an axis from `start` to `end` seconds, and whether they need tenths."""
    step = next((step for step in STEPS if (end - start) / step <= most - 1), end - start)
    first, last = math.ceil(start / step - 1e-9), math.floor(end / step + 1e-9)
    return [index * step for index in range(first, last + 1)], step < 1


def _lane_label(stratum: str, count: int, y: float) -> str:
    return shape(stratum, 12, y, 5.5) + f'<text x="24" y="{y + 4:.1f}">{stratum} ({count})</text>'


def _left_label(text: str, y: float, dim: bool = False) -> str:
    return f'<text class="{"dim" if dim else "label"}" x="4" y="{y + 4:.1f}">{shown(text)}</text>'


def _tick_width(count: int) -> float:
    return 1.0 if count <= 200 else 0.6 if count <= 800 else 0.3


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _moment(evidence: Evidence, rank: int) -> str:
    """For pages that let a mark be clicked."""
    return f'data-seconds="{float(evidence.seconds[rank]):.3f}"'


def _mark_text(evidence: Evidence, rank: int) -> str:
    return (
        f"#{rank + 1} at {clock(float(evidence.seconds[rank]), tenths=True)}, {evidence.strata[rank]}, "
        f"stands for {float(evidence.weights[rank]):.1%} of the video"
    )


def _bands(evidence: Evidence, start: float, end: float, x, top: float, height: float) -> list[str]:
    heaviest = max(float(evidence.weights.max()), 1e-9)
    parts = []
    for rank, stretches in enumerate(evidence.windows(end, start)):
        opacity = 0.12 + 0.68 * float(evidence.weights[rank]) / heaviest
        rects = "".join(
            f'<rect class="{evidence.strata[rank]}" x="{x(first):.1f}" y="{top:.1f}" '
            f'width="{max(x(last) - x(first), 0.5):.1f}" height="{height}" fill-opacity="{opacity:.2f}"/>'
            for first, last in stretches
        )
        edges = "".join(f"M{x(first):.1f} {top:.1f}v{height}" for first, _ in stretches)
        parts.append(
            f"<g {_moment(evidence, rank)}><title>{shown(_mark_text(evidence, rank))}</title>{rects}"
            f'<path class="edge" d="{edges}"/></g>'
        )
    return parts


def _moments(moments, x, lane: float, top: float, bottom: float) -> list[str]:
    parts = []
    for number, (first, last, confidence) in enumerate(moments, start=1):
        left, width = x(first), max(x(last) - x(first), 1.5)
        told = (
            f"moment {number}: {clock(first, tenths=True)} – {clock(last, tenths=True)}, confidence {confidence:.2f}"
        )
        parts.append(
            f'<g class="moment"><title>{shown(told)}</title>'
            f'<rect x="{left:.1f}" y="{lane + 5:.1f}" width="{width:.1f}" height="{LANE - 10}" fill-opacity=".85"/>'
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}" '
            f'fill-opacity="{0.08 + 0.2 * confidence:.2f}"/></g>'
        )
    return parts


def _curve(name: str, values: np.ndarray, evidence: Evidence, x, top: float, size: float) -> list[str]:
    low, high = float(np.min(values)), float(np.max(values))
    spread = high - low
    inner = CURVE - 2 * size

    def y(value: float) -> float:
        # A flat curve lies in the middle: no division by zero and no suggestion of an extreme.
        share = (value - low) / spread if spread > 0 else 0.5
        return top + size + inner * (1 - share)

    points = _thinned(evidence.candidate_seconds, values)
    line = "L".join(f"{x(second):.1f} {y(value):.1f}" for second, value in points)
    parts = [
        f'<path class="rule" d="M{LEFT} {top:.1f}V{top + CURVE:.1f}H{WIDTH - RIGHT}"/>',
        _left_label(name, top + CURVE / 2),
        f'<text class="dim" text-anchor="end" x="{LEFT - 5}" y="{top + 10:.1f}">{_number(high)}</text>',
    ]
    if spread > 0:
        parts.append(f'<text class="dim" text-anchor="end" x="{LEFT - 5}" y="{top + CURVE:.1f}">{_number(low)}</text>')
    parts.append(f'<path class="curve" d="M{line}"/>')
    for rank, position in enumerate(evidence.positions):
        second = float(evidence.candidate_seconds[position])
        parts.append(
            f"<g {_moment(evidence, rank)}><title>{shown(_mark_text(evidence, rank))}: {name} "
            f"{_number(float(values[position]))}</title>"
            f"{shape(evidence.strata[rank], x(second), y(float(values[position])), size * 0.7)}</g>"
        )
    return parts


def _thinned(seconds: np.ndarray, values: np.ndarray, bins: int = 900) -> Sequence[tuple[float, float]]:
    """The curve's points; above `2 * bins` of them only the lowest and highest of each bin, so that peaks stay."""
    if len(values) <= 2 * bins:
        return [(float(second), float(value)) for second, value in zip(seconds, values, strict=True)]
    kept: list[int] = []
    for part in np.array_split(np.arange(len(values)), bins):
        kept += sorted({int(part[np.argmin(values[part])]), int(part[np.argmax(values[part])])})
    return [(float(seconds[index]), float(values[index])) for index in kept]


def _axis(start: float, end: float, lasts: float, x, y: float) -> list[str]:
    instants, tenths = time_ticks(end, start=start)
    parts = [f'<path class="tick" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>']
    for instant in instants:
        place = x(instant)
        anchor = "end" if place > WIDTH - RIGHT - 18 else "middle"
        parts.append(f'<path class="tick" d="M{place:.1f} {y:.1f}v5"/>')
        parts.append(
            f'<text class="dim" text-anchor="{anchor}" x="{place:.1f}" y="{y + 17:.1f}">'
            f"{clock(instant, tenths)}</text>"
        )
    unit = "h:mm:ss" if end >= 3600 else "mm:ss"
    parts.append(
        f'<text class="dim" text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{y + 34:.1f}">'
        f"time ({unit}); the video lasts {lasts:.1f} s</text>"
    )
    return parts


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
