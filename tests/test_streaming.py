"""The one-pass Gaussian: what the batch form gives, from chunks, in memory that does not grow."""

import copy
import dataclasses

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ntlbg.modeling_ntlbg.gaussian_ntlbg import (
    LowRankGaussian,
    channel_scale,
    effective_sample_size,
    fit_gaussian,
    shrunk_ppca,
)
from ntlbg.modeling_ntlbg.streaming_ntlbg import StreamingGaussian, stream_mahalanobis


def scenes(count, dim, seed=0, offset=5.0):
    """Scenes with drift about a common offset, channels of very different size, noise: float32 (T, d)."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(count // 60 + 1, 12, generator=generator).repeat_interleave(60, dim=0)[:count]
    drift = torch.randn(count, 12, generator=generator).cumsum(0) / count**0.5
    x = (scene + drift) @ torch.randn(12, dim, generator=generator) + torch.randn(count, dim, generator=generator)
    return (x + offset) * torch.logspace(-1, 1, dim)


def streamed(x, weights=None, rank=8, chunk=100):
    stream = StreamingGaussian(rank)
    for start in range(0, len(x), chunk):
        stream.update(x[start : start + chunk], None if weights is None else weights[start : start + chunk])
    return stream


def assert_same(found, expected, x, tolerance):
    torch.testing.assert_close(found.mean, expected.mean, rtol=tolerance, atol=tolerance * float(x.abs().max()))
    torch.testing.assert_close(found.mahalanobis(x), expected.mahalanobis(x), rtol=tolerance, atol=tolerance)
    assert (found.logdet() - expected.logdet()).abs() <= tolerance * len(found.mean)


def exact_fit(x, weights, rank):
    """`fit_gaussian` in float64 with the eigenpairs of the dense covariance."""
    x = x.double()
    shares = torch.ones(len(x)) if weights is None else weights
    shares = shares.double() / shares.double().sum()
    mean = shares @ x
    variance = shares @ (x - mean).square()
    scale = channel_scale(mean, variance)
    scaled = (x - mean) / scale
    values, vectors = torch.linalg.eigh(scaled.T @ (shares[:, None] * scaled))
    diagonal, factor = shrunk_ppca(
        scale,
        variance,
        vectors.flip(1)[:, :rank],
        values.flip(0)[:rank].clamp(min=0.0),
        values.square().sum(),
        effective_sample_size(scaled, shares),
        len(x),
    )
    return LowRankGaussian(mean.float(), diagonal.float(), factor.float())


def identical(a, b):
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(LowRankGaussian))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    count=st.integers(2, 400),
    dim=st.integers(1, 12),
    chunk=st.integers(1, 90),
    offset=st.sampled_from([0.0, 30.0, -1000.0]),
    weighting=st.sampled_from(["none", "random", "mostly zero", "second half"]),
    seed=st.integers(0, 10**6),
)
def test_mean_variance_and_effective_sample_size_are_exact_for_any_chunks(count, dim, chunk, offset, weighting, seed):
    x = scenes(count, dim, seed, offset).double()
    weights = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = {
        "none": torch.ones_like(weights),
        "random": weights,
        "mostly zero": weights * (torch.arange(count) % 7 == 0),
        "second half": (torch.arange(count) >= count // 2).double(),
    }[weighting].float()
    run = streamed(x, None if weighting == "none" else weights, 2, chunk)._moments()
    shares = weights.double() / weights.double().sum()
    mean = shares @ x
    variance = shares @ (x - mean).square()
    torch.testing.assert_close(run.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run.scatter / run.weight, variance, rtol=1e-9, atol=1e-12)
    scale = channel_scale(mean, variance)
    size = effective_sample_size((x - mean) / scale, shares)
    torch.testing.assert_close(run.effective_size(scale), size, rtol=1e-6, atol=0)


@pytest.mark.parametrize("count", [2, 5, 64, 700])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_stream_the_sketch_can_hold_has_the_batch_forms_gaussian(count, weighted):
    """Up to 8 r rows, or any number of rows of at most 2 r directions: then nothing is lost."""
    x = scenes(count, 40)
    if count > 64:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(count, 12, generator=generator) @ torch.randn(12, 40, generator=generator) + 3
    weights = torch.rand(count, generator=torch.Generator().manual_seed(2)) if weighted else None
    stream = streamed(x, weights, rank=12, chunk=17)
    assert_same(stream.finish(), exact_fit(x, weights, rank=12), x, 1e-4)
    # The batch form's own basis is randomised and so a little off where eigenvalues are close.
    assert_same(stream.finish(), fit_gaussian(x, weights, rank=12), x, 5e-2)
    assert stream._moments().lost.max() <= 1e-9 * stream._moments().scatter.max()


@pytest.mark.parametrize("kind", ["scenes", "noise", "quiet then loud", "loud then quiet"])
def test_the_sketch_keeps_frequent_directions_guarantee_about_the_final_mean(kind):
    """0 <= S - BᵀB <= diag(lost), and what was lost is bounded by the energy outside the sketch's directions."""
    x = {
        "scenes": scenes(1500, 48),
        "noise": torch.randn(1500, 48, generator=torch.Generator().manual_seed(0)),
        "quiet then loud": scenes(1500, 48) * torch.linspace(0.01, 3, 1500)[:, None],
        "loud then quiet": scenes(1500, 48) * torch.linspace(3, 0.01, 1500)[:, None],
    }[kind]
    run = streamed(x, rank=6)._moments()
    centred = x.double() - x.double().mean(0)
    scatter = centred.T @ centred
    unit = run.scatter.sqrt()
    missing = (scatter - run.sketch.T @ run.sketch) / unit / unit[:, None]
    lost = run.lost / run.scatter
    assert torch.linalg.eigvalsh(missing)[0] >= -1e-9
    assert torch.linalg.eigvalsh(missing - lost.diag())[-1] <= 1e-9
    values = torch.linalg.eigvalsh(scatter / unit / unit[:, None]).flip(0)
    # Ghashami et al. 2016, theorem 1.1, for l = 12 rows and the leading k = 6 directions.
    assert 0 < lost.max() <= values[6:].sum() / (12 - 6)


