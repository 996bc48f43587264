"""PACE's inference: what rises, what it reduces to, what weights mean, what permutations do."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.explanation.pace_inference import Concepts, Posterior, Pull, bound, infer, mean_concepts
from foveal.explanation.pace_maximisation import Prior, Statistics, learn_labels, maximise

WEIGHTINGS = ("power", "likelihood", "count")


def draw(images=6, tokens=20, concepts=4, dim=3, classes=3, seed=0, dtype=torch.float64):
    """Tokens from as many clusters as there are concepts, uneven weights of mean 1, and first concepts."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    centres = 2 * normal(concepts, dim)
    which = torch.randint(concepts, (images, tokens), generator=generator)
    e = centres[which] + 0.5 * normal(images, tokens, dim)
    a = torch.rand(images, tokens, generator=generator, dtype=torch.float64) + 0.05
    a = a / a.mean(dim=1, keepdim=True)
    spread = normal(concepts, dim, dim)
    covariance = 0.3 * spread @ spread.mT + torch.eye(dim)
    known = Concepts(centres + 0.3 * normal(concepts, dim), covariance, torch.full((concepts,), 2.0).double(),
                     2 * normal(classes, concepts))  # fmt: skip
    return e.to(dtype), a.to(dtype), known


def pull_of(images=6, concepts=4, classes=3, seed=1, **options):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randn(images, classes, generator=generator, dtype=torch.float64).softmax(1)
    views = torch.rand(images, concepts, generator=generator, dtype=torch.float64)
    return Pull(labels, views / views.sum(1, keepdim=True), **options)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_phi_sum_to_1_and_gamma_is_above_alpha(weighting, dtype):
    e, a, concepts = draw(dtype=dtype)
    for pull in (None, pull_of()):
        found = infer(e, a, concepts, weighting=weighting, pull=pull)
        torch.testing.assert_close(found.phi.sum(-1), torch.ones_like(a), atol=1e-6, rtol=0)
        assert (found.gamma > concepts.alpha.to(dtype)).all()
        torch.testing.assert_close(found.theta.sum(-1), torch.ones_like(a[:, 0]))


def em(e, a, concepts, *, weighting, strength, steps=25, spread=None):
    """Bounds, prior included, of full-batch EM."""
    prior = Prior(concepts.mean.clone(), strength, spread)
    values = []
    for _ in range(steps):
        found = infer(e, a, concepts, weighting=weighting, iterations=50)
        value = bound(e, a, concepts, found, weighting=weighting).sum() + prior.log_density(concepts)
        values.append(float(value))
        mean, covariance = maximise(Statistics.of(e, a, found.phi), prior, ridge=0)
        assert (torch.linalg.eigvalsh(covariance) > 0).all()
        assert torch.equal(covariance, covariance.mT)
        concepts = Concepts(mean, covariance, concepts.alpha)
    return torch.tensor(values), concepts


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(
    ("strength", "spread"), [(0.0, None), (20.0, None), (20.0, torch.diag(torch.tensor([0.1, 0.5, 2.0])))]
)
def test_the_bound_never_falls_over_full_batch_em(weighting, strength, spread):
    e, a, concepts = draw(images=30)
    values, _ = em(e, a, concepts, weighting=weighting, strength=strength, spread=spread)
    assert (values.diff() >= -1e-6 * values[1:].abs()).all()
    assert values[-1] > values[0] + 1


def test_the_default_ridge_does_not_make_the_bound_fall():
    e, a, concepts = draw(images=30)
    prior, values = Prior(concepts.mean, 0.0), []
    for _ in range(20):
        found = infer(e, a, concepts, iterations=50)
        values.append(float(bound(e, a, concepts, found).sum()))
        concepts = Concepts(*maximise(Statistics.of(e, a, found.phi), prior), concepts.alpha)
    values = torch.tensor(values)
    assert (values.diff() >= -1e-6 * values[1:].abs()).all()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("strengths", [(1.0, 1.0), (20.0, 20.0), (500.0, 100.0)])
def test_the_bound_never_falls_over_the_e_step_with_label_and_view(weighting, strengths):
    e, a, concepts = draw()
    pull = pull_of(label_weight=strengths[0], view_weight=strengths[1])
    options = {"weighting": weighting, "pull": pull}
    values = torch.stack(
        [
            bound(e, a, concepts, infer(e, a, concepts, iterations=n, **options), **options)
            for n in range(1, 15)
        ]
    )
    assert (values.diff(dim=0) >= -1e-4).all()
    assert (values[-1] > values[0]).any()


def test_the_gradient_of_label_and_view_is_that_of_their_value():
    _, _, concepts = draw()
    mean = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) + 0.1
    mean.requires_grad_()
    pull = pull_of(label_weight=3.0, view_weight=0.7)
    (wanted,) = torch.autograd.grad(pull.value(mean, concepts).sum(), mean)
    torch.testing.assert_close(pull.gradient(mean.detach(), concepts), wanted)


