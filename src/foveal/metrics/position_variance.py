"""How much of features is told by their place alone, whatever the image (as DVT asks, arXiv 2401.02957)."""

from __future__ import annotations

import torch
from torch import Tensor


def position_explained_variance(features: Tensor, *, corrected: bool = False) -> float:
    """R^2 of features regressed on their one-hot place: the variance of the places' means over all variance.

    Features whose place does not matter reach about 1 / B by chance.

    Args:
        features: (B, ..., D) of B images on one grid; variances are summed over the channels.
        corrected: take away what chance reaches (adjusted R^2), which may end a little below 0.

    Returns:
        0 (no image-independent pattern) to 1 (all images have the same features).

    Raises:
        ValueError: fewer than two images or places, features that do not vary or are not finite.
    """
    if features.ndim < 3 or len(features) < 2:
        raise ValueError(
            f"features of shape {tuple(features.shape)}; allowed: (B, ..., D) of two images or more"
        )
    x = features.detach().flatten(1, -2).double()
    images, places, _ = x.shape
    if places < 2 or not bool(torch.isfinite(x).all()):
        raise ValueError("features have to be finite, and to have two places or more")
    total = float((x - x.mean(dim=(0, 1))).square().sum())
    within = float((x - x.mean(dim=0)).square().sum())
    if total == 0:
        raise ValueError("the features do not vary, so nothing explains them")
    if corrected:
        within *= (images * places - 1) / (images * places - places)
    return 1 - within / total
