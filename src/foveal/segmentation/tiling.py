"""Dense inference in overlapping tiles: any size of image, batched, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.blocks.tiles import tile_corners, tile_window


def tiled_inference(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    tile: int,
    overlap: float = 0.25,
    batch: int = 4,
    multiple: int = 32,
) -> Tensor:
    """Run a dense network over tiles and blend them.

    Every tile is weighted by a window that falls linearly to its border, so that seams vanish and the
    network's border effects count little. Images no larger than a tile are run whole, padded with zeros
    to `multiple`. Memory: the output, its weights, and `batch` tiles in the network.

    Args:
        network: (b, C, h, w) to (b, K, h, w).
        images: (B, C, H, W).
        tile: side of a tile, pixels; a multiple of `multiple`.
        overlap: share of a tile that two neighbours share at least, in [0, 0.9].
        batch: tiles run at once.
        multiple: what the network wants the sides to be multiples of.

    Returns:
        (B, K, H, W) float32 on the images' device.

    Raises:
        ValueError: `tile`, `overlap` or `batch` is out of range.
    """
    if tile <= 0 or tile % multiple:
        raise ValueError(f"tile {tile}: a positive multiple of {multiple} is wanted")
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"overlap {overlap}: a share in [0, 0.9] is wanted")
    if batch < 1:
        raise ValueError(f"batch {batch}: at least 1 is wanted")
    height, width = images.shape[-2:]
    if height <= tile and width <= tile:
        padded = F.pad(images, (0, -width % multiple, 0, -height % multiple))
        # The same bound on what is in the network at once holds for many small images.
        parts = [network(part)[..., :height, :width].float() for part in padded.split(batch)]
        return torch.cat(parts)
    window = tile_window(tile, device=images.device)
    total: Tensor | None = None
    weight = torch.zeros(height, width, device=images.device)
    corners = tile_corners(height, width, tile, overlap)
    jobs = [(b, top, left) for b in range(len(images)) for top, left in corners]
    for start in range(0, len(jobs), batch):
        chunk = jobs[start : start + batch]
        tiles = torch.stack([_cut(images[b], top, left, tile) for b, top, left in chunk])
        outputs = network(tiles).float()
        if total is None:
            total = torch.zeros(len(images), outputs.shape[1], height, width, device=images.device)
        for (b, top, left), output in zip(chunk, outputs, strict=True):
            part = total[b, :, top : top + tile, left : left + tile]
            rows, columns = part.shape[-2:]
            part += output[:, :rows, :columns] * window[:rows, :columns]
            if b == 0:
                weight[top : top + tile, left : left + tile] += window[:rows, :columns]
    assert total is not None
    return total.div_(weight)


def _cut(image: Tensor, top: int, left: int, tile: int) -> Tensor:
    part = image[:, top : top + tile, left : left + tile]
    return F.pad(part, (0, tile - part.shape[-1], 0, tile - part.shape[-2]))
