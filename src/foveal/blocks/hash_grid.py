"""A field over the plane: multi-resolution hash grid (arXiv 2201.05989) and a small MLP, in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_PRIME = 2654435761  # of the second coordinate; the first one's is 1


class HashGrid(nn.Module):
    """Places in the unit square to learnt vectors of several resolutions: (..., 2) to (..., levels x n).

    A level of resolution r has r x r vertices from border to border; between them values are interpolated
    linearly. Where its table holds them all, each vertex has an entry of its own; else vertices share entries
    by a hash of their indices.

    Args:
        levels: L.
        features: numbers an entry holds.
        table_size: most entries of a level, a power of two.
        base_resolution: vertices along a side of the first level.
        max_resolution: of the last; those between grow by one factor.

    Raises:
        ValueError: a table size that is no power of two, or resolutions below 2 or out of order.
    """

    offsets: Tensor
    scales: Tensor

    def __init__(
        self,
        *,
        levels: int = 16,
        features: int = 8,
        table_size: int = 2**20,
        base_resolution: int = 16,
        max_resolution: int = 1024,
    ) -> None:
        super().__init__()
        if table_size < 1 or table_size & (table_size - 1):
            raise ValueError(f"table_size {table_size}; allowed: powers of two, such as {2**14}")
        if levels < 1 or not 2 <= base_resolution <= max_resolution:
            raise ValueError(
                f"levels {levels}, resolutions {base_resolution} to {max_resolution}; allowed: one level or "
                "more, 2 <= base_resolution <= max_resolution"
            )
        growth = math.exp(math.log(max_resolution / base_resolution) / max(1, levels - 1))
        self.resolutions = tuple(round(base_resolution * growth**level) for level in range(levels))
        self.table_size = table_size
        sizes = [min(side**2, table_size) for side in self.resolutions]
        self.table = nn.Parameter(torch.empty(sum(sizes), features).uniform_(-1e-4, 1e-4))
        offsets = torch.tensor([0, *sizes]).cumsum(0)[:-1]
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("scales", torch.tensor(self.resolutions), persistent=False)
        self.register_buffer("_dense", torch.tensor([s**2 <= table_size for s in self.resolutions]), False)
        self.dim = levels * features

    def entries(self, vertices: Tensor) -> Tensor:
        """Rows of `table` of vertices (..., L, 2), integer (x, y) of each level."""
        x, y = vertices.unbind(-1)
        hashed = (x ^ (y * _PRIME)) & (self.table_size - 1)
        return torch.where(self.get_buffer("_dense"), x + y * self.scales, hashed) + self.offsets

    def forward(self, places: Tensor) -> Tensor:
        """Vectors at (x, y).

        Raises:
            ValueError: places that are not (..., 2) in [0, 1].
        """
        if places.shape[-1] != 2 or not places.is_floating_point():
            raise ValueError(
                f"places {tuple(places.shape)} of {places.dtype}; allowed: float (..., 2) of x, y"
            )
        low, high = torch.aminmax(places.detach()) if places.numel() else (places.new_zeros(()),) * 2
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"coordinates from {low:.4g} to {high:.4g}; allowed: 0 to 1, shares of the image"
            )
        last = (self.scales - 1)[:, None]
        at = places.reshape(-1, 1, 2) * last.to(places.dtype)
        first = torch.minimum(at.detach().floor().long(), (last - 1))
        share = at - first
        corners = torch.stack([first, first + 1], dim=-1)  # (n, L, 2, 2): of x, of y
        weights = torch.stack([1 - share, share], dim=-1)
        vertices = torch.stack(
            torch.broadcast_tensors(corners[:, :, 0, :, None], corners[:, :, 1, None, :]), dim=-1
        )
        rows = self.entries(vertices.flatten(2, 3).movedim(1, 2)).movedim(2, 1)
        weight = (weights[:, :, 0, :, None] * weights[:, :, 1, None, :]).flatten(2)
        # index_select, whose backward adds without sorting, is twice as fast as an embedding bag on a CPU.
        entries = self.table.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        found = (entries * weight[..., None]).sum(dim=2)
        return found.view(*places.shape[:-1], self.dim)


class NeuralField(nn.Module):
    """Places (..., 2) in the unit square, (x, y), to vectors (..., D): a hash grid, a layer of D/2, ReLU, D.

    Args:
        dim: D.
        grid: its resolutions and tables.
    """

    def __init__(self, dim: int, grid: HashGrid) -> None:
        super().__init__()
        self.grid = grid
        self.mlp = nn.Sequential(
            nn.Linear(grid.dim, max(1, dim // 2)), nn.ReLU(), nn.Linear(max(1, dim // 2), dim)
        )

    def forward(self, places: Tensor) -> Tensor:
        """Vectors at places; see `HashGrid` for errors."""
        return self.mlp(self.grid(places))
