"""Augmentation of fundus photographs that carries signed soft labels along without harming them."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from foveal.settings import Settings


class AugmentationSettings(Settings):
    """How strongly photographs vary in training; every strength 0 leaves them as they are.

    The paper's recipe rotates and flips without scaling; `zoom` goes beyond it, because a camera's
    field angle (30 to 60 degrees) changes the width of vessels at a fixed working diameter.
    """

    zoom: float = Field(0.5, ge=0, lt=2, description="largest |log scale| (natural logarithm)")
    rotate: bool = True
    flip: bool = True
    gamma: float = Field(0.4, ge=0, description="largest |log gamma| of all channels")
    channel_gamma: float = Field(0.2, ge=0, description="largest |log gamma| of each channel")
    gain: float = Field(0.35, ge=0, description="largest |log gain| of each channel")
    mix: float = Field(0.25, ge=0, le=1, description="spread of the channel mixing matrix")
    grey: float = Field(0.1, ge=0, le=1, description="probability of a grey photograph")
    swap: float = Field(0.03, ge=0, le=1, description="probability of red and blue swapped")
    illumination: float = Field(0.8, ge=0, description="largest |log factor| of a smooth shading")
    haze: float = Field(0.35, ge=0, le=1, description="largest share of a uniform veil")
    blur: float = Field(1.6, ge=0, description="largest Gaussian sigma, pixels")
    low_resolution: float = Field(0.5, ge=0, lt=1, description="largest share of resolution lost")
    noise: float = Field(0.05, ge=0, description="largest sigma of Gaussian noise")
    jpeg: float = Field(0.15, ge=0, le=1, description="probability of JPEG compression (quality 30 to 90)")
    blobs: float = Field(0.3, ge=0, le=1, description="probability of lesion-like dark and bright blobs")


def warp(
    image: Tensor, labels: Tensor, *, center: Tensor, scale: float, angle: float, flip: bool, size: int
) -> tuple[Tensor, Tensor]:
    """Cut a rotated, scaled square out of a photograph and its signed labels.

    Labels are shifted by 1 while they are warped, so that what lies beyond the edge becomes -1
    (background, certain) and not 0 (undecided).

    Args:
        image: (C, H, W) in [0, 1].
        labels: (K, H, W) in [-1, 1].
        center: (2,) row and column in `image`, pixels.
        scale: output pixels an input pixel.
        angle: radians.
        flip: mirror the columns.
        size: side of the output, pixels.

    Returns:
        Image (C, size, size), 0 beyond the edge, and labels (K, size, size), -1 beyond the edge.
    """
    height, width = image.shape[-2:]
    cos, sin, sign = math.cos(angle), math.sin(angle), -1.0 if flip else 1.0
    offsets = (torch.arange(size, dtype=torch.float32) - (size - 1) / 2) / scale
    rows, columns = offsets[:, None], offsets[None, :] * sign
    y = center[0] + cos * rows - sin * columns
    x = center[1] + sin * rows + cos * columns
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    both = torch.cat([image, labels + 1])[None]
    out = F.grid_sample(both, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    return out[: len(image)], out[len(image) :] - 1


def disturb(image: Tensor, settings: AugmentationSettings, generator: Generator) -> Tensor:
    """Change colour, light, sharpness and noise of a photograph, as other cameras and eyes would.

    Args:
        image: (3, H, W) in [0, 1], exactly 0 outside the field of view.
        settings: strengths.
        generator: source of all randomness.

    Returns:
        (3, H, W) in [0, 1], exactly 0 where the input is.
    """
    draw = _Draw(generator)
    lit = image.amax(dim=0, keepdim=True) > 0
    x = image
    if draw.chance(settings.blobs):
        x = _blobs(x, draw)
    if settings.low_resolution and draw.chance(0.35):
        x = _lose_resolution(x, 1 - draw.uniform(0, settings.low_resolution))
    if settings.blur and draw.chance(0.4):
        x = _gaussian_blur(x, draw.uniform(0.2, max(0.2, settings.blur)))
    if draw.chance(settings.swap):
        x = x.flip(0)
    if settings.mix and draw.chance(0.5):
        matrix = torch.eye(3) + settings.mix * draw.normal(3, 3)
        matrix = matrix / matrix.sum(dim=1, keepdim=True).clamp_min(0.3)
        x = torch.einsum("ij,jhw->ihw", matrix, x).clamp(0, 1)
    if draw.chance(settings.grey):
        x = (x[1:2] if draw.chance(0.5) else x.mean(dim=0, keepdim=True)).expand(3, -1, -1)
    power = math.exp(draw.symmetric(settings.gamma)) * torch.exp(
        draw.symmetric(settings.channel_gamma, 3, 1, 1)
    )
    x = x.clamp_min(1e-4) ** power
    x = x * torch.exp(draw.symmetric(settings.gain, 3, 1, 1))
    if settings.illumination and draw.chance(0.6):
        x = x * torch.exp(_shading(x.shape[-2:], settings.illumination, draw))
    if settings.haze and draw.chance(0.3):
        veil = draw.uniform(0, settings.haze)
        x = x * (1 - veil) + veil * draw.uniform(0.3, 0.9) * torch.exp(draw.symmetric(0.3, 3, 1, 1))
    if settings.noise and draw.chance(0.5):
        noise = draw.normal(*x.shape) * draw.uniform(0, settings.noise)
        x = x + (_gaussian_blur(noise, 0.7) * 1.5 if draw.chance(0.4) else noise)
    x = x.clamp(0, 1)
    if draw.chance(settings.jpeg):
        x = _jpeg(x, int(draw.uniform(30, 90)))
    return x * lit


class _Draw:
    """Random numbers of one generator in the shapes that augmentation wants."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def symmetric(self, bound: float, *shape: int) -> Tensor:
        return (2 * torch.rand(shape, generator=self.generator) - 1) * bound

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def chance(self, probability: float) -> bool:
        return float(torch.rand((), generator=self.generator)) < probability


