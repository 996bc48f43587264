"""What proves PACE: its inference to the number, known concepts found again, what its terms do, its cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from foveal.explanation.concept_metrics import ConceptScores, concept_scores, linear_faithfulness
from foveal.explanation.methods import explain
from foveal.explanation.pace import Pace
from foveal.explanation.pace_fitting import fit_pace, stable_views
from foveal.explanation.pace_inference import Concepts, Pull, bound, infer
from foveal.explanation.pace_maximisation import Prior, Statistics, maximise
from foveal.machine import seconds_of
from foveal.recipes._pace_colours import WithColours, colour_pictures, trained_on_colours
from foveal.recipes._pace_comparison import compared
from foveal.recipes._pace_radiographs import radiographs_of_the_chest
from foveal.recipes.base import Evidence, Finding, Scale, Section

_SHUFFLES = 20


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts and one seed of known colours; in full several seeds, the terms, other concepts, cost."""
    yield answers_are_proper
    yield the_bound_rises
    yield it_reduces_to_a_mixture
    yield weights_are_duplicates
    yield permutations
    yield small_determinants
    yield partial(colours_of_patches, range(1) if scale == "quick" else range(3))
    if scale == "full":
        yield partial(colours_of_a_transformer, range(3))
        yield partial(what_the_terms_do, range(3))
        yield partial(beside_other_concepts, range(3))
        yield partial(radiographs_of_the_chest, range(3))
        yield costs


def drawn(
    images: int = 24, tokens: int = 30, concepts: int = 5, dim: int = 6
) -> tuple[Tensor, Tensor, Concepts]:
    """Tokens of clusters, uneven weights of mean 1, and concepts beside the clusters; float64."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    centres = 2 * normal(concepts, dim)
    e = centres[torch.randint(concepts, (images, tokens), generator=generator)] + normal(images, tokens, dim)
    a = torch.rand(images, tokens, generator=generator, dtype=torch.float64) + 0.05
    spread = normal(concepts, dim, dim)
    known = Concepts(
        centres + 0.3 * normal(concepts, dim),
        0.2 * spread @ spread.mT + torch.eye(dim),
        torch.full((concepts,), 2.0).double(),
        2 * normal(3, concepts),
    )
    return e, a / a.mean(dim=1, keepdim=True), known


def pulled(images: int, concepts: int) -> Pull:
    """Soft labels of three classes, and views."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randn(images, 3, generator=generator, dtype=torch.float64).softmax(dim=1)
    return Pull(labels, torch.rand(images, concepts, generator=generator, dtype=torch.float64))


def answers_are_proper() -> Iterator[Finding]:
    """Rows of phi, gamma above alpha, covariances positive definite after many steps."""
    e, a, concepts = drawn()
    found = infer(e.float(), a.float(), concepts)
    off = float((found.phi.sum(dim=-1) - 1).abs().max())
    yield Finding.at_most("rows of phi: distance of their sum to 1", off, 1e-6)
    above = bool((found.gamma > concepts.alpha.float()).all())
    yield Finding.fact("gamma is above alpha everywhere", above)
    prior, least = Prior(concepts.mean, 5.0), []
    for _ in range(50):
        statistics = Statistics.of(e, a, infer(e, a, concepts).phi)
        concepts = Concepts(*maximise(statistics, prior), concepts.alpha, concepts.eta)
        same = torch.equal(concepts.covariance, concepts.covariance.mT)
        least.append(float(torch.linalg.eigvalsh(concepts.covariance).min()) if same else -1.0)
    yield Finding.at_least(
        "least eigenvalue of any covariance over 50 steps, all symmetric", min(least), 1e-4
    )


def the_bound_rises() -> Iterator[Finding]:
    """Over EM without label and view, and over the E-step with them."""
    for weighting in ("power", "likelihood", "count"):
        e, a, concepts = drawn()
        how: dict[str, Any] = {"weighting": weighting}
        pull = pulled(len(e), len(concepts.alpha))
        steps = [infer(e, a, concepts, iterations=n, pull=pull, **how) for n in range(1, 13)]
        values = torch.stack([bound(e, a, concepts, step, pull=pull, **how) for step in steps])
        fall = float((-values.diff(dim=0)).max())
        yield Finding.at_most(
            f"{weighting}: largest fall of an image over the E-step, label and view on", fall, 1e-4
        )
        prior, sums = Prior(concepts.mean, 0.0), []
        for _ in range(30):
            found = infer(e, a, concepts, iterations=40, **how)
            sums.append(float(bound(e, a, concepts, found, **how).sum()))
            concepts = Concepts(*maximise(Statistics.of(e, a, found.phi), prior), concepts.alpha)
        falls = [(before - after) / abs(after) for before, after in pairwise(sums)]
        yield Finding.at_most(f"{weighting}: largest relative fall over 30 steps of EM", max(falls), 1e-6)


