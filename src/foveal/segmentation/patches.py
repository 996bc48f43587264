"""Training patches: random, augmented squares of photographs with their labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from foveal.scans.field_of_view import FieldOfView, crop_padded, find_field_of_view
from foveal.scans.structure_datasets import StructureCase
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
    labels: Tensor  # (K, S, S) float16, signed
    diameter: int


class _FramePatches:
    """Augmented patches of photographs and the signed maps that travel with their pixels.

    Args:
        frames: of each photograph, at several sizes.
        size: side of a patch, pixels.
        diameter: working diameter of the field of view, pixels.
        augmentation: how strongly patches vary.
        reach: radius of the disc that patch centres are drawn from, in diameters of the field.
        focus: probability that a patch is drawn around a pixel of a structure instead.
        spots: of each photograph, (n, 2) places of structures, in sides of a frame; may be empty.
        narrow: probability that a patch is what a camera of a narrower field would have taken.
        narrowest: least share of the field's diameter that such a camera sees.
    """

    def __init__(
        self,
        frames: list[list[_Frame]],
        *,
        size: int,
        diameter: int,
        augmentation: AugmentationSettings | None,
        reach: float = 0.42,
        focus: float = 0.0,
        spots: Sequence[Tensor] = (),
        narrow: float = 0.0,
        narrowest: float = 0.5,
    ) -> None:
        if not frames:
            raise ValueError("no labelled photographs to take patches from")
        self.size, self.diameter, self.reach = size, diameter, reach
        self.augmentation = augmentation or AugmentationSettings()
        self._frames, self.focus, self._spots = frames, focus, spots
        self.narrow, self.narrowest = narrow, narrowest

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self._frames)

    def _draw(self, index: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """One patch of photograph `index`: (3, size, size) in [0, 1], and (K, size, size) in [-1, 1]."""
        a = self.augmentation
        uniform = torch.rand(6, generator=generator)
        scale = math.exp(float(2 * uniform[0] - 1) * a.zoom)
        share = self._share_seen(generator)
        if share is not None:  # what is left of the field fills the frame, whatever the zoom
            scale = 1 / share
        levels = self._frames[index]
        # The coarsest level that is not magnified, else the finest there is.
        frame = min(
            levels,
            key=lambda f: (f.diameter < scale * self.diameter, abs(f.diameter - scale * self.diameter)),
        )
        ratio = scale * self.diameter / frame.diameter
        side = frame.image.shape[-1]
        # Centres are uniform over a disc in the field.
        reach = self.reach if share is None else max(self.reach, (1 - share) / 2)
        radius, bearing = (
            reach * frame.diameter * math.sqrt(float(uniform[1])),
            2 * math.pi * float(uniform[2]),
        )
        center = side / 2 + radius * torch.tensor([math.sin(bearing), math.cos(bearing)])
        if float(uniform[5]) < self.focus and len(self._spots[index]):
            spot = int(torch.randint(len(self._spots[index]), (), generator=generator))
            wander = (torch.rand(2, generator=generator) - 0.5) * self.size / (2 * ratio)
            center = side * self._spots[index][spot] + wander
        # Only what a turned patch can reach is converted and warped.
        far = math.ceil(self.size / ratio / math.sqrt(2)) + 2
        top, left = (max(int(middle) - far, 0) for middle in center)
        window = np.s_[:, top : int(center[0]) + far + 1, left : int(center[1]) + far + 1]
        image, labels = warp(
            frame.image[window].float() / 255,
            frame.labels[window].float(),
            center=center - torch.tensor([top, left]),
            scale=ratio,
            angle=2 * math.pi * float(uniform[3]) if a.rotate else 0.0,
            flip=a.flip and bool(uniform[4] < 0.5),
            size=self.size,
        )
        if share is not None:
            image, labels = _see_through_circle(image, labels, self.diameter)
        return disturb(image, a, generator), labels

    def _share_seen(self, generator: Generator) -> float | None:
        """Share of the field's diameter that a narrower camera sees; None for the photograph's own."""
        if not self.narrow:  # draws nothing, so that other trainings stay what they were
            return None
        chance, share = torch.rand(2, generator=generator).tolist()
        return self.narrowest + (1 - self.narrowest) * share if chance < self.narrow else None


class VesselPatches(_FramePatches):
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
        frames = [_vessel_frames(case, diameter, mode, metric) for case in cases]
        super().__init__(frames, size=size, diameter=diameter, augmentation=augmentation)

    def sample(self, index: int, generator: Generator) -> dict[str, Tensor]:
        """One patch of photograph `index`, drawn with `generator`."""
        image, labels = self._draw(index, generator)
        # The class always comes from the warped hard mask: a soft label's zero lies a little outside it.
        return {"images": image, "soft_labels": labels[:1].clamp(-1, 1), "masks": (labels[1:] > 0).float()}


class StructurePatches(_FramePatches):
    """Augmented patches of photographs with masks of several structures, of which some may be unknown.

    Args:
        cases: labelled photographs, all with the same structures.
        size: side of a patch, pixels.
        diameter: working diameter of the field of view, pixels.
        augmentation: how strongly patches vary.
        levels: multiples of the working diameter at which photographs are kept.
        reach: radius of the disc that patch centres are drawn from, in diameters of the field.
        focus: probability that a patch is drawn around a pixel of a structure instead, of each structure of
            the photograph equally often.
        narrow: probability that a patch is what a camera of a narrower field would have taken: a circle of
            `diameter` pixels at its centre, black around it.
        narrowest: least share of the field's diameter that such a camera sees.

    Items are dicts of `images` (3, size, size) float32 in [0, 1], `masks` (K, size, size) float32 in {0, 1}
    and `valid` (K, size, size) float32 in {0, 1}, where a mask is to be trusted; beyond the photograph the
    mask is 0 and to be trusted.
    """

    def __init__(
        self,
        cases: Iterable[StructureCase],
        *,
        size: int,
        diameter: int,
        augmentation: AugmentationSettings | None = None,
        levels: Sequence[float] = _LEVELS,
        reach: float = 0.42,
        focus: float = 0.0,
        narrow: float = 0.0,
        narrowest: float = 0.5,
    ) -> None:
        made = [_structure_frames(case, diameter, levels) for case in cases]
        super().__init__(
            [frames for frames, _ in made],
            size=size,
            diameter=diameter,
            augmentation=augmentation,
            reach=reach,
            focus=focus,
            spots=[spots for _, spots in made],
            narrow=narrow,
            narrowest=narrowest,
        )

    def sample(self, index: int, generator: Generator) -> dict[str, Tensor]:
        """One patch of photograph `index`, drawn with `generator`."""
        image, labels = self._draw(index, generator)
        masks, unknown = labels.chunk(2)
        return {"images": image, "masks": (masks > 0).float(), "valid": (unknown <= 0).float()}


def _see_through_circle(image: Tensor, labels: Tensor, diameter: int) -> tuple[Tensor, Tensor]:
    """Image and signed labels inside a centred circle; black and background outside it."""
    offsets = torch.arange(image.shape[-1]) - (image.shape[-1] - 1) / 2
    seen = offsets.square()[:, None] + offsets.square() <= (diameter / 2) ** 2
    return image * seen, torch.where(seen, labels, -1.0)


def _vessel_frames(case: VesselCase, diameter: int, mode: Mode, metric: Metric) -> list[_Frame]:
    vessels = case.vessels & case.field
    labels = np.stack([sauna_label(vessels, mode=mode, metric=metric), 2 * vessels - np.float32(1)], axis=-1)
    return _frames(case.image, labels, find_field_of_view(case.image), diameter, _LEVELS)


def _structure_frames(
    case: StructureCase, diameter: int, levels: Sequence[float]
) -> tuple[list[_Frame], Tensor]:
    # uint8 keeps large photographs small until they are resampled.
    labels = np.concatenate([case.masks, ~case.valid]).transpose(1, 2, 0).astype(np.uint8) * np.uint8(255)
    frames = _frames(case.image, labels, find_field_of_view(case.image), diameter, levels)
    spots = [_spots(mask > 0) for mask in frames[0].labels[: len(case.masks)]]
    return frames, torch.cat(spots)


def _spots(mask: Tensor, count: int = 256) -> Tensor:
    """(n, 2) places in an (S, S) mask, in sides of it: `count`, evenly spread, or none of an empty mask."""
    places = torch.nonzero(mask).float() / mask.shape[-1]
    if not len(places):
        return places
    return places[torch.linspace(0, len(places) - 1, count).round().long()]


def _frames(
    image: np.ndarray, labels: np.ndarray, field: FieldOfView, diameter: int, levels: Sequence[float]
) -> list[_Frame]:
    """Frames of a photograph; `labels` is (H, W, K), uint8 coverage or float in [-1, 1]."""
    image = np.where(field.mask[..., None], image, 0).astype(np.uint8)
    return [_frame(image, labels, field, round(level * diameter)) for level in levels]


def _frame(image: np.ndarray, labels: np.ndarray, field: FieldOfView, diameter: int) -> _Frame:
    box, side = frame_box(field, diameter=diameter, multiple=32)
    pixels = resample(crop_padded(image, box), side)[0]
    coverage = labels.dtype == np.uint8
    signed = resample(crop_padded(labels, box, fill=0 if coverage else -1), side)[0]
    signed = 2 * signed - 1 if coverage else signed
    return _Frame((pixels * 255).round().to(torch.uint8), signed.half(), diameter)
