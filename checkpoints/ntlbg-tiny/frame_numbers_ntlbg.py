"""Numbers drawn on frames, so that a model that can read can say when something happens.

Colour, relative size and position are those of NumPro (arXiv 2411.10332): red, 40 of 336 pixels, bottom right. Four
departures: the size follows the frame instead of a fixed 336 x 336; a thin rim in the opposite brightness keeps a red
number readable on red; the font is Pillow's own, not DejaVu Sans Bold; and the ink itself is put to the border, where
NumPro lifts a number by a third of its height to make up for the room that its font leaves above digits.

Shapes: N frames of H x W pixels.
"""

import math

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont


# Share of sqrt(H W): bases scale frames to an area, so the number stays as large for them whatever the frame's shape.
NUMBER_SIZE = 40 / 336

# Pixels below which digits cannot be told apart; a very small frame gets a number larger than its share.
SMALLEST = 12

NUMBER_POSITIONS = ("top_left", "top_right", "bottom_left", "bottom_right", "center")


def check_numbers(color, size, position) -> None:
    """
    Raises:
        ValueError: the colour is not known, the size no share of a frame, or the position none of `NUMBER_POSITIONS`.
    """
    try:
        ImageColor.getrgb(color)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"`number_color` must be a colour such as 'red' or '#ff0000', but got {color!r}.") from error
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size <= 1:
        raise ValueError(f"`number_size` must be a share of the frame's size in (0, 1], but got {size!r}.")
    if position not in NUMBER_POSITIONS:
        raise ValueError(f"`number_position` must be one of {', '.join(NUMBER_POSITIONS)}, but got {position!r}.")


def number_frames(
    frames: np.ndarray,
    numbers,
    color: str = "red",
    size: float = NUMBER_SIZE,
    position: str = "bottom_right",
) -> np.ndarray:
    """
    A copy of `frames` with a number on each.

    Args:
        frames (`np.ndarray` of shape `(N, H, W, 3)`): uint8 RGB.
        numbers: N whole numbers of at least 0.
        color: as Pillow reads it.
        size: height of the font as a share of sqrt(H W); less where the longest number would not fit the frame.
        position: one of `NUMBER_POSITIONS`.

    Raises:
        ValueError: there are not as many numbers as frames, or a setting is out of range.
    """
    check_numbers(color, size, position)
    numbers = [int(number) for number in numbers]
    if len(numbers) != len(frames):
        raise ValueError(f"Pass one number per frame, but got {len(numbers)} for {len(frames)} frames.")
    if any(number < 0 for number in numbers):
        raise ValueError(f"Numbers of frames count from 0, but got {min(numbers)}.")
    if not numbers:
        return np.array(frames)
    height, width = frames.shape[1:3]
    # One size for all of a clip: the one at which its longest number fits.
    pixels = _fitting(max(len(str(number)) for number in numbers), height, width, size)
    # Bold where there is room: strokes would close the holes of small digits.
    stroke, rim = int(pixels / 24), max(1, round(pixels / 14))
    font = ImageFont.load_default(pixels)
    fill = ImageColor.getrgb(color)[:3]
    opposite = (255, 255, 255) if _luminance(fill) < 0.5 else (0, 0, 0)
    numbered = []
    for frame, number in zip(frames, numbers, strict=True):
        image = Image.fromarray(frame)
        draw = ImageDraw.Draw(image)
        text = str(number)
        # Measured with the rim, so that nothing of it is cut at the border.
        corner = _corner(position, _ink(text, font, stroke + rim), height, width)
        draw.text(corner, text, font=font, fill=opposite, stroke_width=stroke + rim, stroke_fill=opposite)
        # The same corner: strokes do not move the text.
        draw.text(corner, text, font=font, fill=fill, stroke_width=stroke, stroke_fill=fill)
        numbered.append(np.asarray(image))
    return np.stack(numbered)


def _fitting(digits: int, height: int, width: int, size: float) -> float:
    """Pixels of the font: the share asked for, at least `SMALLEST`, and never more than fits the frame."""
    wanted = max(size * math.sqrt(height * width), SMALLEST)
    # A digit of the font is 0.58 of its size wide and 0.75 high; strokes and rims add a quarter.
    return max(1.0, min(wanted, width / (0.6 * digits + 0.25), height / 1.0))


def _ink(text: str, font, stroke: int) -> tuple[float, float, float, float]:
    """The box that a text drawn at (0, 0) fills; the font's own box leaves room beside a slim digit."""
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    scratch = Image.new("L", (math.ceil(right - left) + 2, math.ceil(bottom - top) + 2))
    origin = math.ceil(-left) + 1, math.ceil(-top) + 1
    ImageDraw.Draw(scratch).text(origin, text, font=font, fill=255, stroke_width=stroke, stroke_fill=255)
    box = scratch.getbbox()
    return box[0] - origin[0], box[1] - origin[1], box[2] - origin[0], box[3] - origin[1]


def _corner(position: str, box: tuple[float, float, float, float], height: int, width: int) -> tuple[float, float]:
    """Where to draw a text whose ink, drawn at (0, 0), fills `box`, so that the ink touches the frame's borders."""
    left, top, right, bottom = box
    if position == "center":
        return (width - right - left) / 2, (height - bottom - top) / 2
    vertical, horizontal = position.split("_")
    return (-left if horizontal == "left" else width - right), (-top if vertical == "top" else height - bottom)


def _luminance(color: tuple[int, int, int]) -> float:
    """Relative luminance in [0, 1], of ITU-R BT.709 on linearised channels."""
    linear = [(channel / 255) ** 2.2 for channel in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


__all__ = ["NUMBER_POSITIONS", "NUMBER_SIZE", "SMALLEST", "check_numbers", "number_frames"]
