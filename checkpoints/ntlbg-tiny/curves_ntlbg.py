"""What a curve over a video's groups says: where it stands out, what of it lasts, where it runs above a level.

Shapes: T groups in time order, durations (T,) as in `durations_ntlbg`.
"""

import torch

from .durations_ntlbg import mean, median, middles


_MAD_TO_DEVIATION = 1.4826


def smooth(curve: torch.Tensor, reach: float, durations: torch.Tensor) -> torch.Tensor:
    """Moving average over time of `curve` (T,), over the groups whose middles lie within `reach` of each group's own;
    at the ends over those that exist."""
    times = middles(durations)
    low, high = torch.searchsorted(times, times - reach), torch.searchsorted(times, times + reach, right=True)
    total = torch.nn.functional.pad((durations * curve).cumsum(0), (1, 0))
    passed = torch.nn.functional.pad(durations.cumsum(0), (1, 0))
    return (total[high] - total[low]) / (passed[high] - passed[low])


def lasting(curve: torch.Tensor) -> torch.Tensor:
    """What of `curve` (T,) lasts two groups: max(min(v_t-1, v_t), min(v_t, v_t+1)), a morphological opening.

    A glitch of a single group is no event, however long the group stands for: nothing else has seen it. A moving
    average would only make it a third as high.
    """
    if len(curve) == 1:
        return curve
    pairs = torch.minimum(curve[1:], curve[:-1])
    return torch.maximum(torch.cat([pairs[:1], pairs]), torch.cat([pairs, pairs[-1:]]))


def robust_scores(curve: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
    """(v - median)/(1.4826 MAD) of `curve` (T,), both over time: how far each value stands out; zeros for a constant
    curve."""
    centred = curve - median(curve, durations)
    deviation = _MAD_TO_DEVIATION * median(centred.abs(), durations)
    if deviation <= 1e-6 * curve.abs().max().clamp(min=1e-12):
        # For more than half of the time the values are equal: measure the rest by their own size.
        deviation = mean(centred.abs(), durations)
    if deviation <= 1e-6 * curve.abs().max().clamp(min=1e-12):
        return torch.zeros_like(curve)
    return centred / deviation


def runs(above: torch.Tensor) -> list[tuple[int, int]]:
    """Contiguous stretches [start, end) of a boolean (T,)."""
    edges = torch.nn.functional.pad(above.int(), (1, 1)).diff()
    starts, ends = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    return list(zip(starts, ends, strict=True))
