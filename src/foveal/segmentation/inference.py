"""A trained segmenter on a whole photograph: probability and confidence at the original size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foveal.models.segmenter import Segmenter
from foveal.scans.field_of_view import FieldOfView
from foveal.segmentation.frames import WorkingFrame, working_frame
from foveal.segmentation.tiling import tiled_inference

_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


@dataclass(frozen=True)
class VesselMap:
    """Vessels of one photograph.

    Attributes:
        probability: (H, W) float32 in [0, 1]; (1 + s) / 2 with s the signed map; 0 outside the field.
        confidence: (H, W) float32 in [0, 1]; |s|, which the soft labels teach to be low at borders and
            where the class is in doubt; 0 outside the field.
    """

    probability: np.ndarray
    confidence: np.ndarray

    def mask(self, threshold: float = 0.5) -> np.ndarray:
        """(H, W) bool: probability at or above the threshold."""
        return self.probability >= threshold


@dataclass(frozen=True)
class StructureMaps:
    """Structures of one photograph, kept as small as the network saw them and enlarged when asked for.

    Attributes:
        names: of the K structures.
        seen: (K, S, S) float32 in [0, 1], probabilities in the working frame, the mean over views.
        spread_seen: (K, S, S) float32 in [0, 0.5], their standard deviation over views: how far the network
            contradicts itself when the photograph is mirrored.
        frame: the working frame, whose picture is left out.
        field: field of view of the photograph.
    """

    names: tuple[str, ...]
    seen: Tensor
    spread_seen: Tensor
    frame: WorkingFrame
    field: FieldOfView

    def __getitem__(self, name: str) -> np.ndarray:
        """(H, W) float32 probability of one structure at the original size; 0 outside the field."""
        return self._full(self.seen[self._place(name)])

    def spread(self, name: str | None = None) -> np.ndarray:
        """(H, W) float32 spread of one structure, or the greatest of all; 0 outside the field."""
        return self._full(
            self.spread_seen.amax(dim=0) if name is None else self.spread_seen[self._place(name)]
        )

    @property
    def probability(self) -> np.ndarray:
        """(K, H, W) float32, all structures at the original size."""
        return np.stack([self[name] for name in self.names])

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise KeyError(f"structure {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)

    def _full(self, values: Tensor) -> np.ndarray:
        full = self.frame.place_back(values)
        np.clip(full, 0, 1, out=full)
        full[~self.field.mask] = 0
        return full


@torch.inference_mode()
def segment_structures(
    model: Segmenter, image: np.ndarray, field: FieldOfView, *, views: int = 4, tile: int = 1152
) -> StructureMaps:
    """Segment the structures that a model knows in one photograph, at the model's working diameter.

    Args:
        model: in evaluation mode, on any device.
        image: (H, W, 3) uint8 RGB.
        field: its field of view.
        views: how many of the four mirror images to average: 1, 2 or 4; with 1 there is no spread.
        tile: side of the largest square that enters the network at once; bounds memory.

    Raises:
        ValueError: `views` or the image's shape or type is not as said.
    """
    _check(image, views)
    device = next(model.parameters()).device
    frame = working_frame(image, field, diameter=model.preprocess.working_diameter)
    seen = torch.stack([(1 + s) / 2 for s in _signed_views(model, frame.image.to(device), views, tile)]).cpu()
    mean = seen.mean(dim=0)
    spread = (seen - mean).square_().mean(dim=0).sqrt_()  # torch's own std takes longer than the network
    empty = WorkingFrame(frame.image[..., :0, :0], frame.box, frame.shape)
    return StructureMaps(model.config.classes, mean, spread, empty, field)


@torch.inference_mode()
def segment_vessels(
    model: Segmenter,
    image: np.ndarray,
    field: FieldOfView,
    *,
    views: int = 2,
    scales: tuple[float, ...] = (0.7, 1.0, 1.45),
    tile: int = 1152,
) -> VesselMap:
    """Segment the vessels of one photograph.

    The field of view is brought to the model's working diameter and to sizes around it, since the angle
    that a camera's field spans, and so the width of a vessel in it, is not known; the signed maps of all
    sizes and mirrored views are averaged and placed back at the original size.

    Args:
        model: in evaluation mode, on any device.
        image: (H, W, 3) uint8 RGB.
        field: its field of view.
        views: how many of the four mirror images to average: 1, 2 or 4.
        scales: multiples of the working diameter to average.
        tile: side of the largest square that enters the network at once; bounds memory.

    Raises:
        ValueError: `views` or the image's shape or type is not as said.
    """
    _check(image, views)
    device = next(model.parameters()).device
    total = np.zeros(image.shape[:2], dtype=np.float32)
    for scale in scales:
        frame = working_frame(image, field, diameter=round(scale * model.preprocess.working_diameter))
        seen = torch.stack([s[0] for s in _signed_views(model, frame.image.to(device), views, tile)])
        total += frame.place_back(seen.mean(dim=0))
    total /= len(scales)
    probability = np.where(field.mask, np.clip((1 + total) / 2, 0, 1), 0).astype(np.float32)
    confidence = np.where(field.mask, np.abs(total), 0).astype(np.float32)
    return VesselMap(probability, confidence)


def _check(image: np.ndarray, views: int) -> None:
    if views not in (1, 2, 4):
        raise ValueError(f"views {views}; allowed: 1, 2, 4")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image of shape {image.shape} and type {image.dtype}: (H, W, 3) uint8 is wanted")


def _signed_views(model: Segmenter, image: Tensor, views: int, tile: int) -> Iterator[Tensor]:
    """Signed maps (K, S, S) of mirrored views of a frame (1, 3, S, S), mirrored back."""
    for axes in _FLIPS[:views]:
        view = image.flip(axes) if axes else image
        view = view.contiguous(memory_format=torch.channels_last)
        signed = tiled_inference(lambda x: model.signed(model(x)), view, tile=tile, batch=1)
        yield (signed.flip(axes) if axes else signed)[0]
