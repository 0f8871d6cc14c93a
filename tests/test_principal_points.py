"""The codebook against the published principal points of the normal distribution, and what one shell costs."""

import itertools
import math

import numpy as np
import pytest
import torch

from ntlbg.modeling_ntlbg.shell_lbg_ntlbg import representative_points, shell_lbg
from ntlbg.selection.baselines.diverse import greedy_log_det


# Least mean squared errors of k = 1..8 points for N(0, 1) and their points >= 0.
LINE = [1.0, 0.363380, 0.190174, 0.117482, 0.079941, 0.057978, 0.044000, 0.034548]
LINE_POINTS = {
    2: [0.7979],
    3: [0.0, 1.2240],
    4: [0.4528, 1.5104],
    5: [0.0, 0.7646, 1.7241],
    6: [0.3177, 1.0001, 1.8936],
}
# Least mean squared errors of k points for N(0, I_2). From five points on the best codebook has one at the centre.
PLANE = {2: 1.36338, 3: 0.92570, 4: 0.72676, 5: 0.61447, 6: 0.50691, 7: 0.44510}


def standard_points(dim, k):
    return representative_points(torch.zeros(dim), torch.zeros(dim, 1), torch.ones(dim), k).double()


def plane_directions(count=2**18):
    angles = (torch.arange(count, dtype=torch.float64) + 0.5) * (2 * math.pi / count)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def shell_error(points, directions, weights):
    """E min_i |z - c_i|² for N(0, I): z = |z| u, and |z| and u are independent. `weights` (n,) of u sum to 1."""
    dim = points.shape[1]
    mean_norm = math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    nearest = (directions @ points.T).amax(dim=1)
    return float(dim - 2 * mean_norm * (weights @ nearest) + points[0].square().sum())


def lloyd_on_the_line(k):
    """Points (k,) and error of the free optimum for N(0, 1): Lloyd with exact moments of the cells."""
    points = torch.special.ndtri((torch.arange(k, dtype=torch.float64) + 0.5) / k)
    for _ in range(2000):
        edges = torch.cat([torch.tensor([-torch.inf]), (points[1:] + points[:-1]) / 2, torch.tensor([torch.inf])])
        mass = torch.special.ndtr(edges).diff()
        points = -((-edges.square() / 2).exp() / math.sqrt(2 * math.pi)).diff() / mass
    return points, float(1 - mass @ points.square())


def test_one_and_two_points_on_the_line_are_the_principal_points():
    assert standard_points(1, 1).tolist() == [[0.0]]
    assert sorted(standard_points(1, 2).flatten().tolist()) == pytest.approx([-0.7979, 0.7979], abs=1e-4)
    both = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    assert shell_error(standard_points(1, 2), both, torch.full((2,), 0.5).double()) == pytest.approx(LINE[1], abs=1e-5)


@pytest.mark.parametrize("k", range(1, 9))
def test_on_the_line_lbg_finds_two_points_and_one_shell_costs_the_rest(k):
    """A shell of one dimension has two points: for k >= 3 its error stays .36338, dearer by at most Var|z|."""
    points, best = lloyd_on_the_line(k)
    assert best == pytest.approx(LINE[k - 1], abs=1e-6)
    assert k not in LINE_POINTS or points[points > -1e-6].tolist() == pytest.approx(LINE_POINTS[k], abs=1e-4)
    z = torch.special.ndtri((torch.arange(20_001, dtype=torch.float64) + 0.5) / 20_001)[:, None]
    found = shell_lbg(z, k, iterations=200)
    expected = LINE[min(k, 2) - 1]
    assert float(found.history[-1]) == pytest.approx(expected, abs=5e-4)  # of which the grid's tails are 3e-4
    assert -1e-6 <= expected - best <= 1 - 2 / math.pi


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6, 7, 8, 13, 40])
def test_in_the_plane_the_codebook_is_the_ring_and_the_best_of_all_up_to_four_points(k):
    directions = plane_directions()
    error = shell_error(
        standard_points(2, k), directions, torch.full((len(directions),), 1 / len(directions)).double()
    )
    radius = math.sqrt(math.pi / 2) * math.sin(math.pi / k) / (math.pi / k)
    assert error == pytest.approx(2 - radius**2, abs=1e-5)
    if k <= 4:
        assert error == pytest.approx(PLANE[k], abs=1e-4)
    elif k in PLANE:
        assert error > PLANE[k] + 0.01
    if k == 5:
        assert error == pytest.approx(0.62533, abs=1e-4)
    # What one shell can cost at most, reached by the full circle.
    assert error >= 2 - math.pi / 2
    assert k < 40 or error == pytest.approx(2 - math.pi / 2, abs=5e-3)


