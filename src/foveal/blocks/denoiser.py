"""One transformer block that takes position-tied artifacts out of patch features (DVT, arXiv 2401.02957)."""

from __future__ import annotations

from functools import partial

from einops import rearrange
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from foveal.blocks.patches import LearnedPositions


class DenoiserBlock(nn.Module):
    """Features (B, h, w, D) of patches to the same, cleaned: learnt positions are added, then one block.

    There is no residual around the block, and no class token in it. Positions are resized bicubically to
    other grids.

    Args:
        dim: D.
        grid: (h, w) of training.
        heads: D / 64 where None, at least one.
        mlp_ratio: width of the block's MLP over D.

    Raises:
        ValueError: heads that do not divide D.
    """

    def __init__(
        self, dim: int, grid: tuple[int, int], *, heads: int | None = None, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        heads = heads or max(1, dim // 64)
        if dim % heads:
            raise ValueError(f"heads {heads} do not divide the {dim} channels; give heads= that do")
        self.dim = dim
        self.positions = LearnedPositions((grid[0], grid[1]), dim)
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.block = Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Clean.

        Raises:
            ValueError: features that are not (B, h, w, D).
        """
        if features.ndim != 4 or features.shape[-1] != self.dim:
            raise ValueError(f"features of shape {tuple(features.shape)}; allowed: (B, h, w, {self.dim})")
        tokens = rearrange(self.positions(features), "b h w d -> b (h w) d")
        return rearrange(self.block(tokens), "b (h w) d -> b h w d", h=features.shape[1])
