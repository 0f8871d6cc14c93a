"""How long each group stands for: candidates of a scan lie densely where a film is cut densely, its time does not.

A group stands for the time from its own until the next one's. Selection counts time, not groups: a duration is the
weight of its group in every mean, median and sum over the video.

Shapes: T groups in time order, k representatives.
    w (T,) durations in any unit, all > 0 · t (T,) middles of the groups' stretches, in the same unit
"""

import torch


# Times come rounded (to milliseconds, to float32): durations that differ by less than this share are equal.
_ROUNDING = 0.01
# A group at the same time as the next one lasts no time, but it was seen: this share of the mean.
_SHORTEST = 1e-3


def until_next(seconds: torch.Tensor) -> torch.Tensor | None:
    """How long each of T groups at `seconds` (T,), rising, stands for: (T,), or None for a single one.

    When the video ends is not known here: the last one is taken to stand for as long as the one before it.
    """
    if len(seconds) < 2:
        return None
    gaps = seconds.cpu().double().diff()
    return torch.cat([gaps, gaps[-1:]])


def check_durations(durations: torch.Tensor | None, count: int, device: torch.device) -> torch.Tensor:
    """`durations` (T,) of `count` groups as float32 in (0, 1], in units of the longest; 1 exactly where all are equal
    but for rounding, or None.

    Raises:
        ValueError: not one finite number >= 0 per group.
    """
    if durations is None:
        return torch.ones(count, device=device)
    durations = torch.as_tensor(durations)
    if durations.shape != (count,):
        raise ValueError(
            f"`durations` must have one value per group, shape ({count},), but the shape is {tuple(durations.shape)}."
        )
    durations = durations.double().cpu()
    shortest, longest = float(durations.min()), float(durations.max())
    if not 0 <= shortest <= longest < torch.inf:
        raise ValueError(
            f"`durations` must be finite and >= 0 (seconds each group stands for), but they range from {shortest:g} "
            f"to {longest:g}; are the groups in the order of time?"
        )
    if longest - shortest <= _ROUNDING * longest:
        return torch.ones(count, device=device)
    durations = durations / longest
    return durations.clamp(min=_SHORTEST * float(durations.mean())).float().to(device)


def middles(durations: torch.Tensor) -> torch.Tensor:
    """t (T,), from the first group's middle on: 0, 1, 2, ... where all durations are 1."""
    return durations.cumsum(0) - (durations + durations[0]) / 2


def shown_at(durations: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Which group stands for each of `moments` (n,), float64 on the CPU, from the start of the video on in the
    durations' unit: int64 (n,)."""
    ends = durations.cpu().double().cumsum(0)
    return torch.searchsorted(ends, moments, right=True).clamp(max=len(durations) - 1).to(durations.device)


def even_steps(durations: torch.Tensor, k: int) -> torch.Tensor:
    """The groups shown in the middles of k <= T equal stretches of time, rising and distinct: int64 (k,).

    A group that is shown in several of them is taken once; the places go to those that follow, at the end to those
    before. Equal durations give floor((i + 1/2) T / k).
    """
    order = torch.arange(k, dtype=torch.float64)
    found = shown_at(durations, (2 * order + 1) * float(durations.sum()) / (2 * k))
    order = torch.arange(k, device=durations.device)
    found = (found - order).cummax(dim=0).values
    return found.clamp(max=len(durations) - k) + order


def mean(values: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
    """Mean over time of `values` (T,), a scalar."""
    return (durations * values).sum() / durations.sum()


def median(values: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
    """The least of `values` (T,) that is not exceeded for half of the time, a scalar: the lower median."""
    order = values.argsort(stable=True)
    passed = durations[order].cumsum(0)
    return values[order[torch.searchsorted(passed, passed[-1:] / 2)[0]]]
