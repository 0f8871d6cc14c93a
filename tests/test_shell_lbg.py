"""Shell LBG: its closed forms against known principal points, and that no step of it raises the error."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlbg.modeling_ntlbg.gaussian_ntlbg import LowRankGaussian
from ntlbg.modeling_ntlbg.shell_lbg_ntlbg import (
    DENSE_POINTS,
    _Lbg,
    representative_points,
    shell_lbg,
    snap_to_points,
    temporal_net,
)


def standard_points(dim, k):
    return representative_points(torch.zeros(dim), torch.zeros(dim, 2), torch.ones(dim), k)


# (d, k, radius): shell points of N(0, I_d); pairs, simplices, cross polytopes, and rings with their closed form.
KNOWN_RADII = [
    (1, 2, math.sqrt(2 / math.pi)),
    (7, 2, math.sqrt(2 / math.pi)),
    (2, 3, 1.03648),
    (3, 4, 1.18862),
    (4, 5, 1.30023),
    (8, 9, 1.57509),
    (9, 5, 1.30023),
    (2, 4, 1.12838),
    (3, 6, 1.32639),
    (4, 8, 1.46473),
    (8, 16, 1.78337),
    *[(2, k, math.sqrt(math.pi / 2) * math.sin(math.pi / k) / (math.pi / k)) for k in (3, 4, 5, 8, 13)],
]


@pytest.mark.parametrize(("dim", "k", "radius"), KNOWN_RADII)
def test_the_codebook_has_the_known_radius(dim, k, radius):
    norms = standard_points(dim, k).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((k,), radius), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("dim", "k"), [(2, 5), (3, 4), (3, 6), (3, 9), (5, 3)])
def test_the_codebooks_error_is_that_of_its_radius(dim, k):
    """MSE = E|z|² - rho² at the optimum; a wrong direction or radius would cost more."""
    points = standard_points(dim, k)
    z = torch.randn(200_000, dim, generator=torch.Generator().manual_seed(0))
    z = torch.cat([z, -z])
    error = torch.cdist(z, points).amin(1).square().mean().item()
    expected = dim - points[0].norm().item() ** 2
    assert error == pytest.approx(expected, abs=0.01)


def test_the_simplex_and_the_cross_polytope_have_their_angles():
    simplex = torch.nn.functional.normalize(standard_points(3, 4), dim=1)
    torch.testing.assert_close(simplex @ simplex.T, torch.eye(4) * 4 / 3 - 1 / 3, rtol=0, atol=1e-5)
    cross = torch.nn.functional.normalize(standard_points(3, 6), dim=1)
    assert sorted((cross @ cross.T).round().long().flatten().tolist()) == [-1] * 6 + [0] * 24 + [1] * 6


@pytest.mark.parametrize("k", [1, 2, 3, 6, 7, 12, 20])
def test_all_codewords_of_any_gaussian_lie_on_one_shell(k):
    generator = torch.Generator().manual_seed(0)
    gaussian = LowRankGaussian(
        torch.randn(6, generator=generator),
        torch.rand(6, generator=generator) + 0.1,
        2 * torch.randn(6, 2, generator=generator),
    )
    points = representative_points(gaussian.mean, gaussian.factor, gaussian.diagonal, k)
    assert points.shape == (k, 6)
    distances = gaussian.mahalanobis(points)
    torch.testing.assert_close(distances, distances[:1].expand(k), rtol=1e-4, atol=1e-6)
    assert k == 1 or torch.pdist(points).min() > 0.05


def test_two_codewords_spread_along_the_first_principal_axis():
    factor = torch.tensor([[0.0], [5.0], [0.0]])
    points = representative_points(torch.ones(3), factor, torch.ones(3), 2)
    expected = 1 + math.sqrt(2 / math.pi) * math.sqrt(26) * torch.tensor([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]])
    expected[:, [0, 2]] = 1.0
    torch.testing.assert_close(points[points[:, 1].argsort()], expected, rtol=0, atol=1e-4)


def test_a_shell_of_one_dimension_has_two_points_only():
    with pytest.raises(ValueError, match="two points"):
        standard_points(1, 3)
    with pytest.raises(ValueError, match="at least 1"):
        standard_points(3, 0)


def instance(count, dim, seed, ties):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    z = z * 10 ** torch.randn((), generator=generator)
    return (z.round() if ties else z), torch.rand(count, generator=generator, dtype=torch.float64)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    count=st.integers(1, 40),
    share=st.floats(0, 1),
    dim=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    ties=st.booleans(),
    time_weight=st.sampled_from([0.0, 0.3, 10.0]),
    held_share=st.floats(0, 1),
)
def test_no_iteration_and_no_relocation_raises_the_cost(count, share, dim, seed, ties, time_weight, held_share):
    z, weights = instance(count, dim, seed, ties)
    k = 1 + round(share * (count - 1))
    held = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: round(held_share * k)]
    found = shell_lbg(
        z,
        k,
        weights,
        torch.arange(count) * (k / count),
        time_weight,
        iterations=20,
        held=held if len(held) else None,
        relocations=6,
    )
    assert (found.history.diff() <= 1e-9 * found.history[0].abs() + 1e-12).all()
    # The reported cost is the cost of what is returned.
    direct = (z - found.radius * found.directions[found.cells]).square().sum(1)
    direct = direct + time_weight * (torch.arange(count) * (k / count) - found.times[found.cells]).square()
    torch.testing.assert_close(found.costs, direct, rtol=1e-6, atol=1e-6 * float(z.abs().max()) ** 2)
    # No cell is empty, so the real points nearest the codewords are distinct; held points stay with their codeword.
    assert torch.bincount(found.cells, minlength=k).min() > 0
    snapped = snap_to_points(found.cells, found.costs, k)
    assert len(set(snapped.tolist())) == k
    assert torch.equal(found.cells[snapped], torch.arange(k))
    assert torch.equal(found.cells[held], torch.arange(len(held)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    count=st.integers(2, 60),
    k=st.integers(1, 8),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    silent=st.floats(0, 0.9),
    time_weight=st.sampled_from([0.0, 1.0]),
)
def test_the_cost_never_ends_above_that_of_any_start(count, k, seed, dtype, silent, time_weight):
    """Random cells, weights of zero among the others, single precision too."""
    k = min(k, count)
    z, weights = instance(count, 3, seed, False)
    z, weights = z.to(dtype), weights * (torch.rand(count, generator=torch.Generator().manual_seed(seed)) >= silent)
    start = torch.randint(0, k, (count,), generator=torch.Generator().manual_seed(seed))
    start[torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:k]] = torch.arange(k)
    times = torch.arange(count) * (k / count)
    found = shell_lbg(z, k, weights, times, time_weight, start=start, iterations=20, relocations=4)
    begun = shell_lbg(z, k, weights, times, time_weight, start=start, iterations=0)
    slack = (1e-9 if dtype == torch.float64 else 1e-5) * float(z.square().sum(1).max() + time_weight * k**2)
    assert torch.equal(begun.cells, start)
    assert torch.isfinite(found.history).all()
    assert (found.history.diff() <= slack).all()
    assert found.history[-1] <= begun.history[0] + slack


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), k=st.sampled_from([3, 40, 300]), time_weight=st.sampled_from([0.05, 1.0, 30.0]))
def test_the_cost_of_a_long_video_never_rises_either(seed, k, time_weight):
    """More than `DENSE_POINTS`: the search in bands."""
    count = DENSE_POINTS + 500
    z, weights = instance(count, 5, seed, False)
    z = z + z[::50].repeat_interleave(50, dim=0)[:count]
    found = shell_lbg(
        z, k, weights, torch.arange(count) * (k / count), time_weight, held=torch.tensor([7, 900]), relocations=4
    )
    assert len(found.history) > 2
    assert (found.history.diff() <= 1e-9 * found.history[0]).all()


def test_a_relocation_that_does_not_pay_is_taken_back():
    """Codewords moved at once get in one another's way: in a sixth of these cases a round would raise the cost."""
    for seed in range(25):
        z, weights = instance(300, 4, seed, False)
        found = shell_lbg(z, 150, weights, torch.arange(300) / 2, 0.3, iterations=20, relocations=20)
        assert (found.history.diff() <= 1e-9 * found.history[0]).all()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), dim=st.integers(2, 5))
