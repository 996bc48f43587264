"""Does the relevance lie where the finding is: pointing game, mass and area in masks."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from foveal.explanation.perturbing import relevance_ranks

_POOL = {3: F.adaptive_max_pool2d, 4: F.adaptive_max_pool3d}


def pointing_game(relevance: Tensor, masks: Tensor, *, tolerance: float = 0.0) -> Tensor:
    """Whether the most relevant pixel lies in the mask (Zhang et al., arXiv 1608.00507).

    Args:
        relevance: (B, H, W) or (B, T, H, W).
        masks: bool, same shape.
        tolerance: pixels that it may lie away from the mask; 15 in the paper.

    Returns:
        (B,) 1 or 0; of several equally relevant pixels the share that lies there, so that a map that says
        nothing earns chance; NaN where the mask is empty.

    Raises:
        ValueError: shapes that do not fit, masks that are not bool.
    """
    _check(relevance, masks)
    if tolerance > 0:
        near = [torch.from_numpy(_distance(mask) <= tolerance) for mask in masks.cpu().numpy()]
        inside = torch.stack(near).to(masks.device)
    else:
        inside = masks
    flat = relevance.flatten(1)
    top = flat == flat.amax(dim=1, keepdim=True)
    hit = (top & inside.flatten(1)).sum(dim=1) / top.sum(dim=1)
    return _where_any(masks, hit)


def mass_in_mask(relevance: Tensor, masks: Tensor) -> Tensor:
    """(B,) share of the positive relevance that lies in the mask; NaN where there is no mask or relevance."""
    _check(relevance, masks)
    positive = relevance.double().clamp_min(0).flatten(1)
    total = positive.sum(dim=1)
    share = (positive * masks.flatten(1)).sum(dim=1) / total
    return _where_any(masks, torch.where(total > 0, share, torch.nan)).to(relevance)


def mass_ratio(relevance: Tensor, masks: Tensor) -> Tensor:
    """(B,) `mass_in_mask` over the share of pixels in the mask: 1 for relevance that is spread evenly."""
    return mass_in_mask(relevance, masks) / masks.flatten(1).to(relevance).mean(dim=1)


def rank_accuracy(relevance: Tensor, masks: Tensor) -> Tensor:
    """(B,) share of the mask that the K most relevant pixels cover, K being its size; NaN without a mask."""
    _check(relevance, masks)
    size = masks.flatten(1).sum(dim=1)
    top = relevance_ranks(relevance).flatten(1) < size[:, None]
    return _where_any(masks, (top & masks.flatten(1)).sum(dim=1) / size)


def area_overlap(relevance: Tensor, masks: Tensor, *, share: float | None = None) -> Tensor:
    """(B,) intersection over union of the most relevant area and the mask; NaN without a mask.

    Args:
        relevance: (B, ...).
        masks: bool, same shape.
        share: of the pixels that the area takes; None for as many as the mask has.

    Raises:
        ValueError: see `pointing_game` and `relevant_area`.
    """
    _check(relevance, masks)
    flat = masks.flatten(1)
    if share is None:
        area = relevance_ranks(relevance).flatten(1) < flat.sum(dim=1, keepdim=True)
    else:
        area = relevant_area(relevance, share).flatten(1)
    return _where_any(masks, (area & flat).sum(dim=1) / (area | flat).sum(dim=1))


def relevant_area(relevance: Tensor, share: float) -> Tensor:
    """The round(N share) most relevant pixels of each image, bool; equal ones go by their index.

    Raises:
        ValueError: a share out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; allowed: above 0 to 1")
    return relevance_ranks(relevance) < round(share * relevance[0].numel())


def components(areas: Tensor) -> Tensor:
    """(B,) numbers of connected parts of areas (B, ...) bool, pixels that touch at a corner included."""
    structure = np.ones((3,) * (areas.ndim - 1))
    counts = [ndimage.label(area, structure)[1] for area in areas.cpu().numpy()]
    return torch.tensor(counts, device=areas.device)


def masks_on_grid(masks: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Masks (B, ...) bool made smaller to the images' grid; a pixel is in where any part of it was.

    So lesions smaller than a pixel stay, such as microaneurysms of a photograph of 12 megapixels.
    """
    if masks.ndim not in _POOL or len(sides) != masks.ndim - 1:
        raise ValueError(
            f"masks of shape {tuple(masks.shape)} for a grid of {tuple(sides)}; allowed: (B, H, W) with "
            "(h, w), or (B, T, H, W) with (t, h, w)"
        )
    return _POOL[masks.ndim](masks.float().unsqueeze(1), sides).squeeze(1) > 0


def _check(relevance: Tensor, masks: Tensor) -> None:
    if relevance.shape != masks.shape or masks.dtype != torch.bool:
        raise ValueError(
            f"relevance of shape {tuple(relevance.shape)} with {masks.dtype} masks of {tuple(masks.shape)}; "
            "bool masks of the same shape are wanted; masks_on_grid makes larger ones fit"
        )
    if not bool(torch.isfinite(relevance).all()):
        raise ValueError("the relevance holds NaN or infinity")


def _where_any(masks: Tensor, values: Tensor) -> Tensor:
    return torch.where(masks.flatten(1).any(dim=1), values, torch.nan)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the mask; infinite where it is empty."""
    return ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)
