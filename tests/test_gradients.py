"""The task loss alone teaches the selector: what it reaches, from which step on, how right the gradients are, and that
a selector trained by nothing else finds the evidence."""

import itertools

import pytest
import torch
from gradient_toy import GROUPS, KEPT, ToyWorld, evidence_recall, learn, reading_base
from test_model import QUESTION, base_inputs, labelled, with_query
from tiny_models import tiny_model
from tiny_parts import FAMILIES, tiny_base_processor

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig
from ntlbg.modeling_ntlbg.gate_ntlbg import gate_points
from ntlbg.modeling_ntlbg.gaussian_ntlbg import LowRankGaussian, fit_gaussian
from ntlbg.modeling_ntlbg.rich_points_ntlbg import evidence_log_probabilities, soft_cell_pool


# What the task loss does not reach at birth, and why.
BEHIND_THE_FUSION_GATE = ("rich_points.", "selector.kappa")  # zero at birth, and the contexts enter through it
BEHIND_KAPPA = ("selector.prior_",)  # zero at birth: the prior is worth no group
# A training step computes those of the answer alone.
ALL_LOGITS = {"logits_to_keep": 10_000}
NEVER = ("transition.",)  # f(c, r, r', dt) predicts contexts for L_context and takes no part in answering


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param


def training_model(family, seed=0, **config_kwargs):
    """A model in training with a task loss alone, and its inputs."""
    processor = tiny_base_processor(family, padding_side="left")
    model = tiny_model(family, processor.tokenizer, seed=seed, selector_trained=True, **config_kwargs).train()
    inputs = with_query(processor, labelled(processor, base_inputs(processor)), (QUESTION,))
    return model, {**inputs, "num_representatives": 3}


def own_parameters(model):
    return {name: value for name, value in model.named_parameters() if not name.startswith("vlm.")}


def gaussian_and_relevance(model, inputs):
    """mu_Q (d,), Sigma_Q (d, d), mu_0 (d,) and the relevance logits (T,) of the model as it is."""
    with torch.no_grad():
        video = model.encode_video(**inputs)[0]
        slots = model._query_slots(inputs["query_input_ids"], inputs["query_attention_mask"])[0]
        selection, gaussian = model._choose(video.tokens, video.descriptors, 3, slots, None, None)
        covariance = torch.diag(gaussian.diagonal) + gaussian.factor @ gaussian.factor.T
        return gaussian.mean, covariance, model.selector.prior(slots).mean, selection.relevance


def test_the_task_loss_opens_gate_after_gate_until_it_reaches_all(family):
    """Relevance and the fusion gate at birth; kappa and the contexts after one step; the prior's heads after two."""
    torch.manual_seed(0)
    model, inputs = training_model(family)
    optimizer = torch.optim.AdamW(own_parameters(model).values(), lr=1e-3)
    waiting = [(*BEHIND_THE_FUSION_GATE, *BEHIND_KAPPA, *NEVER), (*BEHIND_KAPPA, *NEVER), NEVER, NEVER]
    for step, silent in enumerate(waiting):
        optimizer.zero_grad()
        output = model(**inputs)
        assert torch.equal(output.loss, output.task_loss)
        output.loss.backward()
        gradients = {name: value.grad for name, value in own_parameters(model).items()}
        assert all(torch.isfinite(grad).all() for grad in gradients.values() if grad is not None)
        without = {name for name, grad in gradients.items() if grad is None or not grad.any()}
        expected = {name for name in gradients if name.startswith(silent)} - {"rich_points.gate"}
        assert without == expected, f"step {step}"
        optimizer.step()


def test_a_step_on_the_task_loss_moves_mu_sigma_and_relevance():
    torch.manual_seed(0)
    model, inputs = training_model("qwen2_vl")
    optimizer = torch.optim.AdamW(own_parameters(model).values(), lr=1e-3, weight_decay=0.0)
    before = gaussian_and_relevance(model, inputs)
    priors = [before[2]]
    for _ in range(4):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
        after = gaussian_and_relevance(model, inputs)
        priors.append(after[2])
        for name, old, new in zip(
            ("mu", "Sigma", "relevance"), (*before[:2], before[3]), (*after[:2], after[3]), strict=True
        ):
            assert torch.isfinite(new).all()
            assert (new - old).abs().max() > 0, name
        before = after
    # Through the slots from the first step, by its own head once kappa is open.
    assert model.selector.kappa != 0
    assert all(not torch.equal(old, new) for old, new in itertools.pairwise(priors))


