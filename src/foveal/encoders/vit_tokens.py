"""All tokens of a vision transformer, prefix tokens too, behind any of its blocks."""

from __future__ import annotations

from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def vit_of(encoder: nn.Module) -> VisionTransformer:
    """timm's VisionTransformer itself, or the one inside an encoder `timm/NAME`.

    Raises:
        ValueError: it is no such transformer.
    """
    model = getattr(encoder, "backbone", encoder)
    if not isinstance(model, VisionTransformer):
        name = getattr(encoder, "name", "") or type(model).__name__
        raise ValueError(
            f"{name} is no vision transformer of timm's class VisionTransformer; allowed: CLIP, SigLIP, "
            "DINO, DeiT and MAE models, such as timm/vit_base_patch16_siglip_224"
        )
    return model


def vit_tokens(encoder: nn.Module, images: Tensor, *, skip_blocks: int = 0, norm: bool = True) -> Tensor:
    """Tokens (B, P + n, D) of standardised images behind all blocks but the last few, prefix tokens first.

    Args:
        encoder: see `vit_of`; models without prefix tokens (SigLIP) give P = 0.
        images: (B, C, H, W).
        skip_blocks: how many of the last blocks are not run; 1 gives the penultimate layer.
        norm: apply the model's last normalisation. Models that normalise after pooling (MAE's `fc_norm`)
            have none for tokens.

    Raises:
        ValueError: no such transformer, or more blocks to skip than there are.
    """
    model = vit_of(encoder)
    depth = len(model.blocks)
    if not 0 <= skip_blocks < depth:
        raise ValueError(f"skip_blocks is {skip_blocks}; allowed: 0 to {depth - 1}, for {depth} blocks")
    taken = model.forward_intermediates(
        images,
        indices=[depth - 1 - skip_blocks],
        norm=norm,
        stop_early=True,
        output_fmt="NLC",
        return_prefix_tokens=True,
        intermediates_only=True,
    )
    last = cast(list[Tensor | tuple[Tensor, Tensor]], taken)[0]
    return last if isinstance(last, Tensor) else torch.cat([last[1], last[0]], dim=1)


def patch_grid(encoder: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the patches of images of (height, width) pixels."""
    high, wide = patch_sides(encoder)
    return size[0] // high, size[1] // wide


def patch_sides(encoder: nn.Module) -> tuple[int, int]:
    """Height and width of a patch in pixels."""
    high, wide = vit_of(encoder).patch_embed.patch_size
    return int(high), int(wide)
