"""MedViTV2: neighbourhood attention, pooled attention and KAN in four stages (arXiv 2502.13693)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from einops import rearrange
from torch import Tensor, nn

from foveal.blocks.batch_norm_folding import fold_batch_norms
from foveal.blocks.hybrid import ConvolutionMixer, GlobalPerception, Layout, LocalPerception, equal_mlp
from foveal.blocks.kan import KANBlock
from foveal.blocks.neighbourhood_attention import NeighbourhoodAttention2d
from foveal.encoders.base import Encoder, register_encoder
from foveal.encoders.checkpoints import State, register_layout, rename_keys
from foveal.encoders.features import Features
from foveal.settings import unknown_name

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], float]] = {
    "tiny": ((2, 2, 6, 1), (64, 128, 192, 384), 0.1),
    "small": ((2, 2, 6, 2), (64, 128, 256, 512), 0.1),
    "base": ((2, 2, 6, 2), (96, 192, 384, 768), 0.2),
    "large": ((2, 2, 6, 2), (96, 256, 512, 1024), 0.2),
}
"""Blocks and channels of each stage, and the drop-path rate of the last block."""

RATIOS = (8, 4, 2, 1)
Dilation = Literal["released", "alternate"]
LocalMixer = Literal["neighbourhood", "convolution"]
FeedForward = Literal["kan", "mlp"]


@register_encoder("medvit-v2")
class MedViTV2(Encoder):
    """Four stages at strides 4, 8, 16 and 32: local blocks first, global ones at each stage's end.

    Images may have any size; on grids too small for the neighbourhood, its dilation and then its kernel are
    reduced, and this is logged. Grey images (B, 1, H, W) are repeated where three channels are wanted.
    In training a single image has to be larger than 32 px: batch normalisation needs more than one value.

    Args:
        size: tiny, small, base or large; `depths`, `dims` and `drop_path` override it.
        depths: blocks of each stage; of the third a multiple of 3.
        dims: channels of each stage, multiples of `head_dim`, from the second stage on at least 4 times it.
        head_dim: channels of a head and of a group of convolutions.
        stem: channels of the first three convolutions; the fourth has as many as the third.
        in_channels: of the images.
        layout: "correct" transposes maps to tokens; "released" reads memory on as it lies, as the released
            code does by a slip, and so reproduces weights trained with it (it takes square images only).
        dilation: "released" is 1 everywhere; "alternate" gives every second local block the widest that its
            grid has room for. How the paper assigns dilations is not told.
        kernel: of the neighbourhoods, odd.
        kan: changes to the settings of `blocks.kan.KANLayer`: basis, grid, low, high, width, base_branch.
        drop_path: of the last block, rising linearly from 0.
        local_mixer: "neighbourhood", or "convolution": a plain 3x3 one to compare with.
        feed_forward: "kan", or "mlp": two linear layers of as many weights to compare with.

    Raises:
        ValueError: an unknown size or setting, depths or channels that do not fit.
    """

    def __init__(
        self,
        *,
        size: str = "tiny",
        depths: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        head_dim: int = 32,
        stem: Sequence[int] = (64, 32, 64),
        in_channels: int = 3,
        layout: Layout = "correct",
        dilation: Dilation = "released",
        kernel: int = 7,
        kan: Mapping[str, Any] | None = None,
        drop_path: float | None = None,
        local_mixer: LocalMixer = "neighbourhood",
        feed_forward: FeedForward = "kan",
    ) -> None:
        super().__init__()
        for what, name, allowed in (
            ("size", size, tuple(SIZES)),
            ("layout", layout, get_args(Layout)),
            ("dilation", dilation, get_args(Dilation)),
            ("local_mixer", local_mixer, get_args(LocalMixer)),
            ("feed_forward", feed_forward, get_args(FeedForward)),
        ):
            if name not in allowed:
                raise ValueError(unknown_name(what, name, allowed))
        depths = tuple(depths or SIZES[size][0])
        dims = tuple(dims or SIZES[size][1])
        rate = SIZES[size][2] if drop_path is None else drop_path
        _check_stages(depths, dims, head_dim)
        self.dim, self.in_channels, self.patch_size = dims[-1], in_channels, 32
        self.pyramid_channels, self.pyramid_strides = dims, (4, 8, 16, 32)
        settings = dict(kan or {})

        self.stem = nn.Sequential(
            *(
                _stem_layer(inputs, outputs, stride=stride)
                for inputs, outputs, stride in zip(
                    (in_channels, *stem), (*stem, stem[-1]), (2, 1, 1, 2), strict=True
                )
            )
        )
        rates = iter([rate * place / (sum(depths) - 1) for place in range(sum(depths))])
        channels, locals_made = stem[-1], 0
        self.stages = nn.ModuleList()
        for stage, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
            blocks: list[nn.Module] = []
            for place, kind in enumerate(_kinds(stage, depth)):
                stride = 2 if stage and not place else 1
                shared: dict[str, Any] = {"stride": stride, "drop_path": next(rates), "layout": layout}
                if kind == "local":
                    widest = dilation == "alternate" and locals_made % 2 == 1
                    mixer = (
                        NeighbourhoodAttention2d(
                            dim, head_dim=head_dim, kernel=kernel, dilation="widest" if widest else 1
                        )
                        if local_mixer == "neighbourhood"
                        else ConvolutionMixer(dim)
                    )
                    kernel_size = 3 if stage else 7
                    blocks.append(LocalPerception(channels, dim, mixer, kernel_size=kernel_size, **shared))
                    locals_made += 1
                else:
                    mixing = (
                        KANBlock((dim, 2 * dim, dim), **settings)
                        if feed_forward == "kan"
                        else equal_mlp(dim, grid=settings.get("grid", 8))
                    )
                    blocks.append(
                        GlobalPerception(
                            channels, dim, mixing, ratio=RATIOS[stage], head_dim=head_dim, **shared
                        )
                    )
                channels = dim
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(channels)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features; the pooled vector is the mean of the normalised last map.

        Raises:
            ValueError: another number of channels, or a single image in training that ends in one position.
        """
        if images.ndim == 4 and images.shape[1] == 1 and self.in_channels == 3:
            images = images.expand(-1, 3, -1, -1)
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"images of shape {tuple(images.shape)}; allowed: (B, {self.in_channels}, H, W)")
        if self.training and len(images) == 1 and max(images.shape[-2:]) <= self.patch_size:
            raise ValueError(
                f"one image of {images.shape[-2]} x {images.shape[-1]} px in training mode ends in a single "
                "value a channel, which batch normalisation cannot take; give two images or more, one of "
                "more than 32 px, or call .eval()"
            )
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        x = self.norm(x)
        maps[-1] = x
        patches = rearrange(x, "b d h w -> b (h w) d")
        return Features(patches, (x.shape[-2], x.shape[-1]), pooled=patches.mean(dim=1), pyramid=tuple(maps))

    def merge_batch_norms(self) -> MedViTV2:
        """Fold the normalisations that directly follow a convolution or precede a linear layer; in place.

        Those stay whose output is used elsewhere too, or goes into a layer normalisation.

        Returns:
            The encoder itself; its outputs change by rounding alone.

        Raises:
            ValueError: the encoder is in training mode.
        """
        fold_batch_norms(self)
        return self