@pytest.mark.parametrize("seed", [3, 4])
def test_kappa_may_step_below_zero(seed):
    """In every other run its first gradient points down; the prior is then worth |kappa| groups, not an error."""
    torch.manual_seed(0)
    model, inputs = training_model("qwen2_vl", seed=seed)
    optimizer = torch.optim.AdamW(own_parameters(model).values(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    assert model.selector.kappa < 0
    assert model.selector.prior_worth == -model.selector.kappa
    assert model.selector.prior_mean.weight.grad.any()


def test_the_likelihood_of_a_video_teaches_the_prior_and_not_what_is_relevant(family):
    model, inputs = training_model(family)
    with torch.no_grad():
        model.selector.kappa.fill_(0.5)
    model(**inputs).ntlbg_loss.backward()
    taught = {name for name, value in own_parameters(model).items() if value.grad is not None and value.grad.any()}
    assert taught == {name for name in own_parameters(model) if name.startswith(("selector.prior_", "selector.kappa"))}


def test_any_step_of_kappa_away_from_zero_opens_the_prior():
    model, _ = training_model("qwen2_vl")
    for value, slope in ((0.0, 1.0), (0.5, 1.0), (-0.5, -1.0)):
        with torch.no_grad():
            model.selector.kappa.fill_(value)
        worth = model.selector.prior_worth
        assert worth == abs(value)
        assert torch.autograd.grad(worth, model.selector.kappa)[0] == slope


def test_in_training_the_gate_is_exactly_open_unless_the_video_is_faded(family):
    model, inputs = training_model(family, fade_share=0.0)
    with torch.no_grad():
        for parameter in (model.rich_points.gate, model.selector.kappa):
            torch.nn.init.normal_(parameter) if parameter.dim() else parameter.fill_(0.5)
        trained = model(**inputs, **ALL_LOGITS)
        model.config.fade_share = 1.0
        faded = model(**inputs, **ALL_LOGITS)
        model.eval()
        answered = model(**inputs)
    assert torch.equal(trained.logits, answered.logits)
    assert not torch.equal(faded.logits, answered.logits)
    assert torch.equal(faded.selections[0].indices, answered.selections[0].indices)
    assert torch.equal(faded.ntlbg_loss, answered.ntlbg_loss)
    assert torch.equal(faded.context_loss, answered.context_loss)


def test_keeping_all_groups_in_training_is_the_base_to_the_bit_unless_the_video_is_faded(family):
    model, inputs = training_model(family, fade_share=0.0)
    inputs.pop("num_representatives")
    base = {name: value for name, value in inputs.items() if not name.startswith("query_")}
    with torch.no_grad():
        assert torch.equal(model(**inputs, num_representatives=8, **ALL_LOGITS).logits, model.vlm(**base).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gate_of_one_changes_no_bit_and_its_gradient_is_that_of_showing_more(dtype):
    generator = torch.Generator().manual_seed(0)
    points, other = (torch.randn(3, 2, 5, generator=generator).to(dtype) for _ in range(2))
    blank = torch.randn(2, 5, generator=generator).to(dtype)
    weights = torch.randn(3, generator=generator, requires_grad=True)
    gated = gate_points(points, blank, weights, 1.0)
    assert torch.equal(gated, points)
    (gated * other).sum().backward()
    expected = ((points - blank).float() * other.float()).sum(dim=(1, 2))
    torch.testing.assert_close(weights.grad, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=2e-2)
    torch.testing.assert_close(gate_points(points, blank, weights, 0.0), blank.expand_as(points), rtol=0.05, atol=0.05)


def test_groups_compete_for_evidence_with_one_another_and_with_none():
    relevance = torch.tensor([-2.0, 0.0, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    odds = relevance.detach().exp()
    torch.testing.assert_close(
        evidence_log_probabilities(relevance.detach())[1:].exp().double(), odds / (1 + odds.sum())
    )
    slopes = torch.autograd.grad(evidence_log_probabilities(relevance)[3], relevance)[0]
    assert slopes[2] > 0
    assert (slopes[[0, 1, 3]] < 0).all()
    assert slopes.sum() > 0  # "none" pays too, so the common level has a gradient


# Pooling and the Gaussian against finite differences


def cells_of(count, k):
    return torch.arange(count) * k // count


def test_soft_pooling_has_right_gradients():
    generator = torch.Generator().manual_seed(0)
    descriptors, distances = (
        torch.rand(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in ((9, 4), (9,))
    )
    for temperature in (1.0, 0.1):
        assert torch.autograd.gradcheck(
            lambda x, m, t=temperature: soft_cell_pool(x, cells_of(9, 3), m, 3, temperature=t),
            (descriptors, distances),
        )


def slope_along(function, leaves, directions, step):
    """Fourth-order central difference of a scalar function of tensors along a direction, in float64."""

    def at(scale):
        moved = [leaf.detach() + scale * step * way for leaf, way in zip(leaves, directions, strict=True)]
        return float(function(*moved).double())

    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)


def check_slopes(function, leaves, step=1e-2, tolerance=2e-3):
    """Autograd against differences along random directions, one leaf at a time and all together. The functions compute
    in float32, so the step is large and its error of fourth order."""
    generator = torch.Generator().manual_seed(5)
    gradients = torch.autograd.grad(function(*leaves), leaves)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    for moving in [*([i] for i in range(len(leaves))), range(len(leaves))]:
        ways = [torch.zeros_like(leaf) for leaf in leaves]
        for i in moving:
            ways[i] = torch.randn(leaves[i].shape, generator=generator)
            ways[i] /= ways[i].norm().clamp(min=1e-12)
        found = float(sum((gradient * way).sum() for gradient, way in zip(gradients, ways, strict=True)))
        size = float(sum((gradient * gradient).sum() for gradient in gradients)) ** 0.5
        assert found == pytest.approx(slope_along(function, leaves, ways, step), rel=tolerance, abs=tolerance * size)


def gaussian_leaves(dim=6, rank=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(dim, generator=generator).requires_grad_(),
        (torch.rand(dim, generator=generator) + 0.5).requires_grad_(),
        torch.randn(dim, rank, generator=generator).requires_grad_(),
    ]


@pytest.mark.parametrize("what", ["whiten", "unwhiten", "mahalanobis", "logdet", "pool"])
def test_the_gaussian_has_right_gradients_to_mean_diagonal_and_factor(what):
    generator = torch.Generator().manual_seed(1)
    x, read = torch.randn(8, 6, generator=generator), torch.randn(8, 6, generator=generator)

    def function(mean, diagonal, factor):
        gaussian = LowRankGaussian(mean, diagonal, factor)
        if what == "logdet":
            return gaussian.logdet() + 0 * mean.sum()
        if what == "mahalanobis":
            return gaussian.mahalanobis(x) @ read[:, 0]
        if what == "pool":
            return (soft_cell_pool(x, cells_of(8, 3), gaussian.mahalanobis(x) / 6, 3) * read[:3]).sum()
        return (getattr(gaussian, what)(x) * read).sum()

    check_slopes(function, gaussian_leaves())


@pytest.mark.parametrize("kappa", [0.3, 20.0])
def test_the_posterior_has_right_gradients_to_kappa_and_the_prior(kappa):
    generator = torch.Generator().manual_seed(1)
    x, read = torch.randn(30, 6, generator=generator), torch.randn(3, 6, generator=generator)

    def function(worth, mean, diagonal, factor):
        gaussian = fit_gaussian(x, rank=2, prior=LowRankGaussian(mean, diagonal, factor), kappa=worth)
        pooled = soft_cell_pool(x, cells_of(30, 3), gaussian.mahalanobis(x) / 6, 3)
        return (pooled * read).sum() + 0.1 * gaussian.logdet()

    check_slopes(function, [torch.tensor(kappa, requires_grad=True), *gaussian_leaves(seed=2)])


def test_the_mean_has_right_gradients_to_descriptors_and_weights():
    generator = torch.Generator().manual_seed(1)
    x, read = torch.randn(12, 6, generator=generator), torch.randn(6, generator=generator)
    weights = (torch.rand(12, generator=generator) + 0.5).requires_grad_()
    check_slopes(lambda values, w: fit_gaussian(values, w, rank=2).mean @ read, [x.requires_grad_(), weights])


DEGENERATE = {
    "constant": lambda x: x[:1].expand_as(x),
    "zero": torch.zeros_like,
    "duplicates": lambda x: x[: len(x) // 4].repeat_interleave(4, dim=0),
    "one group that differs": lambda x: torch.cat([x[:1].expand_as(x)[:-1], x[-1:]]),
    "one group": lambda x: x[:1],
    "two groups": lambda x: x[:2],
    "huge": lambda x: 1e4 * x,
    "tiny": lambda x: 1e-6 * x,
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("fade_share", [0.0, 1.0])
def test_degenerate_videos_have_finite_gradients(case, fade_share):
    torch.manual_seed(0)
    weights = {"ntlbg_weight": 0.5, "align_weight": 0.25, "context_weight": 0.125}
    model, _ = training_model("qwen2_vl", fade_share=fade_share, **weights)
    torch.nn.init.normal_(model.rich_points.gate)
    with torch.no_grad():
        model.selector.kappa.fill_(0.5)
    drawn = ToyWorld().draw(1, torch.Generator().manual_seed(0))
    drawn.tokens = DEGENERATE[case](drawn.tokens[0])[None].contiguous().requires_grad_()
    inputs = drawn.inputs()
    video = model.config.video_token_id
    inputs["input_ids"] = torch.where(inputs["mm_token_type_ids"] == 2, video, inputs["input_ids"])
    output = model(**inputs, num_representatives=3)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    gradients = {name: value.grad for name, value in own_parameters(model).items()}
    gradients["visual tokens"] = drawn.tokens.grad
    assert [name for name, grad in gradients.items() if grad is not None and not torch.isfinite(grad).all()] == []


def test_a_share_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match=r"`fade_share` should be between 0 and 1, but it is 1[.]5"):
        NTLBGConfig(fade_share=1.5)


# Learning what is evidence


@pytest.fixture(scope="module")
def toy():
    world = ToyWorld()
    return world, reading_base(world)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_selector_learns_from_the_task_loss_alone_what_is_evidence(toy, seed):
    world, base = toy
    before, after = (
        evidence_recall(learn(base, world, seed=seed, steps=steps), world, videos=128) for steps in (0, 120)
    )
    assert before["recall"] < 1.5 * KEPT / GROUPS
    assert after["recall"] > 0.8
    assert after["accuracy"] > before["accuracy"] + 0.1
