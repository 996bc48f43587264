"""Training patches: random, augmented squares of photographs with their soft and hard labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from foveal.scans.field_of_view import FieldOfView, crop_padded, find_field_of_view
from foveal.scans.vessel_datasets import VesselCase
from foveal.segmentation.augmentation import AugmentationSettings, disturb, warp
from foveal.segmentation.frames import frame_box, resample
from foveal.segmentation.soft_labels import Metric, Mode, sauna_label

# Frames are kept at these multiples of the working diameter, so that zooming in finds real detail and
# zooming out is antialiased.
_LEVELS = (1.5, 1.0, 0.7)


@dataclass(frozen=True)
class _Frame:
    image: Tensor  # (3, S, S) uint8
    labels: Tensor  # (2, S, S) float16: soft label and hard mask, both signed
    diameter: int


class VesselPatches:
    """Augmented patches of labelled photographs, as a pure function of (index, generator).

    The soft label of a photograph is made once, at its own resolution and before any cropping, so that
    its widest vessel is the photograph's; it then travels with the pixels.

    Args:
        cases: labelled photographs.
        size: side of a patch, pixels.
        diameter: working diameter of the field of view, pixels.
        augmentation: how strongly patches vary.
        mode: of `sauna_label`.
        metric: of `sauna_label`.

    Items are dicts of `images` (3, size, size) float32 in [0, 1], `soft_labels` (1, size, size) float32
    in [-1, 1] and `masks` (1, size, size) float32 in {0, 1}.
    """

    def __init__(
        self,
        cases: Sequence[VesselCase],
        *,
        size: int = 320,
        diameter: int = 768,
        augmentation: AugmentationSettings | None = None,
        mode: Mode = "h",
        metric: Metric = "euclidean",
    ) -> None:
        if not cases:
            raise ValueError("no labelled photographs to take patches from")
        self.size, self.diameter = size, diameter
        self.augmentation = augmentation or AugmentationSettings()
        self._frames = [_frames(case, diameter, mode, metric) for case in cases]

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self._frames)

    def sample(self, index: int, generator: Generator) -> dict[str, Tensor]:
        """One patch of photograph `index`, drawn with `generator`."""
        a = self.augmentation
        uniform = torch.rand(6, generator=generator)
        scale = math.exp(float(2 * uniform[0] - 1) * a.zoom)
        levels = self._frames[index]
        # The coarsest level that is not magnified, else the finest there is.
        frame = min(
            levels,
            key=lambda f: (f.diameter < scale * self.diameter, abs(f.diameter - scale * self.diameter)),
        )
        ratio = scale * self.diameter / frame.diameter
        side = frame.image.shape[-1]
        # Centres are uniform over the field's disc, well inside its border.
        radius, bearing = (
            0.42 * frame.diameter * math.sqrt(float(uniform[1])),
            2 * math.pi * float(uniform[2]),
        )
        center = side / 2 + radius * torch.tensor([math.sin(bearing), math.cos(bearing)])
        image, labels = warp(
            frame.image.float() / 255,
            frame.labels.float(),
            center=center,
            scale=ratio,
            angle=2 * math.pi * float(uniform[3]) if a.rotate else 0.0,
            flip=a.flip and bool(uniform[4] < 0.5),
            size=self.size,
        )
        image = disturb(image, a, generator)
        # The class always comes from the warped hard mask: a soft label's zero lies a little outside it.
        return {"images": image, "soft_labels": labels[:1].clamp(-1, 1), "masks": (labels[1:] > 0).float()}


def _frames(case: VesselCase, diameter: int, mode: Mode, metric: Metric) -> list[_Frame]:
    field = find_field_of_view(case.image)
    vessels = case.vessels & case.field
    labels = np.stack([sauna_label(vessels, mode=mode, metric=metric), 2 * vessels - np.float32(1)], axis=-1)
    image = np.where(field.mask[..., None], case.image, 0).astype(np.uint8)
    return [_frame(image, labels, field, round(level * diameter)) for level in _LEVELS]


def _frame(image: np.ndarray, labels: np.ndarray, field: FieldOfView, diameter: int) -> _Frame:
    box, side = frame_box(field, diameter=diameter, multiple=32)
    pixels = resample(crop_padded(image, box), side)[0]
    signed = resample(crop_padded(labels, box, fill=-1), side)[0]
    return _Frame((pixels * 255).round().to(torch.uint8), signed.half(), diameter)
