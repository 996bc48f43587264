"""ViR: vision retention networks, trained in parallel and run in chunks or as a stream (arXiv 2310.19731)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Self, cast

import numpy as np
import torch
from einops import rearrange
from timm.layers import DropPath, LayerNorm2d, Mlp, trunc_normal_
from torch import Tensor, nn

from foveal.blocks.class_tokens import ClassTokens, split_table
from foveal.blocks.convolution import ResidualBlock
from foveal.blocks.patches import LearnedPositions, PatchEmbed
from foveal.blocks.retention import GridOrder, Post, Retention
from foveal.encoders.base import Encoder, register_encoder
from foveal.encoders.checkpoints import State, load_official, register_layout, rename_keys
from foveal.encoders.features import Features
from foveal.kernels.gated_recurrence import FORMS, Form
from foveal.settings import unknown_name

SIZES = {
    "tiny": (192, 12, 3, 16),
    "small": (384, 12, 6, 16),
    "base": (768, 12, 12, 16),
    "large": (1024, 24, 16, 14),
}
"""Length of a token, blocks, heads, patch size."""

Memory = list[Tensor]
"""One state (B, heads, d, d) a block, float32; all that a stream has to keep."""


class Seen(NamedTuple):
    """What a stream gives after a part of its tokens.

    `tokens`: (B, n, D) outputs of this part; `pooled`: (B, D) class feature of all tokens so far; `memory`:
    to go on from.
    """

    tokens: Tensor
    pooled: Tensor
    memory: Memory


class RetentionBlock(nn.Module):
    """Retention and a two-layer perceptron, each after a layer norm and beside a shortcut."""

    def __init__(self, mixer: Retention, dim: int, *, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *, shape: tuple[int, int]) -> Tensor:
        """(B, L, D) tokens; `shape` is the grid that they begin with."""
        return self._finish(x, self.mixer(self.norm1(x), shape=shape))

    def continued(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens that follow those of the state, and the state after them."""
        mixed, state = self.mixer.continued(self.norm1(x), state)
        return self._finish(x, mixed), state

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.drop_path(mixed)
        return x + self.drop_path(self.mlp(self.norm2(x)))


def retention_modes(encoder: nn.Module, mode: Form, *, chunk: int | None = None) -> None:
    """Set the form of every retention in an encoder; its outputs stay equal.

    Raises:
        ValueError: the mode is not known.
    """
    if mode not in FORMS:
        raise ValueError(unknown_name("mode", mode, FORMS))
    for module in encoder.modules():
        if isinstance(module, Retention):
            module.set_form(mode, chunk=chunk)


