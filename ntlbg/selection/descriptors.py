"""A weight-free description of a frame: layout, edges and colours of a small thumbnail.

For choosing frames when nothing is asked (or no encoder is at hand): it tells scenes, cuts and events in the picture
apart, but knows nothing of meaning, so it can never judge a query.

Shapes: N frames of H x W pixels, thumbnails of 32 x 32, descriptors of d = 368 numbers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F


SIDE = 32
GRID = 8
CELLS = 4
ORIENTATIONS = 8
COLOUR_BINS = 16
DIMENSIONS = 3 * GRID * GRID + CELLS * CELLS * ORIENTATIONS + 3 * COLOUR_BINS


def describe_frames(frames: np.ndarray, batch_size: int = 64) -> torch.Tensor:
    """Describe each frame by its thumbnail; deterministic, no weights.

    Three blocks: the mean of luma and of two opponent colours on an 8 x 8 grid; per 4 x 4 cell a histogram of 8
    gradient orientations; per colour channel a soft histogram of 16 bins. Histograms are square-rooted, so that
    Euclidean distance between them is Hellinger's, and each block is scaled to its number of parts.

    Args:
        frames: uint8 (N, H, W, 3) RGB.
        batch_size: frames per step; bounds the memory, not the result.

    Returns:
        float32 (N, 368).
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames are uint8 (N, H, W, 3), got {frames.dtype} {frames.shape}")
    described = [_describe(frames[start : start + batch_size]) for start in range(0, len(frames), batch_size)]
    return torch.cat(described)


def _describe(frames: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    thumbnails = F.adaptive_avg_pool2d(pixels.float().div_(255), SIDE)
    red, green, blue = thumbnails.unbind(1)
    # Opponent channels in [-1, 1], luma in [0, 1]: changes of light and of colour become separate numbers.
    opponents = torch.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], dim=1)
    layout = F.adaptive_avg_pool2d(opponents, GRID).flatten(1) / GRID
    edges = _orientation_histograms(opponents[:, 0]) / CELLS
    return torch.cat([layout, edges, _colour_histograms(opponents)], dim=1)


def _orientation_histograms(luma: torch.Tensor) -> torch.Tensor:
    """luma (n, 32, 32) -> (n, 4 * 4 * 8), the square root of the gradient strength per cell and orientation."""
    padded = F.pad(luma[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    dx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    dy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    # Orientation without sign: an edge is the same edge whichever side is lighter. Each pixel is shared linearly
    # between its two nearest bins, so that a slight turn moves the histogram slightly.
    angle = torch.atan2(dy, dx).remainder(math.pi) / math.pi * ORIENTATIONS
    bins = torch.arange(ORIENTATIONS, dtype=luma.dtype).view(1, -1, 1, 1)
    away = (angle[:, None] - bins).remainder(ORIENTATIONS)
    share = (1 - torch.minimum(away, ORIENTATIONS - away)).clamp_min(0)
    strength = torch.sqrt(dx * dx + dy * dy)
    return F.adaptive_avg_pool2d(share * strength[:, None], CELLS).sqrt().flatten(1)


def _colour_histograms(opponents: torch.Tensor) -> torch.Tensor:
    """opponents (n, 3, 32, 32) -> (n, 3 * 16), the square root of soft histograms; each channel's squares sum to 1."""
    low = torch.tensor([0.0, -1.0, -1.0]).view(1, 3, 1)
    span = torch.tensor([1.0, 2.0, 2.0]).view(1, 3, 1)
    place = (opponents.flatten(2) - low) / span * (COLOUR_BINS - 1)
    bins = torch.arange(COLOUR_BINS, dtype=place.dtype)
    share = (1 - (place[..., None] - bins).abs()).clamp_min(0)
    return share.mean(2).sqrt().flatten(1) / math.sqrt(3)
