"""Adventurer: a causal Mamba-2 encoder of cost linear in tokens (arXiv 2410.07599, 2502.03738)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from einops import rearrange
from timm.layers import DropPath, SwiGLU
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foveal.blocks.class_tokens import ClassTokens
from foveal.blocks.mamba2 import Mamba2Mixer
from foveal.blocks.patches import LearnedPositions, PatchEmbed
from foveal.encoders.base import Encoder, register_encoder
from foveal.encoders.features import Features
from foveal.kernels.gated_recurrence import RECOMPUTE_ABOVE
from foveal.settings import unknown_name

SIZES = {"tiny": (256, 12), "small": (512, 12), "base": (768, 12), "large": (1024, 24)}
"""Length of a token, blocks."""

Flip = Literal["every_other", "released", "none"]


class AdventurerBlock(nn.Module):
    """A causal mixer and a gated perceptron, each after an RMS norm and beside a shortcut.

    Args:
        mixer: (B, L, D) to (B, L, D), each token seeing those before it.
        dim: D.
        flip: the mixer sees the patches in reverse order; the class token stays last.
        heading: the mean of all tokens goes before the first, so that every token sees the whole image.
        drop_path: rate of stochastic depth.
    """

    def __init__(
        self, mixer: nn.Module, dim: int, *, flip: bool, heading: bool = True, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.flip, self.heading = flip, heading
        self.norm1 = nn.RMSNorm(dim, eps=1e-5)
        self.mixer = mixer
        self.norm2 = nn.RMSNorm(dim, eps=1e-5)
        self.mlp = SwiGLU(dim, int(2.5 * dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L + 1, D): patches in their own order, then the class token."""
        x = self._turned(self.norm1(tokens))
        if self.heading:
            mixed = self.mixer(torch.cat([x.mean(dim=1, keepdim=True), x], dim=1))[:, 1:]
        else:
            mixed = self.mixer(x)
        tokens = tokens + self.drop_path(self._turned(mixed))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))

    def _turned(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :-1].flip(1), x[:, -1:]], dim=1) if self.flip else x


@register_encoder("adventurer")
class Adventurer(Encoder):
    """Patch tokens, a class token at the end and causal Mamba-2 blocks, every other of them in reverse order.

    Compute and memory grow linearly with the tokens, so that patches of 1 to 4 px are affordable; at the 196
    tokens of 224 px and patch size 16, attention is as fast. `resize_patch` takes weights to another size of
    patches.

    Args:
        size: tiny, small, base or large; `dim` and `depth` override it.
        dim: length D of a token; 2 D is a multiple of `head_dim`.
        depth: blocks.
        patch_size: pixels.
        image_size: pixels along each side, for the table of positions; other sizes are interpolated.
        in_channels: of the images.
        flip: which blocks see the patches in reverse: "every_other" as the paper says, "released" for blocks
            2 and 3 alone, which the released code and so its weights mean, or "none".
        heading: put the mean of all tokens before the first.
        states: N of the mixers.
        head_dim: P of the mixers.
        chunk: tokens of a chunk.
        drop_path: of the last block, rising linearly from 0.
        checkpointing: compute blocks again in the backward pass to save memory; None does so for more than
            4096 tokens.

    Raises:
        ValueError: an unknown size or flip, or 2 D that is no multiple of `head_dim`; from `forward`, images
            whose sides no whole number of patches fills.
    """

    def __init__(
        self,
        *,
        size: str = "tiny",
        dim: int | None = None,
        depth: int | None = None,
        patch_size: int = 16,
        image_size: int = 224,
        in_channels: int = 3,
        flip: Flip = "every_other",
        heading: bool = True,
        states: int = 64,
        head_dim: int = 64,
        chunk: int = 64,
        drop_path: float = 0.0,
        checkpointing: bool | None = None,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(unknown_name("size", size, tuple(SIZES)))
        if flip not in ("every_other", "released", "none"):
            raise ValueError(unknown_name("flip", flip, ("every_other", "released", "none")))
        dim, depth = dim or SIZES[size][0], depth or SIZES[size][1]
        self.dim, self.patch_size, self.in_channels = dim, patch_size, in_channels
        self.pyramid_channels, self.pyramid_strides = (dim,), (patch_size,)
        self.checkpointing = checkpointing
        self.patches = PatchEmbed(in_channels, dim, patch_size=patch_size)
        side = max(1, image_size // patch_size)
        self.positions = LearnedPositions((side, side), dim)
        self.class_tokens = ClassTokens(dim, place="tail")
        reverse = {
            "every_other": lambda block: block % 2 == 1,
            "released": lambda block: block // 2 == 1,
            "none": lambda block: False,
        }[flip]
        self.blocks = nn.ModuleList(
            AdventurerBlock(
                Mamba2Mixer(dim, states=states, head_dim=head_dim, chunk=chunk),
                dim,
                flip=reverse(block),
                heading=heading,
                drop_path=rate,
            )
            for block, rate in enumerate(np.linspace(0, drop_path, depth).tolist())
        )
        self.norm = nn.RMSNorm(dim, eps=1e-5)

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features; the patches are without the class token."""
        cells = self.positions(self.patches(images))
        grid = (cells.shape[1], cells.shape[2])
        x = self.class_tokens(cells.flatten(1, 2))
        again = self.checkpointing
        if again is None:
            again = x.shape[1] > RECOMPUTE_ABOVE
        for block in self.blocks:
            if again and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        patches, pooled = self.class_tokens.split(self.norm(x))
        assert pooled is not None
        return Features(patches, grid, pooled, (rearrange(patches, "b (h w) d -> b d h w", h=grid[0]),))

    def training_bytes(self, tokens: int, *, batch: int = 1) -> int:
        """Estimate of the most bytes that one training step holds, besides the weights, in 32-bit numbers.

        Per block and token: what the mixer keeps at its inner width, the convolution's input and output,
        the perceptron, and the scores of a chunk; per chunk the state. With checkpointing that is held for
        one block, and the input of each.
        """
        mixer = self.blocks[0].mixer
        assert isinstance(mixer, Mamba2Mixer)
        convolved = mixer.width + 2 * mixer.states
        inner = 11 * mixer.width + 2 * convolved + 6 * self.dim + 4 * int(2.5 * self.dim)
        scores = 3 * mixer.chunk * mixer.heads
        state = mixer.width * mixer.states // mixer.chunk
        block = tokens * (inner + scores + state)
        again = tokens > RECOMPUTE_ABOVE if self.checkpointing is None else self.checkpointing
        kept = block + len(self.blocks) * tokens * self.dim if again else len(self.blocks) * block
        return 4 * batch * kept
