"""Representative points of an elliptical distribution, all on one shell: a number-theoretic start, then LBG steps.

Shapes: T points, p whitened channels, k codewords.
    z (T, p) whitened points · w (T,) weights · u (k, p) unit directions · rho the shell's radius · a (T,) cells

All codewords rho u_i have one norm, so the Voronoi cells are cones and
    MSE(rho) = E|z|² - 2 rho E max_i u_i·z + rho²   =>   rho* = E max_i u_i·z,   c* = rho*²,   MSE* = E|z|² - c*:
the best shell is known in closed form (Fang, Yuan, Bentler 1994 for the number-theoretic LBG; the shell is ours).
With times t, the cost of a point gains tau² (t - m_i)², m_i the mean time of its cell.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .gaussian_ntlbg import LowRankGaussian


_NET_POINTS = 8192
_NET_ITERATIONS = 60
# Up to this many points the whole (T, k) matrix is cheaper than a search in bands of this many.
DENSE_POINTS = 1024
_BAND = 256


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


def bands(times: torch.Tensor, reach: torch.Tensor, centres: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Which codewords can matter to which points: only those near them in time.

    `times`, `reach` (T,) of the points and `centres` (k,) of the codewords, in one unit -> for each run of points the
    codewords (int64, in temporal order) with |t - centre| <= reach for at least one of its points; runs without any
    are left out. Nothing is approximated when `reach` is a bound, and the work falls from T k to T times the widest
    band: a cell spans few strides.
    """
    centres, order = centres.sort(stable=True)
    starts = range(0, len(times), _BAND)
    low = torch.stack([(times[s : s + _BAND] - reach[s : s + _BAND]).amin() for s in starts])
    high = torch.stack([(times[s : s + _BAND] + reach[s : s + _BAND]).amax() for s in starts])
    first = torch.searchsorted(centres, low).tolist()
    last = torch.searchsorted(centres, high, right=True).tolist()
    for start, begin, end in zip(starts, first, last, strict=True):
        if begin < end:
            yield slice(start, start + _BAND), order[begin:end]


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    """Rows (n, p) at length 1. A zero row (points that cancel out, or weigh nothing) may point anywhere: axis one."""
    lengths = vectors.norm(dim=1, keepdim=True)
    axis = torch.zeros_like(vectors)
    axis[:, 0] = 1.0
    return torch.where(lengths > 0, vectors / lengths, axis)