@register_encoder("vir")
class ViR(Encoder):
    """A vision transformer with retention in place of softmax attention.

    Each patch sees those before it, row by row, decayed by their distance; the class token comes last, so
    that it sees them all, and its normalised output is the pooled vector. `set_mode` changes between the
    parallel matrix, the token by token recurrence and chunks at any time, with equal outputs. `stream` feeds
    tokens part by part and keeps one (heads, d, d) state a block.

    Args:
        size: tiny, small, base or large; `dim`, `depth`, `heads` and `patch_size` override it.
        dim: length D of a token.
        depth: blocks.
        heads: of retention.
        patch_size: pixels.
        image_size: pixels along each side, for the table of positions; other sizes are interpolated.
        in_channels: of the images.
        mode: "parallel", "recurrent" or "chunkwise".
        chunk: tokens of a chunk.
        decays: g of each head; RetNet's 1 - 2^(-5 - h) by default.
        decay_range: (shortest, longest) ranges in tokens to spread the decays over; of use with few heads,
            where RetNet's reach no further than 128 tokens (3 heads).
        grid: None for the sequence of the patches, "up-left" or "corners" for retention over their grid.
        post: "ln_gelu" or "gn_gate", see `Retention`.
        stabilise: RetNet's divisors, see `Retention`.
        mlp_ratio: of the blocks.
        drop_path: of the last block, rising linearly from 0.

    Raises:
        ValueError: an unknown size or mode, or settings that `Retention` refuses.
    """

    def __init__(
        self,
        *,
        size: str = "small",
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        patch_size: int | None = None,
        image_size: int = 224,
        in_channels: int = 3,
        mode: Form = "chunkwise",
        chunk: int = 64,
        decays: Sequence[float] | None = None,
        decay_range: tuple[float, float] | None = None,
        grid: GridOrder | None = None,
        post: Post = "ln_gelu",
        stabilise: bool = False,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(unknown_name("size", size, tuple(SIZES)))
        named = zip((dim, depth, heads, patch_size), SIZES[size], strict=True)
        dim, depth, heads, patch_size = (given or default for given, default in named)
        self.dim, self.patch_size, self.in_channels = dim, patch_size, in_channels
        self.pyramid_channels, self.pyramid_strides = (dim,), (patch_size,)
        self.patches = PatchEmbed(in_channels, dim, patch_size=patch_size)
        side = max(1, image_size // patch_size)
        self.positions = LearnedPositions((side, side), dim)
        self.class_tokens = ClassTokens(dim, place="tail")
        self.blocks = nn.ModuleList(
            RetentionBlock(
                Retention(
                    dim,
                    heads,
                    decays=decays,
                    decay_range=decay_range,
                    grid=grid,
                    post=post,
                    stabilise=stabilise,
                ),
                dim,
                mlp_ratio=mlp_ratio,
                drop_path=rate,
            )
            for rate in np.linspace(0, drop_path, depth).tolist()
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.set_mode(mode, chunk=chunk)
        _start(self)

    def set_mode(self, mode: Form, *, chunk: int | None = None) -> None:
        """Compute in another form from now on; see `retention_modes`."""
        retention_modes(self, mode, chunk=chunk)

    def embed(self, images: Tensor, *, first_row: int = 0, grid: tuple[int, int] | None = None) -> Tensor:
        """Patch tokens with positions, (B, h, w, D).

        Args:
            images: (B, C, H, W); may be a strip of a larger image, all its columns wide.
            first_row: row of the larger image's patch grid at which the strip begins.
            grid: (h, w) of the larger image; that of `images` by default.

        Raises:
            ValueError: the strip does not lie inside the grid.
        """
        cells = self.patches(images)
        rows, columns = cells.shape[1:3]
        grid = grid or (rows, columns)
        if columns != grid[1] or not 0 <= first_row <= grid[0] - rows:
            raise ValueError(
                f"a strip of {rows} x {columns} patches at row {first_row} does not lie in a grid of "
                f"{grid[0]} x {grid[1]}"
            )
        return cells + self.positions.at(grid)[:, first_row : first_row + rows]

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features; the patches are without the class token."""
        cells = self.embed(images)
        shape = (cells.shape[1], cells.shape[2])
        x = self.class_tokens(cells.flatten(1, 2))
        for block in self.blocks:
            x = block(x, shape=shape)
        patches, pooled = self.class_tokens.split(self.norm(x))
        assert pooled is not None
        maps = rearrange(patches, "b (h w) d -> b d h w", h=shape[0])
        return Features(patches, shape, pooled, (maps,))

    def init_state(self, batch: int) -> Memory:
        """What a stream of `batch` sequences remembers before its first token."""
        return [block.mixer.init_state(batch) for block in self.blocks]  # type: ignore[union-attr, operator]

    def step(self, tokens: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Tokens (B, n, D), as `embed` makes them, that follow those of the memory, and the memory after.

        Raises:
            ValueError: retention over a grid, or a memory of another batch size.
        """
        after = []
        for block, state in zip(self.blocks, memory, strict=True):
            tokens, state = block.continued(tokens, state)  # type: ignore[operator]
            after.append(state)
        return self.norm(tokens), after

    def pool(self, memory: Memory) -> Tensor:
        """(B, D) class feature of all tokens that the memory has seen, as if they were the image."""
        tail = self.class_tokens(self.positions.table.new_empty(len(memory[0]), 0, self.dim))
        return self.step(tail, memory)[0][:, 0]

    def stream(self, parts: Iterable[Tensor], memory: Memory | None = None) -> Iterator[Seen]:
        """Feed tokens part by part: strips of an image, or slices of a volume one after the other.

        Args:
            parts: (B, n, D) or (B, h, w, D) tokens each, as `embed` makes them; n may differ.
            memory: of an earlier stream, to go on from.
        """
        for part in parts:
            flat = part.flatten(1, 2) if part.ndim == 4 else part
            memory = self.init_state(len(flat)) if memory is None else memory
            tokens, memory = self.step(flat, memory)
            yield Seen(tokens, self.pool(memory), memory)

    def load_vit(self, vit: nn.Module) -> Self:
        """Begin from a softmax vision transformer of timm, of equal width, depth and heads, with class token.

        Patches, positions (resized where needed), q, k, v, projections and perceptrons are copied, the new
        norms after the heads begin anew. This is not in the paper; fine-tune afterwards.

        Raises:
            ValueError: weights are missing, unexpected or misshapen; all are named.
        """
        load_official(self, vit.state_dict(), layout="vit")
        return self


@register_layout("vir", "vit")
def read_vit(state: State) -> tuple[State, State | None]:
    """timm's vision transformer: the class token and its position are first there."""
    renamed = rename_keys(
        state,
        [
            (r"^patch_embed\.proj\.", "patches."),
            (r"^blocks\.(\d+)\.attn\.", r"blocks.\1.mixer."),
            (r"^cls_token$", "class_tokens.tokens"),
            (r"^pos_embed$", "positions.table"),
        ],
    )
    table = renamed["positions.table"]
    renamed["positions.table"], renamed["class_tokens.positions"] = split_table(table, "head")
    for key in [key for key in renamed if key.endswith("mixer.proj.bias")]:
        stem = key.removesuffix("proj.bias") + "norm."
        renamed[stem + "weight"] = torch.ones_like(renamed[key])
        renamed[stem + "bias"] = torch.zeros_like(renamed[key])
    head = {name: renamed.pop(f"head.{name}", None) for name in ("weight", "bias")}
    return renamed, {name: tensor for name, tensor in head.items() if tensor is not None} or None


@register_encoder("hvir")
class HybridViR(Encoder):
    """Convolutions at strides 4 and 8, retention at strides 16 and 32; the paper's second version.

    Widths and depths are unconfirmed; those of the defaults are after GC ViT and FasterViT. There is no class
    token; the mean of the last map is the pooled vector, and `pyramid` holds all four maps.

    Args:
        dims: channels of the four stages.
        depths: blocks of the four stages.
        head_dim: channels of a head; divides the last two widths.
        in_channels: of the images.
        mode: "parallel", "recurrent" or "chunkwise".
        chunk: tokens of a chunk.
        decay_range: see `ViR`.
        grid: "up-left" or "corners" over the grid, None for the sequence row by row.
        mlp_ratio: of the retention blocks.
        drop_path: of the last block, rising linearly from 0 at the first retention block.

    Raises:
        ValueError: not four stages, or settings that `Retention` refuses; images whose sides are no
            multiples of 32.
    """

    def __init__(
        self,
        *,
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (1, 3, 8, 5),
        head_dim: int = 64,
        in_channels: int = 3,
        mode: Form = "chunkwise",
        chunk: int = 64,
        decay_range: tuple[float, float] | None = None,
        grid: GridOrder | None = "up-left",
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if len(dims) != 4 or len(depths) != 4:
            raise ValueError(f"dims={tuple(dims)}, depths={tuple(depths)}; allowed: four of each")
        self.dim, self.patch_size, self.in_channels = dims[-1], 32, in_channels
        self.pyramid_channels, self.pyramid_strides = tuple(dims), (4, 8, 16, 32)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, dims[0], 3, 2, 1, bias=False),
            nn.BatchNorm2d(dims[0]),
            nn.ReLU(inplace=True),
            nn.Conv2d(dims[0], dims[0], 3, 2, 1, bias=False),
            nn.BatchNorm2d(dims[0]),
            nn.ReLU(inplace=True),
        )
        self.downsamples = nn.ModuleList(
            nn.Sequential(LayerNorm2d(narrow), nn.Conv2d(narrow, wide, 3, 2, 1, bias=False))
            for narrow, wide in pairwise(dims)
        )
        self.convolutions = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(dim, dim) for _ in range(depth)))
            for dim, depth in zip(dims[:2], depths[:2], strict=True)
        )
        rates = iter(np.linspace(0, drop_path, depths[2] + depths[3]).tolist())
        self.retentions = nn.ModuleList(
            nn.ModuleList(
                RetentionBlock(
                    Retention(dim, dim // head_dim, decay_range=decay_range, grid=grid),
                    dim,
                    mlp_ratio=mlp_ratio,
                    drop_path=next(rates),
                )
                for _ in range(depth)
            )
            for dim, depth in zip(dims[2:], depths[2:], strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        retention_modes(self, mode, chunk=chunk)
        _start(self)

    def set_mode(self, mode: Form, *, chunk: int | None = None) -> None:
        """Compute in another form from now on; see `retention_modes`."""
        retention_modes(self, mode, chunk=chunk)

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features."""
        if any(side % 32 for side in images.shape[-2:]):
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]} px: sides must be multiples of 32"
            )
        x, maps = self.stem(images), []
        for level in range(4):
            if level:
                x = self.downsamples[level - 1](x)
            if level < 2:
                x = self.convolutions[level](x)
            else:
                shape = (x.shape[2], x.shape[3])
                tokens = rearrange(x, "b d h w -> b (h w) d")
                for block in cast(nn.ModuleList, self.retentions[level - 2]):
                    tokens = block(tokens, shape=shape)
                tokens = self.norm(tokens) if level == 3 else tokens
                x = rearrange(tokens, "b (h w) d -> b d h w", h=shape[0])
            maps.append(x)
        return Features(tokens, shape, tokens.mean(dim=1), tuple(maps))


def _start(encoder: nn.Module) -> None:
    """Begin linear layers as ViT and DeiT do."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