def it_reduces_to_a_mixture() -> Finding:
    """One mixture for all tokens: a Gaussian mixture of scikit-learn."""
    from sklearn.mixture import GaussianMixture

    e, _, concepts = drawn()
    share = torch.arange(1.0, 6.0).double() / 15
    mixture = GaussianMixture(5, covariance_type="full")
    mixture.weights_, mixture.means_ = share.numpy(), concepts.mean.numpy()
    mixture.covariances_ = concepts.covariance.numpy()
    mixture.precisions_cholesky_ = concepts.factors[0].mT.numpy()
    wanted = torch.from_numpy(mixture.predict_proba(e.flatten(0, 1).numpy())).view(*e.shape[:2], 5)
    shared = Concepts(concepts.mean, concepts.covariance, 1e9 * share)
    found = infer(e, torch.ones_like(e[..., 0]), shared).phi
    return Finding.at_most(
        "huge alpha, equal weights: difference to scikit-learn's GaussianMixture",
        float((found - wanted).abs().max()),
        1e-5,
    )


def weights_are_duplicates() -> Iterator[Finding]:
    """Whole weights against tokens repeated as often."""
    e, _, concepts = drawn(images=1)
    a = torch.randint(0, 4, e.shape[:2], generator=torch.Generator().manual_seed(0)).double()
    times = a[0].long()
    many, ones = e.repeat_interleave(times, dim=1), torch.ones(1, int(times.sum())).double()
    prior = Prior(concepts.mean, 5.0)
    phi = infer(e, a, concepts).phi
    once = maximise(Statistics.of(e, a, phi), prior)
    again = maximise(Statistics.of(many, ones, phi.repeat_interleave(times, dim=1)), prior)
    off = max(float((x - y).abs().max()) for x, y in zip(once, again, strict=True))
    yield Finding.at_most("whole weights against duplicates: mean and covariance of an M-step", off, 1e-6)
    for _ in range(10):
        both = [
            Statistics.of(t, w, infer(t, w, concepts, weighting="count").phi)
            for t, w in ((e, a), (many, ones))
        ]
        once, again = (maximise(each, prior) for each in both)
        concepts = Concepts(*once, concepts.alpha)
    off = max(float((x - y).abs().max()) for x, y in zip(once, again, strict=True))
    yield Finding.at_most("the same through ten steps of EM where weights count tokens", off, 1e-6)


def permutations() -> Iterator[Finding]:
    """Of concepts and of tokens."""
    e, a, concepts = drawn()
    order, places = torch.tensor([3, 1, 4, 0, 2]), torch.arange(e.shape[1]).flip(0)
    pull = pulled(len(e), 5)
    found = infer(e, a, concepts, pull=pull)
    assert concepts.eta is not None
    assert pull.views is not None
    moved = Concepts(
        concepts.mean[order], concepts.covariance[order], concepts.alpha[order], concepts.eta[:, order]
    )
    other = infer(e, a, moved, pull=Pull(pull.probabilities, pull.views[:, order]))
    off = max(
        float((other.gamma - found.gamma[:, order]).abs().max()),
        float((other.phi - found.phi[..., order]).abs().max()),
    )
    yield Finding.at_most("permuted concepts permute the answers: difference", off, 1e-8)
    other = infer(e[:, places], a[:, places], concepts, pull=pull)
    yield Finding.at_most(
        "permuted tokens: change of gamma", float((other.gamma - found.gamma).abs().max()), 1e-8
    )
    yield Finding.at_most("and of phi, put back", float((other.phi - found.phi[:, places]).abs().max()), 1e-8)


def small_determinants() -> Finding:
    """A determinant that single precision cannot hold."""
    tiny = Concepts(torch.zeros(2, 25), 1e-3 * torch.eye(25).repeat(2, 1, 1), torch.ones(2))
    lost = bool((torch.linalg.det(tiny.covariance) == 0).all())
    finite = bool(torch.isfinite(infer(torch.ones(1, 4, 25), torch.ones(1, 4), tiny).phi).all())
    return Finding.fact("25 variances of 0.001, whose determinant underflows, are borne", lost and finite)


