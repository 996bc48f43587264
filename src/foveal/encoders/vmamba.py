"""VMamba: a four-stage pyramid of scans along rows, columns and their reverses (arXiv 2401.10166)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from einops import rearrange
from timm.layers.mlp import Mlp
from timm.layers.norm import LayerNorm2d
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.ss2d import SS2D, ScanBlock, over_grid
from foveal.encoders.base import Encoder, register_encoder
from foveal.encoders.features import Features
from foveal.settings import unknown_name

Style = Literal["patches", "convolutions"]

# Width of the first stage, depths, chance to drop a branch at the end; 30, 49 and 87 million parameters.
SIZES: dict[str, tuple[int, tuple[int, ...], float]] = {
    "tiny": (96, (2, 2, 8, 2), 0.2),
    "small": (96, (2, 2, 20, 2), 0.3),
    "base": (128, (2, 2, 20, 2), 0.6),
}


class ScanPyramid(Encoder):
    """Stem, stages of blocks at strides 4, 8, 16 and so on, each twice as wide as the one before.

    Args:
        make_block: from width and chance to drop a branch to a block of channels-last maps.
        dim: channels of the first stage.
        depths: blocks of each stage.
        drop_path: chance to drop a branch in the last block; it grows linearly from 0.
        in_channels: of the images.
        style: "patches" has a 4 x 4 projection as stem and merges 2 x 2 cells between stages; "convolutions"
            has overlapping 3 x 3 convolutions of stride 2 for both.

    Images with sides of at least `patch_size` pixels; sides that do not divide are filled up with
    zeros at the right and below.
    """

    def __init__(
        self,
        make_block: Callable[[int, float], nn.Module],
        *,
        dim: int,
        depths: Sequence[int],
        drop_path: float,
        in_channels: int,
        style: Style,
    ) -> None:
        super().__init__()
        if style not in ("patches", "convolutions"):
            raise ValueError(unknown_name("style", style, ("patches", "convolutions")))
        if not depths or min(depths) < 1:
            raise ValueError(
                f"depths are {tuple(depths)}; allowed: one stage or more, each of a block or more"
            )
        widths = [dim * 2**level for level in range(len(depths))]
        self.dim, self.in_channels = widths[-1], in_channels
        self.pyramid_channels = tuple(widths)
        self.pyramid_strides = tuple(4 * 2**level for level in range(len(depths)))
        self.patch_size = self.pyramid_strides[-1]
        if style == "patches":
            self.stem: nn.Module = nn.Sequential(
                nn.Conv2d(in_channels, dim, 4, 4), LayerNorm2d(dim, eps=1e-5)
            )
        else:
            self.stem = nn.Sequential(
                nn.Conv2d(in_channels, dim // 2, 3, 2, 1),
                LayerNorm2d(dim // 2, eps=1e-5),
                nn.GELU(),
                nn.Conv2d(dim // 2, dim, 3, 2, 1),
                LayerNorm2d(dim, eps=1e-5),
            )
        rates = iter(np.linspace(0, drop_path, sum(depths)).tolist())
        self.stages = nn.ModuleList(
            nn.Sequential(*(make_block(width, next(rates)) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        merge = PatchMerging if style == "patches" else ConvMerging
        self.downs = nn.ModuleList(merge(width) for width in widths[:-1])
        self.norm = nn.LayerNorm(self.dim)
        init_projections(self)

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features; `pooled` is the mean of the normalised cells of the last stage.

        Raises:
            ValueError: another number of channels, or an image that is too small.
        """
        least = self.patch_size
        if images.ndim != 4 or images.shape[1] != self.in_channels or min(images.shape[-2:]) < least:
            raise ValueError(
                f"images of shape {tuple(images.shape)}; allowed: (B, {self.in_channels}, H, W) "
                f"with sides of {least} pixels or more"
            )
        x = F.pad(images, (0, -images.shape[-1] % 4, 0, -images.shape[-2] % 4))
        x = self.stem(x).movedim(1, -1)
        maps = []
        for level, stage in enumerate(self.stages):
            x = stage(self.downs[level - 1](x) if level else x)
            maps.append(x.movedim(-1, 1))
        patches = rearrange(self.norm(x), "b h w d -> b (h w) d")
        return Features(patches, tuple(x.shape[1:3]), pooled=patches.mean(dim=1), pyramid=tuple(maps))


class ConvMerging(nn.Module):
    """Halve a channels-last map and double its channels: 3 x 3 convolution of stride 2, normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, 2 * dim, 3, 2, 1)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D) to (B, ceil(H / 2), ceil(W / 2), 2 D)."""
        return self.norm(over_grid(self.conv, x))


def init_projections(module: nn.Module) -> None:
    """Linear layers from a truncated normal of deviation 0.02, biases 0; those within scans keep theirs."""
    from foveal.blocks.mamba import SelectiveScan

    for child in module.children():
        if isinstance(child, SelectiveScan):
            continue
        if isinstance(child, nn.Linear):
            nn.init.trunc_normal_(child.weight, std=0.02)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        init_projections(child)


def size_settings(
    sizes: Mapping[str, tuple[int, tuple[int, ...], float]],
    size: str,
    dim: int | None,
    depths: Sequence[int] | None,
    drop_path: float | None,
) -> dict[str, Any]:
    """Width, depths and drop rate of a named size, with what is given in their place.

    Raises:
        ValueError: the size is not known.
    """
    if size not in sizes:
        raise ValueError(unknown_name("size", size, list(sizes)))
    named = sizes[size]
    return {
        "dim": named[0] if dim is None else dim,
        "depths": named[1] if depths is None else tuple(depths),
        "drop_path": named[2] if drop_path is None else drop_path,
    }


@register_encoder("vmamba")
class VMamba(ScanPyramid):
    """VMamba in its second form; any other scan of `foveal.blocks.scan_routes` in place of its cross scan.

    Args:
        size: "tiny", "small" or "base".
        dim: channels of the first stage, in place of the size's.
        depths: blocks of each stage, in place of the size's.
        routes: a scan, or several.
        route_options: of the scan, e.g. {"window": 4}.
        states: N of each channel.
        expand: inner width of a scan over that of its stage.
        gate: gated scans, as in the first form.
        mlp_ratio: hidden channels of the feed-forward over those of the stage; 0 for none.
        style: see `ScanPyramid`.
        drop_path: chance to drop a branch in the last block.
        in_channels: of the images.

    Raises:
        ValueError: a size, a scan or a style that is not known.
    """

    def __init__(
        self,
        *,
        size: str = "tiny",
        dim: int | None = None,
        depths: Sequence[int] | None = None,
        routes: str | Sequence[str] = "cross",
        route_options: Mapping[str, Any] | None = None,
        states: int = 1,
        expand: float = 1,
        gate: bool = False,
        mlp_ratio: float = 4,
        style: Style = "convolutions",
        drop_path: float | None = None,
        in_channels: int = 3,
    ) -> None:
        def block(width: int, drop: float) -> nn.Module:
            mixer = SS2D(
                width, routes=routes, route_options=route_options, states=states, expand=expand, gate=gate
            )
            mlp = Mlp(width, int(width * mlp_ratio)) if mlp_ratio else None
            return ScanBlock(width, mixer, mlp=mlp, drop_path=drop, eps=1e-5)

        chosen = size_settings(SIZES, size, dim, depths, drop_path)
        super().__init__(block, in_channels=in_channels, style=style, **chosen)