class _Lbg:
    """The iteration's data, and its steps: every step is exact for what it moves, so none can raise the cost."""

    def __init__(self, z, k, weights, times, time_weight, held):
        self.z, self.k, self.weights, self.times, self.time_weight = z, k, weights, times, time_weight
        self.total = weights.sum().clamp(min=torch.finfo(z.dtype).tiny)
        self.norms = z.norm(dim=1)
        self.held = torch.zeros(0, dtype=torch.long, device=z.device) if held is None else held
        self.held_cells = torch.arange(len(self.held), device=z.device)
        self.held_directions = _unit(z[self.held])
        # On an accelerator one large product is faster than many small ones.
        self.banded = len(z) > DENSE_POINTS and time_weight > 0 and z.device.type == "cpu"

    def update(self, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best directions (k, p), radius and cell times (k,) for given cells."""
        z, weights, fixed = self.z, self.weights, len(self.held)
        sums = torch.zeros(self.k, z.shape[1], device=z.device, dtype=z.dtype)
        sums.index_add_(0, cells, weights[:, None] * z)
        mass = torch.zeros(self.k, device=z.device, dtype=z.dtype).index_add_(0, cells, weights)
        centres = torch.zeros_like(mass).index_add_(0, cells, weights * self.times) / mass.clamp(min=1e-30)
        directions = _unit(sums)
        directions[:fixed], centres[:fixed] = self.held_directions, self.times[self.held]
        radius = (directions * sums).sum() / self.total
        return directions, radius.clamp(min=0.0), centres

    def costs(self, cells: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """|z - rho u|² + tau² (t - m)² of every point in its cell, (T,)."""
        directions, radius, centres = state
        along = (self.z * directions[cells]).sum(1)
        lag = (self.times - centres[cells]).square()
        return self.norms.square() - 2 * radius * along + radius.square() + self.time_weight * lag

    def mean_cost(self, costs: torch.Tensor) -> torch.Tensor:
        return (self.weights * costs).sum() / self.total

    def scores(self, state: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """(T, k): what of the cost depends on the codeword, negated."""
        directions, radius, centres = state
        score = (2 * radius * self.z) @ directions.T
        if self.time_weight > 0:
            score += self.time_weight * (2 * self.times[:, None] * centres - centres.square())
        return score

    def blocks(
        self, cells: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor, torch.Tensor], bound: torch.Tensor
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Runs of points, the codewords (w,) that any of them may belong to, the scores (n, w) of both, and the
        column (n, 1) of each point's own codeword.

        A codeword can cost a point no less than (|z| - rho)² + tau² lag², so where `bound` (T,) is an upper bound of
        the cost that matters (at least that of the point's own cell), all codewords further off in time are left out.
        """
        if not self.banded:
            yield slice(0, len(cells)), torch.arange(self.k, device=cells.device), self.scores(state), cells[:, None]
            return
        directions, radius, centres = state
        slack = (bound - (self.norms - radius).square()).clamp(min=0.0) / self.time_weight
        # A thousandth more, for rounding.
        reach = 1.001 * torch.maximum(slack.sqrt(), (self.times - centres[cells]).abs()) + 1e-3
        column = torch.empty(self.k, dtype=torch.long)
        along = 2 * radius * self.z
        for run, near in bands(self.times, reach, centres):
            # Times are taken from the run's first, and what they cost comes with the same matrix product:
            # -tau² (t - m)² = 2 tau² t m - tau² m² but for what depends on the point alone.
            late, middle = self.times[run, None] - self.times[run.start], centres[near, None] - self.times[run.start]
            points = torch.cat([along[run], 2 * self.time_weight * late, torch.ones_like(late)], dim=1)
            words = torch.cat([directions[near], middle, -self.time_weight * middle.square()], dim=1)
            column[near] = torch.arange(len(near))
            yield run, near, points @ words.T, column[cells[run], None]

    def assign(
        self,
        cells: torch.Tensor,
        state: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        costs: torch.Tensor,
    ) -> torch.Tensor:
        """Each point to its best codeword; a tie does not move it, and held points stay with their own.

        `costs` (T,) are those of the points in their cells.
        """
        new = cells.clone()
        for run, near, score, own in self.blocks(cells, state, costs):
            value, best = score.max(dim=1)
            new[run] = torch.where(value > score.gather(1, own)[:, 0], near[best], cells[run])
        new[self.held] = self.held_cells
        return new

    def runner_up(
        self,
        cells: torch.Tensor,
        state: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        costs: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For each point the best codeword but its own, int64 (T,), and how much more it costs (T,)."""
        bound = costs
        if self.banded:
            # Any other codeword bounds the cost of the best of them: take a neighbour in time.
            order = state[2].argsort(stable=True)
            beside = torch.empty_like(order)
            beside[order[:-1]], beside[order[-1]] = order[1:], order[-2]
            bound = torch.maximum(costs, self.costs(beside[cells], state))
        heir, loss = torch.empty_like(cells), torch.empty_like(costs)
        for run, near, score, own in self.blocks(cells, state, bound):
            mine = score.gather(1, own)[:, 0]
            second, column = score.scatter(1, own, -torch.inf).max(dim=1)
            heir[run], loss[run] = near[column], mine - second
        return heir, loss

    def fill(self, cells: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Give every empty cell the point that gains most by leaving its own; none is robbed of its last point."""
        counts = torch.bincount(cells, minlength=self.k)
        empty = (counts == 0).nonzero().flatten().tolist()
        if not empty:
            return cells
        gains = self.weights * (self.costs(cells, state) - (self.norms - state[1]).square())
        gains[self.held] = -torch.inf
        cells, counts = cells.clone(), counts.tolist()
        candidates = iter(gains.argsort(descending=True, stable=True).tolist())
        for cell in empty:
            point = next(point for point in candidates if counts[cells[point]] > 1)
            counts[cells[point]] -= 1
            counts[cell] += 1
            cells[point] = cell
        return cells

    def descend(self, cells: torch.Tensor, iterations: int) -> tuple:
        """(cells, state, costs, history) after at most `iterations` of assign, fill, update."""
        state = self.update(cells)
        costs = self.costs(cells, state)
        history = [self.mean_cost(costs)]
        for _ in range(iterations):
            new = self.fill(self.assign(cells, state, costs), state)
            if torch.equal(new, cells):
                break
            cells, state = new, self.update(new)
            costs = self.costs(cells, state)
            history.append(self.mean_cost(costs))
        return cells, state, costs, history

    def relocated(self, cells: torch.Tensor, state: tuple, costs: torch.Tensor, moves: int) -> torch.Tensor | None:
        """Cells after the `moves` least useful codewords have gone to the cells that gain most by a cut in time.

        What a codeword is worth is what its points would lose with the next best one; what a cell gains by the best
        cut comes from running sums. None when no move promises a lower cost.
        """
        fixed = len(self.held)
        heir, loss = self.runner_up(cells, state, costs)
        worth = torch.zeros(self.k, device=cells.device, dtype=loss.dtype)
        worth.index_add_(0, cells, self.weights * loss)
        worth[:fixed] = torch.inf

        order = cells.argsort(stable=True)
        sorted_cells, w = cells[order], self.weights[order]
        counts = torch.bincount(cells, minlength=self.k)
        first = counts.cumsum(0) - counts
        # Columns: the directions' sums, then mass, time and squared time, all from the start of each cell.
        t = self.times[order] - state[2][sorted_cells]
        columns = torch.cat([self.z[order], torch.ones_like(w)[:, None], t[:, None]], dim=1) * w[:, None]
        running = columns.cumsum(0)
        running = running - (running[first] - columns[first])[sorted_cells]
        rest = running[first + counts - 1][sorted_cells] - running
        gain = running[:, :-2].norm(dim=1) + rest[:, :-2].norm(dim=1)
        gain = 2 * state[1] * (gain - (state[0][sorted_cells] * (running + rest)[:, :-2]).sum(1))
        for part in (running, rest):
            gain += self.time_weight * part[:, -1].square() / part[:, -2].clamp(min=1e-30)
        gain[sorted_cells < fixed] = -torch.inf
        gain[first + counts - 1] = -torch.inf

        best = torch.full_like(worth, -torch.inf).scatter_reduce(0, sorted_cells, gain, "amax")
        donors = worth.argsort(stable=True)[:moves].tolist()
        taken = set(donors)
        receivers = [cell for cell in best.argsort(descending=True, stable=True).tolist() if cell not in taken]
        new, done = cells, False
        for donor, receiver in zip(donors, receivers[:moves], strict=False):
            if not best[receiver] > worth[donor]:
                break
            start, stop = int(first[receiver]), int(first[receiver] + counts[receiver])
            cut = start + int(gain[start:stop].argmax())
            new = torch.where(new == donor, heir, new)
            new[order[cut + 1 : stop]] = donor
            done = True
        if not done:
            return None
        new[self.held] = self.held_cells
        return new


def shell_lbg(
    z: torch.Tensor,
    k: int,
    weights: torch.Tensor | None = None,
    times: torch.Tensor | None = None,
    time_weight: float = 0.0,
    start: torch.Tensor | None = None,
    iterations: int = 8,
    held: torch.Tensor | None = None,
    relocations: int = 0,
) -> ShellCodebook:
    """Linde-Buzo-Gray iteration with all codewords on one shell whose radius is always the closed-form optimum.

    One iteration: assign (one matrix product), give empty cells the point that gains most, then
    S_i = sum of w z over cell i, u_i = S_i/|S_i|, rho = Σ|S_i| / Σ w, m_i the cell's mean time. Each block is exact,
    so the weighted mean cost never rises. LBG stops at the nearest local optimum: a relocation takes the codewords
    that are worth least to the cells that gain most by a cut, and is kept only where the cost has fallen.

    Args:
        z (`torch.Tensor` of shape `(T, p)`): whitened points, T >= k, in time order.
        k (`int`): codewords.
        weights (`torch.Tensor` of shape `(T,)`, *optional*): >= 0; zero-weight points belong to a cell but form none.
        times (`torch.Tensor` of shape `(T,)`, *optional*): in any unit; used when `time_weight` > 0.
        time_weight (`float`): tau², in squared whitened units per squared unit of time.
        start (`torch.Tensor` of shape `(T,)`, *optional*): first cells; default: the temporal net.
        iterations (`int`): at most; it stops early once no point changes its cell.
        held (`torch.Tensor` of shape `(h,)`, *optional*): points that are representatives already. Codewords
            0..h-1 of the k stand for them: their direction and time are the point's own and do not move.
        relocations (`int`): rounds of relocation tried at most, each followed by two iterations.

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
        lbg = _Lbg(z, k, weights, times.to(z.dtype), time_weight, held)
        cells = temporal_net(weights, k) if start is None else start.clone()
        cells[lbg.held] = lbg.held_cells
        zero = torch.zeros((), device=z.device, dtype=z.dtype)
        origin = (torch.zeros(k, z.shape[1], device=z.device, dtype=z.dtype), zero, zero.expand(k))
        cells, state, costs, history = lbg.descend(lbg.fill(cells, origin), iterations)
        moves = max(1, k // 8)
        for _ in range(relocations if k > 1 else 0):
            moved = lbg.relocated(cells, state, costs, moves)
            if moved is None:
                break
            attempt = lbg.descend(lbg.fill(moved, state), 2)
            if attempt[3][-1] < history[-1]:
                cells, state, costs = attempt[:3]
                history.append(attempt[3][-1])
            elif moves == 1:
                break
            else:
                moves = max(1, moves // 4)
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
