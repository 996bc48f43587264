"""MedMamba: a pyramid of blocks that convolve half of the channels and scan the rest (arXiv 2403.03849)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from foveal.blocks.branched_scans import SSConvSSM
from foveal.encoders.base import register_encoder
from foveal.encoders.vmamba import ScanPyramid, size_settings

# Width of the first stage, depths, chance to drop a branch in the last block.
SIZES: dict[str, tuple[int, tuple[int, ...], float]] = {
    "tiny": (96, (2, 2, 4, 2), 0.2),
    "small": (96, (2, 2, 8, 2), 0.2),
    "base": (128, (2, 2, 12, 2), 0.2),
}


@register_encoder("medmamba")
class MedMamba(ScanPyramid):
    """MedMamba, for classification; any scan of `foveal.blocks.scan_routes` in place of its cross scan.

    Args:
        size: "tiny", "small" or "base".
        dim: channels of the first stage, in place of the size's.
        depths: blocks of each stage, in place of the size's.
        routes: a scan, or several.
        states: N of each channel.
        expand: inner width of a scan over the half that it scans.
        drop_path: chance to drop the scan of the last block.
        in_channels: of the images.

    Raises:
        ValueError: a size or a scan that is not known, or an odd width.
    """

    def __init__(
        self,
        *,
        size: str = "tiny",
        dim: int | None = None,
        depths: Sequence[int] | None = None,
        routes: str | Sequence[str] = "cross",
        states: int = 16,
        expand: float = 2,
        drop_path: float | None = None,
        in_channels: int = 3,
    ) -> None:
        def block(width: int, drop: float) -> nn.Module:
            return SSConvSSM(width, routes=routes, states=states, expand=expand, drop_path=drop)

        chosen = size_settings(SIZES, size, dim, depths, drop_path)
        super().__init__(block, in_channels=in_channels, style="patches", **chosen)