def batch_logdet(centred, scale, variance, size, rank, error):
    """log det of the batch form in float64 with exact eigenpairs, its leading eigenvalues off by `error`."""
    scaled = centred / scale
    values, vectors = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    values, vectors, dim = values.flip(0), vectors.flip(1), len(scale)
    off = (values[:rank] + error).clamp(min=0.0)
    square = (values.square().sum() + 2 * error * dim).clamp(min=dim)
    diagonal, factor = shrunk_ppca(scale, variance, vectors[:, :rank], off, square, size, len(scaled))
    return torch.logdet(diagonal.diag() + factor @ factor.T)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_stream_is_as_near_the_batch_form_as_the_guarantee_says(seed):
    """Eigenvalues are off by at most `lost`, so the log-determinant lies between those of the two extremes."""
    x = scenes(3000, 64, seed)
    stream = streamed(x, rank=16)
    found, batch, run = stream.finish(), fit_gaussian(x, rank=16), stream._moments()
    centred = x.double() - run.mean
    variance = run.scatter / run.weight
    scale = channel_scale(run.mean, variance)
    error = (run.lost / run.scatter).max()
    low, exact, high = (
        batch_logdet(centred, scale, variance, run.effective_size(scale), 16, e) for e in (error, 0 * error, -error)
    )
    assert low <= found.logdet() <= high
    # What it comes to here: 2 % of a nat per channel, and single rows within 15 %.
    assert (found.logdet() - exact).abs() <= 0.02 * 64
    assert (found.logdet() - batch.logdet()).abs() <= 0.02 * 64
    torch.testing.assert_close(found.mahalanobis(x), batch.mahalanobis(x), rtol=0.15, atol=0)
    torch.testing.assert_close(found.mahalanobis(x).mean(), batch.mahalanobis(x).mean(), rtol=0.03, atol=0)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(1, 499), max_size=12, unique=True), weighted=st.booleans())
