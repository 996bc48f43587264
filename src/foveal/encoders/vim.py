"""Vision Mamba: a plain encoder of two-direction selective scans (arXiv 2401.09417, ICML 2024)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from einops import rearrange, repeat
from timm.layers import DropPath
from timm.layers.weight_init import lecun_normal_
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foveal.blocks.bidirectional import BackwardStart, BidirectionalMamba
from foveal.blocks.class_tokens import ClassTokens, Place, split_table
from foveal.blocks.mamba import MambaMixer
from foveal.blocks.patches import LearnedPositions, PatchEmbed
from foveal.encoders.base import Encoder, register_encoder
from foveal.encoders.checkpoints import State, register_layout, rename_keys
from foveal.encoders.features import Features
from foveal.settings import unknown_name

SIZES = {"tiny": 192, "small": 384, "base": 768}


class VimBlock(nn.Module):
    """Add, normalise, mix: the running sum r and the last output h to the next r and h.

    The sum stays in 32 bits under autocast. `drop_path` drops h, the output of the block before this one.
    """

    def __init__(self, mixer: nn.Module, dim: int, *, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.drop_path = DropPath(drop_path)
        self.mixer = mixer

    def forward(self, h: Tensor, r: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, L, D) each; no r before the first block."""
        r = h.to(torch.promote_types(h.dtype, torch.float32)) if r is None else r + self.drop_path(h)
        return self.mixer(self.norm(r)), r


@register_encoder("vim")
class Vim(Encoder):
    """Patch tokens with learned positions and a class token in their middle, through blocks of Mamba.

    Compute and memory grow linearly with the tokens. At 224 px (196 tokens) attention of equal width is as
    fast or faster; this encoder pays off from about a thousand tokens on.

    Args:
        size: "tiny", "small" or "base": 192, 384 or 768 channels, 24 blocks.
        image_size: pixels for which the table of positions is made; other sizes get an interpolated one.
        patch_size: pixels.
        stride: pixels from patch to patch; `patch_size` by default, 8 in the "+" models.
        in_channels: of the images.
        dim: overrides the size's channels D.
        depth: number of blocks.
        direction: "both", or "forward" for a plain Mamba in which a token sees those before it alone.
        init_backward: see `BidirectionalMamba`; "official" for parity with the original training.
        fuse: of the directions, "mean" as released or "sum".
        states: N of the scans.
        class_token: "middle", "head", "tail", "double" or "none".
        pool: "class" for the class token, "mean" for the mean patch; without a class token always the mean.
        drop_path: rate of stochastic depth after the last block, rising linearly over the depth.
        resize_positions: interpolate positions for other image sizes; else they are an error.
        checkpointing: compute blocks again in the backward pass to save memory.

    Raises:
        ValueError: a size, place, pool or direction that is not known; from `forward`, images whose sides
            no whole number of patches fills, or whose grid is not that of the positions, not resized.
        FloatingPointError: from `forward`, images with NaN or infinite values.
    """

    def __init__(
        self,
        *,
        size: str = "tiny",
        image_size: int = 224,
        patch_size: int = 16,
        stride: int | None = None,
        in_channels: int = 3,
        dim: int | None = None,
        depth: int = 24,
        direction: Literal["both", "forward"] = "both",
        init_backward: BackwardStart = "symmetric",
        fuse: Literal["mean", "sum"] = "mean",
        states: int = 16,
        class_token: Place = "middle",
        pool: Literal["class", "mean"] = "class",
        drop_path: float = 0.0,
        resize_positions: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        for what, name, allowed in (
            ("size", size, tuple(SIZES)),
            ("direction", direction, ("both", "forward")),
            ("pool", pool, ("class", "mean")),
        ):
            if name not in allowed:
                raise ValueError(unknown_name(what, name, allowed))
        dim, stride = dim or SIZES[size], stride or patch_size
        if image_size < patch_size:
            raise ValueError(f"image_size={image_size} is less than a patch of {patch_size} px")
        self.dim, self.patch_size, self.in_channels = dim, patch_size, in_channels
        self.pyramid_channels, self.pyramid_strides = (dim,), (stride,)
        self.pool, self.checkpointing = pool, checkpointing
        self.patches = PatchEmbed(in_channels, dim, patch_size=patch_size, stride=stride)
        side = (image_size - patch_size) // stride + 1
        self.positions = LearnedPositions((side, side), dim, resize=resize_positions)
        self.class_tokens = ClassTokens(dim, place=class_token)

        def mixer() -> nn.Module:
            if direction == "forward":
                return MambaMixer(dim, states=states)
            return BidirectionalMamba(dim, states=states, fuse=fuse, init_backward=init_backward)

        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            VimBlock(mixer(), dim, drop_path=rate) for rate in [0.0, *rates[: depth - 1]]
        )
        self.drop_path = DropPath(drop_path)
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        lecun_normal_(self.patches.weight)
        nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]
        start_projections_out(self.blocks)

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features; patches exclude class tokens, the map covers the image."""
        cells = self.positions(self.patches(images))
        grid = (cells.shape[1], cells.shape[2])
        h, r = self.class_tokens(rearrange(cells, "b h w d -> b (h w) d")), None
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                h, r = checkpoint(block, h, r, use_reentrant=False)
            else:
                h, r = block(h, r)
        tokens = self.norm(h if r is None else r + self.drop_path(h))
        patches, pooled = self.class_tokens.split(tokens)
        if pooled is None or self.pool == "mean":
            pooled = patches.mean(dim=1)
        maps = rearrange(patches, "b (h w) d -> b d h w", h=grid[0])
        return Features(patches, grid, pooled, (self._at_cells(maps, images),))

    def _at_cells(self, maps: Tensor, images: Tensor) -> Tensor:
        """A map of overlapping patches, one short of the image's cells at the stride, at those cells.

        The centre of patch i lies patch_size / 2 + stride i into the image, that of cell j stride (j + 1/2).
        """
        stride = self.pyramid_strides[0]
        if stride == self.patch_size or any(side % stride for side in images.shape[-2:]):
            return maps
        axes = []
        for pixels, count in zip(images.shape[-2:], maps.shape[-2:], strict=True):
            cell = torch.arange(pixels // stride, device=maps.device, dtype=maps.dtype)
            patch = cell + 0.5 - self.patch_size / (2 * stride)
            axes.append((2 * patch + 1) / count - 1)
        grid = torch.stack(torch.meshgrid(axes[1], axes[0], indexing="xy"), dim=-1)
        places = repeat(grid, "h w c -> b h w c", b=len(maps))
        return F.grid_sample(maps, places, padding_mode="border", align_corners=False)


def start_projections_out(blocks: nn.ModuleList) -> None:
    """Begin `out_proj` of all mixers at torch's start over the root of the depth."""
    for block in blocks:
        weight = block.get_parameter("mixer.out_proj.weight")
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        with torch.no_grad():
            weight.div_(math.sqrt(len(blocks)))


