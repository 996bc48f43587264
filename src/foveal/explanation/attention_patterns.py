"""Patterns of attention, one of each head in each image, collected as a model runs.

Attention is laid out by the offset from query to key, or kept as a matrix; `foveal.explanation.pattern_atlas`
learns codes and clusters of them (Li et al., arXiv 2303.13731).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.attention_taps import LayerAttention, attention_of, attention_tapped
from foveal.explanation.attention_profiles import PatchAttention, among_patches, near_steps, offset_sums
from foveal.explanation.taps import prefix_tokens_of
from foveal.settings import unknown_name

Representation = Literal["offset", "matrix"]
TRAITS = ("self", "near", "shift", "keys", "row", "column", "entropy")
_LIMITS = {"offset": 20_000, "matrix": 2_000}


@dataclass(frozen=True)
class PatternSamples:
    """Attention patterns, one of a head in an image.

    Attributes:
        patterns: (S, X, Y) float16, square root of the attention over its largest value. Of offsets it is
            the sum over queries, which falls to the border with the number of pairs; X, Y = 2 h - 1, 2 w - 1.
            Of matrices queries are rows and X = Y = h w.
        traits: (S, 7) shares of attention, in the order of `TRAITS`: to the patch itself, within a few steps,
            to one other offset, to the tenth of keys that get most, along the row, along the column; and the
            entropy over that of even attention.
        shifts: (S, 2) the offset of the third, rows and columns.
        layer, head, image, model: (S,) int64 each, where a pattern comes from.
        representation: what `patterns` are.
        grid: (h, w) of the patches.
    """

    patterns: Tensor
    traits: Tensor
    shifts: Tensor
    layer: Tensor
    head: Tensor
    image: Tensor
    model: Tensor
    representation: Representation
    grid: tuple[int, int]

    def __len__(self) -> int:
        return len(self.patterns)


@torch.no_grad()
def collect_patterns(
    model: nn.Module,
    images: Tensor,
    *,
    representation: Representation = "offset",
    limit: int | None = None,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
    batch_size: int = 4,
    seed: int = 0,
) -> PatternSamples:
    """Attention patterns of all heads over images, collected layer by layer as a pass goes on.

    Where heads times images exceed the limit, fewer images are looked at, drawn at random; all heads see the
    same. What is kept takes 2 bytes a value: 29 MB for 20,000 maps of offsets of 14 x 14 patches, 154 MB for
    2,000 matrices; what is looked at is the attention of one layer in one batch.

    Args:
        model: see `attention_profiles`.
        images: (B, C, H, W).
        representation: "offset" sums attention over queries by the offset to the key; "matrix" keeps it all.
        limit: patterns at most, but one image at least; 20,000 of offsets and 2,000 matrices by default.
        prefix_tokens: see `attention_profiles`.
        grid: see `attention_profiles`.
        batch_size: images at once.
        seed: of the choice of images.

    Raises:
        ValueError: see `attention_profiles`; or matrices of layers with different numbers of tokens.
    """
    if representation not in get_args(Representation):
        raise ValueError(unknown_name("representation", representation, get_args(Representation)))
    heads = sum(layer.weights.shape[1] for layer in attention_of(model, images[:1]))
    prefix_tokens = prefix_tokens_of(model) if prefix_tokens is None else prefix_tokens
    most = max(1, (_LIMITS[representation] if limit is None else limit) // heads)
    chosen = torch.arange(len(images))
    if most < len(images):
        drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        chosen = drawn[:most].sort().values
    parts: list[_Part] = []
    for numbers in chosen.split(batch_size):
        part = images[numbers.to(images.device)]
        layers: list[_Part] = []

        def read(
            layer: LayerAttention,
            part: Tensor = part,
            numbers: Tensor = numbers,
            layers: list[_Part] = layers,
        ) -> None:
            laid = among_patches(layer, part, prefix_tokens=prefix_tokens, grid=grid)
            layers.append(_part(laid, len(layers), numbers, representation))

        with attention_tapped(model, read=read):
            model(part)
        parts += layers
    return _gathered(parts, representation)


def patterns_of_attention(
    kept: Sequence[LayerAttention],
    images: Tensor,
    *,
    representation: Representation = "offset",
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> PatternSamples:
    """Patterns of attention weights (B, H, N, N) that were met for images (B, C, H, W)."""
    numbers = torch.arange(len(images))
    laid = [among_patches(layer, images, prefix_tokens=prefix_tokens, grid=grid) for layer in kept]
    return _gathered([_part(one, k, numbers, representation) for k, one in enumerate(laid)], representation)


def pooled(samples: Sequence[PatternSamples]) -> PatternSamples:
    """Patterns of several models together, so that their codes and clusters mean the same.

    Raises:
        ValueError: patterns of different shapes or representations.
    """
    told = {(one.representation, tuple(one.patterns.shape[1:])) for one in samples}
    if len(told) != 1:
        raise ValueError(f"patterns of different kinds: {sorted(told)}; allowed: of one grid and one kind")
    joined: dict[str, Any] = {
        name: torch.cat([getattr(one, name) for one in samples])
        for name in ("patterns", "traits", "shifts", "layer", "head", "image")
    }
    joined["model"] = torch.cat([torch.full((len(one),), k) for k, one in enumerate(samples)])
    return PatternSamples(**joined, representation=samples[0].representation, grid=samples[0].grid)


@dataclass(frozen=True)
class _Part:
    """Patterns of one layer in one batch; the arrays are (B, H, ...)."""

    patterns: Tensor
    traits: Tensor
    shifts: Tensor
    layer: int
    images: Tensor
    grid: tuple[int, int]


def _part(laid: PatchAttention, layer: int, images: Tensor, representation: Representation) -> _Part:
    among = laid.among.unflatten(0, (-1, laid.windows))  # (B, W, H, n, n)
    n = among.shape[-1]
    sums = offset_sums(among, laid.grid).mean(dim=1)  # (B, H, X, Y)
    mean_rows = among.mean(dim=(1, 3))  # (B, H, n)
    rows, columns = laid.grid
    middle = (rows - 1, columns - 1)
    counts = offset_sums(torch.ones(n, n, dtype=torch.float64), laid.grid)
    others = sums / counts
    others[..., counts < n / 2] = 0  # what few queries have is no shift of the whole
    others[..., middle[0], middle[1]] = 0
    largest, place = others.flatten(2).max(dim=-1)
    itself = sums[..., middle[0], middle[1]] / n
    near = near_steps(laid.grid)
    box = [slice(max(0, at - near), at + near + 1) for at in middle]
    traits = torch.stack(
        [
            itself,
            sums[..., box[0], box[1]].sum(dim=(-2, -1)) / n,
            largest,
            mean_rows.topk(math.ceil(n / 10), dim=-1).values.sum(dim=-1),
            sums[..., middle[0], :].sum(dim=-1) / n - itself,
            sums[..., middle[1]].sum(dim=-1) / n - itself,
            torch.special.entr(among).sum(dim=-1).mean(dim=(1, 3)) / math.log(max(2, n)),
        ],
        dim=-1,
    )
    shifts = torch.stack([place // sums.shape[-1] - middle[0], place % sums.shape[-1] - middle[1]], dim=-1)
    values = sums if representation == "offset" else among.mean(dim=1)
    scaled = (values / values.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-12)).clamp_min(0).sqrt()
    return _Part(scaled.half(), traits.float(), shifts, layer, images, laid.grid)


def _gathered(parts: Sequence[_Part], representation: Representation) -> PatternSamples:
    grid = max((part.grid for part in parts), key=math.prod)
    if representation == "matrix" and len({part.grid for part in parts}) > 1:
        raise ValueError(
            "layers have different numbers of tokens, so their matrices do not compare; allowed: "
            "representation='offset'"
        )
    patterns = []
    for part in parts:
        down, across = (a - b for a, b in zip(grid, part.grid, strict=True))
        patterns.append(F.pad(part.patterns, (across, across, down, down)).flatten(0, 1))
    images = [part.images[:, None].expand(part.traits.shape[:2]).flatten() for part in parts]
    heads = [torch.arange(part.traits.shape[1]).repeat(len(part.images)) for part in parts]
    layers = [torch.full_like(head, part.layer) for part, head in zip(parts, heads, strict=True)]
    found = torch.cat(layers)
    return PatternSamples(
        torch.cat(patterns),
        torch.cat([part.traits.flatten(0, 1) for part in parts]),
        torch.cat([part.shifts.flatten(0, 1) for part in parts]),
        found,
        torch.cat(heads),
        torch.cat(images),
        torch.zeros_like(found),
        representation,
        grid,
    )
