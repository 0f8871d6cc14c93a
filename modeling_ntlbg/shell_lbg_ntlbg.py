"""Representative points of an elliptical distribution, all on one shell: a number-theoretic start, then LBG steps.

Shapes: T points, p whitened channels, k codewords.
    z (T, p) whitened points · w (T,) weights · u (k, p) unit directions · rho the shell's radius · a (T,) cells

All codewords rho u_i have one norm, so the Voronoi cells are cones and
    MSE(rho) = E|z|² - 2 rho E max_i u_i·z + rho²   =>   rho* = E max_i u_i·z,   c* = rho*²,   MSE* = E|z|² - c*:
the best shell is known in closed form (Fang, Yuan, Bentler 1994 for the number-theoretic LBG; the shell is ours).
With times t, the cost of a point gains tau² (t - m_i)², m_i the mean time of its cell.
"""

import math
from dataclasses import dataclass

import torch

from ntlbg.modeling_ntlbg.gaussian_ntlbg import LowRankGaussian


_NET_POINTS = 8192
_NET_ITERATIONS = 60


@dataclass
class ShellCodebook:
    """What `shell_lbg` finds.

    Attributes:
        directions (`torch.Tensor` of shape `(k, p)`): unit vectors u_i.
        radius (`torch.Tensor`): rho*, a scalar; `radius ** 2` is c*.
        times (`torch.Tensor` of shape `(k,)`): mean time m_i of each cell (zeros without times).
        cells (`torch.Tensor` of shape `(T,)`): int64, the codeword each point belongs to; no cell is empty.
        costs (`torch.Tensor` of shape `(T,)`): |z - rho u|² + tau² (t - m)² of each point in its cell.
        history (`torch.Tensor` of shape `(iterations + 1,)`): weighted mean cost; it never rises.
    """

    directions: torch.Tensor
    radius: torch.Tensor
    times: torch.Tensor
    cells: torch.Tensor
    costs: torch.Tensor
    history: torch.Tensor


def temporal_net(weights: torch.Tensor, k: int) -> torch.Tensor:
    """Start cells: the 1-D net {(2i-1)/2k} pushed through the weighted temporal distribution.

    Equal weights give k equal stretches of time, i.e. uniform sampling. `weights` (T,) >= 0 -> int64 (T,) cells in
    temporal order (a cell may be empty when the weights are very uneven).
    """
    mass = weights.float().cumsum(0) - weights.float() / 2
    total = weights.float().sum().clamp(min=torch.finfo(torch.float32).tiny)
    return (mass / total * k).long().clamp(0, k - 1)


def _fill_empty_cells(cells: torch.Tensor, gains: torch.Tensor, k: int) -> torch.Tensor:
    """Give every empty cell the point that gains most by leaving its own; a cell is never robbed of its last."""
    counts = torch.bincount(cells, minlength=k)
    empty = (counts == 0).nonzero().flatten().tolist()
    if not empty:
        return cells
    cells = cells.clone()
    order = gains.argsort(descending=True, stable=True).tolist()
    position = 0
    for cell in empty:
        while counts[cells[order[position]]] < 2:
            position += 1
        point = order[position]
        counts[cells[point]] -= 1
        counts[cell] += 1
        cells[point] = cell
        position += 1
    return cells


