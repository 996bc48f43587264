"""A U of any blocks for images and volumes, the builder of the Mamba survey's networks (arXiv 2410.02362)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count, pairwise
from typing import Any, TypeAlias, cast

import numpy as np
from torch import Tensor, nn

from foveal.blocks.grid_blocks import GRID_BLOCKS, create_grid_block
from foveal.blocks.grid_layers import ResidualConv, convolution
from foveal.models.networks.base import register_network
from foveal.models.networks.frame import PaddedNetwork, count_stages, crop, pad_to_multiple, single_cells_told
from foveal.models.networks.unet_parts import DOWNS, SKIPS, STEMS, UPS, CellExpanding
from foveal.settings import unknown_name

# Blocks of a stage: one name, as often as its depth says, or the names of all.
Stage: TypeAlias = str | Sequence[str]


@register_network("ssm-unet")
class SSMUNet(PaddedNetwork):
    """Images (B, C, *sizes) to logits (B, outputs, *sizes) through stages of blocks that are named.

    The last of `dims` is the bottleneck. With "conv" for all three blocks it is the plain U-Net of the same
    frame. Sides of any size are filled up to whole cells.

    A volume's finest maps have 10^5 cells and more: scan them within windows (scan="pixel"), or leave scans
    to strides from 4 on. Images larger than memory holds go through
    `monai.inferers.sliding_window_inference`.

    Args:
        outputs: logits of each pixel.
        in_channels: C, by default 3 for images and 1 for volumes; images of one channel are repeated for a
            network of three.
        spatial_dims: 2 or 3.
        dims: channels of the stages, finest first; or those of the first alone, doubled from stage to stage
            up to `most_channels`, with as many stages as `image_size` has halvings to 4 cells (6 at most).
        depths: blocks of each stage; one number for all.
        depths_dec: the same of the decoder, finest first, without the bottleneck; `depths` by default.
        block_enc: of the encoder, one of `foveal.blocks.grid_blocks.list_grid_blocks()`; or a sequence with
            one entry a stage, each a name or all names of the stage.
        block_bot: of the bottleneck, a name or all its names.
        block_dec: of the decoder, as `block_enc`.
        block_settings: options of blocks by their name, e.g. {"mamba": {"states": 8}}.
        scan: of `foveal.blocks.scan_routes`, for all blocks that scan, in place of their own.
        turns: each scanning block walks one route alone, the next block the next one, as ZigMa does along
            "zigzag"; blocks are counted from the finest to the bottleneck, then in the decoder from the
            finest again.
        stem: "conv", "residual" or "patch".
        stem_stride: pixels to a cell of the first stage, a power of 2.
        down: "conv", "residual", "max-pool", "merge" or "norm-conv".
        up: "transposed", "linear" or "expand".
        skip: "concat", "add" or "attention".
        deep_supervision: give `deep_logits` heads on the coarser maps.
        image_size: pixels along each axis, for stages counted by it; blocks whose layers depend on the grid
            ("u-mamba" with channels as tokens, "triplet") are built for it.
        fixed_size: take images of `image_size` alone; needed by blocks that depend on the grid.
        drop_path: chance to drop a branch in the bottleneck's last block; it grows linearly from 0.
        most_channels: of a stage, where they are doubled; 512 in two dimensions and 320 in three.

    Raises:
        ValueError: a name that is not known, numbers of stages that differ, or a size that does not divide.
    """

    def __init__(
        self,
        *,
        outputs: int = 1,
        in_channels: int | None = None,
        spatial_dims: int = 2,
        dims: int | Sequence[int] = (32, 64, 128, 256),
        depths: int | Sequence[int] = 1,
        depths_dec: int | Sequence[int] | None = None,
        block_enc: str | Sequence[Stage] = "conv",
        block_bot: Stage = "mamba",
        block_dec: str | Sequence[Stage] = "conv",
        block_settings: Mapping[str, Mapping[str, Any]] | None = None,
        scan: str | Sequence[str] | None = None,
        turns: bool = False,
        stem: str = "conv",
        stem_stride: int = 1,
        down: str = "conv",
        up: str = "transposed",
        skip: str = "concat",
        deep_supervision: bool = False,
        image_size: Sequence[int] | None = None,
        fixed_size: bool = False,
        drop_path: float = 0.0,
        most_channels: int | None = None,
    ) -> None:
        for kind, name, table in (
            ("stem", stem, STEMS),
            ("down", down, DOWNS),
            ("up", up, UPS),
            ("skip", skip, SKIPS),
        ):
            if name not in table:
                raise ValueError(unknown_name(kind, name, list(table)))
        if stem_stride < 1 or stem_stride & (stem_stride - 1):
            raise ValueError(f"stem_stride is {stem_stride}; allowed: powers of 2")
        dims = _widths(dims, image_size, stem_stride, most_channels or (512 if spatial_dims == 2 else 320))
        depths = _per_stage("depths", depths, len(dims))
        shallower = depths[:-1] if depths_dec is None else _per_stage("depths_dec", depths_dec, len(dims) - 1)
        multiple = stem_stride * 2 ** (len(dims) - 1)
        super().__init__(
            in_channels=in_channels,
            spatial_dims=spatial_dims,
            multiple=multiple,
            image_size=image_size if fixed_size else None,
        )
        if fixed_size and image_size is None:
            raise ValueError("fixed_size without an image_size; give the size of the images")
        encoded = [*_stages("block_enc", block_enc, depths[:-1]), _stage(block_bot, depths[-1])]
        decoded = _stages("block_dec", block_dec, shallower)
        rates = iter(np.linspace(0, drop_path, sum(map(len, encoded))).tolist())
        common: dict[str, Any] = {"dimensions": spatial_dims}
        number = count()

        def blocks(level: int, names: Sequence[str], drops: Sequence[float]) -> nn.Sequential:
            grid = None
            if self.image_size is not None:
                grid = tuple(size // stem_stride // 2**level for size in self.image_size)
            made = []
            for name, rate in zip(names, drops, strict=True):
                own = dict((block_settings or {}).get(name, {}))
                kind = GRID_BLOCKS.get(name)  # an unknown name is told below
                turn = next(number) if turns and kind is not None and kind.routes is not None else None
                given: dict[str, Any] = {"scan": scan, "drop_path": rate, "grid": grid, "turn": turn}
                made.append(create_grid_block(name, dims[level], **common, **given, **own))
            return nn.Sequential(*made)

        unused = set(block_settings or {}) - {name for names in (*encoded, *decoded) for name in names}
        if unused:
            raise ValueError(f"block_settings of {', '.join(sorted(unused))}: no such block in this network")
        self.stem = STEMS[stem](self.in_channels, dims[0], stride=stem_stride, **common)
        self.encoder = nn.ModuleList(
            blocks(level, names, [next(rates) for _ in names]) for level, names in enumerate(encoded)
        )
        self.downs = nn.ModuleList(DOWNS[down](*pair, **common) for pair in pairwise(dims))
        self.ups = nn.ModuleList(UPS[up](coarse, fine, **common) for fine, coarse in pairwise(dims))
        self.skips, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level, names in enumerate(decoded):
            # A decoder that begins with a convolution joins by it, as nnU-Net's does.
            joined = skip != "add" and bool(names) and names[0] == "conv"
            fuse = ResidualConv(2 * dims[level], dims[level], **common) if joined else None
            self.skips.append(SKIPS[skip](dims[level], fuse=fuse, **common))
            names = names[1:] if joined else names
            self.decoder.append(blocks(level, names, [0.0] * len(names)))
        self.head = _head(dims[0], outputs, stride=stem_stride, **common)
        self.deep_heads = nn.ModuleList(
            convolution(dim, outputs, 1, **common) for dim in dims[1:-1] if deep_supervision
        )

    def logits(self, images: Tensor) -> Tensor:
        """Logits of padded images."""
        return self.head(self.decode(self.encode(images))[0])

    def encode(self, images: Tensor) -> list[Tensor]:
        """Maps of the encoder's stages, finest first; the last is the bottleneck's."""
        x, maps = self.stem(images), []
        for level, stage in enumerate(self.encoder):
            x = stage(self.downs[level - 1](x) if level else x)
            maps.append(x)
        return maps

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the decoder's stages, finest first, of those of the encoder."""
        x, made = maps[-1], []
        for level in range(len(self.decoder) - 1, -1, -1):
            x = self.decoder[level](self.skips[level](self.ups[level](x), maps[level]))
            made.append(x)
        return made[::-1] if made else [x]

    def deep_logits(self, images: Tensor) -> list[Tensor]:
        """Logits at all sizes of the decoder, the full one first; coarser maps cover the images and padding.

        Raises:
            ValueError: the network was built without deep supervision.
        """
        if len(self.decoder) > 1 and not len(self.deep_heads):
            raise ValueError("this network has no heads on coarser maps; build it with deep_supervision=True")
        images = self.checked(images)
        with single_cells_told(images.shape[2:]):
            maps = self.decode(self.encode(pad_to_multiple(images, self.multiple)))
        full = crop(self.head(maps[0]), images.shape[2:])
        return [full, *(head(x) for head, x in zip(self.deep_heads, maps[1:], strict=True))]


