"""What a model's attention heads do and which of them matter, joined: importance, reach, patterns.

Importance is measured by intervention and shown beside what attention looks like, since attention alone is no
explanation (Li et al., arXiv 2303.13731).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from scipy import stats
from torch import Tensor, nn

from foveal.explanation.attention_overlays import overlay_maps
from foveal.explanation.attention_patterns import Representation, collect_patterns
from foveal.explanation.attention_profiles import AttentionProfiles, attention_profiles
from foveal.explanation.clustering import Clustering
from foveal.explanation.head_importance import (
    HeadImportance,
    head_importance,
    head_sensitivity,
    layer_pruning,
    pruning_curve,
)
from foveal.explanation.head_passes import Ablation
from foveal.explanation.pattern_atlas import PatternAtlas, Projection, pattern_atlas
from foveal.settings import Settings

_CURVE_POINTS = 12
_RANDOM_ORDERS = 2
Curves = Mapping[str, Sequence[tuple[int, float]]]


class AttentionSettings(Settings):
    """How attention is analysed."""

    ablation: Ablation = Field("zero", description="what takes the place of a head: zero, or its mean output")
    kept_alone: bool = Field(False, description="also measure each head as the only one of its layer")
    layer_shift: bool = Field(False, description="also measure what each head changes within its layer")
    importance_images: int = Field(200, ge=1, description="images that heads are taken out for, at most")
    representation: Representation = Field("offset", description="of patterns: by offset, or whole matrices")
    patterns: int | None = Field(None, ge=2, description="patterns at most; 20000 of offsets, 2000 matrices")
    epochs: int = Field(50, ge=1, description="of the autoencoder")
    latent: int = Field(32, ge=1, description="length of a code")
    clusters: int | None = Field(
        None, ge=1, description="of patterns; 4 to 12 by the silhouette if not given"
    )
    clustering: Clustering = "k-means"
    projection: Projection = Field("pca", description="of codes to two dimensions")
    overlays: int = Field(6, ge=0, description="images whose attention the page shows")
    top: int = Field(10, ge=1, description="heads in the table of the most important")
    prefix_tokens: int | None = Field(None, ge=0, description="before the patches, where a model tells none")
    grid: tuple[int, int] | None = Field(None, description="of patches, where cells are not square")
    batch_size: int = Field(16, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Association:
    """Whether important heads differ in something from the others.

    Attributes:
        of: what importance is held against.
        test: "Spearman" or "Kruskal-Wallis".
        statistic: rank correlation, or H.
        p: of no association, over heads.
        corrected: p by Benjamini and Hochberg over all tests of one analysis.
        heads: how many were compared.
    """

    of: str
    test: str
    statistic: float
    p: float
    corrected: float
    heads: int


@dataclass(frozen=True)
class AttentionAnalysis:
    """All of one model over some images.

    Attributes:
        importance: measures by taking heads out.
        sensitivity: the fast first-order measure.
        rank: (L, H) combined, 1 is the most important head.
        profiles: how far heads reach.
        groups: (L, H) number of each head's group of profiles, from near to far; -1 without head.
        group_profiles: (G, K).
        atlas: patterns.
        curves: accuracy over heads taken out, by order; without labels the share of answers that stay.
        layer_curve: (L + 1, K) the same when a layer, or all, keep their most important heads alone.
        layer_counts: how many each column keeps.
        associations: of the combined rank.
        not_tested: what could not be, and why.
        overlays: (I, L, H, V, h w) uint8 attention to patches, from the class token and from all patches, or
            from all patches alone; over its largest value each. Windows are put back to their places, and
            coarser layers' patches repeated. None where no block tells how its windows lie.
        views: names of V.
        overlay_grid: (h, w), that of the finest layer.
        overlay_images: (I,) numbers of the images.
        image_count: of all images.
        labelled: whether labels were given.
        settings: as used.
    """

    importance: HeadImportance
    sensitivity: HeadImportance
    rank: Tensor
    profiles: AttentionProfiles
    groups: Tensor
    group_profiles: Tensor
    atlas: PatternAtlas
    curves: Curves
    layer_curve: Tensor
    layer_counts: tuple[int, ...]
    associations: tuple[Association, ...]
    not_tested: Mapping[str, str]
    overlays: Tensor | None
    views: tuple[str, ...]
    overlay_grid: tuple[int, int]
    overlay_images: tuple[int, ...]
    image_count: int
    labelled: bool
    settings: AttentionSettings

    @property
    def all_measures(self) -> dict[str, Tensor]:
        """(L, H) of every measure of importance, the first-order one last."""
        return {**self.importance.measures, **self.sensitivity.measures}

    def agreement(self) -> tuple[tuple[str, ...], Tensor]:
        """Rank correlations of all measures, see `HeadImportance.agreement`."""
        values = {**self.importance.values, **self.sensitivity.values}
        return HeadImportance(values, self.importance.classes, self.importance.layers).agreement()

    def heads(self) -> list[tuple[int, int]]:
        """(layer, head) of every head, the most important first."""
        there = (~self.rank.isnan()).nonzero().tolist()
        return sorted(((a, b) for a, b in there), key=lambda at: -float(self.rank[at]))

    def cluster_of(self) -> Tensor:
        """(L, H) the cluster that most of a head's patterns are of; -1 without head."""
        shares = self.atlas.distribution()
        return torch.where(shares[..., 0].isnan(), -1, shares.nan_to_num().argmax(dim=-1))