def test_with_a_shared_mixture_it_is_a_gaussian_mixture():
    from sklearn.mixture import GaussianMixture

    e, _, concepts = draw(images=4, tokens=30)
    share = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    mixture = GaussianMixture(4, covariance_type="full")
    mixture.weights_, mixture.means_ = share.numpy(), concepts.mean.numpy()
    mixture.covariances_ = concepts.covariance.numpy()
    mixture.precisions_cholesky_ = concepts.factors[0].mT.numpy()
    wanted = torch.from_numpy(mixture.predict_proba(e.flatten(0, 1).numpy())).view(4, 30, 4)
    known = Concepts(concepts.mean, concepts.covariance, 1e9 * share)
    found = infer(e, torch.ones(4, 30).double(), known)
    torch.testing.assert_close(found.phi, wanted, atol=1e-5, rtol=0)


def duplicated(e, a, phi=None):
    """Each token as often as its whole weight says, all of one image."""
    times = a[0].long()
    repeated = [None if x is None else x.repeat_interleave(times, dim=1) for x in (e, phi)]
    return repeated[0], torch.ones(1, int(times.sum()), dtype=e.dtype), repeated[1]


def test_whole_weights_are_duplicates_in_the_m_step():
    e, _, concepts = draw(images=1)
    a = torch.randint(0, 4, (1, 20), generator=torch.Generator().manual_seed(0)).double()
    phi = infer(e, a, concepts).phi
    many, ones, same = duplicated(e, a, phi)
    prior = Prior(concepts.mean, 5.0)
    for x, y in zip(
        maximise(Statistics.of(e, a, phi), prior),
        maximise(Statistics.of(many, ones, same), prior),
        strict=True,
    ):
        torch.testing.assert_close(x, y, atol=1e-6, rtol=0)