@pytest.mark.parametrize("k", [2, 3, 4, 5, 9])
def test_each_codeword_of_a_ring_is_the_mean_of_its_cell(k):
    """Self-consistency: E[X | cell] = Y, and so E|X|² = E|Y|² + E|X - Y|²; on the shell E|Y|² = rho²."""
    directions, points = plane_directions(), standard_points(2, k)
    cells = (directions @ points.T).argmax(dim=1)
    sums = torch.zeros_like(points).index_add_(0, cells, directions) * math.sqrt(math.pi / 2)
    means = sums / torch.bincount(cells, minlength=k)[:, None]
    torch.testing.assert_close(means, points, rtol=0, atol=1e-4)
    error = shell_error(points, directions, torch.full((len(directions),), 1 / len(directions)).double())
    assert float(points[0].square().sum()) + error == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize(("k", "radius"), [(2, math.sqrt(2 / math.pi)), (3, 1.03648), (4, 1.18862), (6, 1.32639)])
def test_in_space_pairs_triangles_tetrahedra_and_octahedra_have_their_error(k, radius):
    heights, weights = np.polynomial.legendre.leggauss(400)
    height, angle = torch.from_numpy(heights), (torch.arange(800) + 0.5).double() * (2 * math.pi / 800)
    flat = (1 - height.square()).sqrt()[:, None]
    directions = torch.stack([flat * angle.cos(), flat * angle.sin(), height[:, None].expand(-1, 800)], dim=2)
    weights = torch.from_numpy(weights)[:, None].expand(-1, 800).flatten() / 1600
    error = shell_error(standard_points(3, k), directions.reshape(-1, 3), weights)
    assert error == pytest.approx(3 - radius**2, abs=1e-4)


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_lbg_from_a_random_start_finds_the_simplex(dim):
    """The iteration itself, not the closed form, on a net of the normal."""
    net = torch.quasirandom.SobolEngine(dim, scramble=True, seed=1).draw(2**14, dtype=torch.float64)
    z = torch.special.ndtri(net.clamp(1e-9, 1 - 1e-9))
    start = torch.randint(0, dim + 1, (len(z),), generator=torch.Generator().manual_seed(0))
    found = shell_lbg(z, dim + 1, start=start, iterations=100)
    known = {2: 1.03648, 3: 1.18862, 8: 1.57509}[dim]
    assert float(found.radius) == pytest.approx(known, rel=0.01)
    assert float(found.history[-1]) == pytest.approx(float(z.square().sum(1).mean()) - known**2, abs=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_information_is_at_least_1_minus_1_over_e_of_the_best(seed):
    """I(V; Y_S) = ½ log det(I + K_SS/s²) is submodular (Nemhauser, Wolsey, Fisher 1978)."""
    random = np.random.default_rng(seed)
    frames = random.normal(size=(11, 4)) * random.uniform(0.2, 3, size=(11, 1))
    kernel = np.eye(11) + frames @ frames.T / 0.3

    def information(subset):
        return np.linalg.slogdet(kernel[np.ix_(subset, subset)])[1] / 2

    for k in (1, 2, 4, 6):
        order, _ = greedy_log_det(kernel.diagonal(), lambda index: kernel[index], k)
        best = max(information(list(subset)) for subset in itertools.combinations(range(11), k))
        assert len(set(order)) == k
        assert (1 - 1 / math.e) * best <= information(order) <= best + 1e-9