def _stem_layer(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _kinds(stage: int, depth: int) -> list[str]:
    if stage == 0:
        return ["local"] * depth
    if stage == 1:
        return ["local"] * (depth - 1) + ["global"]
    return ["local", "local", "global"] * (depth // 3) if stage == 2 else ["global"] * depth


def _check_stages(depths: tuple[int, ...], dims: tuple[int, ...], head_dim: int) -> None:
    if len(depths) != 4 or len(dims) != 4 or min(depths) < 1:
        raise ValueError(f"depths {depths}, dims {dims}; allowed: four of each, depths from 1 on")
    if depths[2] % 3:
        raise ValueError(
            f"the third stage has {depths[2]} blocks; allowed: multiples of 3 (local, local, global)"
        )
    if any(dim % head_dim for dim in dims):
        raise ValueError(f"dims are {dims}; allowed: multiples of {head_dim}, the channels of a head")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_RENAMED: tuple[tuple[str, str | None], ...] = (
    (r"^stem\.(\d+)\.conv\.", r"stem.\1.0."),
    (r"^stem\.(\d+)\.norm\.", r"stem.\1.1."),
    (r"\.attn\.rpb$", ".mixer.bias"),
    (r"\.attn\.", ".mixer."),
    (r"\.conv\.conv\.6\.fc\.0\.", ".feed_forward.layers.6.fc1."),
    (r"\.conv\.conv\.6\.fc\.2\.", ".feed_forward.layers.6.fc2."),
    (r"\.conv\.conv\.", ".feed_forward.layers."),
    (r"\.norm_global\.", ".norm1."),
    (r"\.e_mhsa\.", ".attention."),
    (r"\.projection\.conv\.", ".projection.0."),
    (r"\.projection\.norm\.", ".projection.1."),
    (r"\.mhca\.group_conv3x3\.", ".convolution.0."),
    (r"\.mhca\.norm\.", ".convolution.1."),
    (r"\.mhca\.projection\.", ".convolution.3."),
    (r"\.kan\.layers\.(\d+)\.layernorm\.", r".feed_forward.\1.norm."),
    (r"\.kan\.layers\.(\d+)\.rbf\.grid$", r".feed_forward.\1.centres"),
    (r"\.kan\.layers\.\d+\.rbf\.", None),
    (r"\.kan\.layers\.(\d+)\.spline_linear\.", r".feed_forward.\1.spline."),
)


@register_layout("medvit-v2", "official")
def convert_official(state: State) -> tuple[State, State | None]:
    """Weights of the released code; its unused feed-forward branch of global blocks is dropped.

    They were trained with `layout="released"`. Stages are told apart by their channels.
    """
    heads = {key.removeprefix("proj_head.0."): state[key] for key in state if key.startswith("proj_head.0.")}
    places = _places(state)
    moved: State = {}
    for key, tensor in state.items():
        if key.startswith("proj_head."):
            continue
        if key.startswith("features."):
            number, rest = key.removeprefix("features.").split(".", 1)
            stage, place = places[int(number)]
            if rest.startswith("conv.") and f"features.{number}.e_mhsa.q.weight" in state:
                continue
            first = int(stage > 0 and place == 0)  # behind the pooling
            rest = rest.replace("patch_embed.conv.", f"patch_embed.{first}.")
            rest = rest.replace("patch_embed.norm.", f"patch_embed.{first + 1}.")
            if ".fc." in rest and rest.endswith("weight"):
                tensor = tensor[..., None, None]
            key = f"stages.{stage}.{place}.{rest}"
        moved[key] = tensor
    return rename_keys(moved, _RENAMED), heads or None


def _places(state: State) -> dict[int, tuple[int, int]]:
    """Stage and place in it of each numbered block: channels change from stage to stage alone."""
    numbers = sorted({int(key.split(".")[1]) for key in state if key.startswith("features.")})
    widths = {number: len(state[f"features.{number}.norm2.weight"]) for number in numbers}
    places: dict[int, tuple[int, int]] = {}
    for stage, (_, members) in enumerate(itertools.groupby(numbers, key=lambda n: widths[n])):
        places |= {number: (stage, place) for place, number in enumerate(members)}
    return places
