"""Random crops of one image that know where in it their cells lie (as DVT takes them, arXiv 2401.02957)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

Corners = Literal["centres", "edges"]


class Views(NamedTuple):
    """Crops of an image, the whole image last, and where their cells lie.

    Attributes:
        images: (V, C, H, W).
        coordinates: (V, h, w, 2), (x, y) of each cell as shares of the whole image's sides.
    """

    images: Tensor
    coordinates: Tensor


@dataclass(frozen=True)
class CropBoxes:
    """Where crops lie in an image.

    Attributes:
        pixels: (V, 4) int64: top, left, height, width.
        flipped: (V,) bool, mirrored left to right.
        size: (H, W) of the image, pixels.
    """

    pixels: Tensor
    flipped: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.pixels)

    def coordinates(self, grid: Sequence[int], *, at: Corners = "centres") -> Tensor:
        """(V, h, w, 2), (x, y) in [0, 1] of the image, of the cells of a grid over each crop.

        Args:
            grid: (h, w).
            at: "centres" of the cells, where their content is; "edges" spreads the cells evenly from one edge
                of the crop to the other, half a cell off there, as the published code does.
        """
        top, left, height, width = (side[:, None].float() for side in self.pixels.unbind(1))
        x = left + width * _steps(grid[1], at)
        x = torch.where(self.flipped[:, None], x.flip(1), x)
        y = top + height * _steps(grid[0], at)
        x, y = x / self.size[1], y / self.size[0]
        places = torch.broadcast_tensors(x[:, None, :], y[:, :, None])
        return torch.stack(places, dim=-1).clamp(0, 1)

    def take(self, image: Tensor, chosen: slice = slice(None)) -> Tensor:
        """(V, C, H, W) crops of an image (C, H, W), enlarged bicubically to its own size.

        Args:
            image: float.
            chosen: which crops.
        """
        views = []
        for box, flip in zip(self.pixels[chosen].tolist(), self.flipped[chosen].tolist(), strict=True):
            view = image
            if box != [0, 0, *self.size]:
                view = TF.resized_crop(
                    image, *box, list(self.size), interpolation=v2.InterpolationMode.BICUBIC, antialias=True
                )
            views.append(view.flip(-1) if flip else view)
        return torch.stack(views)


def draw_crops(
    size: tuple[int, int],
    count: int,
    *,
    scale: tuple[float, float] = (0.1, 0.5),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    seed: int = 0,
) -> CropBoxes:
    """Places of `count` random crops, and the whole image last.

    Args:
        size: (H, W) of the image, pixels.
        count: crops.
        scale: least and greatest share of the image's area.
        ratio: least and greatest width over height.
        flip: probability of a mirrored crop.
        seed: of the draws.

    Raises:
        ValueError: fewer than two crops, or a scale outside (0, 1].
    """
    if count < 2:
        raise ValueError(f"{count} views; allowed: 2 or more, as what views share is what tells them apart")
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale {scale}; allowed: two shares of the area in (0, 1], the smaller first")
    whole = torch.empty(1, *size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        boxes = [
            v2.RandomResizedCrop(size, scale=scale, ratio=ratio).make_params([whole]) for _ in range(count)
        ]
        flipped = torch.rand(count) < flip
    pixels = [[box[name] for name in ("top", "left", "height", "width")] for box in boxes]
    return CropBoxes(
        torch.tensor([*pixels, [0, 0, *size]]), torch.cat([flipped, torch.zeros(1, dtype=torch.bool)]), size
    )


def crop_views(
    image: Tensor,
    count: int,
    scale: tuple[float, float] = (0.1, 0.5),
    *,
    stride: int,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    seed: int = 0,
    at: Corners = "centres",
) -> Views:
    """Random crops of an image, enlarged to its size, the image itself last, with the places of their cells.

    Args:
        image: (C, H, W) float.
        count: crops, besides the image.
        scale: least and greatest share of the image's area.
        stride: pixels of a view from cell to cell.
        ratio: least and greatest width over height.
        flip: probability of a mirrored crop.
        seed: of the draws.
        at: which place stands for a cell, see `CropBoxes.coordinates`.

    Raises:
        ValueError: an image that is not (C, H, W) float or whose sides the stride does not divide; see
            `draw_crops` for the others.

    Example:
        >>> images, places = crop_views(torch.rand(3, 64, 64), 8, stride=16)
        >>> images.shape, places.shape
        (torch.Size([9, 3, 64, 64]), torch.Size([9, 4, 4, 2]))
    """
    size = check_image(image, stride)
    boxes = draw_crops(size, count, scale=scale, ratio=ratio, flip=flip, seed=seed)
    grid = (size[0] // stride, size[1] // stride)
    return Views(boxes.take(image), boxes.coordinates(grid, at=at))


def check_image(image: Tensor, stride: int) -> tuple[int, int]:
    """The sides (H, W) of an image (C, H, W).

    Raises:
        ValueError: another shape or type, or sides that the stride does not divide.
    """
    if image.ndim != 3 or not image.is_floating_point():
        raise ValueError(f"an image of shape {tuple(image.shape)}, {image.dtype}; allowed: float (C, H, W)")
    height, width = image.shape[-2:]
    if stride < 1 or height % stride or width % stride:
        nearest = [max(1, round(side / max(1, stride))) * stride for side in (height, width)]
        raise ValueError(
            f"an image of {height} x {width} px does not divide into cells of {stride} px; resize it, e.g. "
            f"to {nearest[0]} x {nearest[1]}"
        )
    return height, width


def _steps(count: int, at: Corners) -> Tensor:
    if at not in ("centres", "edges"):
        raise ValueError(f"at {at!r}; allowed: 'centres', 'edges'")
    return (torch.arange(count) + 0.5) / count if at == "centres" else torch.linspace(0, 1, count)