def test_the_chunks_do_not_change_one_bit(cuts, weighted):
    x = scenes(500, 20)
    weights = torch.rand(500, generator=torch.Generator().manual_seed(0)) if weighted else None
    whole = streamed(x, weights, rank=4, chunk=500).finish()
    stream = StreamingGaussian(rank=4)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 500], strict=True):
        stream.update(x[start:end], None if weights is None else weights[start:end])
        stream.finish()  # a look in between changes nothing
    assert identical(stream.finish(), whole)


class LargestTensor(TorchDispatchMode):
    """How many values the largest tensor had that any operation made."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.numel())
        return result


def held_values(thing):
    """Values of all tensors reachable from an object's attributes."""
    if isinstance(thing, torch.Tensor):
        return thing.numel()
    parts = thing if isinstance(thing, tuple) else vars(thing).values() if hasattr(thing, "__dict__") else ()
    return sum(held_values(part) for part in parts)


def test_memory_is_constant_in_the_length_of_the_stream():
    stream, held, made = StreamingGaussian(rank=4), [], []
    for _ in range(5):
        with LargestTensor() as largest:
            for part in scenes(400, 32).split(50):
                stream.update(part)
        held.append(held_values(stream))
        made.append(largest.values)
    assert len(set(held[1:])) == 1
    assert held[-1] <= 8 * 2 * 4 * 32
    assert len(set(made[1:])) == 1
    # One long chunk costs no more than the many short ones, its own check apart.
    with LargestTensor() as largest:
        stream.update(scenes(4000, 32))
    assert held_values(stream) == held[-1]
    assert largest.values <= 4000 * 32


@pytest.mark.parametrize("cut", [0, 1, 150, 299, 300])
def test_two_parts_read_apart_merge_to_the_whole(cut):
    x = scenes(300, 20)
    first, second = streamed(x[:cut], rank=10), streamed(x[cut:], rank=10)
    before = second.finish() if cut < 300 else None
    first.merge(second)
    assert_same(first.finish(), exact_fit(x, None, rank=10), x, 1e-4)
    assert first._moments().count == 300
    assert before is None or identical(before, second.finish())
    first.update(x[:50])
    assert_same(first.finish(), exact_fit(torch.cat([x, x[:50]]), None, rank=10), x, 1e-4)


def test_a_stream_goes_on_after_a_look_at_it():
    x = scenes(900, 20)
    stream = streamed(x[:450], rank=4)
    twin = copy.deepcopy(stream)
    assert identical(stream.finish(), twin.finish())
    stream.update(x[450:])
    twin.update(x[450:])
    assert identical(stream.finish(), streamed(x, rank=4).finish())
    assert identical(stream.finish(), twin.finish())


@pytest.mark.parametrize(
    "descriptors",
    [
        torch.ones(1, 5),
        torch.zeros(90, 5),
        torch.full((90, 5), 3.3),
        torch.randn(3, 100, generator=torch.Generator().manual_seed(0)),
        torch.randn(90, 1, generator=torch.Generator().manual_seed(0)),
        torch.randn(90, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.0, 1, 1, 1, 0, 1, 1, 1]),
        torch.randn(90, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 4, 16),
        torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).repeat_interleave(20, dim=0),
        (torch.randn(90, 16, generator=torch.Generator().manual_seed(0)) * 1e4).half(),
        torch.randn(90, 8, generator=torch.Generator().manual_seed(0)) * 1e-3 + 1e3,
        torch.randn(90, 8, generator=torch.Generator().manual_seed(0)) * 1e15,
        torch.randn(90, 8, generator=torch.Generator().manual_seed(0)) * 1e-30,
        torch.cat([torch.full((1, 8), 1e8), torch.randn(89, 8, generator=torch.Generator().manual_seed(0))]),
    ],
    ids=[
        "one",
        "zero",
        "constant",
        "T<r",
        "d=1",
        "dead",
        "condition",
        "duplicates",
        "half",
        "offset",
        "huge",
        "tiny",
        "glitch",
    ],
)
def test_degenerate_streams_have_finite_gaussians_like_the_batch_form(descriptors):
    for rank in (3, 32):
        found = streamed(descriptors, rank=rank, chunk=7).finish()
        assert found.factor.shape == (descriptors.shape[1], rank)
        assert found.mean.dtype == found.diagonal.dtype == found.factor.dtype == torch.float32
        assert (found.diagonal > 0).all()
        assert torch.isfinite(found.mahalanobis(descriptors)).all()
        assert torch.isfinite(found.logdet())
    batch = fit_gaussian(descriptors)
    torch.testing.assert_close(found.mean, batch.mean, rtol=0, atol=1e-6 * float(descriptors.abs().max()))
    torch.testing.assert_close(found.logdet(), batch.logdet(), rtol=1e-2, atol=1e-2)


