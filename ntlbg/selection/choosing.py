"""Any selector by its name: ours, or one of the published rules, on one video that has been looked at.

`ntlbg` is not chosen here: its callers have more to go by than descriptors and one curve. What is chosen here gets the
stratum `given`.

Shapes: T candidates (frames or groups) in time order, d descriptor width, k places.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ntlbg.errors import InputError
from ntlbg.modeling_ntlbg.gaussian_ntlbg import fit_gaussian
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.selection.baselines import BASELINES


OURS = "ntlbg"

# `strata` is ours as a rule over one encoder's frames, for the bench of rules; `oracle` is told the answer.
SELECTORS = (OURS, *(name for name in BASELINES if name not in ("strata", "oracle")))

NOBODY_JUDGES = (
    "the selector {name!r} ranks moments by the question, but nothing here judges moments against it (no dual "
    "encoder, and no trained checkpoint); give an encoder, or a selector such as uniform that needs none"
)


def check_selector(name: str) -> str:
    """`name`, if it is one of `SELECTORS`.

    Raises:
        InputError: it is not.
    """
    if name not in SELECTORS:
        raise InputError(f"there is no selector {name!r}; give one of {', '.join(SELECTORS)}")
    return name


def choose_by(
    name: str, descriptors: torch.Tensor, k: int, scores: torch.Tensor | None = None, *, seed: int = 0
) -> np.ndarray:
    """
    The candidates that a published rule takes.

    Args:
        name: of `SELECTORS`, other than `ntlbg`.
        descriptors: (T, d), of any scale; rules see their directions.
        scores: (T,) how well each matches the question, the higher the better; None where nothing judged it.
        seed: of rules that draw.

    Returns:
        (min(k, T),) int64, distinct and sorted.

    Raises:
        InputError: an unknown name, or the rule needs scores and there are none.
    """
    rule = BASELINES[check_selector(name)]
    if rule.needs_query and scores is None:
        raise InputError(NOBODY_JUDGES.format(name=name))
    frames = F.normalize(descriptors.detach().float(), dim=-1).cpu()
    # A picture without any content has no direction; the first axis is as good as any.
    frames[frames.norm(dim=-1) < 0.5] = torch.eye(1, frames.shape[-1])
    judged = None if scores is None else scores.detach().double().cpu().numpy()
    return rule(frames.numpy(), None, k, scores=judged, seed=seed)


def given_selection(
    name: str,
    descriptors: torch.Tensor,
    seconds: torch.Tensor,
    k: int,
    scores: torch.Tensor | None = None,
    *,
    durations: torch.Tensor | None = None,
    temporal_patch_size: int = 2,
    seed: int = 0,
) -> Selection:
    """
    What a published rule takes, as a model answers from it and a report shows it; see `choose_by`. Each candidate is
    represented by the chosen one nearest in time.

    Args:
        seconds: (T,) of each candidate's first picture.
        durations: (T,) how long each stands for, in any unit; None: equally long.
    """
    chosen = torch.from_numpy(choose_by(name, descriptors, k, scores, seed=seed))
    seconds = seconds.cpu()
    selection = Selection.from_indices(chosen, seconds, temporal_patch_size=temporal_patch_size)
    selection.cells = (seconds[:, None] - seconds[chosen]).abs().argmin(dim=1)
    # Of two at the same second (a picture shown twice) argmin takes the first for both.
    selection.cells[chosen] = torch.arange(len(chosen))
    lasts = torch.ones(len(seconds)) if durations is None else durations.cpu()
    weights = torch.bincount(selection.cells, weights=lasts.double(), minlength=len(chosen))
    selection.weights = (weights / weights.sum()).float()
    selection.mahalanobis = fit_gaussian(descriptors).mahalanobis(descriptors).cpu()
    selection.relevance = None if scores is None else scores.detach().float().cpu()
    selection.notes = [f"Chosen by the rule `{name}`, not by NTLBG."]
    return selection


__all__ = ["OURS", "SELECTORS", "check_selector", "choose_by", "given_selection"]
