"""VM-UNet: a U of scanning blocks with added skips (arXiv 2402.02491), here with any block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from einops import rearrange
from timm.layers.norm import LayerNorm2d
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from foveal.blocks.multi_head_scan import GatedMultiHeadScan
from foveal.blocks.ss2d import SS2D, ScanBlock
from foveal.encoders.vmamba import init_projections
from foveal.models.networks.base import register_network
from foveal.settings import unknown_name

# From width, chance to drop the branch and further settings to a block of channels-last maps.
MakeBlock = Callable[..., nn.Module]


def _mhs(dim: int, drop_path: float, **settings: Any) -> nn.Module:
    return ScanBlock(dim, GatedMultiHeadScan(dim, **settings), drop_path=drop_path)


def _ss2d(dim: int, drop_path: float, **settings: Any) -> nn.Module:
    return ScanBlock(dim, SS2D(dim, **settings), drop_path=drop_path)


BLOCKS: dict[str, MakeBlock] = {"mhs": _mhs, "ss2d": _ss2d}


@register_network("vm-unet")
class VMUNet(nn.Module):
    """Images (B, C, H, W) to logits (B, outputs, H, W), through maps of strides 4 to 32.

    Args:
        block: "mhs" (gated multi-head scans), "ss2d", or a function from width, chance to drop the branch and
            `block_settings` to a block of channels-last maps.
        block_settings: of each block: those of `GatedMultiHeadScan` or of `SS2D`.
        scan: in place of the block's own, of `foveal.blocks.scan_routes`: the routes of "ss2d", or of each
            head of "mhs".
        spatial_dims: 2 alone, as the patches are.
        skip: what is added to a stage of the decoder: "matching" what entered the encoder's stage of its
            size, after the expansion; "released" what entered the stage below, before it, as the released
            code is remembered to do. Then none of the finest patches pass, and vessels are not learned.
        dims: channels of the stages, finest first.
        depths_enc: blocks of the encoder's stages, finest first.
        depths_dec: blocks of the decoder's stages, coarsest first.
        outputs: logits of each pixel.
        in_channels: C; images of one channel are repeated for a network of three.
        drop_path: chance to drop the branch of the deepest block; it grows linearly to it, and falls
            linearly after it.

    Raises:
        ValueError: a block or skip that is not known, a scan for a block that is a function, `spatial_dims`
            that are not 2, or numbers of stages that differ.
    """

    def __init__(
        self,
        *,
        block: str | MakeBlock = "mhs",
        block_settings: Mapping[str, Any] | None = None,
        scan: str | Sequence[str] | None = None,
        spatial_dims: int = 2,
        skip: Literal["matching", "released"] = "matching",
        dims: Sequence[int] = (96, 192, 384, 768),
        depths_enc: Sequence[int] = (2, 2, 2, 2),
        depths_dec: Sequence[int] = (2, 2, 2, 1),
        outputs: int = 1,
        in_channels: int = 3,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        if isinstance(block, str) and block not in BLOCKS:
            raise ValueError(unknown_name("block", block, list(BLOCKS)) + ", or a function that makes one")
        if skip not in ("matching", "released"):
            raise ValueError(unknown_name("skip", skip, ("matching", "released")))
        if spatial_dims != 2:
            raise ValueError(
                f"spatial_dims is {spatial_dims}; allowed: 2, the patches'. For volumes take 'mamba-unet'"
            )
        if not len(dims) == len(depths_enc) == len(depths_dec) > 0 or min(*depths_enc, *depths_dec) < 1:
            raise ValueError(
                f"dims {tuple(dims)}, depths_enc {tuple(depths_enc)}, depths_dec {tuple(depths_dec)}; "
                "allowed: as many depths as dims, each 1 or more"
            )
        if dims[0] % 4:
            raise ValueError(f"the first of dims is {dims[0]}; allowed: multiples of 4")
        make, options = BLOCKS[block] if isinstance(block, str) else block, dict(block_settings or {})
        if scan is not None:
            if not isinstance(block, str):
                raise ValueError(f"scan is {scan!r}, and the block a function; give it in block_settings")
            heads = (scan,) * 4 if isinstance(scan, str) else tuple(scan)
            options |= {"routes": scan} if block == "ss2d" else {"heads": heads}
        self.skip = skip

        def stages(dims: Sequence[int], depths: Sequence[int], rates: np.ndarray) -> nn.ModuleList:
            rate = iter(rates.tolist())
            return nn.ModuleList(
                nn.Sequential(*(make(dim, next(rate), **options) for _ in range(depth)))
                for dim, depth in zip(dims, depths, strict=True)
            )

        self.in_channels, self.stride = in_channels, 4 * 2 ** (len(dims) - 1)
        self.patch_embed = nn.Sequential(
            nn.Conv2d(in_channels, dims[0], 4, 4), LayerNorm2d(dims[0], eps=1e-5)
        )
        self.encoder = stages(dims, depths_enc, np.linspace(0, drop_path, sum(depths_enc)))
        self.downs = nn.ModuleList(PatchMerging(*pair) for pair in pairwise(dims))
        upward = tuple(reversed(dims))
        self.decoder = stages(upward, depths_dec, np.linspace(drop_path, 0, sum(depths_dec)))
        self.ups = nn.ModuleList(PatchExpanding(*pair) for pair in pairwise(upward))
        self.expand = PatchExpanding(dims[0], dims[0] // 4, factor=4)
        self.head = nn.Conv2d(dims[0] // 4, outputs, 1)
        init_projections(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each pixel.

        Raises:
            ValueError: another number of channels, or sides that are no multiples of the coarsest stride.
        """
        if images.ndim == 4 and images.shape[1] == 1 and self.in_channels == 3:
            images = images.expand(-1, 3, -1, -1)
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"images of shape {tuple(images.shape)}; allowed: (B, {self.in_channels}, H, W)")
        if any(side % self.stride for side in images.shape[-2:]):
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]} px: sides must be multiples of "
                f"{self.stride}; resize or pad them"
            )
        x = self.patch_embed(images).movedim(1, -1)
        entered = []  # what came into each stage of the encoder: the skips
        for level, stage in enumerate(self.encoder):
            x = self.downs[level - 1](x) if level else x
            entered.append(x)
            x = stage(x)
        for level, stage in enumerate(self.decoder):
            if level and self.skip == "matching":
                x = self.ups[level - 1](x) + entered[-level - 1]
            elif level:
                x = self.ups[level - 1](x + entered[-level])
            x = stage(x)
        return self.head(self.expand(x).movedim(-1, 1))


class PatchExpanding(nn.Module):
    """Each cell to factor x factor cells: (B, H, W, D) to (B, factor H, factor W, outputs), normalised."""

    def __init__(self, dim: int, outputs: int, *, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(dim, outputs * factor**2, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Expand."""
        f = self.factor
        return self.norm(rearrange(self.expand(x), "b h w (p q d) -> b (h p) (w q) d", p=f, q=f))