def _update(
    z: torch.Tensor, weights: torch.Tensor, times: torch.Tensor, cells: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The exact best directions, radius and cell times for given cells."""
    total = weights.sum()
    sums = torch.zeros(k, z.shape[1], device=z.device, dtype=z.dtype)
    sums.index_add_(0, cells, weights[:, None] * z)
    mass = torch.zeros(k, device=z.device, dtype=z.dtype).index_add_(0, cells, weights)
    moment = torch.zeros(k, device=z.device, dtype=z.dtype).index_add_(0, cells, weights * times)
    lengths = sums.norm(dim=1)
    fallback = torch.zeros_like(sums)
    fallback[:, 0] = 1.0
    directions = torch.where(lengths[:, None] > 0, sums / lengths[:, None].clamp(min=1e-30), fallback)
    return directions, lengths.sum() / total, moment / mass.clamp(min=1e-30)


def shell_lbg(
    z: torch.Tensor,
    k: int,
    weights: torch.Tensor | None = None,
    times: torch.Tensor | None = None,
    time_weight: float = 0.0,
    start: torch.Tensor | None = None,
    iterations: int = 8,
    held: torch.Tensor | None = None,
) -> ShellCodebook:
    """Linde-Buzo-Gray iteration with all codewords on one shell whose radius is always the closed-form optimum.

    One iteration: assign (one matrix product), give empty cells the point that gains most, then
    S_i = sum of w z over cell i, u_i = S_i/|S_i|, rho = Σ|S_i| / Σ w, m_i the cell's mean time. Each block is exact,
    so the weighted mean cost never rises.

    Args:
        z (`torch.Tensor` of shape `(T, p)`): whitened points, T >= k.
        k (`int`): codewords.
        weights (`torch.Tensor` of shape `(T,)`, *optional*): >= 0; zero-weight points belong to a cell but form none.
        times (`torch.Tensor` of shape `(T,)`, *optional*): in any unit; used when `time_weight` > 0.
        time_weight (`float`): tau², in squared whitened units per squared unit of time.
        start (`torch.Tensor` of shape `(T,)`, *optional*): first cells; default: the temporal net.
        iterations (`int`): at most; it stops early once no point changes its cell.
        held (`torch.Tensor` of shape `(h,)`, *optional*): points that are representatives already. Codewords
            0..h-1 of the k stand for them: their direction and time are the point's own and do not move.

    Returns:
        `ShellCodebook`, float32 (or float64 when `z` is).
    """
    count = len(z)
    if not 1 <= k <= count:
        raise ValueError(f"`k` must lie between 1 and the number of points ({count}), but it is {k}.")
    with torch.no_grad(), torch.autocast(device_type=z.device.type, enabled=False):
        z = z if z.dtype == torch.float64 else z.float()
        weights = torch.ones(count, device=z.device, dtype=z.dtype) if weights is None else weights.to(z.dtype)
        if times is None:
            times, time_weight = torch.zeros(count, device=z.device, dtype=z.dtype), 0.0
        times = times.to(z.dtype)
        fixed = 0 if held is None else len(held)
        cells = temporal_net(weights, k) if start is None else start.clone()
        norms = z.norm(dim=1)
        if fixed:
            held_directions = torch.nn.functional.normalize(z[held], dim=1)
            held_cells = torch.arange(fixed, device=z.device)
            cells[held] = held_cells

        def fill(cells: torch.Tensor, costs: torch.Tensor, radius: torch.Tensor | float) -> torch.Tensor:
            gains = costs - (norms - radius).square()
            if fixed:
                gains[held] = -torch.inf
            return _fill_empty_cells(cells, gains, k)

        def update(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            directions, radius, centres = _update(z, weights, times, cells, k)
            if fixed:
                directions[:fixed], centres[:fixed] = held_directions, times[held]
                radius = (weights * (z * directions[cells]).sum(1)).sum() / weights.sum()
            return directions, radius.clamp(min=0.0), centres

        def cost_of(cells, directions, radius, centres):
            along = (z * directions[cells]).sum(1)
            lag = (times - centres[cells]).square()
            return norms.square() - 2 * radius * along + radius.square() + time_weight * lag

        cells = fill(cells, norms.square(), 0.0)
        state = update(cells)
        costs = cost_of(cells, *state)
        history = [(weights * costs).sum() / weights.sum()]
        for _ in range(iterations):
            directions, radius, centres = state
            score = (2 * radius * z) @ directions.T
            if time_weight > 0:
                score += time_weight * (2 * times[:, None] * centres - centres.square())
            best = score.argmax(dim=1)
            # A tie must not move a point: keep the old cell unless the new one is strictly better.
            old = cells[:, None]
            better = score.gather(1, best[:, None]) > score.gather(1, old)
            new = torch.where(better[:, 0], best, cells)
            if fixed:
                new[held] = held_cells
            new = fill(new, cost_of(new, *state), radius)
            if torch.equal(new, cells):
                break
            cells, state = new, update(new)
            costs = cost_of(cells, *state)
            history.append((weights * costs).sum() / weights.sum())
        return ShellCodebook(*state, cells, costs, torch.stack(history))


def snap_to_points(cells: torch.Tensor, costs: torch.Tensor, k: int) -> torch.Tensor:
    """The cheapest point of each cell: cells are disjoint, so the points are distinct.

    `cells` (T,) int64 with no empty cell among 0..k-1, `costs` (T,) -> int64 (k,). Ties go to the earliest point.
    """
    order = costs.argsort(stable=True)
    order = order[cells[order].argsort(stable=True)]
    counts = torch.bincount(cells, minlength=k)
    return order[counts.cumsum(0) - counts]


def _expected_maximum(k: int, absolute: bool = False) -> float:
    """E max of k standard normals (or of their absolute values), by quadrature in float64."""
    x = torch.linspace(0.0 if absolute else -12.0, 12.0, 48001, dtype=torch.float64)
    below = torch.special.erf(x / math.sqrt(2)) if absolute else torch.special.ndtr(x)
    density = (2.0 if absolute else 1.0) * (-x.square() / 2).exp() / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(k * x * density * below ** (k - 1), x))


def _shell_of_standard_normal(k: int, dim: int) -> tuple[torch.Tensor, float]:
    """Directions (k, dim) float64 and radius of the shell points of N(0, I_dim)."""
    if k == 1:
        return torch.eye(1, dim, dtype=torch.float64), 0.0
    if k <= dim + 1:
        # The regular simplex: unit vectors of R^k less their mean, in the k - 1 dimensions they span.
        corners = torch.eye(k, dtype=torch.float64) - 1.0 / k
        span = torch.linalg.svd(corners).Vh[: k - 1]
        directions = torch.nn.functional.normalize(corners @ span.T, dim=1)
        directions = torch.nn.functional.pad(directions, (0, dim - (k - 1)))
        return directions, math.sqrt(k / (k - 1)) * _expected_maximum(k)
    if dim == 2:
        angles = torch.arange(k, dtype=torch.float64) * (2 * math.pi / k)
        half = math.pi / k
        return torch.stack([angles.cos(), angles.sin()], dim=1), math.sqrt(math.pi / 2) * math.sin(half) / half
    if k == 2 * dim:
        axes = torch.eye(dim, dtype=torch.float64)
        return torch.cat([axes, -axes]), _expected_maximum(dim, absolute=True)
    # No closed form is known: LBG on a Sobol' net of the normal, itself the start's first k points apart.
    net = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0).draw(max(_NET_POINTS, 32 * k), dtype=torch.float64)
    points = torch.special.ndtri(net.clamp(1e-9, 1 - 1e-9))
    points = torch.cat([points, -points])
    seeds = torch.nn.functional.normalize(points[:k], dim=1)
    codebook = shell_lbg(points, k, start=(points @ seeds.T).argmax(dim=1), iterations=_NET_ITERATIONS)
    return codebook.directions, float(codebook.radius)


def representative_points(mean: torch.Tensor, factor: torch.Tensor, diagonal: torch.Tensor, k: int) -> torch.Tensor:
    """The k points on one shell that represent N(mean, diag(diagonal) + factor factorᵀ) best: the pure codebook.

    Their Mahalanobis² is one number, c* = rho*². k <= d + 1 gives a regular simplex, k = 2d a cross polytope and d = 2
    a ring, with exact radii; other k come from LBG on a Sobol' net (radius within about 1e-2). The shell's directions
    are spent on the principal axes first, the others only matter once k - 1 exceeds the factor's rank.

    Args:
        mean (`torch.Tensor` of shape `(d,)`), factor (`(d, r)`), diagonal (`(d,)`): the Gaussian.
        k (`int`): how many points. One point is the mean itself.

    Returns:
        float32 (k, d), without gradient.

    Raises:
        ValueError: k < 1, or k > 2 in one dimension, where a shell has two points only.
    """
    gaussian = LowRankGaussian(mean, diagonal, factor)
    dim = len(mean)
    if k < 1 or (dim == 1 and k > 2):
        raise ValueError(f"`k` must be at least 1 (and at most 2 when d = 1, a shell's two points), but it is {k}.")
    with torch.no_grad():
        used = min(dim, max(k - 1, 1))
        directions, radius = _shell_of_standard_normal(k, used)
        axes, gain = gaussian.principal_directions()
        rank = axes.shape[1]
        if used > rank:
            filler = torch.eye(dim, used, device=axes.device, dtype=axes.dtype)
            completed = torch.linalg.qr(torch.cat([axes, filler], dim=1)).Q[:, rank:used]
            axes = torch.cat([axes, completed], dim=1)
            gain = torch.nn.functional.pad(gain, (0, used - rank))
        z = (radius * directions).to(axes)
        stretched = (z * (1 + gain[:used]).sqrt()) @ axes[:, :used].T
        return gaussian.mean.float() + stretched * gaussian.diagonal.float().sqrt()
