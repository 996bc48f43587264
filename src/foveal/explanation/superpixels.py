"""Superpixels of images and supervoxels of volumes, by SLIC: the features that perturbations switch off."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def superpixels(image: Tensor, *, segments: int, compactness: float = 0.1) -> Tensor:
    """Cut an image or a volume into connected pieces of like colour (SLIC, Achanta et al., 2012).

    Args:
        image: (C, H, W) or (C, T, H, W).
        segments: about how many pieces.
        compactness: how much nearness counts against likeness, of channels scaled to [0, 1]; raised
            tenfold, up to a thousand times, where fewer than half of the pieces would be left.

    Returns:
        (H, W) or (T, H, W) int64 from 0, without gaps.

    Raises:
        ValueError: fewer than two segments.
    """
    from skimage.segmentation import relabel_sequential, slic

    if segments < 2:
        raise ValueError(f"segments is {segments}; allowed: 2 or more")
    values = image.detach().float().cpu()
    low = values.flatten(1).amin(dim=1).view(-1, *[1] * (image.ndim - 1))
    high = values.flatten(1).amax(dim=1).view(-1, *[1] * (image.ndim - 1))
    scaled = ((values - low) / (high - low).clamp_min(1e-12)).movedim(0, -1).numpy()
    # Speckle leaves SLIC with scraps, which it merges into next to nothing: then nearness counts for more.
    for factor in (1, 10, 100, 1000):
        found = slic(
            scaled,
            n_segments=segments,
            compactness=factor * compactness,
            convert2lab=False,
            channel_axis=-1,
            start_label=1,
        )
        if found.max() >= max(2, segments / 2):
            break
    labels = relabel_sequential(found)[0] - 1
    return torch.from_numpy(np.ascontiguousarray(labels)).long().to(image.device)
