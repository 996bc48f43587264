"""Linear layers that hold and multiply only the kept tiles of their weight (LPViT, arXiv 2407.02068)."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.changes import register_change
from foveal.kernels.block_sparse import (
    block_sparse_linear,
    dense_of,
    tile_grid,
    tiles_of,
)


class BlockSparseLinear(nn.Module):
    """A linear layer without the tiles of its weight that are not kept.

    It equals the layer whose weight is 0 there. Its tiles are learnt, and are all that is saved of its
    weight; which ones they are is a setting. Without gradients it is fast on the CPU (see
    `foveal.kernels.block_sparse`).

    Args:
        linear: the whole layer.
        kept: (R, C) bool, the tiles that stay.
        block: outputs and inputs of a tile; those at the edges may be smaller.

    Raises:
        ValueError: `kept` is not of the layer's tiles.
    """

    starts: Tensor
    columns: Tensor

    def __init__(self, linear: nn.Linear, kept: Tensor, block: tuple[int, int]) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        grid = tile_grid((self.out_features, self.in_features), block)
        if kept.dtype != torch.bool or tuple(kept.shape) != grid:
            raise ValueError(
                f"kept is {kept.dtype} of shape {tuple(kept.shape)}; a layer of {self.out_features} outputs "
                f"and {self.in_features} inputs has bool {grid} for tiles of {block[0]} x {block[1]}"
            )
        weight = linear.weight
        kept = kept.to(weight.device)
        self.block = block
        self.tiles = nn.Parameter(tiles_of(weight.detach(), kept, block), requires_grad=weight.requires_grad)
        self.bias = linear.bias
        self.register_buffer("starts", F.pad(kept.sum(dim=1).cumsum(0), (1, 0)), persistent=False)
        self.register_buffer("columns", kept.nonzero()[:, 1].contiguous(), persistent=False)

    @property
    def weight(self) -> Tensor:
        """(O, I), put together anew: 0 where tiles are not kept."""
        shape = (self.out_features, self.in_features)
        return dense_of(self.tiles, self.starts, self.columns, shape)

    @property
    def kept_share(self) -> float:
        """Of the tiles."""
        rows, columns = tile_grid((self.out_features, self.in_features), self.block)
        return len(self.tiles) / (rows * columns)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return block_sparse_linear(
            x, self.tiles, self.starts, self.columns, self.bias, outputs=self.out_features
        )

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        height, width = self.block
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, tiles of {height} x {width}: {self.kept_share:.1%} kept"
        )


@register_change("block-sparse-linear")
def make_block_sparse(model: nn.Module, *, block: Sequence[int], layers: Mapping[str, str]) -> None:
    """Make linear layers of a model hold only the kept tiles of their weights; the others are dropped.

    Args:
        model: changed in place.
        block: outputs and inputs of a tile.
        layers: by their names, the tiles that each keeps, as `kept_text` writes them.

    Raises:
        ValueError: a name of no linear layer, or tiles of another layer.
    """
    height, width = block
    for name, text in layers.items():
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            layer = None
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"{name!r} is {'nothing' if layer is None else 'a ' + type(layer).__name__} in "
                f"{type(model).__name__}; only linear layers become block-sparse"
            )
        kept = kept_of(text, tile_grid((layer.out_features, layer.in_features), (height, width)), name=name)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, BlockSparseLinear(layer, kept, (height, width)))


def kept_text(kept: Tensor) -> str:
    """Which tiles (R, C) are kept: a bit a tile, row by row, in Base64."""
    return base64.b64encode(np.packbits(kept.cpu().numpy().reshape(-1)).tobytes()).decode()


def kept_of(text: str, grid: tuple[int, int], *, name: str = "a layer") -> Tensor:
    """The kept tiles (R, C), bool, of `kept_text`.

    Raises:
        ValueError: it is of another number of tiles.
    """
    count = grid[0] * grid[1]
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except ValueError as error:
        raise ValueError(f"the kept tiles of {name} are not in Base64: {error}") from error
    if len(packed) != -(-count // 8):
        raise ValueError(
            f"the kept tiles of {name} are {len(packed)} bytes, {-(-count // 8)} are wanted for "
            f"{grid[0]} x {grid[1]} tiles"
        )
    return torch.from_numpy(np.unpackbits(packed, count=count).astype(bool).reshape(grid))
