"""Patches that a model with reduced tokens kept: an explanation that costs nothing (arXiv 2202.07800)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.reduced_tokens import kept_patches
from foveal.explanation.methods import Question, register_method
from foveal.explanation.taps import as_maps


@register_method("kept-patches", "attention", signed=False)
def kept(asked: Question, *, grid: Sequence[int] | None = None) -> Tensor:
    """Share of the selections of a model with reduced tokens that each patch passes as itself.

    It does not depend on the class. 1 is a patch that goes on to the end, 0 one that is fused or dropped at
    once. `grid` is of the patches, where their cells are not square.
    """
    share = kept_share(asked.model, asked.images, grid=grid)
    return F.interpolate(share[:, None], size=asked.images.shape[2:], mode="nearest")[:, 0]


def kept_share(model: nn.Module, images: Tensor, *, grid: Sequence[int] | None = None) -> Tensor:
    """(B, h, w) share of the selections that a patch passes as itself.

    Args:
        model: with reduced tokens, in evaluation mode.
        images: (B, C, H, W) as the model takes them.
        grid: of the patches; None tells it from the sides of the images.

    Raises:
        ValueError: the model keeps all its tokens, or they are on no grid.
    """
    _, masks = kept_patches(model, images)
    return as_maps(masks.float().mean(dim=0)[..., None], images, prefix_tokens=0, grid=grid)[:, 0]
