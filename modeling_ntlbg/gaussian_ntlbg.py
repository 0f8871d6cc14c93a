"""The Gaussian of a video's descriptors given a query: F | Q ~ N(mu, D + U Uᵀ).

Shapes: T groups, d descriptor channels, r rank of the factor, l = r + oversampling.
    x (T, d) descriptors · w (T,) weights · mu (d,) · D (d,) variances · U (d, r) · A = D^-1/2 U · M = I + AᵀA = L Lᵀ

Everything runs in float32 with autocast off, in O(T d r) time and O(T d) memory: a d x d matrix is never formed.
"""

import math
from dataclasses import dataclass

import torch


# s² = eigenvalues of AᵀA. Above this the float32 whitening of the factor directions loses digits it cannot spare.
MAX_FACTOR_GAIN = 1e4
_OVERSAMPLING = 10
_POWER_ITERATIONS = 2
_TRACE_PROBES = 16
# Sums of squares stay in float32's range below this norm of all values; 300 times the margin for their sums.
_MAX_NORM = 1e18
# Rows worked on at a time: 2 MiB at d = 1024, so that what is made of a chunk stays in a core's cache.
CHUNK = 512
# The basis is found on about this many rows at equal steps; eigenvalues and vectors in it are those of all rows.
_BASIS_ROWS = 2048


def _full_precision(tensor: torch.Tensor) -> torch.autocast:
    return torch.autocast(device_type=tensor.device.type, enabled=False)


