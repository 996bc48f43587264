"""k-means with the number of groups that the silhouette prefers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

Clustering = Literal["k-means", "hdbscan"]


def k_means(points: np.ndarray, counts: Iterable[int], *, seed: int = 0, sample: int = 2000) -> np.ndarray:
    """Group points; of several numbers of groups the one of the largest silhouette is taken.

    Args:
        points: (N, D).
        counts: numbers of groups to try; those that the distinct points cannot fill are left out.
        seed: of k-means and of the points that the silhouette is measured on.
        sample: how many points these are at most.

    Returns:
        (N,) numbers from 0.

    Raises:
        ValueError: no points, or no number of groups above 0.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    wanted = sorted(set(counts))
    if not len(points) or not wanted or wanted[0] < 1:
        raise ValueError(f"{len(points)} points in {wanted} groups; allowed: at least one of each")
    distinct = len(np.unique(points.round(9), axis=0))
    fitting = [count for count in wanted if count <= distinct] or [distinct]
    best, labels = -np.inf, np.zeros(len(points), dtype=np.int64)
    for count in fitting:
        found = KMeans(count, n_init=10, random_state=seed).fit_predict(points).astype(np.int64)
        if len(fitting) == 1:
            return found
        if not 1 < count < len(points):
            continue
        size = min(sample, len(points))
        score = silhouette_score(points, found, sample_size=size, random_state=seed)
        if score > best:
            best, labels = float(score), found
    return labels


def hdbscan(points: np.ndarray, *, least: int) -> np.ndarray:
    """Groups by density of at least so many points; the points between them go to the nearest middle.

    Returns:
        (N,) numbers from 0; all 0 where no group stands out.
    """
    from sklearn.cluster import HDBSCAN

    found = HDBSCAN(min_cluster_size=max(2, least), copy=True).fit_predict(points).astype(np.int64)
    if (found < 0).all():
        return np.zeros(len(points), dtype=np.int64)
    middles = np.stack([points[found == k].mean(axis=0) for k in range(found.max() + 1)])
    away = found < 0
    found[away] = ((points[away, None] - middles) ** 2).sum(axis=-1).argmin(axis=1)
    return found