def test_the_closed_form_radius_is_the_best_of_all_radii(seed, dim):
    z, weights = instance(60, dim, seed, False)
    found = shell_lbg(z, 5, weights, iterations=30)

    def error(radius):
        return (weights * (z - radius * found.directions[found.cells]).square().sum(1)).sum() / weights.sum()

    best = error(found.radius)
    torch.testing.assert_close(best, found.history[-1])
    second_moment = (weights * z.square().sum(1)).sum() / weights.sum()
    torch.testing.assert_close(best, second_moment - found.radius.square())
    assert all(best <= error(found.radius * factor) for factor in (0.9, 0.99, 1.01, 1.1))


def test_the_net_of_equal_weights_is_uniform_in_time_and_follows_the_weights_otherwise():
    assert temporal_net(torch.ones(12), 4).tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    heavy_end = torch.cat([torch.ones(6), 3 * torch.ones(6)])
    assert temporal_net(heavy_end, 4).tolist() == [0] * 6 + [1] * 2 + [2] * 2 + [3] * 2


def test_relocation_leaves_a_local_optimum_that_lbg_alone_stays_in():
    """Five directions, five codewords, but a start that gives two codewords to one direction and one to two others."""
    corners = torch.eye(5).repeat_interleave(40, dim=0)
    z = corners + 0.05 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    start = torch.cat([torch.arange(40) // 20, *[torch.full((40,), c) for c in (2, 3, 4, 4)]])
    stuck = shell_lbg(z, 5, start=start, iterations=50)
    free = shell_lbg(z, 5, start=start, iterations=50, relocations=4)
    assert len(set(stuck.cells[::40].tolist())) == 4
    assert len(set(free.cells[::40].tolist())) == 5
    assert free.history[-1] < 0.5 * stuck.history[-1]


def test_time_keeps_equal_pictures_apart_by_when_they_were_seen():
    z = torch.ones(100, 3)
    found = shell_lbg(z, 4, times=torch.arange(100.0), time_weight=1.0, iterations=50)
    assert (found.cells.diff() >= 0).all()
    assert torch.bincount(found.cells).tolist() == [25] * 4


def test_a_k_out_of_range_is_refused():
    for k in (0, 6):
        with pytest.raises(ValueError, match="between 1 and the number of points"):
            shell_lbg(torch.randn(5, 2), k)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), k=st.sampled_from([2, 40, 300]), time_weight=st.sampled_from([0.05, 1.0, 30.0]))
