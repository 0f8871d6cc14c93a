"""The Gaussian of a stream of descriptors too long to hold: one pass, in memory that does not grow with T.

Shapes: n rows of a chunk, d descriptor channels, r rank, l = 2r rows of the sketch.

Mean, variances and lag-1 autocorrelation are merged exactly (Chan, Golub, LeVeque 1979). The leading directions come
from Frequent Directions (Liberty 2013; Ghashami, Liberty, Phillips, Woodruff 2016). It wants centred rows, whose mean
is not known before the end: so it is fed what Chan's merge adds to the scatter matrix, the rows of a block about the
block's own mean and one more row for the distance of the two means,
    S_ab = S_a + S_b + (w_a w_b / w_ab) (m_b - m_a)(m_b - m_a)ᵀ,
and its rows B always fulfil 0 <= S - BᵀB <= diag(lost), with `lost` summed as it goes. It shrinks in units of the
channels' scatter so far: a scatter only grows, so that what was lost in smaller units weighs less in the end.
All is kept on the CPU in float64, some 6 l rows of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ntlbg.modeling_ntlbg.gaussian_ntlbg import (
    LowRankGaussian,
    channel_scale,
    check_descriptors,
    correlated_size,
    shrunk_ppca,
)


_BLOCK = 4  # sketches' worth of rows merged at a time: fewer shrinkings lose less
_TINY = torch.finfo(torch.float64).tiny


@dataclass
class _Moments:
    """Sums over a run of rows about the run's own mean: two neighbouring runs merge to what one run would give.

    `sketch` (<= l, d) is B above. `kept` (<= l, d) is what shrinking took off along directions that B still has. It
    takes no part in the shrinking, but BᵀB + keptᵀkept knows the leading eigenvalues far better than BᵀB, which
    Frequent Directions leaves up to `lost` too low (log-determinants came out 3 to 20 times nearer to the batch
    form's on synthetic scenes, drifts and power laws).
    With p_t = sqrt(w_t w_t-1) and y = x - mean: pairs = Σ p_t, ends = Σ p_t (y_t + y_t-1), lag = Σ p_t y_t y_t-1.
    """

    count: int
    weight: torch.Tensor
    squared_weight: torch.Tensor
    mean: torch.Tensor
    scatter: torch.Tensor  # (d,), the diagonal of S
    sketch: torch.Tensor
    kept: torch.Tensor
    lost: torch.Tensor
    pairs: torch.Tensor
    ends: torch.Tensor
    lag: torch.Tensor
    first: tuple[torch.Tensor, torch.Tensor]  # row (d,) and its weight
    last: tuple[torch.Tensor, torch.Tensor]

    def effective_size(self, scale: torch.Tensor) -> torch.Tensor:
        """n_c, as `gaussian_ntlbg.effective_sample_size` has it for channels in units of `scale` (d,)."""
        size = self.weight.square() / self.squared_weight
        energy = (self.scatter / scale.square()).sum()
        if energy <= 0:
            return torch.ones_like(size)
        return correlated_size(size, (self.lag / scale.square()).sum(), energy)


def _moments_of_block(rows: torch.Tensor, weights: torch.Tensor) -> _Moments:
    """Of rows (n, d) with weights (n,): their sketch is the rows themselves."""
    weight = weights.sum()
    mean = rows[0] + weights @ (rows - rows[0]) / weight.clamp(min=_TINY)
    centred, root = rows - mean, weights.sqrt()
    pair = root[1:] * root[:-1]
    return _Moments(
        count=len(rows),
        weight=weight,
        squared_weight=weights.square().sum(),
        mean=mean,
        scatter=weights @ centred.square(),
        sketch=root[:, None] * centred,
        kept=centred[:0],
        lost=torch.zeros_like(mean),
        pairs=pair.sum(),
        ends=pair @ (centred[1:] + centred[:-1]),
        lag=pair @ (centred[1:] * centred[:-1]),
        first=(rows[0], weights[0]),
        last=(rows[-1], weights[-1]),
    )


def _merge(a: _Moments, b: _Moments, width: int) -> _Moments:
    """Moments of run `a` followed by run `b`, the sketch shrunk to `width` rows where it has more."""
    weight = a.weight + b.weight
    share = b.weight / weight.clamp(min=_TINY)
    apart = b.mean - a.mean
    mean = a.mean + share * apart
    between = (a.weight * share).sqrt() * apart
    pair = (a.last[1] * b.first[1]).sqrt()
    before, after = a.last[0] - mean, b.first[0] - mean
    ends, lag = pair * (before + after), pair * before * after
    for run in (a, b):
        moved = run.mean - mean
        ends = ends + run.ends + 2 * run.pairs * moved
        lag = lag + run.lag + moved * run.ends + run.pairs * moved.square()
    scatter = a.scatter + b.scatter + between.square()
    sketch, kept, lost = torch.cat([a.sketch, b.sketch, between[None]]), torch.cat([a.kept, b.kept]), a.lost + b.lost
    if len(sketch) > width:
        sketch, kept, drop = _shrink(sketch, kept, torch.where(scatter > 0, scatter.sqrt(), 1.0), width)
        lost = lost + drop * scatter
    return _Moments(
        count=a.count + b.count,
        weight=weight,
        squared_weight=a.squared_weight + b.squared_weight,
        mean=mean,
        scatter=scatter,
        sketch=sketch,
        kept=kept,
        lost=lost,
        pairs=a.pairs + b.pairs + pair,
        ends=ends,
        lag=lag,
        first=a.first,
        last=b.last,
    )


def _shrink(
    sketch: torch.Tensor, kept: torch.Tensor, unit: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frequent Directions in units (d,): all squared singular values fall by the first one without a place.

    Returns sketch and kept, at most `width` rows each, and by how much they fell.
    """
    scaled = sketch / unit
    values, vectors = torch.linalg.eigh(scaled @ scaled.T)
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    # What has no energy in float64's precision has no direction either.
    width = min(width, max(1, int((values > 1e-13 * values[0]).sum())))
    drop = values[width]
    directions = (vectors[:, :width].T @ scaled) / values[:width].clamp(min=_TINY).sqrt()[:, None]
    before = directions @ (kept / unit).T
    taken, axes = torch.linalg.eigh(before @ before.T + drop * torch.eye(width, dtype=before.dtype))
    sketch = (values[:width] - drop).clamp(min=0.0).sqrt()[:, None] * directions * unit
    return sketch, taken.clamp(min=0.0).sqrt()[:, None] * (axes.T @ directions) * unit, drop


class StreamingGaussian:
    """`gaussian_ntlbg.fit_gaussian` in one pass over chunks, in memory that depends on d and `rank` alone.

    Mean, variances and effective sample size are the batch form's to float precision, and so is all else for up to
    8 `rank` rows or data of at most 2 `rank` directions; beyond, the factor is that of the sketch. How the stream is
    cut into chunks does not change a bit of the result.

        stream = StreamingGaussian(rank=32)
        for chunk in features:  # (n, d) each, in time order
            stream.update(chunk)
        gaussian = stream.finish()

    Args:
        rank (`int`): columns of the factor.
    """

    def __init__(self, rank: int = 32):
        if rank < 1:
            raise ValueError(f"`rank` must be at least 1, but it is {rank}.")
        self.rank = rank
        self._device = torch.device("cpu")
        self._run: _Moments | None = None
        # Rows wait here for a full block, so that chunks do not decide where the sketch shrinks.
        self._rows: torch.Tensor | None = None
        self._weights = torch.zeros(_BLOCK * 2 * rank, dtype=torch.float64)
        self._waiting = 0

    @torch.no_grad()
    def update(self, chunk: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Take the next rows of the stream.

        Args:
            chunk (`torch.Tensor` of shape `(n, d)`): any float type and device, in time order.
            weights (`torch.Tensor` of shape `(n,)`, *optional*): >= 0; None weighs each row 1.

        Raises:
            ValueError: not (n, d), another d than before, not finite, bad weights. The stream is then as it was.
        """
        check_descriptors(chunk)
        if self._rows is not None and chunk.shape[1] != self._rows.shape[1]:
            raise ValueError(
                f"Every chunk of a stream must be as wide as the first, (n, {self._rows.shape[1]}), but the shape is "
                f"{tuple(chunk.shape)}."
            )
        weights = torch.ones(len(chunk)) if weights is None else weights.float()
        if weights.shape != (len(chunk),) or not 0 <= weights.sum() < torch.inf or (weights < 0).any():
            raise ValueError(
                f"`weights` must be one finite number >= 0 per row, shape ({len(chunk)},), but the shape is "
                f"{tuple(weights.shape)} and the sum {float(weights.sum()):.3g}."
            )
        if self._rows is None:
            self._device = chunk.device
            self._rows = torch.zeros(len(self._weights), chunk.shape[1], dtype=torch.float64)
        done = 0
        while done < len(chunk):
            taken = min(len(chunk) - done, len(self._rows) - self._waiting)
            place = slice(self._waiting, self._waiting + taken)
            self._rows[place] = chunk[done : done + taken].cpu().double()
            self._weights[place] = weights[done : done + taken].cpu().double()
            done, self._waiting = done + taken, self._waiting + taken
            if self._waiting == len(self._rows):
                self._run, self._waiting = self._moments(), 0

    def _moments(self) -> _Moments | None:
        """Of all rows so far, those that wait too; None before the first."""
        if not self._waiting:
            return self._run
        block = _moments_of_block(self._rows[: self._waiting].clone(), self._weights[: self._waiting].clone())
        return block if self._run is None else _merge(self._run, block, 2 * self.rank)

    @torch.no_grad()
    def merge(self, other: "StreamingGaussian") -> None:
        """Append a stream that follows this one in time and was read elsewhere; `other` stays as it is.

        Raises:
            ValueError: another rank or width.
        """
        if other.rank != self.rank:
            raise ValueError(f"Only streams of one rank can be merged, but theirs are {self.rank} and {other.rank}.")
        ours, theirs = self._moments(), other._moments()
        if theirs is None:
            return
        if ours is None:
            self._device, self._rows = other._device, torch.zeros_like(other._rows)
        elif ours.mean.shape != theirs.mean.shape:
            raise ValueError(
                f"Only streams of one width can be merged, but theirs are {len(ours.mean)} and {len(theirs.mean)}."
            )
        self._run = theirs if ours is None else _merge(ours, theirs, 2 * self.rank)
        self._waiting = 0

    @torch.no_grad()
    def finish(self) -> LowRankGaussian:
        """The Gaussian of all rows so far; the stream may go on afterwards.

        Returns:
            float32 `LowRankGaussian` with factor (d, rank), without gradient, on the first chunk's device.

        Raises:
            ValueError: no row yet, or none with a weight above 0.
        """
        run = self._moments()
        if run is None or run.weight <= 0:
            raise ValueError(
                "A Gaussian needs at least one row with a weight above 0, but the stream had "
                f"{run.count if run else 0} rows; call `update` with descriptors first."
            )
        # From here on float32, so that what is no variance to the batch form is none here.
        mean, variance = run.mean.float(), (run.scatter / run.weight).float()
        scale = channel_scale(mean, variance)
        diagonal, factor = scale.square(), scale.new_zeros(len(scale), 0)
        if run.count > 1:
            rows = torch.cat([run.sketch, run.kept]) / (run.weight.sqrt() * scale)
            _, deviations, directions = torch.linalg.svd(rows, full_matrices=False)
            directions, values = directions.float(), deviations.square().float()
            # What the sketch has not seen is taken as even over the directions it does not have.
            unseen = ((variance / scale.square()).sum() - values.sum()).clamp(min=0.0)
            trace_of_square = values.square().sum() + unseen.square() / max(len(scale) - len(values), 1)
            leading, size = slice(self.rank), run.effective_size(scale).float()
            diagonal, factor = shrunk_ppca(
                scale, variance, directions[leading].T, values[leading], trace_of_square, size, run.count
            )
        factor = torch.nn.functional.pad(factor, (0, self.rank - factor.shape[1]))
        return LowRankGaussian(*(part.to(self._device) for part in (mean, diagonal, factor)))


def stream_mahalanobis(chunks: Iterable[torch.Tensor], rank: int = 32) -> tuple[LowRankGaussian, torch.Tensor]:
    """How far each row of a stream lies from the stream's own Gaussian: its novelty, in two passes.

    Args:
        chunks: (n, d) tensors in time order, in anything that can be read twice: a list, a dataset, or a file of
            features too large to hold, `torch.from_numpy(numpy.load(path, mmap_mode="c")).split(4096)`.
        rank (`int`): columns of the factor.

    Returns:
        The stream's `LowRankGaussian` and the squared Mahalanobis distances, float32 (T,).

    Raises:
        ValueError: `chunks` can be read only once, or holds rows that no Gaussian can be fitted to.
    """
    if iter(chunks) is chunks:
        raise ValueError(
            f"`chunks` is read twice, but a {type(chunks).__name__} can be read only once; pass a list, a dataset or "
            "the `split` of a memory-mapped tensor."
        )
    stream = StreamingGaussian(rank)
    for chunk in chunks:
        stream.update(chunk)
    gaussian = stream.finish()
    return gaussian, torch.cat([gaussian.mahalanobis(chunk) for chunk in chunks])
