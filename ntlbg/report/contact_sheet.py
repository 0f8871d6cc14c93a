"""The chosen frames on one page: a grid of thumbnails, each with its label and the mark of its stratum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ntlbg.report.timeline import LIGHT, MARKS


GAP = 12
LABEL = 26
INK, PAPER = "#1c2127", "#ffffff"


def contact_sheet(
    frames: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence[str],
    path: str | Path | None = None,
    *,
    strata: Sequence[str] | None = None,
    width: int = 240,
    columns: int | None = None,
) -> Image.Image:
    """Draw frames in reading order, each over its label.

    Args:
        frames: k uint8 arrays (H, W, 3); sizes may differ, each is fitted into a cell of the first frame's shape.
        labels: k short texts; one that is too long for its cell ends in an ellipsis.
        path: where to write it (format by suffix); None draws only.
        strata: k stratum names; draws the circle, diamond, square or triangle of each before its label.
        width: width of a cell in pixels.
        columns: cells per row; about as many columns as rows if None.

    Returns:
        the sheet as an RGB image.
    """
    if len(frames) == 0:
        raise ValueError("a contact sheet needs at least one frame, got none")
    if len(labels) != len(frames) or (strata is not None and len(strata) != len(frames)):
        raise ValueError(
            f"each frame needs its label: got {len(frames)} frames, {len(labels)} labels"
            + ("" if strata is None else f", {len(strata)} strata")
        )
    rows_over_columns = frames[0].shape[0] / frames[0].shape[1]
    height = max(round(width * min(rows_over_columns, 2.0)), 1)
    if columns is None:
        columns = math.ceil(math.sqrt(len(frames) * (height + LABEL + GAP) / (width + GAP)))
    columns = max(1, min(columns, len(frames)))
    rows = math.ceil(len(frames) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + LABEL + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for number, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        left = GAP + (number % columns) * (width + GAP)
        top = GAP + (number // columns) * (height + LABEL + GAP)
        picture = _fitted(frame, width, height)
        sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
        offset = 0
        if strata is not None:
            _mark(draw, strata[number], left + 7, top + height + LABEL // 2)
            offset = 20
        text = _shortened(draw, str(label), font, width - offset)
        draw.text((left + offset, top + height + LABEL // 2), text, fill=INK, font=font, anchor="lm")
    if path is not None:
        sheet.save(path)
    return sheet


def _fitted(frame: np.ndarray, width: int, height: int) -> Image.Image:
    picture = Image.fromarray(frame)
    scale = min(width / picture.width, height / picture.height)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _shortened(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    if draw.textlength(text, font=font) <= room:
        return text
    while text and draw.textlength(text + "…", font=font) > room:
        text = text[:-1]
    return text.rstrip() + "…"


def _mark(draw: ImageDraw.ImageDraw, stratum: str, x: int, y: int, size: int = 6) -> None:
    if stratum not in MARKS:
        raise ValueError(f"a stratum is one of {', '.join(MARKS)}, got {stratum!r}")
    colour = LIGHT[stratum]
    if stratum == "relevance":
        draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)
    elif stratum == "novelty":
        reach = size + 1
        draw.polygon([(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)], fill=colour)
    elif stratum == "given":
        draw.polygon([(x, y - size), (x + size, y + size - 1), (x - size, y + size - 1)], fill=colour)
    else:
        draw.rectangle((x - size + 1, y - size + 1, x + size - 1, y + size - 1), fill=colour)