def test_searching_in_bands_finds_what_searching_everywhere_finds(seed, k, time_weight):
    generator = torch.Generator().manual_seed(seed)
    count = DENSE_POINTS + 300
    # Scenes that come back, some of them far apart, and a few outliers: the nearest in content may be far in time.
    scene = torch.randint(0, 12, (count // 20 + 1,), generator=generator).repeat_interleave(20)[:count]
    z = 3 * torch.randn(12, 6, generator=generator)[scene] + torch.randn(count, 6, generator=generator)
    z[::97] *= 8
    times = torch.arange(count) * (k / count)
    lbg = _Lbg(z.double(), k, torch.ones(count).double(), times.double(), time_weight, torch.tensor([5, 700]))
    cells = temporal_net(torch.ones(count), k)
    cells[lbg.held] = lbg.held_cells
    cells = lbg.fill(cells, lbg.update(cells))
    state = lbg.update(cells)
    costs = lbg.costs(cells, state)
    assert lbg.banded
    found, (heir, loss) = lbg.assign(cells, state, costs), lbg.runner_up(cells, state, costs)
    lbg.banded = False
    assert torch.equal(found, lbg.assign(cells, state, costs))
    everywhere = lbg.runner_up(cells, state, costs)
    assert torch.equal(heir, everywhere[0])
    torch.testing.assert_close(loss, everywhere[1], rtol=1e-6, atol=1e-6)
