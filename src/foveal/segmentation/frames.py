"""The working frame: the field of view as a square of a fixed number of pixels, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.framing import cut_square, enlarge
from foveal.scans.field_of_view import Box, FieldOfView, square_box


@dataclass(frozen=True)
class WorkingFrame:
    """A photograph resampled so that its field of view has a given diameter.

    Attributes:
        image: (1, 3, S, S) float32 in [0, 1], exactly 0 outside the field of view.
        box: the square of the original (top, left, bottom, right; may exceed it) that the frame shows.
        shape: (H, W) of the original.
    """

    image: Tensor
    box: Box
    shape: tuple[int, int]

    def place_back(self, values: Tensor, mask: np.ndarray | None = None) -> np.ndarray:
        """Resample (S, S) values of the frame to the original's (H, W) float32.

        Args:
            values: of the frame.
            mask: (H, W) bool, where they are wanted; None is everywhere.

        Returns:
            Bilinear between the values, 0 outside the box and off the mask.
        """
        wanted = np.ones(self.shape, bool) if mask is None else mask
        return enlarge(values.float().cpu().numpy(), wanted, self.box)


def working_frame(
    image: np.ndarray, field: FieldOfView, *, diameter: int, multiple: int = 32
) -> WorkingFrame:
    """Resample a photograph to a working frame.

    Args:
        image: (H, W, 3) uint8.
        field: its field of view.
        diameter: pixels that the field's diameter has in the frame.
        multiple: the frame's side S is the diameter rounded up to a multiple of this.

    Returns:
        The frame, antialiased when it is smaller than the original.
    """
    box, side = frame_box(field, diameter=diameter, multiple=multiple)
    return WorkingFrame(resample(cut_square(image, field.mask, box), side), box, image.shape[:2])


def frame_box(field: FieldOfView, *, diameter: int, multiple: int) -> tuple[Box, int]:
    """The square around the field whose side maps to S = `diameter` rounded up to `multiple`, and S."""
    side = -(-diameter // multiple) * multiple
    top, left, bottom, right = square_box(field)
    grow = round((bottom - top) * (side / diameter - 1) / 2)
    return (top - grow, left - grow, bottom + grow, right + grow), side


def resample(array: np.ndarray, side: int) -> Tensor:
    """(H, W[, C]) array to (1, C, side, side) float32, antialiased; uint8 becomes [0, 1]."""
    values = torch.from_numpy(np.ascontiguousarray(array))
    values = values[None, None] if values.ndim == 2 else values.permute(2, 0, 1)[None]
    # uint8 has a fast antialiased path, which rounds to a grey level; float masks take the exact one.
    resized = F.interpolate(values, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return resized.float() / 255 if resized.dtype == torch.uint8 else resized.float()