def _head(inputs: int, outputs: int, *, stride: int, dimensions: int) -> nn.Module:
    """Logits at full size: a 1 x 1 convolution, of cells expanded to pixels where the stem has a stride."""
    if stride == 1:
        return convolution(inputs, outputs, 1, dimensions=dimensions)
    width = max(1, inputs // stride)
    return nn.Sequential(
        CellExpanding(inputs, width, dimensions=dimensions, factor=stride),
        convolution(width, outputs, 1, dimensions=dimensions),
    )


def _widths(
    dims: int | Sequence[int], image_size: Sequence[int] | None, stem_stride: int, most: int
) -> tuple[int, ...]:
    if not isinstance(dims, int):
        if not dims or min(dims) < 1:
            raise ValueError(f"dims is {tuple(dims)}; allowed: channels of one stage or more")
        return tuple(dims)
    if image_size is None:
        raise ValueError(f"dims is {dims}, one width; give image_size to count stages by, or all widths")
    stages = count_stages([size // stem_stride for size in image_size])
    return tuple(min(most, dims * 2**level) for level in range(stages))


def _per_stage(name: str, depths: int | Sequence[int], count: int) -> tuple[int, ...]:
    depths = (depths,) * count if isinstance(depths, int) else tuple(depths)
    if len(depths) != count or min(depths, default=1) < 1:
        raise ValueError(f"{name} is {depths}; allowed: {count} numbers, one a stage, each 1 or more")
    return depths


def _stage(names: Stage, depth: int) -> list[str]:
    return [names] * depth if isinstance(names, str) else list(names)


def _stages(name: str, blocks: str | Sequence[Stage], depths: Sequence[int]) -> list[list[str]]:
    per_stage = [blocks] * len(depths) if isinstance(blocks, str) else list(blocks)
    if len(per_stage) != len(depths):
        raise ValueError(
            f"{name} has {len(per_stage)} entries; allowed: {len(depths)}, one a stage, or one name"
        )
    return [_stage(cast(Stage, names), depth) for names, depth in zip(per_stage, depths, strict=True)]