@register_layout("vim", "hustvl")
def read_hustvl(state: State) -> tuple[State, State | None]:
    """The layout of hustvl/Vim: positions of patches and class tokens in one table, "_b" for the way back.

    A single class token is taken to be in the middle, where all released models have it.
    """
    scans = r"(x_proj|dt_proj|A_log|D)"
    renamed = rename_keys(
        state,
        [
            (r"^patch_embed\.proj\.", "patches."),
            (r"^norm_f\.", "norm."),
            (r"^layers\.(\d+)\.mixer\.A_b_log$", r"layers.\1.mixer.scan_b.A_log"),
            (r"^layers\.(\d+)\.mixer\.D_b$", r"layers.\1.mixer.scan_b.D"),
            (r"^layers\.(\d+)\.mixer\.(x_proj|dt_proj)_b\.", r"layers.\1.mixer.scan_b.\2."),
            (rf"^layers\.(\d+)\.mixer\.{scans}(?=\.|$)", r"layers.\1.mixer.scan.\2"),
            (r"^layers\.", "blocks."),
            (r"^cls_token$", "class_tokens.tokens"),
            (r"^pos_embed$", "positions.table"),
        ],
    )
    double = [renamed.pop(f"cls_token_{end}", None) for end in ("head", "tail")]
    if double[0] is not None and double[1] is not None:
        renamed["class_tokens.tokens"] = torch.cat([double[0], double[1]], dim=1)
    if "class_tokens.tokens" in renamed:
        place: Place = "double" if renamed["class_tokens.tokens"].shape[1] == 2 else "middle"
        table = renamed["positions.table"]
        renamed["positions.table"], renamed["class_tokens.positions"] = split_table(table, place)
    head = {name: renamed.pop(f"head.{name}", None) for name in ("weight", "bias")}
    found = {name: tensor for name, tensor in head.items() if tensor is not None}
    return renamed, found or None