def analyse_attention(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    settings: AttentionSettings | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> AttentionAnalysis:
    """Measure, profile and cluster the heads of a model, and join the three.

    Args:
        model: images to logits (B, K), in evaluation mode, on the device of the images.
        images: (B, C, H, W), at least two.
        labels: (B,) classes; without them only what needs none is measured.
        settings: see `AttentionSettings`.
        progress: called with a line for each step.

    Raises:
        ValueError: no attention, fewer than two images, or what the parts refuse.

    Example:
        >>> found = analyse_attention(vit, images, labels)              # doctest: +SKIP
        >>> found.heads()[:3], found.atlas.names                        # doctest: +SKIP
        >>> write_attention_report(found, "report")                     # doctest: +SKIP
    """
    chosen = settings or AttentionSettings()
    tell = progress or (lambda line: None)
    if len(images) < 2:
        raise ValueError(f"{len(images)} images; patterns over images want two at least")
    size, where = chosen.batch_size, {"prefix_tokens": chosen.prefix_tokens, "grid": chosen.grid}
    tell(f"attention of {len(images)} images")
    profiles = attention_profiles(model, images, batch_size=size, **where)  # type: ignore[arg-type]
    few = _drawn(len(images), chosen.importance_images, chosen.seed, labels)
    some = images[few.to(images.device)]
    answers = None if labels is None else labels[few.to(labels.device)]
    heads = int((~profiles.distance.isnan()).sum())
    tell(f"{heads} heads taken out one by one, {len(some)} images")
    importance = head_importance(
        model,
        some,
        answers,
        batch_size=size,
        kept_alone=chosen.kept_alone,
        layer_shift=chosen.layer_shift,
        ablation=chosen.ablation,
    )
    sensitivity = head_sensitivity(model, some, answers, batch_size=size)
    rank = importance.combined_rank()
    tell("heads taken out together")
    curves = _curves(model, some, answers, rank, chosen)
    counts = tuple(sorted({0, 1, 2, rank.shape[1] // 2} - {rank.shape[1]}))
    layer_curve = layer_pruning(
        model, some, answers, rank, kept=counts, batch_size=size, ablation=chosen.ablation
    )
    tell("patterns of attention")
    samples = collect_patterns(
        model,
        images,
        representation=chosen.representation,
        limit=chosen.patterns,
        batch_size=min(4, size),
        seed=chosen.seed,
        **where,  # type: ignore[arg-type]
    )
    atlas = pattern_atlas(
        samples,
        latent=chosen.latent,
        epochs=chosen.epochs,
        clusters=chosen.clusters,
        clustering=chosen.clustering,
        projection=chosen.projection,
        seed=chosen.seed,
    )
    groups, group_profiles = profiles.groups(seed=chosen.seed)
    associations, untested = associate(rank, profiles, groups, atlas)
    shown = tuple(range(min(chosen.overlays, len(images))))
    overlays, views, grid = overlay_maps(model, images[: len(shown)], **where)  # type: ignore[arg-type]
    return AttentionAnalysis(
        importance,
        sensitivity,
        rank,
        profiles,
        groups,
        group_profiles,
        atlas,
        curves,
        layer_curve,
        counts,
        associations,
        untested,
        overlays,
        views,
        grid,
        shown,
        len(images),
        labels is not None,
        chosen,
    )


def associate(
    rank: Tensor, profiles: AttentionProfiles, groups: Tensor, atlas: PatternAtlas
) -> tuple[tuple[Association, ...], dict[str, str]]:
    """Test whether importance (L, H) goes with what heads look like, over heads.

    Returns:
        Spearman's rank correlation with numbers and Kruskal's and Wallis' test over classes; and what could
        not be tested, with the reason.
    """
    there = ~rank.isnan()
    x = rank[there].numpy()
    shares = atlas.distribution()
    numbers = {
        "entropy of attention": profiles.entropy,
        "mean distance": profiles.distance,
        "share to itself": profiles.strength[..., 0],
        "share to tokens before the patches": profiles.to_prefix,
        "share of the class token to patches": profiles.from_class,
        "entropy of the pattern over images": torch.special.entr(shares).sum(dim=-1),
        "layer": torch.arange(len(rank)).double()[:, None].expand_as(rank),
    }
    kinds = np.array([kind for row in profiles.kinds() for kind in row if kind])
    classes = {
        "profile class": kinds,
        "profile group": groups[there].numpy(),
        "pattern cluster": shares[there].argmax(dim=-1).numpy(),
    }
    found: list[tuple[str, str, float, float]] = []
    untested: dict[str, str] = {}
    for name, values in numbers.items():
        y = values[there].numpy()
        if np.isnan(y).any():
            untested[name] = "not there"
        elif len(x) < 4 or np.ptp(y) < 1e-12 or np.ptp(x) < 1e-12:
            untested[name] = "too few heads" if len(x) < 4 else "equal in all heads"
        else:
            result = stats.spearmanr(x, y)
            found.append((name, "Spearman", float(result.statistic), float(result.pvalue)))
    for name, labels in classes.items():
        parts = [x[labels == each] for each in np.unique(labels)]
        if len(parts) < 2 or len(x) < 4 or np.ptp(x) < 1e-12:
            untested[name] = "one class only" if len(parts) < 2 else "too few heads"
        else:
            result = stats.kruskal(*parts)
            found.append((name, "Kruskal-Wallis", float(result.statistic), float(result.pvalue)))
    corrected = stats.false_discovery_control([row[3] for row in found]) if found else []
    return (
        tuple(Association(*row, float(p), len(x)) for row, p in zip(found, corrected, strict=True)),
        untested,
    )


def _drawn(count: int, most: int, seed: int, labels: Tensor | None) -> Tensor:
    """Numbers of the images to take heads out for: at random, and of all classes alike."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if most >= count:
        return torch.arange(count)
    if labels is None:
        return order[:most].sort().values
    own = labels.cpu()[order]
    turn = torch.zeros(count, dtype=torch.int64)
    for each in own.unique():
        turn[own == each] = torch.arange(int((own == each).sum()))
    return order[turn.argsort(stable=True)[:most]].sort().values


def _curves(
    model: nn.Module, images: Tensor, labels: Tensor | None, rank: Tensor, settings: AttentionSettings
) -> Curves:
    heads = int((~rank.isnan()).sum())
    counts = sorted({round(k * heads / _CURVE_POINTS) for k in range(_CURVE_POINTS + 1)})

    def curve(table: Tensor, order: Literal["least first", "most first"]) -> list[tuple[int, float]]:
        return pruning_curve(
            model,
            images,
            labels,
            table,
            order=order,
            counts=counts,
            batch_size=settings.batch_size,
            ablation=settings.ablation,
        )

    generator = torch.Generator().manual_seed(settings.seed)
    random = []
    for _ in range(_RANDOM_ORDERS):
        table = torch.where(rank.isnan(), torch.nan, torch.rand(rank.shape, generator=generator).double())
        random.append(curve(table, "least first"))
    mean = [(points[0][0], sum(p for _, p in points) / len(points)) for points in zip(*random, strict=True)]
    return {
        "least first": curve(rank, "least first"),
        "random": mean,
        "most first": curve(rank, "most first"),
    }