@dataclass
class LowRankGaussian:
    """N(mean, diag(diagonal) + factor factorᵀ), differentiable in its three tensors.

    Whitening needs no eigenvectors. With M = I + AᵀA = L Lᵀ, the matrix C = I - A (I + Lᵀ)⁻¹ L⁻¹ Aᵀ fulfils
    CᵀC = (I + A Aᵀ)⁻¹ exactly, so W(x) = C D^-1/2 (x - mu) has covariance I. It differs from the symmetric root by
    a rotation, which no norm or angle sees, and unlike an eigendecomposition it has gradients for equal eigenvalues
    (zero columns of the factor, for instance). M has no eigenvalue below 1: the Cholesky never fails.

    Args:
        mean (`torch.Tensor` of shape `(d,)`): in the descriptors' units.
        diagonal (`torch.Tensor` of shape `(d,)`): variances, all > 0.
        factor (`torch.Tensor` of shape `(d, r)`): zero columns are allowed.
    """

    mean: torch.Tensor
    diagonal: torch.Tensor
    factor: torch.Tensor

    def __post_init__(self):
        dim = self.mean.shape[-1]
        if self.mean.dim() != 1 or self.diagonal.shape != (dim,) or self.factor.dim() != 2 or len(self.factor) != dim:
            raise ValueError(
                "A LowRankGaussian needs mean (d,), diagonal (d,) and factor (d, r), but the shapes are "
                f"{tuple(self.mean.shape)}, {tuple(self.diagonal.shape)} and {tuple(self.factor.shape)}."
            )

    def _scaled_factor(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """D^1/2 (d,), A (d, r) and L (r, r)."""
        scale = self.diagonal.float().sqrt()
        factor = self.factor.float() / scale[:, None]
        identity = torch.eye(factor.shape[1], device=factor.device, dtype=torch.float32)
        return scale, factor, torch.linalg.cholesky(factor.T @ factor + identity)

    def whiten(self, x: torch.Tensor) -> torch.Tensor:
        """Coordinates in which the Gaussian is N(0, I). `x` (..., d) -> float32 (..., d)."""
        with _full_precision(x):
            scale, factor, lower = self._scaled_factor()
            y = (x.float() - self.mean.float()) / scale
            flat = y.reshape(-1, y.shape[-1])
            inner = torch.linalg.solve_triangular(lower, (flat @ factor).T, upper=False)
            identity = torch.eye(len(lower), device=lower.device, dtype=torch.float32)
            inner = torch.linalg.solve_triangular(lower.T + identity, inner, upper=True)
            return (flat - inner.T @ factor.T).reshape(y.shape)

    def unwhiten(self, z: torch.Tensor) -> torch.Tensor:
        """The inverse of `whiten`: C⁻¹ = I + A (I + L)⁻¹ Aᵀ. `z` (..., d) -> float32 (..., d)."""
        with _full_precision(z):
            scale, factor, lower = self._scaled_factor()
            flat = z.float().reshape(-1, z.shape[-1])
            identity = torch.eye(len(lower), device=lower.device, dtype=torch.float32)
            inner = torch.linalg.solve_triangular(lower + identity, (flat @ factor).T, upper=False)
            y = (flat + inner.T @ factor.T).reshape(z.shape)
            return y * scale + self.mean.float()

    def mahalanobis(self, x: torch.Tensor) -> torch.Tensor:
        """Squared Mahalanobis distance (x - mu)ᵀ Σ⁻¹ (x - mu), a sum of squares and so never negative.

        `x` (..., d) -> float32 (...). Its mean over the Gaussian itself is d.
        """
        if x.dim() < 2 or x.shape[0] <= CHUNK:
            return self.whiten(x).square().sum(-1)
        return torch.cat([self.whiten(chunk).square().sum(-1) for chunk in x.split(CHUNK)])

    def distances_and_coordinates(
        self, x: torch.Tensor, directions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared Mahalanobis distances (T,) of `x` (T, d) and whitened coordinates (T, n) along `directions` (d, n).

        `whiten` without gradient, in a buffer of one chunk: fresh memory costs more here than the arithmetic.
        """
        with torch.no_grad(), _full_precision(x):
            scale, factor, lower = self._scaled_factor()
            identity = torch.eye(len(lower), device=lower.device, dtype=torch.float32)
            mean, buffer = self.mean.float(), torch.empty(min(len(x), CHUNK), x.shape[1], device=x.device)
            distances = torch.empty(len(x), device=x.device)
            coordinates = torch.empty(len(x), directions.shape[1], device=x.device)
            parts = zip(x.split(CHUNK), distances.split(CHUNK), coordinates.split(CHUNK), strict=True)
            for rows, distance, coordinate in parts:
                y = torch.sub(rows.float(), mean, out=buffer[: len(rows)]).div_(scale)
                inner = torch.linalg.solve_triangular(lower, (y @ factor).T, upper=False)
                inner = torch.linalg.solve_triangular(lower.T + identity, inner, upper=True)
                y.addmm_(inner.T, factor.T, alpha=-1)
                torch.linalg.vecdot(y, y, out=distance)
                torch.mm(y, directions, out=coordinate)
            return distances, coordinates

    def logdet(self) -> torch.Tensor:
        """log det Σ = Σ log D + 2 Σ log diag L, a float32 scalar."""
        with _full_precision(self.mean):
            _, _, lower = self._scaled_factor()
            return self.diagonal.float().log().sum() + 2.0 * lower.diagonal().log().sum()

    def principal_directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Orthonormal V (d, r) and s² (r,), falling, with A Aᵀ = V diag(s²) Vᵀ: the factor as the whitener sees it.

        Without gradient: eigenvectors have none where eigenvalues meet.
        """
        with torch.no_grad(), _full_precision(self.mean):
            _, factor, _ = self._scaled_factor()
            directions, gain, _ = torch.linalg.svd(factor, full_matrices=False)
            return directions, gain.square()


def _row_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    pairs = zip(left.split(CHUNK), right.split(CHUNK), strict=True)
    return torch.cat([torch.linalg.vecdot(rows, others) for rows, others in pairs])


def effective_sample_size(centred: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """How many independent groups the T correlated ones are worth for second moments.

    n_c = n (1 - phi²)/(1 + phi²), n = (Σw)²/Σw² (Kish) and phi the lag-1 autocorrelation over all channels, a
    first-order autoregression's rule. Neighbouring frames of a video are nearly copies: counting T would shrink
    far too little.

    Args:
        centred (`torch.Tensor` of shape `(T, d)`): descriptors less their mean, in time order.
        weights (`torch.Tensor` of shape `(T,)`): >= 0.

    Returns:
        float32 scalar, at least 1.
    """
    size = weights.sum().square() / weights.square().sum()
    energy = weights @ _row_products(centred, centred)
    if len(centred) < 2 or energy <= 0:
        return torch.ones_like(size)
    pair = (weights[1:] * weights[:-1]).sqrt()
    return correlated_size(size, pair @ _row_products(centred[1:], centred[:-1]), energy)


def correlated_size(size: torch.Tensor, lagged_energy: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
    """n_c of `effective_sample_size` from its sums: n, Σ sqrt(w_t w_t-1) y_t·y_t-1 and Σ w |y|² > 0."""
    phi = (lagged_energy / energy).clamp(0.0, 0.9999)
    return (size * (1 - phi.square()) / (1 + phi.square())).clamp(min=1.0)


def oas_shrinkage(trace: torch.Tensor, trace_of_square: torch.Tensor, dim: int, size: torch.Tensor) -> torch.Tensor:
    """Oracle-approximating shrinkage towards (trace/d) I (Chen, Wiesel, Eldar, Hero 2010, eq. 23), in [0, 1]."""
    numerator = (1 - 2 / dim) * trace_of_square + trace.square()
    denominator = (size + 1 - 2 / dim) * (trace_of_square - trace.square() / dim)
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1e-30), 1.0).clamp(0.0, 1.0)


def check_descriptors(descriptors: torch.Tensor) -> None:
    """Refuse anything that is not a finite, non-empty (T, d) tensor of sane size, in one sentence."""
    if not isinstance(descriptors, torch.Tensor):
        raise ValueError(f"`descriptors` must be a torch.Tensor, but they are a {type(descriptors).__name__}.")
    if descriptors.dim() != 2 or 0 in descriptors.shape:
        raise ValueError(
            f"`descriptors` must have shape (T, d) with T >= 1 and d >= 1, but the shape is "
            f"{tuple(descriptors.shape)}; pass one vector per group of one video."
        )
    # A norm carries any NaN or infinity, and is the cheapest thing to take of all values.
    norm = float(torch.linalg.vector_norm(descriptors.detach().float()))
    if norm <= _MAX_NORM:
        return
    bad = int((~torch.isfinite(descriptors)).any(dim=1).sum())
    if bad:
        raise ValueError(
            f"`descriptors` hold NaN or infinite values in {bad} of {len(descriptors)} groups; "
            "check the encoder's precision (float16 overflows above 65504) before selecting."
        )
    raise ValueError(
        f"`descriptors` are too large for sums of squares in float32: their norm is {norm:.3g}, the limit "
        f"{_MAX_NORM:.0e}; divide them by a constant, or scale each vector to length 1."
    )


def _check_weights(weights: torch.Tensor | None, descriptors: torch.Tensor) -> torch.Tensor:
    if weights is None:
        return torch.full((len(descriptors),), 1.0 / len(descriptors), device=descriptors.device, dtype=torch.float32)
    if weights.shape != (len(descriptors),):
        raise ValueError(
            f"`weights` must have one value per group, shape ({len(descriptors)},), but the shape is "
            f"{tuple(weights.shape)}."
        )
    weights = weights.float()
    if not 0 < weights.sum() < torch.inf or (weights < 0).any():
        raise ValueError("`weights` must be >= 0, not all zero, and have a finite sum; pass None for equal weights.")
    return weights / weights.sum()


def _top_factor(
    scaled: torch.Tensor, weights: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Randomised subspace iteration (Halko, Martinsson, Tropp 2011) on S = Σ_t w_t y_t y_tᵀ, y the rows of `scaled`.

    Returns eigenvectors (d, rank), eigenvalues (rank,) falling, and an estimate of tr(S²): the found eigenvalues'
    squares plus a Hutchinson estimate of what they leave.
    """
    dim = scaled.shape[1]
    width = min(rank + _OVERSAMPLING, dim)
    generator = torch.Generator().manual_seed(0)

    def covariance_times(block: torch.Tensor, step: int = 1) -> torch.Tensor:
        # Both products of a chunk while it is in the cache.
        parts = zip(scaled[::step].split(CHUNK), weights[::step, None].split(CHUNK), strict=True)
        return sum(rows.T @ (row_weights * (rows @ block)) for rows, row_weights in parts)

    start = torch.randn(dim, width, generator=generator, dtype=torch.float32).to(scaled.device)
    probes = torch.randn(dim, _TRACE_PROBES, generator=generator, dtype=torch.float32).to(scaled.device)
    step = max(1, len(scaled) // _BASIS_ROWS)
    basis = torch.linalg.qr(covariance_times(start, step)).Q
    for _ in range(_POWER_ITERATIONS - 1):
        basis = torch.linalg.qr(covariance_times(basis, step)).Q
    both = torch.cat([basis, probes], dim=1)
    small, product = torch.zeros(width, width, device=scaled.device), torch.zeros_like(probes)
    for rows, row_weights in zip(scaled.split(CHUNK), weights[:, None].split(CHUNK), strict=True):
        along = rows @ both
        weighted = row_weights * along
        small += along[:, :width].T @ weighted[:, :width]
        product += rows.T @ weighted[:, width:]
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    order = torch.arange(width - 1, width - 1 - rank, -1, device=values.device)
    values = values.clamp(min=0.0)
    rest = product - basis @ (basis.T @ product)
    trace_of_square = values.square().sum() + rest.square().sum() / _TRACE_PROBES
    return basis @ vectors[:, order], values[order], trace_of_square


def fit_gaussian(
    descriptors: torch.Tensor,
    weights: torch.Tensor | None = None,
    rank: int = 32,
    prior: LowRankGaussian | None = None,
    kappa: torch.Tensor | float = 0.0,
) -> LowRankGaussian:
    """Moments of one video, shrunk by how much its correlated frames can tell, under an optional prior.

    Σ_emp = (1 - a) S_w + a diag(S_w), a by OAS at the effective sample size n_c, then probabilistic PCA (Tipping and
    Bishop 1999) of the channel-scaled matrix: rank directions and one noise level, so that `diagonal` never reaches 0.
    With a prior N(mu0, D0 + U0 U0ᵀ) and the gate kappa >= 0 (in groups: what the prior is worth),
        mu = (kappa mu0 + n_c xbar_w)/(kappa + n_c),   Σ = (1 - b) Σ_emp + b (D0 + U0 U0ᵀ),   b = kappa/(kappa + n_c):
    the posterior of a normal-inverse-Wishart prior without its rank-one term. The factor is then the two factors side
    by side, exactly. kappa = 0 gives the pure empirical moments, with a gradient to kappa. Descriptors too many to
    hold go through `streaming_ntlbg.StreamingGaussian`.

    Args:
        descriptors (`torch.Tensor` of shape `(T, d)`): any float type, in time order.
        weights (`torch.Tensor` of shape `(T,)`, *optional*): >= 0, e.g. relevance; they need not sum to 1.
        rank (`int`): columns of the empirical factor; those the video cannot fill are zero.
        prior, kappa: see above. Gradients reach the prior, kappa and, through the mean, descriptors and weights.

    Returns:
        float32 `LowRankGaussian` with factor (d, rank), or (d, rank + r0) when a prior is given.

    Raises:
        ValueError: not (T, d), not finite, too large for float32, bad weights, rank < 1, kappa < 0.
    """
    check_descriptors(descriptors)
    if rank < 1:
        raise ValueError(f"`rank` must be at least 1, but it is {rank}.")
    dim = descriptors.shape[1]
    with _full_precision(descriptors):
        weights = _check_weights(weights, descriptors)
        # Taken from the first row, so that a large common offset costs the mean no digits.
        shift = descriptors[0].detach().float()
        mean = shift + sum(
            part @ (rows.float() - shift)
            for part, rows in zip(weights.split(CHUNK), descriptors.split(CHUNK), strict=True)
        )
        with torch.no_grad():
            diagonal, factor, size = _empirical_covariance(descriptors, mean, weights, min(rank, dim))
            factor = torch.nn.functional.pad(factor, (0, rank - factor.shape[1]))
        if prior is None:
            return LowRankGaussian(mean, diagonal, factor)
        kappa = torch.as_tensor(kappa, dtype=torch.float32, device=descriptors.device)
        if (kappa < 0).any() or kappa.numel() != 1:
            raise ValueError(f"`kappa` must be one number >= 0 (groups the prior is worth), but it is {kappa}.")
        gate = kappa / (kappa + size)
        mean = (1 - gate) * mean + gate * prior.mean.float()
        diagonal = (1 - gate) * diagonal + gate * prior.diagonal.float()
        # sqrt has an infinite slope at a closed gate; the tiny offset keeps the gradient of kappa finite there.
        own, other = (1 - gate).sqrt(), (gate + 1e-12).sqrt() - 1e-6
        factor = torch.cat([own * factor, other * prior.factor.float()], dim=1)
        with torch.no_grad():
            scaled = factor / diagonal.sqrt()[:, None]
            gain = torch.linalg.eigvalsh(scaled.T @ scaled)[-1]
        return LowRankGaussian(mean, diagonal * (gain / MAX_FACTOR_GAIN).clamp(min=1.0), factor)


def _empirical_covariance(
    descriptors: torch.Tensor, mean: torch.Tensor, weights: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """diagonal (d,), factor (d, rank) and n_c of the weighted moments; see `fit_gaussian`."""
    count, dim = descriptors.shape
    scaled = torch.empty(count, dim, device=descriptors.device)
    variance = torch.zeros(dim, device=descriptors.device)
    buffer = torch.empty(min(count, CHUNK), dim, device=descriptors.device)
    for rows, part, centred in zip(descriptors.split(CHUNK), weights.split(CHUNK), scaled.split(CHUNK), strict=True):
        torch.sub(rows.float(), mean, out=centred)
        variance += torch.mul(part[:, None], centred, out=buffer[: len(rows)]).mul_(centred).sum(0)
    scale = channel_scale(mean, variance)
    scaled /= scale
    size = effective_sample_size(scaled, weights)
    if count == 1:
        return scale.square(), torch.zeros(dim, rank, device=scaled.device), size

    vectors, values, trace_of_square = _top_factor(scaled, weights, rank)
    diagonal, factor = shrunk_ppca(scale, variance, vectors, values, trace_of_square, size, count)
    return diagonal, factor, size


def channel_scale(mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """The unit (d,) each channel is measured in: its deviation, and never 0."""
    # A channel that does not move still needs a unit: its rounding error, or a millionth of the usual deviation.
    rounding = 8 * torch.finfo(torch.float32).eps * mean.abs().mean()
    floor = torch.maximum(1e-6 * variance.mean().sqrt(), rounding).clamp(min=1e-10)
    return variance.sqrt().clamp(min=floor)


def shrunk_ppca(
    scale: torch.Tensor,
    variance: torch.Tensor,
    vectors: torch.Tensor,
    values: torch.Tensor,
    trace_of_square: torch.Tensor,
    size: torch.Tensor,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """diagonal (d,) and factor (d, rank) of the model in `fit_gaussian`, from what is known of the covariance.

    S is the covariance of the channels in units of `scale` (d,): `vectors` (d, rank) and `values` (rank,), falling,
    are its leading eigenpairs, `trace_of_square` its tr(S²), `size` its n_c, and `count` the T >= 2 groups behind it.
    """
    dim, rank = vectors.shape
    trace = (variance / scale.square()).sum()
    shrink = oas_shrinkage(trace, trace_of_square, dim, size)
    kept = min(rank, count - 1, dim - 1)
    values = torch.cat([values[:kept], torch.zeros_like(values[kept:])])
    rest = (trace - values.sum()).clamp(min=0.0) / max(dim - kept, 1)
    noise = (1 - shrink) * rest + shrink
    top = (1 - shrink) * values[:1].sum()
    noise = torch.maximum(noise, top / MAX_FACTOR_GAIN).clamp(min=math.sqrt(torch.finfo(torch.float32).eps))
    excess = ((1 - shrink) * (values - rest)).clamp(min=0.0)
    return noise * scale.square(), scale[:, None] * vectors * excess.sqrt()
