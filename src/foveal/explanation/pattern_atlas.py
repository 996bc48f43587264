"""Which patterns attention heads learn: compact codes of their attention, clusters, prototypes and names.

A small convolutional autoencoder learns the codes, k-means or HDBSCAN clusters them, a rule names clusters
(Li et al., arXiv 2303.13731).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from foveal.explanation.attention_patterns import TRAITS, PatternSamples
from foveal.explanation.attention_profiles import near_steps, offset_sums
from foveal.explanation.clustering import Clustering, hdbscan, k_means
from foveal.explanation.pattern_autoencoder import PatternAutoencoder, train_autoencoder
from foveal.settings import unknown_name

Projection = Literal["pca", "t-sne", "umap"]


@dataclass(frozen=True)
class PatternAtlas:
    """Patterns with their codes, clusters and the clusters' names.

    Attributes:
        samples: what it was made of.
        autoencoder: in evaluation mode.
        codes: (S, D) float32.
        points: (S, 2) of the codes, for a picture.
        clusters: (S,) int64, the largest cluster is 0.
        names: of each cluster.
        prototypes: (K, X, Y) what the middle of each cluster's codes decodes to.
        medoids: (K,) number of the pattern nearest to that middle.
        error: mean squared error of the reconstruction over that of the mean pattern.
    """

    samples: PatternSamples
    autoencoder: PatternAutoencoder
    codes: Tensor
    points: Tensor
    clusters: Tensor
    names: tuple[str, ...]
    prototypes: Tensor
    medoids: Tensor
    error: float

    def distribution(self, *, model: int = 0) -> Tensor:
        """(L, H, K) share of each head's images in each cluster; NaN where there is no such head."""
        of = self.samples.model == model
        layer, head = self.samples.layer[of], self.samples.head[of]
        counts = torch.zeros(int(layer.max()) + 1, int(head.max()) + 1, len(self.names), dtype=torch.float64)
        counts.index_put_((layer, head, self.clusters[of]), torch.ones(1).double(), accumulate=True)
        return counts / counts.sum(dim=-1, keepdim=True)

    def entropy(self, *, model: int = 0) -> Tensor:
        """(L, H) entropy of that, in nats: 0 where a head has one pattern whatever the image."""
        return torch.special.entr(self.distribution(model=model)).sum(dim=-1)


def pattern_atlas(
    samples: PatternSamples,
    *,
    latent: int = 32,
    epochs: int = 50,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    clusters: int | None = None,
    clustering: Clustering = "k-means",
    projection: Projection = "pca",
    seed: int = 0,
) -> PatternAtlas:
    """Learn codes of patterns, cluster them and name the clusters.

    Args:
        samples: of one model, or of several pooled.
        latent: length of a code.
        epochs: of the autoencoder.
        batch_size: patterns a step.
        learning_rate: of Adam.
        clusters: how many; by the silhouette from 4 to 12 where not given.
        clustering: "k-means", or "hdbscan", which finds their number by density.
        projection: to two dimensions; "umap" needs umap-learn.
        seed: of weights, order, clusters and projection.

    Raises:
        ValueError: fewer than two patterns, or an unknown option.
        ImportError: "umap" without umap-learn.

    Example:
        >>> atlas = pattern_atlas(collect_patterns(vit, images))            # doctest: +SKIP
        >>> atlas.names, atlas.distribution().argmax(dim=-1)                # doctest: +SKIP
    """
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} pattern; at least two are wanted, of more images or heads")
    if clustering not in get_args(Clustering):
        raise ValueError(unknown_name("clustering", clustering, get_args(Clustering)))
    if projection not in get_args(Projection):
        raise ValueError(unknown_name("projection", projection, get_args(Projection)))
    trained = train_autoencoder(
        samples.patterns,
        latent=latent,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    codes, error = trained.codes_and_error(samples.patterns)
    points = codes.numpy()
    if clustering == "k-means":
        found = k_means(points, [clusters] if clusters else range(4, 13), seed=seed)
    else:
        found = hdbscan(points, least=max(5, len(points) // 100))
    numbers = torch.from_numpy(_by_size(found))
    count = int(numbers.max()) + 1
    middles = torch.stack([codes[numbers == k].mean(dim=0) for k in range(count)])
    medoids = torch.stack(
        [
            (numbers == k).nonzero()[:, 0][(codes[numbers == k] - middles[k]).square().sum(dim=1).argmin()]
            for k in range(count)
        ]
    )
    with torch.no_grad():
        prototypes = trained.decode(middles)[:, 0].clamp(0, 1)
    flat = torch.from_numpy(_projected(points, projection, seed))
    names = tuple(_name(samples, numbers == k) for k in range(count))
    return PatternAtlas(samples, trained, codes, flat, numbers, _apart(names), prototypes, medoids, error)


def name_of(traits: Tensor, shift: Sequence[int], *, even_near: float = 0.0) -> str:
    """The rule that names a pattern.

    Args:
        traits: (7,), see `PatternSamples`.
        shift: the offset that gets most.
        even_near: what "near" is where attention is even; a local pattern is beyond the middle from it to 1.
    """
    found = dict(zip(TRAITS, traits.tolist(), strict=True))
    if found["entropy"] > 0.95:
        return "uniform"
    if found["keys"] > 0.5:
        return "vertical stripes (same keys)"
    if found["self"] > 0.5:
        return "diagonal (self)"
    if found["shift"] > 0.5:
        return f"shifted diagonal ({shift[0]:+d}, {shift[1]:+d})"
    if found["row"] > 0.5:
        return "blocks (own row)"
    if found["column"] > 0.5:
        return "checkerboard (own column)"
    if found["near"] > max(0.5, (1 + even_near) / 2):
        return "diagonal band (local)"
    return "scattered (by content)"


def _by_size(labels: np.ndarray) -> np.ndarray:
    """The same groups, the largest is 0."""
    order = np.argsort(-np.bincount(labels), kind="stable")
    return order.argsort()[labels]


def _name(samples: PatternSamples, members: Tensor) -> str:
    shifts, counts = samples.shifts[members].unique(dim=0, return_counts=True)
    n = math.prod(samples.grid)
    even = offset_sums(torch.full((n, n), 1 / n, dtype=torch.float64), samples.grid) / n
    near = near_steps(samples.grid)
    box = [slice(max(0, side - 1 - near), side + near) for side in samples.grid]
    return name_of(
        samples.traits[members].mean(dim=0),
        shifts[counts.argmax()].tolist(),
        even_near=float(even[box[0], box[1]].sum()),
    )


def _apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names that occur again with a number."""
    return tuple(
        f"{name} {names[:k].count(name) + 1}" if names.count(name) > 1 else name
        for k, name in enumerate(names)
    )


def _projected(codes: np.ndarray, projection: Projection, seed: int) -> np.ndarray:
    if projection == "umap":
        try:
            from umap import UMAP  # type: ignore[import-not-found]
        except ImportError as error:
            raise ImportError("projection 'umap' needs umap-learn: pip install umap-learn") from error
        found = UMAP(random_state=seed).fit_transform(codes)
    elif projection == "t-sne":
        from sklearn.manifold import TSNE

        perplexity = max(1.0, min(30.0, (len(codes) - 1) / 3))
        found = TSNE(perplexity=perplexity, random_state=seed).fit_transform(codes)
    else:
        from sklearn.decomposition import PCA

        flat = codes if codes.shape[1] > 1 else np.repeat(codes, 2, axis=1)
        found = PCA(2, random_state=seed).fit_transform(flat)
    return np.asarray(found, dtype=np.float32)