def test_autocast_gradients_and_half_precision_do_not_reach_the_algebra():
    x = scenes(200, 20)
    plain = streamed(x, rank=4).finish()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert identical(streamed(x.clone().requires_grad_(), rank=4).finish(), plain)
    assert not plain.factor.requires_grad
    half = x.half()
    assert identical(streamed(half, rank=4).finish(), streamed(half.float(), rank=4).finish())


@pytest.mark.parametrize(
    ("chunk", "weights", "sentence"),
    [
        (torch.randn(5), None, "shape"),
        (torch.zeros(0, 3), None, "shape"),
        (torch.zeros(2, 4), None, r"as wide as the first, \(n, 3\), but the shape is \(2, 4\)"),
        (torch.tensor([[1.0, float("nan"), 0.0]]), None, "NaN or infinite values in 1 of 1"),
        (torch.tensor([[1.0, float("-inf"), 0.0]]), None, "NaN or infinite"),
        (torch.full((2, 3), 1e30), None, "too large"),
        (numpy.zeros((2, 3)), None, "torch.Tensor, but they are a ndarray"),
        (torch.zeros(2, 3), torch.ones(3), "one finite number >= 0 per row"),
        (torch.zeros(2, 3), torch.tensor([1.0, -1.0]), "one finite number >= 0 per row"),
        (torch.zeros(2, 3), torch.tensor([1.0, float("nan")]), "one finite number >= 0 per row"),
    ],
)
def test_a_bad_chunk_gives_one_clear_sentence_and_leaves_the_stream_as_it_was(chunk, weights, sentence):
    stream = streamed(scenes(100, 3), rank=2)
    before = stream.finish()
    with pytest.raises(ValueError, match=sentence):
        stream.update(chunk, weights)
    assert identical(stream.finish(), before)


def test_an_empty_stream_and_streams_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="stream had 0 rows"):
        StreamingGaussian().finish()
    weightless = StreamingGaussian()
    weightless.update(torch.randn(5, 3), torch.zeros(5))
    with pytest.raises(ValueError, match="weight above 0, but the stream had 5 rows"):
        weightless.finish()
    with pytest.raises(ValueError, match="`rank` must be at least 1"):
        StreamingGaussian(0)
    with pytest.raises(ValueError, match="theirs are 4 and 5"):
        StreamingGaussian(4).merge(StreamingGaussian(5))
    with pytest.raises(ValueError, match="theirs are 3 and 6"):
        streamed(torch.randn(9, 3)).merge(streamed(torch.randn(9, 6)))


def test_a_feature_file_gives_its_novelty_without_being_loaded(tmp_path):
    x = scenes(2000, 24)
    x[700] = x[700] + 30 * torch.randn(24, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 1, 24)
    numpy.save(tmp_path / "features.npy", x.numpy())
    rows = torch.from_numpy(numpy.load(tmp_path / "features.npy", mmap_mode="c"))
    gaussian, novelty = stream_mahalanobis(rows.split(300), rank=8)
    assert novelty.shape == (2000,)
    assert int(novelty.argmax()) == 700
    torch.testing.assert_close(novelty, fit_gaussian(x, rank=8).mahalanobis(x), rtol=0.1, atol=0)
    assert identical(gaussian, streamed(x, rank=8).finish())
    with pytest.raises(ValueError, match="read twice, but a generator"):
        stream_mahalanobis(part for part in rows.split(300))
