"""How far attention reaches: strength by distance, entropy, and the mean map of offsets, of every head.

Rings are of Chebyshev distance k on the grid of patches; attention among patches is normalised anew, what
goes to class and register tokens is told apart (Li et al., arXiv 2303.13731; distances: arXiv 2108.08810).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from foveal.explanation.attention_taps import LayerAttention, attention_tapped, check_attention
from foveal.explanation.taps import grid_of

Kind = Literal["self", "local", "ring", "global", "sink"]


@dataclass(frozen=True)
class AttentionProfiles:
    """Means over images and queries, of L layers and H heads; all float64.

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
        grid: (h, w) of the patches.
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
    layers: tuple[str, ...]

    def kinds(self, *, sink: float = 0.5, near: int = 2, most: float = 0.6) -> list[list[Kind]]:
        """A word for each head: where most of its attention goes.

        "sink" sends more than `sink` to the tokens before the patches, "self" more than `most` of the rest to
        the patch itself, "local" to within `near` steps, "ring" to one ring further out, "global" to none.
        """
        words: list[list[Kind]] = []
        for strength, prefix in zip(self.strength, self.to_prefix, strict=True):
            words.append(
                [_kind(s, float(p), sink, near, most) for s, p in zip(strength, prefix, strict=True)]
            )
        return words


def attention_profiles(
    model: nn.Module,
    images: Tensor,
    *,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
    batch_size: int = 16,
) -> AttentionProfiles:
    """Profiles of every head of a model over images; matrices are summed up as they come and not kept.

    Args:
        model: any whose attention is among all patches, and tokens before them.
        images: (B, C, H, W).
        prefix_tokens: tokens before the patches; 0 or 1 is read off the number of tokens.
        grid: (h, w) of the patches, where it is not that of square cells.
        batch_size: images at once.

    Raises:
        ValueError: no attention, attention of differing sizes as within windows, or tokens that fit no grid.
    """
    collected: list[AttentionProfiles] = []
    counts: list[int] = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        with torch.no_grad(), attention_tapped(model) as kept:
            model(part)
        check_attention(model, kept)
        collected.append(profiles_of(kept, part, prefix_tokens=prefix_tokens, grid=grid))
        counts.append(len(part))
    weights = torch.tensor(counts, dtype=torch.float64) / sum(counts)

    def mean(values: Callable[[AttentionProfiles], Tensor]) -> Tensor:
        return torch.einsum("n,n...->...", weights, torch.stack([values(one) for one in collected]))

    return AttentionProfiles(
        mean(lambda one: one.strength),
        mean(lambda one: one.density),
        mean(lambda one: one.distance),
        mean(lambda one: one.entropy),
        mean(lambda one: one.to_prefix),
        mean(lambda one: one.from_class),
        mean(lambda one: one.offsets),
        collected[0].grid,
        collected[0].layers,
    )


def profiles_of(
    kept: Sequence[LayerAttention],
    images: Tensor,
    *,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> AttentionProfiles:
    """Profiles of attention weights (B, H, N, N) that were met for images (B, C, H, W)."""
    sizes = {tuple(layer.weights.shape[-2:]) for layer in kept}
    windows = any(len(layer.weights) != len(images) for layer in kept)
    if windows or len(sizes) != 1 or len(set(next(iter(sizes)))) != 1:
        told = ", ".join(" x ".join(map(str, size)) for size in sorted(sizes))
        raise ValueError(f"attention of sizes {told}; profiles want one of all tokens, without windows")
    tokens = next(iter(sizes))[0]
    prefix, shape = grid_of(tokens, images, prefix_tokens=prefix_tokens, grid=grid)
    if len(shape) != 2:
        raise ValueError(f"a grid of {shape}; profiles are of images")
    sides = (images.shape[2] / shape[0], images.shape[3] / shape[1])
    rings, even_rings, distances, offsets, even_offsets = _pairs(shape[0], shape[1], sides)
    rows: dict[str, list[Tensor]] = {}
    for layer in kept:
        weights = layer.weights.double().cpu()
        among = weights[..., prefix:, prefix:]
        total = among.sum(dim=-1, keepdim=True)
        mean = (among / total.clamp_min(1e-12)).mean(dim=0).flatten(1)  # (H, n n)
        n = among.shape[-1]
        nothing = torch.full((mean.shape[0],), torch.nan)
        found = {
            "strength": mean @ rings / n,
            "density": mean @ even_rings,
            "distance": mean @ distances / n,
            "entropy": torch.special.entr(among / total.clamp_min(1e-12)).sum(-1).mean(dim=(0, 2)),
            "to_prefix": 1 - total.mean(dim=(0, 2, 3)),
            "from_class": weights[..., 0, prefix:].sum(-1).mean(0) if prefix else nothing,
            "offsets": (mean @ offsets / even_offsets).view(-1, 2 * shape[0] - 1, 2 * shape[1] - 1),
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(value.double())
    stacked = {name: torch.stack(values) for name, values in rows.items()}
    return AttentionProfiles(**stacked, grid=(shape[0], shape[1]), layers=tuple(layer.name for layer in kept))


@cache
def _pairs(
    height: int, width: int, sides: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of all pairs of patches (n n): rings one-hot, also averaged ring by ring, distances, offsets one-hot.

    One matrix product with these sums attention up; the last tensor counts the pairs of each offset.
    """
    row, column = (
        x.flatten() for x in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    )
    down, across = row[None] - row[:, None], column[None] - column[:, None]  # query, key
    ring = torch.maximum(down.abs(), across.abs())
    hot = nn.functional.one_hot(ring, max(height, width)).double()  # (n, n, K)
    sizes = hot.sum(dim=1)  # patches in each ring of each query
    queries = (sizes > 0).sum(dim=0)  # that have such a ring
    even = hot / sizes.clamp_min(1)[:, None] / queries.clamp_min(1)
    distances = torch.hypot(down * sides[0], across * sides[1]).double()
    number = (down + height - 1) * (2 * width - 1) + across + width - 1
    offsets = nn.functional.one_hot(number, (2 * height - 1) * (2 * width - 1)).double()
    counts = offsets.sum(dim=(0, 1))
    return hot.flatten(0, 1), even.flatten(0, 1), distances.flatten(), offsets.flatten(0, 1), counts


def _kind(strength: Tensor, prefix: float, sink: float, near: int, most: float) -> Kind:
    if prefix > sink:
        return "sink"
    if strength[0] > most:
        return "self"
    if strength[: near + 1].sum() > most:
        return "local"
    return "ring" if strength[near + 1 :].numel() and strength[near + 1 :].max() > most else "global"
