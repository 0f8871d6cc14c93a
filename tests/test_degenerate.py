"""Videos that no camera would film: whatever the descriptors are, the selection is made of finite numbers."""

import math

import pytest
import torch

from ntlbg.modeling_ntlbg.gaussian_ntlbg import fit_gaussian
from ntlbg.modeling_ntlbg.strata_ntlbg import select_representatives


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


VIDEOS = {
    "constant": torch.full((50, 16), 3.3),
    "zeros": torch.zeros(50, 16),
    "duplicates": noise(5, 16).repeat_interleave(20, dim=0),
    "duplicates of two": noise(2, 16)[torch.arange(60) % 2],
    "T < r": noise(7, 100),
    "T = 1": noise(1, 16),
    "T = 2": noise(2, 16),
    "d = 1": noise(50, 1),
    "zero-variance channels": noise(60, 8) * torch.tensor([0.0, 1, 1, 1, 0, 1, 1, 1]),
    "condition 1e8": noise(60, 16) * torch.logspace(-4, 4, 16),
    "condition 1e16": noise(60, 16) * torch.logspace(-8, 8, 16),
    "float16": (noise(80, 16) * 1e4).half(),
    "float16 subnormal": (noise(80, 16) * 1e-7).half(),
    "bfloat16": noise(80, 16).bfloat16(),
    "large": noise(80, 16) * 1e15,
    "small": noise(80, 16) * 1e-15,
    "vanishing": noise(80, 16) * 1e-30,
    "far from zero": noise(80, 16) * 1e-3 + 1e4,
    "one enormous frame": torch.cat([noise(79, 16), 1e10 * noise(1, 16)]),
    "long and constant": torch.full((5000, 8), 2.0),
    "long and large": noise(5000, 8) * 1e12,
}


def relevance_curves(count):
    """(scores, calibrated) of every kind a head, an encoder or a caller may give."""
    curve = noise(count)
    return {
        "none": (None, False),
        "cosines": (0.02 * curve + 0.2, False),
        "logits": (3 * curve - 2, True),
        "equal cosines": (torch.full((count,), 0.2), False),
        "equal logits": (torch.full((count,), 0.2), True),
        "enormous scores": (1e30 * curve, False),
        "enormous logits": (1e30 * curve, True),
        "vanishing scores": (1e-30 * curve, False),
        "float16": (curve.half(), False),
    }


@pytest.mark.parametrize("video", VIDEOS)
def test_every_number_of_a_selection_is_finite(video):
    x = VIDEOS[video]
    gaussian = fit_gaussian(x, rank=8)
    assert all(torch.isfinite(part).all() for part in (gaussian.mean, gaussian.diagonal, gaussian.factor))
    assert (gaussian.diagonal > 0).all()
    assert torch.isfinite(gaussian.mahalanobis(x)).all()
    assert torch.isfinite(gaussian.logdet())
    curves, sizes = relevance_curves(len(x)), (1, 9, 64)
    if len(x) > 1000:
        curves, sizes = {name: curves[name] for name in ("none", "cosines", "logits")}, (64,)
    for name, (scores, calibrated) in curves.items():
        for k in sizes:
            found = select_representatives(x, k, relevance=scores, calibrated=calibrated)
            assert len(set(found.indices.tolist())) == min(k, len(x)), name
            assert torch.isfinite(found.mahalanobis).all(), name
            assert torch.isfinite(found.weights).all(), name
            assert math.isfinite(found.shell), name
            assert math.isfinite(found.spread), name


def test_a_video_whose_squares_overflow_is_refused():
    with pytest.raises(ValueError, match="too large for sums of squares in float32"):
        select_representatives(noise(80, 16) * 1e30, 4)
