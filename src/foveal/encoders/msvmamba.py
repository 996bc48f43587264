"""MSVMamba: a pyramid that scans one route at full and three at half resolution (arXiv 2405.14174)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from foveal.blocks.ms2d import MS2D, ConvFeedForward
from foveal.blocks.ss2d import ScanBlock
from foveal.encoders.base import register_encoder
from foveal.encoders.vmamba import ScanPyramid, size_settings
from foveal.settings import unknown_name

Variant = Literal["v1", "v2"]

# Width of the first stage, depths, chance to drop a branch in the last block.
SIZES: dict[str, dict[str, tuple[int, tuple[int, ...], float]]] = {
    "v1": {
        "nano": (48, (1, 2, 5, 2), 0.2),
        "micro": (64, (1, 2, 5, 2), 0.2),
        "tiny": (96, (1, 2, 9, 2), 0.2),
    },
    "v2": {
        "tiny": (96, (2, 2, 9, 2), 0.2),
        "small": (96, (2, 3, 20, 2), 0.4),
        "base": (128, (2, 4, 18, 2), 0.5),
    },
}
ROUTES = ("row", "row_r", "col", "col_r")


@register_encoder("msvmamba")
class MSVMamba(ScanPyramid):
    """Multi-scale VMamba.

    Args:
        size: "nano", "micro" or "tiny" of v1; "tiny", "small" or "base" of v2.
        variant: "v1" (arXiv: gated, wide scans, patch merging, bilinear) or "v2" (NeurIPS: narrow scans,
            ungated but for the base size, overlapping convolutions, nearest).
        dim: channels of the first stage, in place of the size's.
        depths: blocks of each stage, in place of the size's.
        route_full: which of "row", "row_r", "col" and "col_r" is scanned at full resolution.
        states: N of each channel.
        reset_state: begin each low-resolution route anew, an extension.
        low_stride: cells of the full map to one of the low map, along each axis.
        se: hidden channels of squeeze-and-excitation are E / se; 0 for none.
        convolve: depthwise convolution within the feed-forward.
        drop_path: chance to drop a branch in the last block.
        in_channels: of the images.

    Raises:
        ValueError: a size that the variant does not have, or an option that is not known.
    """

    def __init__(
        self,
        *,
        size: str = "tiny",
        variant: Variant = "v1",
        dim: int | None = None,
        depths: Sequence[int] | None = None,
        route_full: str = "row",
        states: int = 1,
        reset_state: bool = False,
        low_stride: int = 2,
        se: int = 8,
        convolve: bool = True,
        drop_path: float | None = None,
        in_channels: int = 3,
    ) -> None:
        if variant not in SIZES:
            raise ValueError(unknown_name("variant", variant, list(SIZES)))
        if route_full not in ROUTES:
            raise ValueError(unknown_name("route_full", route_full, ROUTES))
        first = variant == "v1"

        def block(width: int, drop: float) -> nn.Module:
            mixer = MS2D(
                width,
                expand=2 if first else 1,
                states=states,
                route_full=route_full,
                routes_low=tuple(route for route in ROUTES if route != route_full),
                low_stride=low_stride,
                reset_state=reset_state,
                upsample="bilinear" if first else "nearest",
                norm="shared" if first else "sum",
                se=se,
                gate=first or size == "base",
            )
            mlp = ConvFeedForward(width, expand=2 if first else 4, convolve=convolve)
            return ScanBlock(width, mixer, mlp=mlp, drop_path=drop, eps=1e-5)

        chosen = size_settings(SIZES[variant], size, dim, depths, drop_path)
        super().__init__(
            block, in_channels=in_channels, style="patches" if first else "convolutions", **chosen
        )
