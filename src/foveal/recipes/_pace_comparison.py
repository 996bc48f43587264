"""PACE's mixtures beside other concepts of the same tokens: non-negative factors and topics of clusters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveal.explanation.concept_metrics import ConceptScores, concept_scores
from foveal.explanation.pace_fitting import fit_pace
from foveal.recipes._encoder_learning import LearningData
from foveal.recipes.base import Finding, Section

_VARIANTS: dict[str, dict[str, Any]] = {
    "PACE": {},
    "PACE with alpha 0.1": {"alpha": 0.1},
    "PACE with the identity as prior": {"prior_spread": "identity"},
}
_OTHERS = ("NMF", "LDA")
_WORDS = 40
_TOKENS = 15_000  # that factors and clusters are fitted to


def compared(
    what: str, model: nn.Module, data: LearningData, changed: Tensor, *, concepts: int, seeds: Sequence[int]
) -> Iterator[Finding | Section]:
    """Faithfulness, stability and sparsity of PACE, of CRAFT's factors, and of topics of clustered tokens.

    Args:
        what: for the claims.
        model: a classifier with class-token attention.
        data: its images; labels are not used.
        changed: the test images, changed slightly.
        concepts: of each method.
        seeds: of each method.
    """
    with torch.no_grad():
        said, wanted = model(data.images).argmax(dim=1), model(data.test_images).argmax(dim=1)
    found: dict[str, list[ConceptScores]] = {name: [] for name in (*_VARIANTS, *_OTHERS)}

    def score(name: str, vectors: Mapping[str, Tensor]) -> None:
        found[name].append(
            concept_scores(vectors["train"], said, vectors["test"], wanted, vectors["changed"])
        )

    images = {"train": data.images, "test": data.test_images, "changed": changed}
    for seed in seeds:
        for name, options in _VARIANTS.items():
            pace = fit_pace(model, data.images, concepts=concepts, dimensions=16, seed=seed, **options)
            score(name, {part: pace.theta(values) for part, values in images.items()})
        tokens = {part: pace.read(values).embeddings.double().numpy() for part, values in images.items()}
        score("NMF", by_factors(tokens, concepts, seed))
        score("LDA", by_topics(tokens, concepts, seed))
    rows = [
        f"| {name} | {_mean(each, 'faithfulness'):.3f} | {_mean(each, 'stability'):.4f} "
        f"| {_mean(each, 'sparsity'):.3f} |"
        for name, each in found.items()
    ]
    head = ["| | faithfulness | change of the mixture | sparsity |", "| --- | --- | --- | --- |"]
    yield Section(f"{concepts} concepts of one ViT's tokens: {what}", "\n".join([*head, *rows]))
    for measure, sign in (("faithfulness", 1), ("stability", -1), ("sparsity", 1)):
        best = max(_OTHERS, key=lambda name: sign * _mean(found[name], measure))
        for name in _VARIANTS:
            pairs = zip(found[name], found[best], strict=True)
            gain = [sign * (getattr(a, measure) - getattr(b, measure)) for a, b in pairs]
            yield Finding.at_least(f"{what}: {measure}, {name}: gain over {best}, the next", gain, 0.0)


def by_factors(tokens: Mapping[str, np.ndarray], concepts: int, seed: int) -> dict[str, Tensor]:
    """Mean loadings of images on non-negative factors of tokens' positive parts, as CRAFT has them."""
    from sklearn.decomposition import NMF

    factors = NMF(concepts, init="nndsvda", random_state=seed, max_iter=400, tol=1e-3)
    factors.fit(_thinned(tokens["train"], seed).clip(min=0))
    found = {}
    for part, values in tokens.items():
        loadings = factors.transform(values.reshape(-1, values.shape[-1]).clip(min=0))
        mean = loadings.reshape(*values.shape[:2], concepts).mean(axis=1)
        found[part] = torch.from_numpy(mean / mean.sum(axis=1, keepdims=True).clip(1e-12))
    return found


def by_topics(tokens: Mapping[str, np.ndarray], concepts: int, seed: int) -> dict[str, Tensor]:
    """Latent Dirichlet allocation over 40 clusters of tokens: PACE without Gaussians and attention."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import LatentDirichletAllocation

    words = KMeans(_WORDS, n_init=1, random_state=seed).fit(_thinned(tokens["train"], seed))
    counts = {}
    for part, values in tokens.items():
        read = words.predict(values.reshape(-1, values.shape[-1])).reshape(values.shape[:2])
        counts[part] = np.stack([np.bincount(image, minlength=_WORDS) for image in read])
    topics = LatentDirichletAllocation(concepts, random_state=seed).fit(counts["train"])
    return {part: torch.from_numpy(topics.transform(each)) for part, each in counts.items()}


def _thinned(values: np.ndarray, seed: int) -> np.ndarray:
    flat = values.reshape(-1, values.shape[-1])
    return flat[np.random.default_rng(seed).permutation(len(flat))[:_TOKENS]]


def _mean(scores: Sequence[ConceptScores], measure: str) -> float:
    return float(np.mean([getattr(each, measure) for each in scores]))
