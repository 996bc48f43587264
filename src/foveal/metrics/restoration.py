"""What restored images are worth beside clean ones: PSNR and SSIM."""

from __future__ import annotations

from typing import cast

import numpy as np


def restoration_scores(
    restored: np.ndarray, clean: np.ndarray, *, value_range: float = 1.0
) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB and structural similarity, each image's, averaged.

    Args:
        restored: (N, C, H, W) or (N, C, T, H, W).
        clean: the same shape.
        value_range: largest value less the smallest that an image can have.

    Returns:
        `psnr` (infinite where an image is exact) and `ssim`, at most 1.

    Raises:
        ValueError: shapes differ, have other axes, or an axis is below the 11 px of SSIM's window.
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    if (
        restored.shape != clean.shape
        or restored.ndim not in (4, 5)
        or min(restored.shape[2:], default=0) < 11
    ):
        raise ValueError(
            f"images of shapes {restored.shape} and {clean.shape}; allowed: equal ones, (N, C, H, W) or "
            "(N, C, T, H, W), of 11 px or more along each axis"
        )
    axes = tuple(range(1, restored.ndim))
    error = np.square(restored.astype(np.float64) - clean).mean(axis=axes)
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(value_range**2 / error)
    ssim = structural_similarity_index_measure(
        torch.from_numpy(restored).float(), torch.from_numpy(clean).float(), data_range=value_range
    )
    return {"psnr": float(psnr.mean()), "ssim": float(cast(torch.Tensor, ssim))}