def _gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    radius = max(1, int(3 * sigma + 0.5))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma).square())
    kernel = (kernel / kernel.sum()).expand(x.shape[0], 1, -1)
    padded = F.pad(x[None], (radius, radius, radius, radius), mode="reflect")
    rows = F.conv2d(padded, kernel[..., None], groups=x.shape[0])
    return F.conv2d(rows, kernel[..., None, :], groups=x.shape[0])[0]


def _lose_resolution(x: Tensor, share: float) -> Tensor:
    height, width = x.shape[-2:]
    small = F.interpolate(
        x[None],
        size=(max(8, round(height * share)), max(8, round(width * share))),
        mode="bilinear",
        antialias=True,
    )
    return F.interpolate(small, size=(height, width), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def _shading(shape: torch.Size, strength: float, draw: _Draw) -> Tensor:
    """A smooth log-brightness field: a random plane and a few broad waves, bounded by `strength`."""
    coarse = draw.normal(1, 1, 4, 4)
    field = F.interpolate(coarse, size=tuple(shape), mode="bicubic", align_corners=True)[0]
    field = field / field.abs().amax().clamp_min(1e-6)
    return field * draw.uniform(0, strength)


def _blobs(x: Tensor, draw: _Draw) -> Tensor:
    """Multiply soft elliptic blobs in: dark red ones as haemorrhages, bright yellow ones as exudates."""
    height, width = x.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for _ in range(int(draw.uniform(1, 12))):
        radius = draw.uniform(1.5, 12) if draw.chance(0.8) else draw.uniform(10, 40)
        aspect, angle = draw.uniform(0.5, 1.0), draw.uniform(0, math.pi)
        dy, dx = rows - draw.uniform(0, height), columns - draw.uniform(0, width)
        u = (math.cos(angle) * dx + math.sin(angle) * dy) / radius
        v = (-math.sin(angle) * dx + math.cos(angle) * dy) / (radius * aspect)
        softness = draw.uniform(0.1, 0.5)
        cover = torch.sigmoid((1 - (u.square() + v.square()).sqrt()) / softness)
        if draw.chance(0.6):
            depth = torch.tensor([0.25, 0.8, 0.5])[:, None, None] * draw.uniform(0.3, 1.2)
            x = x * torch.exp(-depth * cover)
        else:
            colour = torch.tensor([1.0, 0.9, 0.55])[:, None, None] * draw.uniform(0.6, 1.0)
            strength = cover * draw.uniform(0.2, 0.8)
            x = x * (1 - strength) + torch.maximum(x, colour * x.amax()) * strength
    return x


def _jpeg(x: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    pixels = (x * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as picture:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
