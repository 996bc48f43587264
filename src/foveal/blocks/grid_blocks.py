"""Every block of U-shaped networks behind one signature: maps (B, C, *grid) to the same, by name.

`create_grid_block(name, dim)` makes one; `GRID_BLOCKS` tells of each what it is and the grids that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from foveal.blocks.branched_scans import (
    DiffusedMamba,
    OmnidirectionalMamba,
    PixelPatchMamba,
    SiameseMamba,
    SSConvSSM,
    TripletMamba,
)
from foveal.blocks.direction_aware import DirectionAwareMamba
from foveal.blocks.grid_layers import ResidualConv, check_dimensions
from foveal.blocks.high_order_scan import HighOrderScan
from foveal.blocks.masked_scan import MaskedSS2D
from foveal.blocks.multi_head_scan import GatedMultiHeadScan
from foveal.blocks.recurrent_scan import RecurrentScan
from foveal.blocks.routed_mamba import ChannelsFirst, RoutedMamba
from foveal.blocks.scan_routes import count_routes
from foveal.blocks.ss2d import SS2D, ScanBlock
from foveal.blocks.tri_orientated import GatedSpatialConv, tri_orientated_mamba
from foveal.blocks.vision_mamba_layers import PVM, ResidualRVM, ScaledConvBlock, UMambaLayer
from foveal.settings import unknown_name


class GridAttention(nn.Module):
    """Attention of all cells to all: (B, *grid, C) to the same; `head_dim` divides C."""

    def __init__(self, dim: int, *, head_dim: int = 32) -> None:
        super().__init__()
        if head_dim < 1 or dim % head_dim:
            raise ValueError(
                f"{dim} channels do not divide into heads of {head_dim}; choose another head_dim"
            )
        self.attention = Attention(dim, num_heads=dim // head_dim, qkv_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        return self.attention(x.flatten(1, -2)).view(x.shape)


class ConvBesideScan(nn.Module):
    """A residual convolution block and a scan side by side: conv(x) + DropPath(mixer(LN(x)))."""

    def __init__(
        self, dim: int, *, dimensions: int = 2, drop_path: float = 0.0, routes: Any, **options: Any
    ) -> None:
        super().__init__()
        self.conv = ResidualConv(dim, dim, dimensions=dimensions)
        mixer = RoutedMamba(dim, routes=routes, dimensions=dimensions, **options)
        self.scan = ChannelsFirst(nn.Sequential(nn.LayerNorm(dim), mixer))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        return self.conv(x) + self.drop_path(self.scan(x))


@dataclass(frozen=True, kw_only=True)
class GridBlockKind:
    """What a block is.

    Attributes:
        make: builds it, from its width and the keywords that it takes.
        meaning: one line.
        routes: the scan that it has where none is asked for; None for a block that scans nothing.
        drops: whether it has a branch that can be dropped.
        turns: whether it can walk one route alone of its scan.
        wants_grid: whether it can be told the cells of its map.
        dimensions: axes of the grids that it takes.
    """

    make: Callable[..., nn.Module]
    meaning: str
    routes: str | Sequence[str] | None = None
    drops: bool = True
    turns: bool = False
    wants_grid: bool = False
    dimensions: tuple[int, ...] = (2, 3)


def _mamba(dim: int, *, drop_path: float, dimensions: int, **options: Any) -> nn.Module:
    mixer = RoutedMamba(dim, dimensions=dimensions, **options)
    return ChannelsFirst(ScanBlock(dim, mixer, drop_path=drop_path, eps=1e-5))


def _ss2d(dim: int, *, drop_path: float, dimensions: int, mlp_ratio: float = 0, **options: Any) -> nn.Module:
    mlp = Mlp(dim, int(dim * mlp_ratio)) if mlp_ratio else None
    mixer = SS2D(dim, dimensions=dimensions, **options)
    return ChannelsFirst(ScanBlock(dim, mixer, mlp=mlp, drop_path=drop_path))


def _masked(dim: int, *, drop_path: float, dimensions: int, **options: Any) -> nn.Module:
    return ChannelsFirst(
        ScanBlock(dim, MaskedSS2D(dim, dimensions=dimensions, **options), drop_path=drop_path)
    )


def _mhs(dim: int, *, drop_path: float, dimensions: int, **options: Any) -> nn.Module:
    return ChannelsFirst(ScanBlock(dim, GatedMultiHeadScan(dim, **options), drop_path=drop_path))


def _ss_conv_ssm(dim: int, **options: Any) -> nn.Module:
    return ChannelsFirst(SSConvSSM(dim, **options))


def _high_order(
    dim: int, *, drop_path: float, dimensions: int, mlp_ratio: float = 4, **options: Any
) -> nn.Module:
    mlp = Mlp(dim, int(dim * mlp_ratio)) if mlp_ratio else None
    mixer = HighOrderScan(dim, dimensions=dimensions, **options)
    return ChannelsFirst(ScanBlock(dim, mixer, mlp=mlp, drop_path=drop_path))


def _triplet(dim: int, *, dimensions: int, **options: Any) -> nn.Module:
    return TripletMamba(dim, **options)


def _direction_aware(dim: int, *, drop_path: float, dimensions: int, **options: Any) -> nn.Module:
    mixer = DirectionAwareMamba(dim, dimensions=dimensions, **options)
    return ChannelsFirst(ScanBlock(dim, mixer, drop_path=drop_path, eps=1e-5))


def _attention(
    dim: int, *, drop_path: float, dimensions: int, mlp_ratio: float = 4, **options: Any
) -> nn.Module:
    mlp = Mlp(dim, int(dim * mlp_ratio))
    return ChannelsFirst(ScanBlock(dim, GridAttention(dim, **options), mlp=mlp, drop_path=drop_path))


def _vmrnn(dim: int, *, dimensions: int, **options: Any) -> nn.Module:
    return RecurrentScan(dim, **options)


def _conv(dim: int, *, dimensions: int) -> nn.Module:
    return ResidualConv(dim, dim, dimensions=dimensions)


def _conv_then_scan(dim: int, *, dimensions: int, **options: Any) -> nn.Module:
    return nn.Sequential(_conv(dim, dimensions=dimensions), _mamba(dim, dimensions=dimensions, **options))


GRID_BLOCKS: dict[str, GridBlockKind] = {
    "attention": GridBlockKind(make=_attention, meaning="attention of all cells, feed-forward"),
    "conv": GridBlockKind(make=_conv, meaning="two convolutions beside a shortcut (nnU-Net)", drops=False),
    "conv-beside-scan": GridBlockKind(
        make=ConvBesideScan, meaning="convolutions and a scan in parallel", turns=True, routes="bidirectional"
    ),
    "conv-then-scan": GridBlockKind(
        make=_conv_then_scan, meaning="convolutions, then a scan", turns=True, routes="bidirectional"
    ),
    "direction-aware": GridBlockKind(
        make=_direction_aware, meaning="continuous scans that know their steps (PlainMamba)", routes="C"
    ),
    "gsc": GridBlockKind(make=GatedSpatialConv, meaning="SegMamba's gated convolution", drops=False),
    "high-order": GridBlockKind(make=_high_order, meaning="H-vmunet's products of scans", routes="cross"),
    "lightm-conv": GridBlockKind(
        make=ScaledConvBlock, meaning="separable convolution of LightM-UNet's decoder", drops=False
    ),
    "mamba": GridBlockKind(
        make=_mamba, meaning="x + Mamba(LN(x)) along any scan", turns=True, routes="bidirectional"
    ),
    "masked": GridBlockKind(make=_masked, meaning="SS2D of drawn masks (MambaMIR)", routes="cross"),
    "mhs": GridBlockKind(make=_mhs, meaning="gated multi-head scans (MHS-VM)", dimensions=(2,)),
    "omnidirectional": GridBlockKind(
        make=OmnidirectionalMamba, meaning="cells and channels scanned (VmambaIR)", routes="cross"
    ),
    "p-mamba": GridBlockKind(
        make=DiffusedMamba, meaning="diffusion beside a scan (P-Mamba)", turns=True, routes="bidirectional"
    ),
    "pixel-patch": GridBlockKind(
        make=PixelPatchMamba, meaning="scans within windows and of windows (LKM-UNet)"
    ),
    "pvm": GridBlockKind(
        make=PVM, meaning="quarters through one Mamba", turns=True, routes="row", drops=False
    ),
    "rvm": GridBlockKind(
        make=ResidualRVM, meaning="LightM-UNet's residual block", turns=True, routes="row", drops=False
    ),
    "siamese": GridBlockKind(
        make=SiameseMamba, meaning="convolution and a shared scan", turns=True, routes="axes"
    ),
    "ss-conv-ssm": GridBlockKind(make=_ss_conv_ssm, meaning="MedMamba's two halves", routes="cross"),
    "ss2d": GridBlockKind(make=_ss2d, meaning="VMamba's first block (VSS)", routes="cross"),
    "tri-orientated": GridBlockKind(
        make=tri_orientated_mamba, meaning="SegMamba's layer", turns=True, routes="tri-orientated"
    ),
    "triplet": GridBlockKind(
        make=_triplet,
        meaning="each axis as features in turn (TM-UNet); one grid alone",
        routes="row",
        wants_grid=True,
        dimensions=(2,),
    ),
    "u-mamba": GridBlockKind(
        make=UMambaLayer, meaning="Mamba(LN(x)) alone", routes="row", drops=False, wants_grid=True
    ),
    "vmrnn": GridBlockKind(
        make=_vmrnn, meaning="scans between LSTM gates, frame by frame", routes="cross", dimensions=(3,)
    ),
}


def list_grid_blocks() -> list[str]:
    """Names of all blocks, sorted."""
    return sorted(GRID_BLOCKS)


def create_grid_block(
    name: str,
    dim: int,
    *,
    dimensions: int = 2,
    scan: str | Sequence[str] | None = None,
    drop_path: float = 0.0,
    grid: Sequence[int] | None = None,
    turn: int | None = None,
    **options: Any,
) -> nn.Module:
    """A block of channels-first maps (B, dim, *grid).

    Args:
        name: one of `list_grid_blocks()`.
        dim: channels.
        dimensions: axes of the grid, 2 or 3.
        scan: of `foveal.blocks.scan_routes`, in place of the block's own; blocks without one leave it.
        drop_path: chance to drop a branch; blocks without one leave it.
        grid: cells along each axis, for the blocks whose layers depend on them.
        turn: walk this route alone of the scan, counted beyond its last one from the first again.
        **options: of the block.

    Raises:
        ValueError: a name or a scan that is not known, a block that does not suit the axes, or an option
            outside what it allows.
    """
    check_dimensions(dimensions)
    if name not in GRID_BLOCKS:
        raise ValueError(unknown_name("block", name, list_grid_blocks()))
    kind = GRID_BLOCKS[name]
    if dimensions not in kind.dimensions:
        allowed = " or ".join(map(str, kind.dimensions))
        raise ValueError(
            f"block {name!r} takes spatial_dims {allowed}, not {dimensions}; choose another block"
        )
    if kind.routes is not None:
        options["routes"] = kind.routes if scan is None else scan
    if turn is not None and kind.routes is not None:
        if not kind.turns:
            able = ", ".join(sorted(name for name, kind in GRID_BLOCKS.items() if kind.turns))
            raise ValueError(f"block {name!r} cannot walk one route of its scan; allowed: {able}")
        count = count_routes(options["routes"], dimensions=dimensions, **options.get("route_options", {}))
        options["numbers"] = (turn % count,)
    if kind.drops:
        options["drop_path"] = drop_path
    if kind.wants_grid:
        options["grid"] = grid
    return kind.make(dim, dimensions=dimensions, **options)
