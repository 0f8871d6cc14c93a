"""What a curve over a video's groups says: where it stands out, what of it lasts, where it runs above a level.

Shapes: T groups in time order.
"""

import torch


_MAD_TO_DEVIATION = 1.4826


def smooth(curve: torch.Tensor, width: int) -> torch.Tensor:
    """Moving average of `curve` (T,) over `width` (odd) groups; at the ends over those that exist."""
    half = min(width // 2, len(curve) - 1)
    total = torch.nn.functional.pad(curve.cumsum(0), (1, 0))
    steps = torch.arange(len(curve), device=curve.device)
    low, high = (steps - half).clamp(min=0), (steps + half + 1).clamp(max=len(curve))
    return (total[high] - total[low]) / (high - low)


def lasting(curve: torch.Tensor) -> torch.Tensor:
    """What of `curve` (T,) lasts two groups: max(min(v_t-1, v_t), min(v_t, v_t+1)), a morphological opening.

    A glitch of a single group is no event. A moving average would only make it a third as high.
    """
    if len(curve) == 1:
        return curve
    pairs = torch.minimum(curve[1:], curve[:-1])
    return torch.maximum(torch.cat([pairs[:1], pairs]), torch.cat([pairs, pairs[-1:]]))


def robust_scores(curve: torch.Tensor) -> torch.Tensor:
    """(v - median)/(1.4826 MAD) of `curve` (T,): how far each value stands out; zeros for a constant curve."""
    centred = curve - curve.median()
    deviation = _MAD_TO_DEVIATION * centred.abs().median()
    if deviation <= 1e-6 * curve.abs().max().clamp(min=1e-12):
        # More than half of the values are equal: measure the rest by their own size.
        deviation = centred.abs().mean()
    if deviation <= 1e-6 * curve.abs().max().clamp(min=1e-12):
        return torch.zeros_like(curve)
    return centred / deviation


def runs(above: torch.Tensor) -> list[tuple[int, int]]:
    """Contiguous stretches [start, end) of a boolean (T,)."""
    edges = torch.nn.functional.pad(above.int(), (1, 1)).diff()
    starts, ends = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    return list(zip(starts, ends, strict=True))
