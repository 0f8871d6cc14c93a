"""The low-rank Gaussian against dense float64 algebra, and its fit against what the data can tell."""

import pytest
import torch

from ntlbg.modeling_ntlbg.gaussian_ntlbg import (
    MAX_FACTOR_GAIN,
    LowRankGaussian,
    effective_sample_size,
    fit_gaussian,
    oas_shrinkage,
)


def random_gaussian(dim=24, rank=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LowRankGaussian(
        torch.randn(dim, generator=generator),
        torch.rand(dim, generator=generator) + 0.1,
        2 * torch.randn(dim, rank, generator=generator),
    )


def dense_covariance(gaussian):
    factor = gaussian.factor.double()
    return torch.diag(gaussian.diagonal.double()) + factor @ factor.T


def autoregressive(count, dim, phi, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, generator=generator)
    for t in range(1, count):
        x[t] = phi * x[t - 1] + (1 - phi**2) ** 0.5 * x[t]
    return x


def test_mahalanobis_and_logdet_equal_the_dense_formulas():
    gaussian = random_gaussian()
    covariance = dense_covariance(gaussian)
    x = 3 * torch.randn(50, 24, generator=torch.Generator().manual_seed(1))
    centred = x.double() - gaussian.mean.double()
    expected = (centred @ torch.linalg.inv(covariance) * centred).sum(1)
    torch.testing.assert_close(gaussian.mahalanobis(x).double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gaussian.logdet().double(), torch.logdet(covariance), rtol=1e-5, atol=1e-5)


def test_mahalanobis_in_chunks_equals_mahalanobis_at_once():
    gaussian = random_gaussian(dim=6, rank=2)
    x = torch.randn(5000, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(gaussian.mahalanobis(x), gaussian.whiten(x).square().sum(1))


def test_whitening_makes_the_covariance_the_identity_and_unwhitening_undoes_it():
    gaussian = random_gaussian()
    whitener = gaussian.whiten(torch.eye(24) + gaussian.mean).double().T
    covariance = whitener @ dense_covariance(gaussian) @ whitener.T
    torch.testing.assert_close(covariance, torch.eye(24, dtype=torch.float64), rtol=0, atol=1e-4)
    x = torch.randn(7, 24, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(gaussian.unwhiten(gaussian.whiten(x)), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor_columns", ["random", "zero", "equal"])
def test_gradients_are_right_and_finite_even_where_eigenvalues_meet(factor_columns):
    gaussian = random_gaussian(dim=6, rank=3)
    factor = {
        "random": gaussian.factor,
        "zero": torch.zeros(6, 3),
        "equal": torch.eye(6)[:, :3],
    }[factor_columns]
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    parameters = [p.clone().requires_grad_() for p in (gaussian.mean, gaussian.diagonal, factor)]
    fast = LowRankGaussian(*parameters)
    found = torch.autograd.grad(fast.mahalanobis(x).sum() + fast.logdet() + fast.whiten(x).square().sum(), parameters)
    exact = [p.detach().double().requires_grad_() for p in parameters]
    covariance = torch.diag(exact[1]) + exact[2] @ exact[2].T
    centred = x.double() - exact[0]
    mahalanobis = (centred @ torch.linalg.inv(covariance) * centred).sum()
    expected = torch.autograd.grad(2 * mahalanobis + torch.logdet(covariance), exact)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3)


def test_a_strong_factor_costs_float32_few_digits():
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(64, 4, generator=generator)).Q
    gaussian = LowRankGaussian(torch.zeros(64), torch.ones(64), directions * MAX_FACTOR_GAIN**0.5)
    x = gaussian.unwhiten(torch.randn(100, 64, generator=generator))
    expected = (x.double() @ torch.linalg.inv(dense_covariance(gaussian)) * x.double()).sum(1)
    torch.testing.assert_close(gaussian.mahalanobis(x).double(), expected, rtol=1e-3, atol=0)


def test_autocast_does_not_reach_the_algebra():
    gaussian = random_gaussian()
    x = torch.randn(10, 24, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gaussian.mahalanobis(x)
        fitted = fit_gaussian(x, rank=4)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, gaussian.mahalanobis(x))
    assert torch.equal(fitted.factor, fit_gaussian(x, rank=4).factor)


def test_the_fit_finds_the_true_factor_plus_noise():
    truth = random_gaussian(dim=40, rank=3)
    truth.diagonal = torch.ones(40)
    x = truth.unwhiten(torch.randn(6000, 40, generator=torch.Generator().manual_seed(2)))
    found = fit_gaussian(x, rank=3)
    error = (dense_covariance(found) - dense_covariance(truth)).norm() / dense_covariance(truth).norm()
    assert error < 0.06
    assert (found.mean - truth.mean).abs().max() < 0.2
    assert found.mahalanobis(x).mean() / 40 == pytest.approx(1.0, abs=0.05)


def test_the_effective_sample_size_of_correlated_frames_shrinks_better_than_their_number():
    dim, count, phi = 64, 1024, 0.97
    scales = torch.linspace(0.5, 2.0, dim)
    x = (autoregressive(count, dim, phi) * scales).double()
    centred = x - x.mean(0)
    sample = centred.T @ centred / count
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    size = effective_sample_size(centred, weights)
    assert size == pytest.approx(count * (1 - phi**2) / (1 + phi**2), rel=0.35)

    def error(effective):
        trace = sample.trace()
        shrink = oas_shrinkage(trace, (sample @ sample).trace(), dim, torch.as_tensor(effective))
        shrunk = (1 - shrink) * sample + shrink * trace / dim * torch.eye(dim, dtype=torch.float64)
        return ((shrunk - torch.diag(scales.double() ** 2)).norm() / scales.square().norm()).item()

    assert error(size) < 0.7 * error(count)


def test_weights_choose_which_part_of_the_video_the_moments_speak_of():
    x = torch.cat([torch.zeros(50, 3), torch.ones(50, 3)]) + 0.01 * torch.randn(100, 3)
    second_half = (torch.arange(100) >= 50).float()
    torch.testing.assert_close(fit_gaussian(x, second_half).mean, x[50:].mean(0), rtol=0, atol=1e-5)
    assert torch.equal(fit_gaussian(x, torch.ones(100)).mean, fit_gaussian(x).mean)


def test_a_closed_gate_is_the_empirical_gaussian_and_an_open_one_goes_to_the_prior():
    x = torch.randn(200, 24, generator=torch.Generator().manual_seed(3))
    prior = random_gaussian()
    own, closed = fit_gaussian(x, rank=4), fit_gaussian(x, rank=4, prior=prior, kappa=0.0)
    torch.testing.assert_close(closed.mahalanobis(x), own.mahalanobis(x), rtol=1e-6, atol=0)
    assert closed.factor.shape == (24, 9)
    opened = fit_gaussian(x, rank=4, prior=prior, kappa=1e6)
    torch.testing.assert_close(opened.mahalanobis(x), prior.mahalanobis(x), rtol=1e-2, atol=1e-2)


def test_the_gate_the_prior_and_the_weights_receive_gradients():
    x = torch.randn(60, 24, generator=torch.Generator().manual_seed(3))
    prior = random_gaussian()
    leaves = [prior.mean, prior.diagonal, prior.factor, torch.zeros(()), torch.rand(60)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    for kappa in (0.0, 5.0):
        with torch.no_grad():
            leaves[3].fill_(kappa)
        gaussian = fit_gaussian(x, leaves[4], rank=4, prior=prior, kappa=leaves[3])
        loss = gaussian.mahalanobis(x).mean() + gaussian.logdet()
        gradients = torch.autograd.grad(loss, leaves)
        assert all(torch.isfinite(g).all() for g in gradients)
        assert gradients[3] != 0
        assert gradients[4].abs().max() > 0
        assert (gradients[0].abs().max() > 0) == (kappa > 0)


def test_an_extreme_prior_is_capped_so_that_float32_still_whitens():
    x = torch.randn(50, 24, generator=torch.Generator().manual_seed(3))
    prior = LowRankGaussian(torch.zeros(24), torch.full((24,), 1e-6), 1e3 * torch.ones(24, 1))
    gaussian = fit_gaussian(x, rank=4, prior=prior, kappa=50.0)
    assert gaussian.principal_directions()[1].max() <= MAX_FACTOR_GAIN * 1.01
    assert torch.isfinite(gaussian.mahalanobis(x)).all()


@pytest.mark.parametrize(
    "descriptors",
    [
        torch.ones(1, 5),
        torch.zeros(7, 5),
        torch.full((7, 5), 3.3),
        torch.randn(3, 100, generator=torch.Generator().manual_seed(0)),
        torch.randn(30, 1, generator=torch.Generator().manual_seed(0)),
        torch.randn(30, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.0, 1, 1, 1, 0, 1, 1, 1]),
        torch.randn(30, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-4, 1.0, 1.0, 1e4]),
        torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).repeat_interleave(20, dim=0),
        (torch.randn(40, 16, generator=torch.Generator().manual_seed(0)) * 1e4).half(),
        torch.randn(30, 8, generator=torch.Generator().manual_seed(0)) * 1e-3 + 1e3,
        torch.randn(30, 8, generator=torch.Generator().manual_seed(0)) * 1e15,
        torch.randn(30, 8, generator=torch.Generator().manual_seed(0)) * 1e-30,
    ],
    ids=["one", "zero", "constant", "T<r", "d=1", "dead", "condition", "duplicates", "half", "offset", "huge", "tiny"],
)
def test_degenerate_videos_have_finite_gaussians(descriptors):
    gaussian = fit_gaussian(descriptors, rank=32)
    dim = descriptors.shape[1]
    assert gaussian.factor.shape == (dim, 32)
    assert (gaussian.diagonal > 0).all()
    mahalanobis = gaussian.mahalanobis(descriptors)
    assert torch.isfinite(mahalanobis).all()
    assert torch.isfinite(gaussian.logdet())
    assert mahalanobis.mean() <= 1.5 * dim
    assert torch.equal(gaussian.factor, fit_gaussian(descriptors, rank=32).factor)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"descriptors": torch.randn(5)}, "shape"),
        ({"descriptors": torch.zeros(0, 4)}, "shape"),
        ({"descriptors": torch.tensor([[1.0, float("nan")], [0.0, 1.0]])}, "NaN or infinite values in 1 of 2"),
        ({"descriptors": torch.tensor([[1.0, float("inf")]])}, "NaN or infinite"),
        ({"descriptors": torch.full((3, 2), 1e30)}, "too large for sums of squares in float32: their norm is inf"),
        ({"descriptors": torch.full((3, 2), 1e300, dtype=torch.float64)}, "too large"),
        ({"descriptors": [[1.0, 2.0]]}, "must be a torch.Tensor, but they are a list"),
        ({"descriptors": torch.ones(3, 2), "weights": torch.ones(2)}, "weights"),
        ({"descriptors": torch.ones(3, 2), "weights": torch.zeros(3)}, "not all zero"),
        ({"descriptors": torch.ones(3, 2), "weights": torch.full((3,), 3e38)}, "finite sum"),
        ({"descriptors": torch.ones(3, 2), "weights": torch.tensor([1.0, float("nan"), 1.0])}, "finite sum"),
        ({"descriptors": torch.ones(3, 2), "weights": torch.tensor([1.0, -0.1, 1.0])}, ">= 0"),
        ({"descriptors": torch.ones(3, 2), "rank": 0}, "rank"),
        ({"descriptors": torch.ones(3, 24), "prior": random_gaussian(), "kappa": -1.0}, "kappa"),
    ],
)
def test_bad_input_gives_one_clear_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit_gaussian(**arguments)


def test_parts_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"mean \(d,\)"):
        LowRankGaussian(torch.zeros(3), torch.ones(4), torch.ones(3, 2))
