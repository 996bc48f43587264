"""ChannelViT: a vision transformer with one token per channel and patch (ICLR 2024, arXiv 2309.16108)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from einops import rearrange, repeat
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.channel_tokens import (
    ChannelMerge,
    ChannelSampler,
    ChannelTokenizer,
    Merge,
    Sampling,
    channel_indices,
)
from foveal.blocks.patches import LearnedPositions
from foveal.encoders.base import Encoder, register_encoder
from foveal.encoders.features import Features
from foveal.settings import unknown_name

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
"""Length of a token, blocks, heads."""

MANY_TOKENS = 4096

Channels = Tensor | Sequence[int] | Sequence[str]


@register_encoder("channelvit")
class ChannelViT(Encoder):
    """Images whose channels are different measurements, some of which may be missing.

    The token of channel c at position (i, j) is W x + b + E_c + P_ij: one projection W and one table of
    positions for all channels, and a vector E_c that tells them apart. Blocks of timm attend over all tokens
    and a class token, whose normalised output is the pooled vector. In training `sampling` takes channels
    away, so that their tokens are not computed at all.

    `forward(images)` takes all channels in order; `forward(images, channels)` those that are told: indices,
    names, or (B, C') indices for each image with -1 where an image has fewer (`blocks.stack_channels`).

    Args:
        size: tiny, small or base; `dim`, `depth` and `heads` override it.
        dim: length of a token.
        depth: blocks.
        heads: of attention.
        image_size: pixels along each side, for the table of positions; other sizes are interpolated.
        patch_size: pixels.
        in_channels: how many channels there are to tell apart.
        channel_names: of them; "channel-0" and so on by default. They are stored with the weights, and
            weights of another set of channels are taken over by name: new names get the mean vector.
        sampling: in training, "hcs" (hierarchical channel sampling), "dropout" or "none".
        channel_dropout: share of channels that "dropout" takes away.
        seed: of the sampling.
        merge: how the tokens of a position become one in the map for dense heads: "mean", "attention", or
            "concat" (of all channels, so without sampling).
        pos_mode: "shared", or "official": the resize by (g + 0.1) / g that the authors' code applies to the
            positions even on the grid of training as soon as there are two channels.
        mlp_ratio: of the blocks.
        drop_path: of the last block, rising linearly from 0.

    Raises:
        ValueError: an unknown size or setting, names that do not fit the channels, "concat" with sampling.
    """

    def __init__(
        self,
        *,
        size: str = "small",
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        image_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        channel_names: Sequence[str] | None = None,
        sampling: Sampling = "hcs",
        channel_dropout: float = 0.5,
        seed: int = 0,
        merge: Merge = "mean",
        pos_mode: Literal["shared", "official"] = "shared",
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(unknown_name("size", size, list(SIZES)))
        if image_size % patch_size:
            raise ValueError(f"image_size {image_size} is no multiple of patch_size {patch_size}")
        if pos_mode not in ("shared", "official"):
            raise ValueError(unknown_name("pos_mode", pos_mode, ["shared", "official"]))
        if merge == "concat" and sampling != "none":
            raise ValueError(
                f"merge 'concat' needs all channels, and sampling {sampling!r} takes some away; "
                "set sampling='none' or merge by mean or attention"
            )
        self.dim, self.in_channels, self.patch_size = dim or SIZES[size][0], in_channels, patch_size
        self.pos_mode = pos_mode
        self.channel_names = _checked_names(channel_names, in_channels)
        grid = image_size // patch_size
        depth = depth or SIZES[size][1]

        self.sampler = ChannelSampler(sampling, rate=channel_dropout, seed=seed)
        self.tokenizer = ChannelTokenizer(in_channels, self.dim, patch_size=patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, self.dim))
        self.class_position = nn.Parameter(torch.empty(1, 1, self.dim))
        self.positions = LearnedPositions((grid, grid), self.dim)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(
                self.dim,
                heads or SIZES[size][2],
                mlp_ratio=mlp_ratio,
                qkv_bias=True,
                drop_path=drop_path * index / max(1, depth - 1),
                norm_layer=norm,
            )
            for index in range(depth)
        )
        self.norm = norm(self.dim)
        self.merge = ChannelMerge(in_channels, self.dim, mode=merge)
        self.pyramid_channels, self.pyramid_strides = (self.merge.dim,), (patch_size,)
        self.register_buffer("stored_names", _as_bytes(self.channel_names))
        self.register_load_state_dict_pre_hook(_take_over_channels)
        self.apply(_initialise)
        for table in (self.class_token, self.class_position):
            nn.init.trunc_normal_(table, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that an optimiser leaves undecayed (timm's convention)."""
        return {"class_token", "class_position"}

    @classmethod
    def from_rgb_vit(cls, vit: VisionTransformer, **settings: Any) -> Self:
        """A ChannelViT that starts from a plain vision transformer of timm with a class token.

        The shared projection is the sum of the kernel over its channels, the vectors of the channels are 0:
        one grey channel gives the tokens that the plain transformer gives for its copies.

        Args:
            vit: with pre-norm blocks as timm's `vit_*` and `deit_*` have them.
            **settings: of ChannelViT, e.g. `in_channels` and `channel_names`; sizes come from `vit`.

        Raises:
            ValueError: a transformer with parts that a ChannelViT has not.
        """
        kernel = vit.patch_embed.proj.weight
        block: Any = vit.blocks[0]
        made = cls(
            dim=vit.embed_dim,
            depth=len(vit.blocks),
            heads=block.attn.num_heads,
            image_size=vit.patch_embed.img_size[0],
            patch_size=kernel.shape[-1],
            mlp_ratio=block.mlp.fc1.out_features / vit.embed_dim,
            **settings,
        )
        state = {name: value for name, value in vit.state_dict().items() if not name.startswith("head.")}
        try:
            made.load_state_dict(made.from_vit_layout(state))
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"this transformer has other parts than a ChannelViT: {error}") from error
        made.to(kernel.device, kernel.dtype)
        return made

    def from_vit_layout(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of this encoder from those of a plain ViT or of the authors' ChannelViT.

        Both have `cls_token`, `pos_embed` (1, 1 + h w, D), `patch_embed.proj`, `blocks.*` and `norm`; the
        authors' projection is a Conv3d of one channel, and `patch_embed.channel_embed` holds the vectors
        of the channels in the order of this encoder's.

        Raises:
            KeyError: one of these is missing.
        """
        kept = dict(state)
        kernel = kept.pop("patch_embed.proj.weight")
        # (D, 1, 1, p, p) of the authors, (D, C, p, p) of a plain ViT.
        kernel = kernel[:, :, 0] if kernel.ndim == 5 else kernel.sum(dim=1, keepdim=True)
        positions = kept.pop("pos_embed")
        vectors = next((kept.pop(name) for name in list(kept) if "patch_embed.channel_embed" in name), None)
        if vectors is None:
            vectors = kernel.new_zeros(self.in_channels, self.dim)
        elif vectors.ndim == 5:
            vectors = rearrange(vectors, "1 d c 1 1 -> c d")
        return {
            "tokenizer.project.weight": kernel,
            "tokenizer.project.bias": kept.pop("patch_embed.proj.bias"),
            "tokenizer.embedding": vectors,
            "class_token": kept.pop("cls_token"),
            "class_position": positions[:, :1],
            "positions.table": positions[:, 1:],
            "sampler.drawn": self.sampler.drawn,
            "stored_names": self.get_buffer("stored_names"),
            **{name: value for name, value in self.state_dict().items() if name.startswith("merge.")},
            **kept,
        }

    def official_layouts(self) -> dict[str, Any]:
        """The authors' layout, which is also that of a plain ViT without its head."""
        return {**super().official_layouts(), "official": self.from_vit_layout}

    def forward(self, images: Tensor, channels: Channels | None = None) -> Features:
        """Encode images of some or all channels.

        The patches are the tokens of each position merged over channels (by mean with "concat", whose
        longer vectors are in the pyramid only).

        Args:
            images: (B, C', H, W).
            channels: which they are; None for all in order.

        Raises:
            ValueError: see `blocks.channel_indices`, or sides that are no multiples of the patch.
        """
        pooled, tokens, indices = self._encode(*self.sampler(images, self._indices(images, channels)))
        merged = self.merge(tokens, indices)
        map_ = rearrange(merged, "b h w d -> b d h w")
        if self.merge.mode == "concat":
            merged = tokens.mean(dim=1)
        return Features(
            rearrange(merged, "b h w d -> b (h w) d"), tuple(merged.shape[1:3]), pooled, pyramid=(map_,)
        )

    def tokens(self, images: Tensor, channels: Channels | None = None) -> Tensor:
        """The normalised tokens (B, C', h, w, D) of the channels that are told, without sampling."""
        return self._encode(images, self._indices(images, channels))[1]

    def _indices(self, images: Tensor, channels: Channels | None) -> Tensor:
        if channels is not None and not isinstance(channels, Tensor):
            channels = [self._index(c) if isinstance(c, str) else c for c in channels]
        return channel_indices(images, channels, known=self.in_channels)

    def _index(self, name: str) -> int:
        if name not in self.channel_names:
            raise ValueError(unknown_name("channel", name, self.channel_names))
        return self.channel_names.index(name)

    def _encode(self, images: Tensor, channels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled (B, D), tokens (B, C', h, w, D), and the channels they are of."""
        tokens = self.tokenizer(images, channels)
        batch, count, height, width, _ = tokens.shape
        tokens = tokens + self._positions_at((height, width), count)[:, None]
        sequence = rearrange(tokens, "b c h w d -> b (c h w) d")
        first = (self.class_token + self.class_position).expand(batch, -1, -1)
        sequence = torch.cat([first, sequence], dim=1)
        if sequence.shape[1] > MANY_TOKENS:
            warnings.warn(
                f"{sequence.shape[1]} tokens an image ({count} channels of {height} x {width} patches): "
                "attention grows with their square; larger patches or fewer channels make it cheaper",
                stacklevel=3,
            )
        mask = None
        if (channels < 0).any():
            there = repeat(channels >= 0, "b c -> b 1 1 (c n)", n=height * width)
            mask = F.pad(there, (1, 0), value=True)
        for block in self.blocks:
            sequence = block(sequence, attn_mask=mask)
        sequence = self.norm(sequence)
        tokens = rearrange(sequence[:, 1:], "b (c h w) d -> b c h w d", h=height, w=width)
        return sequence[:, 0], tokens, channels

    def _positions_at(self, grid: tuple[int, int], count: int) -> Tensor:
        """(1, h, w, D)."""
        if self.pos_mode == "shared" or (count == 1 and grid == self.positions.grid):
            return self.positions.at(grid)
        side = self.positions.grid[0]
        table = rearrange(self.positions.table, "1 (h w) d -> 1 d h w", h=side)
        factors = tuple((cells + 0.1) / side for cells in grid)
        resized = F.interpolate(table, scale_factor=factors, mode="bicubic", align_corners=False)
        return rearrange(resized, "1 d h w -> 1 h w d")


def _checked_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"channel-{index}" for index in range(count))
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"channel_names {list(names)}: {count} different names are wanted")
    return tuple(names)


def _as_bytes(names: Sequence[str]) -> Tensor:
    return torch.tensor(list(json.dumps(list(names)).encode()), dtype=torch.uint8)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _take_over_channels(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the channels of a stored model to those of `module` by name; new ones get the mean vector."""
    assert isinstance(module, ChannelViT)
    names_key, vectors_key = f"{prefix}stored_names", f"{prefix}tokenizer.embedding"
    if names_key not in state or vectors_key not in state:
        return
    stored = json.loads(bytes(state[names_key].tolist()).decode())
    if tuple(stored) == module.channel_names:
        return
    vectors: Tensor = state[vectors_key]
    mean = vectors.mean(dim=0)
    state[vectors_key] = torch.stack(
        [vectors[stored.index(name)] if name in stored else mean for name in module.channel_names]
    )
    state[names_key] = module.get_buffer("stored_names")
