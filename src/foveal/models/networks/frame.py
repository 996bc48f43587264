"""What networks of images and of volumes share: checks, padding to whole cells, cropping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import log2

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.grid_layers import check_dimensions


class PaddedNetwork(nn.Module):
    """Images (B, C, *sizes) of any size to logits of that size; subclasses define `logits`.

    Sides that are no multiples of `multiple` are filled up with zeros at their ends, as the dark surround of
    a scan is, and the logits are cropped.

    Args:
        in_channels: C, see `channels_of`; images of one channel are repeated for a network of three.
        spatial_dims: 2 for images (B, C, H, W), 3 for volumes (B, C, T, H, W).
        multiple: pixels to a cell of the coarsest map, along each axis.
        image_size: the only size that the network takes, where its layers fix it.

    Raises:
        ValueError: `spatial_dims` is neither 2 nor 3, or `image_size` has another number of axes or does not
            divide.
    """

    def __init__(
        self,
        *,
        in_channels: int | None,
        spatial_dims: int,
        multiple: int,
        image_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.spatial_dims = check_dimensions(spatial_dims)
        self.in_channels = channels_of(in_channels, spatial_dims)
        self.multiple = multiple
        self.image_size = None if image_size is None else tuple(image_size)
        if self.image_size is not None and (
            len(self.image_size) != spatial_dims or any(side % multiple for side in self.image_size)
        ):
            raise ValueError(
                f"image_size is {self.image_size}; allowed: {spatial_dims} sizes, multiples of {multiple}"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each pixel.

        Raises:
            ValueError: another number of axes or channels, another size than `image_size`, or images so small
                that a norm meets a single cell.
            FloatingPointError: values are NaN or infinite (asked on the CPU alone).
        """
        images = self.checked(images)
        with single_cells_told(images.shape[2:]):
            logits = self.logits(pad_to_multiple(images, self.multiple))
        return crop(logits, images.shape[2:])

    def checked(self, images: Tensor) -> Tensor:
        """Images that suit the network, grey ones repeated.

        Raises:
            ValueError: they do not.
            FloatingPointError: values are NaN or infinite.
        """
        axes = "H, W" if self.spatial_dims == 2 else "T, H, W"
        if images.ndim != self.spatial_dims + 2:
            raise ValueError(
                f"a batch of shape {tuple(images.shape)} for a network of spatial_dims={self.spatial_dims}; "
                f"allowed: (B, {self.in_channels}, {axes})"
            )
        if images.shape[1] == 1 and self.in_channels == 3:
            images = images.expand(-1, 3, *images.shape[2:])
        if images.shape[1] != self.in_channels:
            raise ValueError(
                f"a batch of shape {tuple(images.shape)}; allowed: (B, {self.in_channels}, {axes})"
            )
        if self.image_size is not None and tuple(images.shape[2:]) != self.image_size:
            raise ValueError(
                f"images of {tuple(images.shape[2:])}, the network was made for {self.image_size} alone; "
                "resize them, or cut patches (monai.inferers.sliding_window_inference)"
            )
        # As in the scans: on a GPU a check would wait for the device.
        if images.device.type == "cpu" and not torch.isfinite(images.detach().sum()):
            bad = int((~torch.isfinite(images)).sum())
            if bad:
                raise FloatingPointError(
                    f"images have {bad} of {images.numel()} values NaN or infinite; mend or mask them"
                )
        return images

    def logits(self, images: Tensor) -> Tensor:
        """Logits of images whose sides are multiples of `multiple`."""
        raise TypeError(f"{type(self).__name__} does not define logits(images)")


def channels_of(in_channels: int | None, spatial_dims: int) -> int:
    """Channels where they are given; else the 3 of photographs and the 1 of volumes."""
    if in_channels is None:
        return 3 if spatial_dims == 2 else 1
    return in_channels


@contextmanager
def single_cells_told(sizes: Sequence[int]) -> Iterator[None]:
    """Say what to do where a norm over the cells of each image meets a map of one cell."""
    try:
        yield
    except ValueError as error:
        if "more than 1 spatial element" not in str(error):
            raise
        raise ValueError(
            f"images of {tuple(sizes)} px leave one cell in the coarsest map, which instance norm cannot "
            "take; take larger images, or a network of fewer stages"
        ) from error


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Images (B, C, *sizes) with zeros behind each axis up to the next multiple."""
    ends = [-size % multiple for size in images.shape[2:]]
    if not any(ends):
        return images
    return F.pad(images, [pad for end in reversed(ends) for pad in (0, end)])


def crop(maps: Tensor, sizes: Sequence[int]) -> Tensor:
    """The first `sizes` cells of maps (B, C, *grid) along each axis."""
    for axis, size in enumerate(sizes, start=2):
        maps = maps.narrow(axis, 0, size)
    return maps


def count_stages(image_size: Sequence[int], *, least: int = 4, most: int = 6) -> int:
    """Stages, each of half the size, so that the coarsest map keeps `least` cells along its shortest axis.

    Args:
        image_size: pixels along each axis.
        least: cells.
        most: stages.

    Raises:
        ValueError: an axis of less than `least` pixels.
    """
    shortest = min(image_size)
    if shortest < least:
        raise ValueError(f"images of {tuple(image_size)} px; allowed: {least} px or more along each axis")
    return min(most, 1 + int(log2(shortest / least)))
