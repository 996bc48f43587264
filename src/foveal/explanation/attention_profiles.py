"""How far attention reaches: strength by distance, entropy, and the mean map of offsets, of every head.

Rings are of Chebyshev distance k on the grid of patches; attention among patches is normalised anew, what
goes to class and register tokens is told apart (Li et al., arXiv 2303.13731; distances: arXiv 2108.08810).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.attention_taps import LayerAttention, attention_tapped, check_attention
from foveal.explanation.taps import grid_of, prefix_tokens_of

Kind = Literal["self", "local", "ring", "global", "sink", ""]


@dataclass(frozen=True)
class AttentionProfiles:
    """Means over images and queries, of L layers and H heads; all float64.

    Layers with fewer heads than H, as in pyramids, are filled up with NaN.

    Attributes:
        strength: (L, H, K) attention of a patch to all patches k steps away, k = 0 itself; sums to 1.
        density: (L, H, K) the same for one patch of the ring, among the queries that have such a ring: at the
            border rings are smaller, so `strength` falls there whatever the head does.
        distance: (L, H) mean distance between query and key, in pixels.
        entropy: (L, H) of a row, in nats; log(n) where attention is even.
        to_prefix: (L, H) share of a patch's attention that goes to tokens before the patches.
        from_class: (L, H) share of the first token's attention that goes to patches; NaN where there is none.
        offsets: (L, H, 2 h - 1, 2 w - 1) mean attention to the patch at an offset (rows, columns); the
            middle is the patch itself. Means over the queries for which the offset lies on the grid.
        grid: (h, w) of the patches, of a window where attention is within windows.
        windows: of each layer, how many an image has; 1 where attention is among all patches.
        layers: names.
    """

    strength: Tensor
    density: Tensor
    distance: Tensor
    entropy: Tensor
    to_prefix: Tensor
    from_class: Tensor
    offsets: Tensor
    grid: tuple[int, int]
    windows: tuple[int, ...]
    layers: tuple[str, ...]

    def kinds(self, *, sink: float = 0.5, near: int | None = None, most: float = 0.6) -> list[list[Kind]]:
        """A word for each head: where most of its attention goes.

        "sink" sends more than `sink` to the tokens before the patches, "self" more than `most` of the rest to
        the patch itself, "local" to within `near` steps, "ring" to one ring further out, "global" to none.
        `near` is 2 where not given, less on small grids; see `near_steps`.
        """
        near = near_steps(self.grid) if near is None else near
        words: list[list[Kind]] = []
        for strength, prefix in zip(self.strength, self.to_prefix, strict=True):
            words.append(
                [_kind(s, float(p), sink, near, most) for s, p in zip(strength, prefix, strict=True)]
            )
        return words

    def trend(self) -> Tensor:
        """(L, K) mean strength of each layer's heads: how attention spreads with depth."""
        return self.strength.nanmean(dim=1)

    def groups(self, count: int | None = None, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Heads put together by their profiles, with k-means.

        Args:
            count: how many groups; by the silhouette from 2 to 8 where not given.
            seed: of k-means.

        Returns:
            (L, H) int64 number of each head's group, -1 where there is no head, by rising mean distance; and
            (G, K) mean profile of each group.
        """
        from foveal.explanation.clustering import k_means

        there = ~self.distance.isnan()
        profiles = self.strength[there]
        found = k_means(profiles.numpy(), [count] if count else range(2, 9), seed=seed)
        steps = torch.arange(profiles.shape[1], dtype=torch.float64)
        centres = torch.stack([profiles[found == k].mean(dim=0) for k in range(int(found.max()) + 1)])
        order = (centres @ steps).argsort()
        numbers = torch.full(there.shape, -1, dtype=torch.int64)
        numbers[there] = order.argsort()[torch.from_numpy(found)]
        return numbers, centres[order]


@dataclass(frozen=True)
class PatchAttention:
    """Attention of one layer among patches.

    Attributes:
        among: (B W, H, n, n) float64, rows sum to 1; W windows an image, in the order of the images.
        total: (B W, H, n) what went to patches before the rows were normalised.
        from_class: (B W, H) what the first token gave to patches; NaN without one.
        grid: (h, w), h w = n.
        sides: of a patch, in pixels.
        windows: W.
    """

    among: Tensor
    total: Tensor
    from_class: Tensor
    grid: tuple[int, int]
    sides: tuple[float, float]
    windows: int


def attention_profiles(
    model: nn.Module,
    images: Tensor,
    *,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
    batch_size: int = 8,
) -> AttentionProfiles:
    """Profiles of every head of a model over images; matrices are summed up as they come and not kept.

    Args:
        model: any whose attention is among all patches, or within windows of one size a layer.
        images: (B, C, H, W).
        prefix_tokens: tokens before the patches; else what the model tells, or 0 or 1 by their number.
        grid: (h, w) of the patches, where it is not that of square cells.
        batch_size: images at once.

    Raises:
        ValueError: no attention, keys that are not the queries, or tokens that fit no grid.
    """
    prefix_tokens = prefix_tokens_of(model) if prefix_tokens is None else prefix_tokens
    collected = []
    for part in images.split(batch_size):
        with torch.no_grad(), attention_tapped(model) as kept:
            model(part)
        check_attention(model, kept)
        collected.append(profiles_of(kept, part, prefix_tokens=prefix_tokens, grid=grid))
    return mean_profiles(collected, [len(part) for part in images.split(batch_size)])


def mean_profiles(parts: Sequence[AttentionProfiles], counts: Sequence[int]) -> AttentionProfiles:
    """Profiles of several batches as those of all their images."""
    share = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    means = {
        field.name: torch.einsum("n,n...->...", share, torch.stack([getattr(p, field.name) for p in parts]))
        for field in fields(AttentionProfiles)
        if isinstance(getattr(parts[0], field.name), Tensor)
    }
    return AttentionProfiles(**means, grid=parts[0].grid, windows=parts[0].windows, layers=parts[0].layers)


def profiles_of(
    kept: Sequence[LayerAttention],
    images: Tensor,
    *,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> AttentionProfiles:
    """Profiles of attention weights (B, H, N, N) that were met for images (B, C, H, W)."""
    rows: dict[str, list[Tensor]] = {}
    laid = [among_patches(layer, images, prefix_tokens=prefix_tokens, grid=grid) for layer in kept]
    largest = max((one.grid for one in laid), key=math.prod)
    heads = max(one.among.shape[1] for one in laid)
    for one in laid:
        among, n = one.among, one.among.shape[-1]
        mean = among.mean(dim=0)  # (H, n, n)
        sums = offset_sums(mean, one.grid)  # (H, 2 h - 1, 2 w - 1)
        distance, counts = _offsets(one.grid, one.sides)
        ring, sizes = _rings(one.grid)
        strength = mean.new_zeros(*mean.shape[:2], sizes.shape[1])
        strength.scatter_add_(2, ring.expand_as(mean), mean)  # (H, n, K) of each query
        found = {
            "strength": strength.mean(dim=1),
            "density": (strength / sizes.clamp_min(1)).sum(dim=1) / (sizes > 0).sum(dim=0).clamp_min(1),
            "distance": (sums * distance).sum(dim=(1, 2)) / n,
            "entropy": torch.special.entr(among).sum(dim=-1).mean(dim=(0, 2)),
            "to_prefix": 1 - one.total.mean(dim=(0, 2)),
            "from_class": one.from_class.mean(dim=0),
            "offsets": sums / counts,
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(_filled(name, value, heads, largest))
    stacked = {name: torch.stack(values) for name, values in rows.items()}
    return AttentionProfiles(
        **stacked,
        grid=largest,
        windows=tuple(one.windows for one in laid),
        layers=tuple(layer.name for layer in kept),
    )


def among_patches(
    layer: LayerAttention,
    images: Tensor,
    *,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> PatchAttention:
    """Attention of a layer among patches alone, normalised anew, with where they are.

    Raises:
        ValueError: keys that are not the queries, or tokens that fit no grid.
    """
    weights = layer.weights.detach().double().cpu()
    count, _, tokens, keys = weights.shape
    windows = count // len(images)
    if tokens != keys or count % len(images):
        raise ValueError(
            f"attention of {layer.name!r} is {tokens} x {keys} for {count} windows of {len(images)} images; "
            "allowed: among the same tokens, and as many windows in each image"
        )
    height, width = images.shape[2:]
    if windows == 1:
        prefix, found = grid_of(tokens, images, prefix_tokens=prefix_tokens, grid=grid)
        if len(found) != 2:
            raise ValueError(f"a grid of {found}; profiles are of images")
        sides = (height / found[0], width / found[1])
    else:
        side = math.isqrt(tokens)
        prefix, found = 0, tuple(grid or (side, side))
        if math.prod(found) != tokens:
            raise ValueError(f"windows of {tokens} tokens in {layer.name!r} are no square; tell their grid")
        sides = (math.sqrt(height * width / windows / tokens),) * 2
    among = weights[..., prefix:, prefix:]
    total = among.sum(dim=-1)
    first = weights[..., 0, prefix:].sum(dim=-1) if prefix else torch.full(weights.shape[:2], torch.nan)
    return PatchAttention(
        among / total.clamp_min(1e-12)[..., None], total, first, (found[0], found[1]), sides, windows
    )


def near_steps(grid: Sequence[int]) -> int:
    """How many steps away a patch is still near: 2, or 1 where 2 steps reach over most of the grid."""
    return 2 if max(grid) > 6 else 1


def offset_sums(among: Tensor, grid: tuple[int, int]) -> Tensor:
    """Attention (..., n, n) summed over the queries by where the key lies from them.

    Returns:
        (..., 2 h - 1, 2 w - 1), rows and columns of the offset; the middle is the query itself.
    """
    laid = rearrange(among, "... (r c) (row column) -> ... c column r row", r=grid[0], c=grid[1], row=grid[0])
    rows = _summed_along_diagonals(laid)
    return _summed_along_diagonals(rearrange(rows, "... c column down -> ... down c column"))


def _summed_along_diagonals(x: Tensor) -> Tensor:
    """(..., n, n) to (..., 2 n - 1), the sum of all that have one difference of column and row."""
    n = x.shape[-1]
    skewed = F.pad(x.flip(-2), (0, n)).flatten(-2)[..., :-n].unflatten(-1, (n, 2 * n - 1))
    return skewed.sum(dim=-2)


@cache
def _offsets(grid: tuple[int, int], sides: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Of all offsets (2 h - 1, 2 w - 1): distances in pixels, and how many queries have them."""
    down, across = (torch.arange(1 - side, side, dtype=torch.float64) for side in grid)
    distance = torch.hypot(down[:, None] * sides[0], across[None] * sides[1])
    return distance, (grid[0] - down.abs())[:, None] * (grid[1] - across.abs())[None]


@cache
def _rings(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Chebyshev distance of each pair of patches (n, n), and how many each has at each (n, K)."""
    row, column = (x.flatten() for x in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    ring = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())
    sizes = torch.zeros(len(ring), max(grid), dtype=torch.float64)
    return ring, sizes.scatter_add_(1, ring, torch.ones_like(ring, dtype=torch.float64))


def _filled(name: str, value: Tensor, heads: int, grid: tuple[int, int]) -> Tensor:
    """Values of a layer with as many heads, rings and offsets as the largest layer has."""
    if name == "offsets":
        below, right = (2 * grid[0] - 1 - value.shape[1]) // 2, (2 * grid[1] - 1 - value.shape[2]) // 2
        value = F.pad(value, (right, right, below, below), value=torch.nan)
    elif name in ("strength", "density"):
        missing = max(grid) - value.shape[1]
        value = F.pad(value, (0, missing), value=0.0 if name == "strength" else torch.nan)
    rest = value.new_full((heads - len(value), *value.shape[1:]), torch.nan)
    return torch.cat([value.double(), rest.double()])


def _kind(strength: Tensor, prefix: float, sink: float, near: int, most: float) -> Kind:
    if strength[0].isnan():
        return ""
    if prefix > sink:
        return "sink"
    if strength[0] > most:
        return "self"
    if strength[: near + 1].sum() > most:
        return "local"
    return "ring" if strength[near + 1 :].numel() and strength[near + 1 :].max() > most else "global"
