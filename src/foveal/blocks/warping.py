"""Images moved by a flow, in two and three dimensions: VoxelMorph's spatial transformer (arXiv 1809.05231).

A flow (B, axes, *grid) is in cells, its channels in the order of the grid's axes: the warped image at x is
the image at x + flow(x).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(
    images: Tensor,
    flow: Tensor,
    *,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    padding: Literal["border", "zeros"] = "border",
) -> Tensor:
    """Images (B, C, *grid) at the places that a flow points to.

    Args:
        images: of two or three axes.
        flow: (B, axes, *grid), in cells.
        mode: linear between cells, or the nearest cell, for labels; that has no gradient in the flow.
        padding: what lies outside: the value at the border, or 0.

    Raises:
        ValueError: a flow of another shape, or images of other than two or three axes.
    """
    axes = images.ndim - 2
    if axes not in (2, 3) or flow.shape != (len(images), axes, *images.shape[2:]):
        wanted = "(B, 2, H, W) for (B, C, H, W) or (B, 3, T, H, W) for (B, C, T, H, W)"
        raise ValueError(
            f"a flow of shape {tuple(flow.shape)} for images {tuple(images.shape)}; allowed: {wanted}"
        )
    places = flow + identity_grid(flow)
    sizes = flow.new_tensor(flow.shape[2:]).view(1, -1, *(1,) * axes)
    # Centres of the first and last cell are at -1 and 1; an axis of one cell has no other place.
    scaled = 2 * places / (sizes - 1).clamp_min(1) - 1
    return F.grid_sample(
        images, scaled.flip(1).movedim(1, -1), mode=mode, padding_mode=padding, align_corners=True
    )


def identity_grid(flow: Tensor) -> Tensor:
    """The place (axes, *grid) of each cell of a flow, in cells."""
    lines = [torch.arange(size, device=flow.device, dtype=flow.dtype) for size in flow.shape[2:]]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"))


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The flow of warping by `first` and the result by `second`: second(x) + first(x + second(x))."""
    return second + warp(first, second)


def integrate(velocity: Tensor, *, steps: int = 7) -> Tensor:
    """The flow after unit time of a velocity that stays, by scaling and squaring; it hardly folds."""
    flow = velocity / 2**steps
    for _ in range(steps):
        flow = compose(flow, flow)
    return flow
