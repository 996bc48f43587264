"""SegMamba's stage: gated spatial convolution and tri-orientated Mamba (arXiv 2401.13560)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from foveal.blocks.grid_layers import convolution, instance_norm
from foveal.blocks.routed_mamba import ChannelsFirst, RoutedMamba
from foveal.blocks.ss2d import ScanBlock
from foveal.settings import unknown_name


class GatedSpatialConv(nn.Module):
    """x + r(P4(r(P2(r(P1 x))) + r(P3 x))), r instance norm and ReLU, P1 and P2 conv3, P3 and P4 conv1.

    (B, C, *grid) to the same. The released code adds the two branches, the paper's figure multiplies them.

    Args:
        dim: C.
        dimensions: axes of the grid.
        fuse: "add" or "multiply".

    Raises:
        ValueError: `fuse` is not known.
    """

    def __init__(self, dim: int, *, dimensions: int = 3, fuse: Literal["add", "multiply"] = "add") -> None:
        super().__init__()
        if fuse not in ("add", "multiply"):
            raise ValueError(unknown_name("fuse", fuse, ("add", "multiply")))
        self.fuse = fuse

        def step(kernel_size: int) -> nn.Sequential:
            return nn.Sequential(
                convolution(dim, dim, kernel_size, dimensions=dimensions),
                instance_norm(dim, dimensions=dimensions),
                nn.ReLU(),
            )

        self.near = nn.Sequential(step(3), step(3))
        self.gate, self.proj = step(1), step(1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        near, gate = self.near(x), self.gate(x)
        return x + self.proj(near + gate if self.fuse == "add" else near * gate)


def tri_orientated_mamba(
    dim: int,
    *,
    dimensions: int = 3,
    routes: str | Sequence[str] = "tri-orientated",
    nslices: int | None = None,
    drop_path: float = 0.0,
    **options: Any,
) -> ChannelsFirst:
    """ToM of channels-first maps: x + Mamba_tri(LN(x)), forward, backward and from slice to slice, summed.

    Args:
        dim: channels.
        dimensions: axes of the grid.
        routes: any other scan in place of the tri-orientated one.
        nslices: slices of "tri-orientated", a divisor of the cells; by default the first axis of each map,
            which gives the 64, 32, 16 and 8 of the released model for its volumes of 128^3.
        drop_path: chance to drop the scan.
        **options: of `RoutedMamba`.
    """
    if nslices is not None:
        options["route_options"] = {"nslices": nslices}
    mixer = RoutedMamba(dim, routes=routes, dimensions=dimensions, **options)
    return ChannelsFirst(ScanBlock(dim, mixer, drop_path=drop_path, eps=1e-5))


class ChannelMlp(nn.Sequential):
    """1 x 1 convolution C to 2 C, GELU, 1 x 1 convolution back: (B, C, *grid) to the same."""

    def __init__(self, dim: int, *, dimensions: int = 3) -> None:
        super().__init__(
            convolution(dim, 2 * dim, 1, dimensions=dimensions),
            nn.GELU(),
            convolution(2 * dim, dim, 1, dimensions=dimensions),
        )


class TriOrientatedStage(nn.Module):
    """`GatedSpatialConv`, then tri-orientated layers: (B, C, *grid) to the same.

    Args:
        dim: C.
        dimensions: axes of the grid.
        depth: layers.
        fuse: of the convolution.
        drop_path: chances to drop the scan, one a layer; none by default.
        **options: of `tri_orientated_mamba`.
    """

    def __init__(
        self,
        dim: int,
        *,
        dimensions: int = 3,
        depth: int = 2,
        fuse: Literal["add", "multiply"] = "add",
        drop_path: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.conv = GatedSpatialConv(dim, dimensions=dimensions, fuse=fuse)
        rates = drop_path or (0.0,) * depth
        self.layers = nn.Sequential(
            *(tri_orientated_mamba(dim, dimensions=dimensions, drop_path=rate, **options) for rate in rates)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stage."""
        return self.layers(self.conv(x))
