"""RSMamba: plain Mamba along three gated paths, forward, reverse and shuffled (arXiv 2403.19654)."""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foveal.blocks.class_tokens import ClassTokens, Place, split_table
from foveal.blocks.mamba import MambaMixer
from foveal.blocks.multi_path import MultiPath, Shuffle
from foveal.blocks.patches import LearnedPositions, PatchEmbed
from foveal.encoders.base import Encoder, register_encoder
from foveal.encoders.checkpoints import State, register_layout, rename_keys
from foveal.encoders.features import Features
from foveal.settings import unknown_name

SIZES = {"s": (16, 192), "b": (24, 192), "l": (36, 256), "h": (48, 320)}  # depth, channels
_BOTH = ("forward", "reverse")
PATH_TYPES: dict[str, tuple[tuple[str, ...], Literal["mean", "gate"]]] = {
    "forward": (("forward",), "mean"),
    "forward_reverse_mean": (_BOTH, "mean"),
    "forward_reverse_gate": (_BOTH, "gate"),
    "forward_reverse_shuffle_mean": ((*_BOTH, "shuffle"), "mean"),
    "forward_reverse_shuffle_gate": ((*_BOTH, "shuffle"), "gate"),
}


@register_encoder("rsmamba")
class RSMamba(Encoder):
    """Overlapping patches through blocks of one Mamba mixer along several orders of the tokens.

    Images are padded with zeros at their bottom and right until patches at the stride cover them;
    `padded_patches` tells which. `blocks.multi_path.spread_over_shuffles` tells how much a prediction
    depends on the permutations. For a permutation of your own call a block with `orders=`.

    Args:
        size: "s", "b", "l" or "h": 16, 24, 36 or 48 blocks of 192, 192, 256 or 320 channels.
        image_size: pixels for which the table of positions is made; other sizes get an interpolated one.
        patch_size: pixels.
        stride: pixels from patch to patch.
        in_channels: of the images.
        dim: overrides the size's channels D.
        depth: overrides the size's number of blocks.
        states: N of the scans.
        path_type: one of `PATH_TYPES`.
        shuffle: in evaluation "fixed", "average" or "random"; see `MultiPath`.
        draws: permutations that "average" takes.
        seed: of the permutations of evaluation; each block has its own.
        share_norm: one pre-norm for all blocks, as in the original; else one a block.
        class_token: "none", "head", "middle", "tail" or "double"; with one, it is the pooled vector.
        positions: "learned", "sine" or "none".
        drop: rate of dropout after the positions.
        checkpointing: compute blocks again in the backward pass to save memory.

    Raises:
        ValueError: a size, path type, shuffle, place or positions that is not known; from `forward`, images
            smaller than a patch.
        FloatingPointError: from `forward`, images with NaN or infinite values.
    """

    def __init__(
        self,
        *,
        size: str = "b",
        image_size: int = 224,
        patch_size: int = 16,
        stride: int = 8,
        in_channels: int = 3,
        dim: int | None = None,
        depth: int | None = None,
        states: int = 16,
        path_type: str = "forward_reverse_shuffle_gate",
        shuffle: Shuffle = "fixed",
        draws: int = 8,
        seed: int = 0,
        share_norm: bool = True,
        class_token: Place = "none",
        positions: Literal["learned", "sine", "none"] = "learned",
        drop: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        for what, name, allowed in (
            ("size", size, tuple(SIZES)),
            ("path_type", path_type, tuple(PATH_TYPES)),
            ("positions", positions, ("learned", "sine", "none")),
        ):
            if name not in allowed:
                raise ValueError(unknown_name(what, name, allowed))
        depth, dim = depth or SIZES[size][0], dim or SIZES[size][1]
        self.dim, self.patch_size, self.in_channels = dim, patch_size, in_channels
        self.pyramid_channels, self.pyramid_strides = (dim,), (stride,)
        self.stride, self.checkpointing = stride, checkpointing
        self.patches = PatchEmbed(in_channels, dim, patch_size=patch_size, stride=stride, bias=False)
        self.position_kind = positions
        learned = positions == "learned"
        side = self._count(image_size)
        self.positions = LearnedPositions((side, side), dim) if learned else None
        self.class_tokens = ClassTokens(dim, place=class_token, positions=learned)
        self.drop = nn.Dropout(drop)
        paths, fuse = PATH_TYPES[path_type]
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(1 if share_norm else depth))
        self.blocks = nn.ModuleList(
            MultiPath(
                MambaMixer(dim, states=states),
                dim,
                paths=paths,
                fuse=fuse,
                shuffle=shuffle,
                draws=draws,
                seed=seed * depth + number,
            )
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pooled_norm = nn.LayerNorm(dim, eps=1e-6) if class_token == "none" else None
        nn.init.kaiming_normal_(self.patches.weight, mode="fan_in", nonlinearity="linear")

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features; patches exclude class tokens."""
        cells = self.patches(self._padded(images))
        grid = (cells.shape[1], cells.shape[2])
        if self.positions is not None:
            cells = self.positions(cells)
        elif self.position_kind == "sine":
            cells = cells + self._sine(grid, cells)
        tokens = self.drop(self.class_tokens(rearrange(cells, "b h w d -> b (h w) d")))
        for number, block in enumerate(self.blocks):
            normed = self.norms[number % len(self.norms)](tokens)
            if self.checkpointing and torch.is_grad_enabled():
                tokens = tokens + checkpoint(block, normed, use_reentrant=False)
            else:
                tokens = tokens + block(normed)
        patches, pooled = self.class_tokens.split(self.norm(tokens))
        if pooled is None:
            pooled = self.pooled_norm(patches.mean(dim=1))  # type: ignore[misc]
        maps = rearrange(patches, "b (h w) d -> b d h w", h=grid[0])
        return Features(patches, grid, pooled, (maps,))

    def padded_patches(self, height: int, width: int) -> Tensor:
        """(h, w) bool of an image of that size in pixels: the patches that reach over its border."""
        over = [
            torch.arange(self._count(side)) * self.stride + self.patch_size > side for side in (height, width)
        ]
        return over[0][:, None] | over[1][None]

    def _count(self, side: int) -> int:
        """Patches along a side, pixels."""
        if side < self.patch_size:
            raise ValueError(
                f"images of {side} px are smaller than a patch of {self.patch_size} px; enlarge them"
            )
        return -(-side // self.stride)

    def _padded(self, images: Tensor) -> Tensor:
        missing = [
            max((self._count(side) - 1) * self.stride + self.patch_size - side, 0)
            for side in images.shape[-2:]
        ]
        return F.pad(images, (0, missing[1], 0, missing[0])) if any(missing) else images

    def _sine(self, grid: tuple[int, int], cells: Tensor) -> Tensor:
        table = build_sincos2d_pos_embed(list(grid), self.dim, device=cells.device, dtype=cells.dtype)
        return rearrange(table, "(h w) d -> 1 h w d", h=grid[0])


@register_layout("rsmamba", "mmpretrain")
def read_mmpretrain(state: State) -> tuple[State, State | None]:
    """The layout of KyanChen/RSMamba, with or without "backbone." and the classifier of mmpretrain.

    A single class token is taken to be in the middle; the released configurations have none.
    """
    head = {name: state.pop(f"head.fc.{name}", None) for name in ("weight", "bias")}
    renamed = rename_keys(
        state,
        [
            (r"^backbone\.", ""),
            (r"^(data_preprocessor\.|cls_head\.)", None),
            (r"^patch_embed\.projection\.", "patches."),
            (r"^pos_embed$", "positions.table"),
            (r"^cls_token$", "class_tokens.tokens"),
            (r"^pre_norm\.", "norms.0."),
            (r"^ln1\.", "norm."),
            (r"^ln2\.", "pooled_norm."),
            (r"^gate_layers\.(\d+)\.", r"blocks.\1.gate."),
            (r"^layers\.(\d+)\.(x_proj|dt_proj|A_log|D)(?=\.|$)", r"layers.\1.scan.\2"),
            (r"^layers\.(\d+)\.", r"blocks.\1.mixer."),
        ],
    )
    if "class_tokens.tokens" in renamed and "positions.table" in renamed:
        place: Place = "double" if renamed["class_tokens.tokens"].shape[1] == 2 else "middle"
        table = renamed["positions.table"]
        renamed["positions.table"], renamed["class_tokens.positions"] = split_table(table, place)
    found = {name: tensor for name, tensor in head.items() if tensor is not None}
    return renamed, found or None
