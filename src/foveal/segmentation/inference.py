"""A trained segmenter on a whole photograph: probability and confidence at the original size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from foveal.kernels.framing import enlarge_where
from foveal.models.preprocess import mirrors_exactly
from foveal.models.segmenter import Segmenter
from foveal.scans.field_of_view import Box, FieldOfView
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

    def reaching(self, name: str, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The pixels at which a structure's probability reaches a level, without the map of all pixels.

        Args:
            name: of the structure.
            level: above 0.

        Returns:
            (m,) int64 places in the flattened photograph, ascending, and (m,) float32 probabilities there,
            those of `self[name]`.
        """
        values = self.seen[self._place(name)].numpy()
        return enlarge_where(values, self.field.mask, self.frame.box, at_least=level)

    def mean(self, name: str, box: Box, shape: tuple[int, int]) -> np.ndarray:
        """(h, w) float32 mean probability of one structure over h times w equal parts of a box.

        Args:
            name: of the structure.
            box: half-open (top, left, bottom, right) in the photograph.
            shape: (h, w).
        """
        return _means(self.seen[self._place(name)], self.frame.box, box, shape)

    def mean_spread(self, shape: tuple[int, int]) -> np.ndarray:
        """(h, w) float32 greatest spread of all structures, its mean over equal parts of the photograph; 0
        where the middle of a part is outside the field."""
        spread = _means(self.spread_seen.amax(dim=0), self.frame.box, (0, 0, *self.frame.shape), shape)
        counts = zip(shape, self.frame.shape, strict=True)
        middles = [(2 * np.arange(count) + 1) * size // (2 * count) for count, size in counts]
        return np.where(self.field.mask[np.ix_(*middles)], spread, np.float32(0))

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise KeyError(f"structure {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)

    def _full(self, values: Tensor) -> np.ndarray:
        return self.frame.place_back(values, self.field.mask)


def _means(values: Tensor, frame: Box, box: Box, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) means over equal parts of a box of the photograph, of (S, S) values of a frame, 0 beyond it."""
    rows, columns = (
        _mean_weights(
            values.shape[0], (frame[axis], frame[axis + 2]), (box[axis], box[axis + 2]), shape[axis]
        )
        for axis in (0, 1)
    )
    return (columns @ (rows @ values.numpy()).T).T


def _mean_weights(side: int, frame: tuple[int, int], box: tuple[int, int], count: int) -> csr_array:
    """(count, side) share of each value of a frame's axis in the mean over each part of a box's axis."""
    scale = side / (frame[1] - frame[0])
    part = (box[1] - box[0]) / count
    looks = max(3, math.ceil(2 * part * scale))
    at = box[0] + part * (np.arange(count * looks) + 0.5) / looks
    place = (at - frame[0]) * scale - 0.5
    inside = (place >= -0.5) & (place <= side - 0.5)
    place = np.clip(place, 0, side - 1)
    first = np.minimum(place.astype(np.int64), max(side - 2, 0))
    weight = place - first
    share = np.stack([1 - weight, weight]) * inside / looks
    owner = np.tile(np.repeat(np.arange(count), looks), 2)
    other = np.concatenate([first, np.minimum(first + 1, side - 1)])
    return csr_array((share.ravel().astype(np.float32), (owner, other)), shape=(count, side))


@torch.inference_mode()
def segment_structures(
    model: Segmenter,
    image: np.ndarray,
    field: FieldOfView,
    *,
    views: int = 4,
    tile: int = 1152,
    diameter: int | None = None,
) -> StructureMaps:
    """Segment the structures that a model knows in one photograph, at the model's working diameter.

    Args:
        model: in evaluation mode, on any device.
        image: (H, W, 3) uint8 RGB.
        field: its field of view.
        views: how many of the four mirror images to average: 1, 2 or 4; with 1 there is no spread.
        tile: side of the largest square that enters the network at once; bounds memory.
        diameter: pixels across the field in place of the model's working diameter.

    Raises:
        ValueError: `views` or the image's shape or type is not as said.
    """
    _check(image, views)
    device = next(model.parameters()).device
    frame = working_frame(image, field, diameter=diameter or model.preprocess.working_diameter)
    signed = [s.cpu() for s in _signed_views(model, frame.image.to(device), views, tile)]
    mean, spread = torch.zeros_like(signed[0]), torch.zeros_like(signed[0])
    for view in signed:  # in place: torch's own std takes longer
        mean.add_(view)
    mean.div_(views)
    for view in signed:
        view.sub_(mean)
        spread.addcmul_(view, view)
    spread.div_(views).sqrt_().div_(2)
    mean.add_(1).div_(2)
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
    side, sigma = image.shape[-1], model.preprocess.contrast_sigma
    once = side <= tile and (sigma == 0 or mirrors_exactly(side, sigma))
    image, network = (model.prepare(image), model.network) if once else (image, model)
    for axes in _FLIPS[:views]:
        view = image.flip(axes) if axes else image
        view = view.contiguous(memory_format=torch.channels_last)
        signed = tiled_inference(lambda x: model.signed(network(x)), view, tile=tile, batch=1)
        yield (signed.flip(axes) if axes else signed)[0]
