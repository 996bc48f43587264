"""Local contrast of a photograph: what lighting, colour cast and haze leave of it, taken out again."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def local_contrast(images: Tensor, *, sigma: float, floor: float = 0.03) -> Tensor:
    """(x - local mean) / local spread of each channel, over the lit pixels alone.

    With m the mask of lit pixels (any channel above 0) and G a Gaussian of `sigma` pixels, the local
    mean is G(x m) / G(m), so that the black surround does not darken the border of the field; the
    spread is the root of the local variance plus (`floor` x local mean + 0.01)^2, which keeps noise in
    empty or dark areas small. Unlit pixels are 0.

    Args:
        images: (B, C, H, W) in [0, 1], exactly 0 outside the field of view.
        sigma: pixels; must be wider than the widest structure of interest.
        floor: least spread, as a share of the local mean.

    Returns:
        (B, C, H, W), about zero mean and unit spread, clipped to [-5, 5].
    """
    lit = (images.amax(dim=1, keepdim=True) > 0).to(images.dtype)
    x = images * lit
    weight = _blur(lit, sigma).clamp_min(1e-3)
    mean = _blur(x, sigma) / weight
    variance = (_blur(x.square(), sigma) / weight - mean.square()).clamp_min(0)
    spread = (variance + (floor * mean + 0.01).square()).sqrt()
    return ((x - mean) / spread).clamp(-5, 5) * lit


def mirrors_exactly(side: int, sigma: float) -> bool:
    """Whether the local contrast of a mirrored square is its mirrored local contrast: where the coarse grid
    of `local_contrast` fits the side."""
    return side % _step(sigma) == 0


def _step(sigma: float) -> int:
    return max(1, int(sigma / 4))


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, computed on a grid coarser by about `sigma` / 4 since nothing finer survives it."""
    height, width = x.shape[-2:]
    step = _step(sigma)
    pad_bottom, pad_right = -height % step, -width % step
    coarse = F.avg_pool2d(F.pad(x, (0, pad_right, 0, pad_bottom), mode="replicate"), step)
    scaled = sigma / step
    radius = max(1, int(3 * scaled + 0.5))
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / scaled).square())
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    # Zero padding: the callers divide by the blurred mask, which is padded alike.
    coarse = F.conv2d(coarse, kernel[..., None], padding=(radius, 0), groups=x.shape[1])
    coarse = F.conv2d(coarse, kernel[..., None, :], padding=(0, radius), groups=x.shape[1])
    fine = F.interpolate(
        coarse, size=(height + pad_bottom, width + pad_right), mode="bilinear", align_corners=False
    )
    return fine[..., :height, :width]