def labels_said(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Classes that a model says of the training and of the test pictures."""
    data = colour_pictures().data
    with torch.no_grad():
        return model(data.images).argmax(dim=1), model(data.test_images).argmax(dim=1)


def changed_slightly(images: Tensor) -> Tensor:
    """Images with Gaussian noise of a tenth of their range."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 0.1 * noise).clamp(0, 1)


def agreement(pace: Pace) -> float:
    """Adjusted Rand index of the likeliest concept of each patch with its true colour."""
    pictures = colour_pictures()
    likeliest = pace.explain(pictures.data.test_images).maps.argmax(dim=1)
    return float(adjusted_rand_score(pictures.patches.flatten(), likeliest.flatten()))


def read_off(pace: Pace) -> tuple[float, float]:
    """Linear faithfulness, and that with shuffled labels to learn from, mean of 20 shuffles."""
    data = colour_pictures().data
    said, wanted = labels_said(pace.model)
    train, test = pace.theta(data.images), pace.theta(data.test_images)
    generator = torch.Generator().manual_seed(0)
    shuffled = [
        linear_faithfulness(train, said[torch.randperm(len(said), generator=generator)], test, wanted)
        for _ in range(_SHUFFLES)
    ]
    return linear_faithfulness(train, said, test, wanted), float(np.mean(shuffled))


def colours_of_patches(seeds: Sequence[int]) -> Iterator[Finding]:
    """Six concepts of the mean colours of patches, beside a small ViT's classes."""
    model = WithColours(trained_on_colours(0).model).eval()
    options: dict[str, Any] = {"layer": "colours", "attention": "equal", "dimensions": 3, "reducer": "pca"}
    images = colour_pictures().data.images
    found = [fit_pace(model, images, concepts=6, seed=seed, **options) for seed in seeds]
    yield from known_colours("mean colours of patches", found)


def colours_of_a_transformer(seeds: Sequence[int]) -> Iterator[Finding]:
    """Six concepts of a small ViT's own tokens, by random projections of three seeds."""
    images = colour_pictures().data.images
    model = trained_on_colours(0).model
    for reducer in ("random", "pca"):
        found = [
            fit_pace(model, images, concepts=6, dimensions=16, seed=seed, reducer=reducer) for seed in seeds
        ]
        yield from known_colours(f"tokens of a ViT, {reducer}", found)


def known_colours(what: str, found: Sequence[Pace]) -> Iterator[Finding]:
    """What is claimed of the pictures of colours."""
    yield Finding.at_least(
        f"{what}, 6 concepts: adjusted Rand index with the 5 colours",
        [agreement(pace) for pace in found],
        0.9,
    )
    pairs = [read_off(pace) for pace in found]
    yield Finding.at_least(
        f"{what}: linear model of the mixture says the model's label", [own for own, _ in pairs], 0.98
    )
    yield Finding.at_least(
        f"{what}: that above shuffled labels'", [own - shuffled for own, shuffled in pairs], 0.4
    )


def scores_of(pace: Pace, changed: Tensor) -> ConceptScores:
    """All scores on the pictures of colours."""
    data = colour_pictures().data
    said, wanted = labels_said(pace.model)
    train, test = pace.theta(data.images), pace.theta(data.test_images)
    return concept_scores(train, said, test, wanted, pace.theta(changed))


def what_the_terms_do(seeds: Sequence[int]) -> Iterator[Finding]:
    """Label and contrastive term on and off, each of the paper's weight and of far more."""
    model, data = trained_on_colours(0).model, colour_pictures().data
    noisy, views = changed_slightly(data.test_images), stable_views(data.test_images, seed=5)

    def fitted(seed: int, **weights: float) -> Pace:
        terms: dict[str, Any] = {"faithfulness": 0.0, "stability": 0.0} | weights
        return fit_pace(model, data.images, concepts=8, dimensions=16, seed=seed, **terms)

    off = [fitted(seed) for seed in seeds]
    for weight, told in ((1.0, "the paper's weight"), (65.0, "once for each token")):
        on = [fitted(seed, stability=weight) for seed in seeds]
        for changed, how in ((noisy, "noise of 0.1"), (views, "augmented views")):
            pairs = zip(on, off, strict=True)
            change = [scores_of(a, changed).stability / scores_of(b, changed).stability for a, b in pairs]
            yield Finding.at_most(
                f"contrastive term, {told}: change by {how}, over that without", change, 0.95
            )
        on = [fitted(seed, faithfulness=weight) for seed in seeds]
        pairs = zip(on, off, strict=True)
        gain = [scores_of(a, noisy).faithfulness - scores_of(b, noisy).faithfulness for a, b in pairs]
        yield Finding.at_least(f"label term, {told}: linear faithfulness less that without", gain, 0.0)


def beside_other_concepts(seeds: Sequence[int]) -> Iterator[Finding | Section]:
    """On the pictures of colours."""
    model, data = trained_on_colours(0).model, colour_pictures().data
    yield from compared("colours", model, data, changed_slightly(data.test_images), concepts=8, seeds=seeds)


def costs() -> Iterator[Finding]:
    """64 images at once, 100 concepts of 25 dimensions, beside 500 evaluations of each."""
    import timm

    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=5).eval()
    images = torch.rand(64, 3, 224, 224)
    pace = fit_pace(vit, images[:8], sample_images=4, stability=0)
    with torch.inference_mode():
        taken = seconds_of(
            {
                "forward": lambda: vit(images),
                "pace": lambda: pace.explain(images),
                "occlusion": lambda: explain(vit, images[:1], 0, method="occlusion", window=56, stride=56),
                "kernel-shap": lambda: explain(vit, images[:1], 0, method="kernel-shap", samples=32),
            },
            rounds=1,
        )
    yield Finding.at_most("PACE of 64 images over their forward pass", taken["pace"] / taken["forward"], 3.0)
    occlusion = taken["occlusion"] / 17 * 500 * 64  # 4 x 4 windows and the unchanged image
    yield Finding.at_least(
        "occlusion of 500 evaluations (17 timed) over PACE", occlusion / taken["pace"], 20.0
    )
    shap = taken["kernel-shap"] / 32 * 500 * 64
    yield Finding.at_least("Kernel SHAP of 500 evaluations (32 timed) over PACE", shap / taken["pace"], 20.0)