def test_whole_weights_are_duplicates_through_em_where_they_count():
    e, _, concepts = draw(images=1)
    a = torch.randint(0, 4, (1, 20), generator=torch.Generator().manual_seed(0)).double()
    many, ones, _ = duplicated(e, a)
    _, weighted = em(e, a, concepts, weighting="count", strength=3.0, steps=10)
    _, repeated = em(many, ones, concepts, weighting="count", strength=3.0, steps=10)
    torch.testing.assert_close(weighted.mean, repeated.mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(weighted.covariance, repeated.covariance, atol=1e-6, rtol=0)
    for pull in (None, pull_of(images=1, label_weight=5.0)):
        found = infer(e, a, weighted if pull is None else concepts, weighting="count", pull=pull)
        other = infer(many, ones, weighted if pull is None else concepts, weighting="count", pull=pull)
        torch.testing.assert_close(found.gamma, other.gamma)


def test_attention_is_in_the_exponent():
    e, a, concepts = draw()
    for weighting, apart in (("power", False), ("likelihood", False), ("count", True)):
        low = infer(e, a, concepts, weighting=weighting, iterations=1).phi
        high = infer(e, 2 * a, concepts, weighting=weighting, iterations=1).phi
        assert torch.allclose(low.amax(-1), high.amax(-1), atol=1e-3) is apart
    sharper = infer(e, 2 * a, concepts, weighting="power").phi.amax(-1)
    assert (sharper >= infer(e, a, concepts, weighting="power").phi.amax(-1) - 0.02).float().mean() > 0.9


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(WEIGHTINGS), st.booleans())
def test_permuted_concepts_permute_the_answer_and_permuted_tokens_phi_alone(seed, weighting, with_pull):
    e, a, concepts = draw(seed=seed, images=3, tokens=9)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    places = torch.randperm(9, generator=torch.Generator().manual_seed(seed + 1))
    pull = pull_of(images=3, seed=seed) if with_pull else None
    found = infer(e, a, concepts, weighting=weighting, pull=pull)
    moved = Concepts(concepts.mean[order], concepts.covariance[order], concepts.alpha[order],
                     concepts.eta[:, order])  # fmt: skip
    moved_pull = None if pull is None else Pull(pull.probabilities, pull.views[:, order])
    other = infer(e, a, moved, weighting=weighting, pull=moved_pull)
    torch.testing.assert_close(other.gamma, found.gamma[:, order], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(other.phi, found.phi[..., order], rtol=1e-7, atol=1e-7)
    shuffled = infer(e[:, places], a[:, places], concepts, weighting=weighting, pull=pull)
    torch.testing.assert_close(shuffled.gamma, found.gamma, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(shuffled.phi, found.phi[:, places], rtol=1e-7, atol=1e-7)


def test_covariances_whose_determinant_underflows_are_borne():
    dim = 25
    tiny = Concepts(torch.zeros(2, dim).double(), 1e-20 * torch.eye(dim).double().repeat(2, 1, 1),
                    torch.ones(2).double())  # fmt: skip
    assert torch.linalg.det(tiny.covariance.float())[0] == 0
    found = tiny.log_density(torch.zeros(1, 1, dim))
    assert torch.isfinite(found).all()
    far = infer(1e3 * torch.ones(1, 3, dim), torch.ones(1, 3), tiny)
    assert torch.isfinite(far.phi).all()


def test_log_densities_are_those_of_torch():
    e, _, concepts = draw()
    wanted = torch.distributions.MultivariateNormal(concepts.mean, concepts.covariance)
    torch.testing.assert_close(concepts.log_density(e), wanted.log_prob(e.unsqueeze(-2)))


def test_labels_are_learned_by_ascent():
    generator = torch.Generator().manual_seed(0)
    mean = torch.rand(50, 4, generator=generator, dtype=torch.float64).softmax(1)
    labels = (5 * mean[:, :3]).softmax(1)
    eta = torch.zeros(3, 4, dtype=torch.float64)

    def likelihood(eta):
        return float((labels * (mean @ eta.mT).log_softmax(1)).sum(1).mean())

    values = [likelihood(eta)]
    for _ in range(5):
        eta = learn_labels(eta, mean, labels, learning_rate=3.9)
        values.append(likelihood(eta))
    assert all(b > a for a, b in pairwise(values))


def test_a_class_that_is_never_said_is_allowed():
    e, a, concepts = draw()
    pull = pull_of()
    labels = torch.cat([pull.probabilities[:, :2], torch.zeros(6, 1).double()], dim=1)
    found = infer(e, a, concepts, pull=Pull(labels / labels.sum(1, keepdim=True)))
    assert torch.isfinite(found.gamma).all()


def test_a_concept_without_tokens_falls_back_to_its_prior():
    e, a, concepts = draw()
    phi = torch.zeros(6, 20, 4).double()
    phi[..., 0] = 1
    mean, covariance = maximise(Statistics.of(e, a, phi), Prior(concepts.mean, 10.0), ridge=1e-4)
    torch.testing.assert_close(mean[1:], concepts.mean[1:])
    torch.testing.assert_close(covariance[1], 1.0001 * torch.eye(3).double())


def test_blended_statistics_conserve_weight():
    e, a, concepts = draw()
    one = Statistics.of(e, a, infer(e, a, concepts).phi)
    two = Statistics.of(e[:, :10], a[:, :10], infer(e[:, :10], a[:, :10], concepts).phi)
    both = one.plus(two, keep=0.75, take=0.25)
    assert float(both.weight.sum()) == pytest.approx(float(0.75 * a.sum() + 0.25 * a[:, :10].sum()))


def test_mean_concepts_are_over_tokens_or_over_what_they_count():
    e, a, concepts = draw()
    phi = infer(e, a, concepts).phi
    torch.testing.assert_close(mean_concepts(phi, a), phi.mean(1))
    counted = mean_concepts(phi, a, weighting="count")
    torch.testing.assert_close(counted, (a[..., None] * phi).sum(1) / a.sum(1, keepdim=True))


def test_a_random_start_is_its_seed():
    e, a, concepts = draw()
    one, same, other = (
        infer(e, a, concepts, start="random", seed=seed, iterations=1).gamma for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e, a: (e[..., :2], a), "allowed: \\(B, J, 3\\)"),
        (lambda e, a: (e, a[:, 1:]), "attention of shape"),
        (lambda e, a: (e * torch.nan, a), "NaN or infinity"),
        (lambda e, a: (e, -a), "at least 0"),
        (lambda e, a: (e, a / 0), "finite"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(change, message):
    e, a, concepts = draw()
    with pytest.raises(ValueError, match=message):
        infer(*change(e, a), concepts)


def test_wrong_words_and_concepts_are_refused():
    e, a, concepts = draw()
    with pytest.raises(ValueError, match="did you mean 'power'"):
        infer(e, a, concepts, weighting="powr")
    with pytest.raises(ValueError, match="unknown start"):
        infer(e, a, concepts, start="evn")
    with pytest.raises(ValueError, match="iterations is 0"):
        infer(e, a, concepts, iterations=0)
    flat = Concepts(concepts.mean, torch.zeros(4, 3, 3).double(), concepts.alpha)
    with pytest.raises(ValueError, match=r"concepts \[0, 1, 2, 3\] are not positive definite"):
        infer(e, a, flat)
    with pytest.raises(ValueError, match="know no classes"):
        infer(e, a, Concepts(concepts.mean, concepts.covariance, concepts.alpha), pull=pull_of())
    assert isinstance(infer(e, a, concepts), Posterior)
