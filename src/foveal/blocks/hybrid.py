"""Blocks of MedViT: local and global feature perception (arXiv 2302.09462, 2502.13693; after Next-ViT)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from timm.layers import DropPath, Mlp, make_divisible
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.batch_norm_folding import fold_into_linear
from foveal.blocks.local_feed_forward import LocalFeedForward

Layout = Literal["correct", "released"]
"""How maps become tokens: transposed, or, as in the released code, by reading memory on as it lies."""


def patch_step(inputs: int, outputs: int, *, stride: int) -> nn.Module:
    """Halve the grid by averages (stride 2) and change channels by a 1x1 convolution, as far as needed."""
    change = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
    if stride == 2:
        return nn.Sequential(nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), *change)
    return nn.Sequential(*change) if inputs != outputs else nn.Identity()


class PooledAttention(nn.Module):
    """Multi-head attention to averages of runs of tokens: (B, N, C) to (B, N, C).

    Keys and values are averages over `ratio`^2 consecutive tokens of the row-major sequence, normalised.

    Args:
        dim: C, a multiple of `head_dim`.
        head_dim: channels of a head.
        ratio: root of the tokens in a run.
        keep_tail: average the last, shorter run too; the released code drops it.
    """

    def __init__(self, dim: int, *, head_dim: int = 32, ratio: int = 1, keep_tail: bool = True) -> None:
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"{dim} channels do not divide into heads of {head_dim}; allowed: its multiples")
        self.heads, self.run, self.keep_tail = dim // head_dim, ratio**2, keep_tail
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.norm: nn.Module = nn.BatchNorm1d(dim) if ratio > 1 else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        q, k, v = (
            rearrange(project(tokens), "b n (h d) -> b h n d", h=self.heads)
            for project, tokens in zip((self.q, self.k, self.v), (x, *[self._pooled(x)] * 2), strict=True)
        )
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))

    def _pooled(self, x: Tensor) -> Tensor:
        if self.run == 1:
            return x
        run = min(self.run, x.shape[1])
        return self.norm(F.avg_pool1d(x.mT, run, ceil_mode=self.keep_tail)).mT


class LocalPerception(nn.Module):
    """Local feature perception: a mixer of neighbours, then a locally enhanced feed-forward block.

    (B, I, H, W) to (B, C, H / stride, W / stride). With o = BN(x) the second step is x + o + f(o): the
    feed-forward block has a residual of its own, so that o is added too, as in the released code.

    Args:
        inputs: I.
        dim: C.
        mixer: tokens (B, h, w, C) to the same; attributes `qkv` (a linear layer) let a norm be folded.
        stride: 1 or 2.
        kernel_size: of the feed-forward block's depthwise convolution.
        drop_path: probability of leaving the mixer out.
        layout: see `Layout`.
    """

    def __init__(
        self,
        inputs: int,
        dim: int,
        mixer: nn.Module,
        *,
        stride: int,
        kernel_size: int,
        drop_path: float,
        layout: Layout,
    ) -> None:
        super().__init__()
        self.patch_embed = patch_step(inputs, dim, stride=stride)
        self.norm1: nn.Module = nn.BatchNorm2d(dim)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.BatchNorm2d(dim)
        self.feed_forward = LocalFeedForward(dim, kernel_size=kernel_size)
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        x = self.patch_embed(x)
        x = x + self.drop_path(_on_tokens(self.norm1(x), self.mixer, self.layout))
        o = self.norm2(x)
        return x + self.feed_forward(o)

    def merge_batch_norms(self) -> None:
        """Fold the norm before attention into it, where the layout keeps channels apart."""
        if self.layout == "correct" and isinstance(qkv := getattr(self.mixer, "qkv", None), nn.Linear):
            fold_into_linear(qkv, self.norm1)
            self.norm1 = nn.Identity()


class GlobalPerception(nn.Module):
    """Global feature perception: pooled attention, a grouped convolution beside it, then a channel mixer.

    (B, I, H, W) to (B, C, H / stride, W / stride). Attention has M = 3/4 C channels, rounded to `head_dim`;
    a 1x1 convolution makes the other C - M from its output, and both are joined.

    Args:
        inputs: I.
        dim: C.
        feed_forward: (..., C) to (..., C).
        stride: 1 or 2.
        ratio: of `PooledAttention`.
        head_dim: channels of a head and of a group.
        drop_path: probability of leaving out the channel mixer; shared out between the other two branches
            as 3/4 and 1/4.
        layout: see `Layout`.

    Raises:
        ValueError: so few channels that none are left beside attention.
    """

    share = 0.75

    def __init__(
        self,
        inputs: int,
        dim: int,
        feed_forward: nn.Module,
        *,
        stride: int,
        ratio: int,
        head_dim: int,
        drop_path: float,
        layout: Layout,
    ) -> None:
        super().__init__()
        wide = make_divisible(int(dim * self.share), head_dim)
        narrow = dim - wide
        if narrow < 1:
            raise ValueError(
                f"{dim} channels leave none beside the {wide} of attention; allowed: at least {4 * head_dim}"
            )
        self.patch_embed = patch_step(inputs, wide, stride=stride)
        self.norm1: nn.Module = nn.BatchNorm2d(wide)
        self.attention = PooledAttention(wide, head_dim=head_dim, ratio=ratio, keep_tail=layout == "correct")
        self.projection = patch_step(wide, narrow, stride=1)
        self.convolution = nn.Sequential(
            nn.Conv2d(narrow, narrow, 3, padding=1, groups=narrow // head_dim, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, narrow, 1, bias=False),
        )
        self.norm2 = nn.BatchNorm2d(dim)
        self.feed_forward = feed_forward
        self.drop_attention = DropPath(drop_path * self.share)
        self.drop_convolution = DropPath(drop_path * (1 - self.share))
        self.drop_feed_forward = DropPath(drop_path)
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        x = self.patch_embed(x)
        height, width = x.shape[-2:]
        tokens = self.attention(rearrange(self.norm1(x), "b c h w -> b (h w) c"))
        x = x + self.drop_attention(rearrange(tokens, "b (h w) c -> b c h w", h=height, w=width))
        beside = self.projection(x)
        beside = beside + self.drop_convolution(self.convolution(beside))
        x = torch.cat([x, beside], dim=1)
        return x + self.drop_feed_forward(_on_tokens(self.norm2(x), self.feed_forward, self.layout))

    def merge_batch_norms(self) -> None:
        """Fold the norms before the linear layers of attention into them."""
        fold_into_linear(self.attention.q, self.norm1)
        for linear in (self.attention.k, self.attention.v):
            # Averages of what a norm gives are what it gives of averages.
            fold_into_linear(linear, self.norm1, self.attention.norm)
        self.norm1, self.attention.norm = nn.Identity(), nn.Identity()


def _on_tokens(x: Tensor, mixer: Callable[[Tensor], Tensor], layout: Layout) -> Tensor:
    """A mixer of (B, h, w, C) on a map (B, C, h, w)."""
    if layout == "released":
        batch, channels, height, width = x.shape
        return mixer(x.reshape(batch, height, width, channels)).reshape(x.shape)
    return rearrange(mixer(rearrange(x, "b c h w -> b h w c")), "b h w c -> b c h w")


class ConvolutionMixer(nn.Module):
    """A plain 3x3 convolution in the place of neighbourhood attention: (B, h, w, C) to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return rearrange(self.convolution(rearrange(x, "b h w c -> b c h w")), "b c h w -> b h w c")


def equal_mlp(dim: int, *, grid: int) -> Mlp:
    """A two-layer MLP of as many weights as the KAN block C -> 2 C -> C with `grid` functions an input."""
    return Mlp(dim, hidden_features=2 * grid * dim)
