"""S2: multi-scale features of one encoder by tiles, merged and joined along channels (arXiv 2403.13043)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from math import isqrt
from typing import Any, Literal, Self

import torch
from einops import rearrange
from torch import Tensor

from foveal.encoders.base import Encoder, register_encoder
from foveal.encoders.features import Features
from foveal.encoders.scale_passes import TileOutputs, run_scales
from foveal.encoders.scale_plan import ScalePlan, Shape, plan_scales, token_budget
from foveal.encoders.wrapping import inner_encoder
from foveal.settings import unknown_name

logger = logging.getLogger(__name__)

Layout = Literal["auto", "tokens", "maps"]
_MOST_PREFIX_TOKENS = 17  # class, distillation and register tokens


def multiscale_features(
    model: Callable[[Tensor], Any],
    images: Tensor,
    *,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    max_tile: int | None = None,
    shape: Shape = "square",
    max_tiles: int = 12,
    out_index: int | None = None,
    num_prefix: int | None = None,
    layout: Layout = "auto",
    tile_batch: int | None = None,
    resize: Literal["bicubic", "bilinear"] = "bicubic",
    antialias: bool = False,
    norm_per_scale: bool = False,
    overlap: float = 0.0,
    reuse_constant_tiles: bool = False,
) -> Tensor:
    """Features of all scales on the grid of one of them: as many tokens as that scale has, more channels.

    Each scale is resized from the images as they come (so give the photograph itself, not a small copy),
    cut into tiles that the model sees one by one, merged, brought to the grid of scale `out_index` by area
    interpolation and joined with the others along the channels. Prefix tokens are averaged over the tiles of
    a scale. Gradients pass. The default scales of the paper are (1, 2).

    Args:
        model: (n, C, t, t) to tokens (n, N, D), which may begin with prefix tokens, or to maps (n, D, g, g).
            A timm model is called through `forward_features`; of the outputs of transformers the
            `last_hidden_state` is taken, of a tuple (open_clip) its tokens, of `Features` the patches.
        images: (B, C, H, W) float.
        scales: multiples of the images' side.
        sizes: pixels instead.
        max_tile: largest tile, pixels; see `plan_scales`.
        shape: "square", "any" or "dynamic"; see `plan_scales`.
        max_tiles: of the added scale of "dynamic".
        out_index: scale on whose grid the features come out; by default the first, and the last (added)
            with "dynamic". -1 keeps the most detail, and the most tokens.
        num_prefix: how many prefix tokens the model puts in front; None takes what is left over from the
            largest square number, 17 at most.
        layout: of the model's output; "auto" goes by its dimensions.
        tile_batch: tiles in the model at once; the batch size makes memory that of the first scale.
        resize: interpolation of the images.
        antialias: of that interpolation, for scales below the images' size.
        norm_per_scale: bring every scale's vectors to zero mean and unit variance, e.g. for a linear probe.
        overlap: share of a tile that neighbours share at least; they are blended by a raised cosine. Not in
            the paper.
        reuse_constant_tiles: run one of all tiles of the same single colour, such as the black ones around
            a field of view; right for models whose output for an image does not depend on its batch.

    Returns:
        (B, P + h w, K D) for tokens (row-major over the grid), (B, K D, h, w) for maps, with K scales.

    Raises:
        ValueError: see `plan_scales`; images that are not float, more prefix tokens than tokens, a number of
            tokens that is not square, an unknown layout.
    """
    call = model.forward_features if hasattr(model, "forward_features") else model
    kinds: list[str] = []

    def run(tiles: Tensor) -> TileOutputs:
        output = call(tiles)
        if isinstance(output, Features):
            kinds.append("tokens")
            return TileOutputs((_patch_map(output),), None)
        output = _tensor_of(output)
        kind = _kind_of(output, layout)
        kinds.append(kind)
        return _from_tokens(output, num_prefix) if kind == "tokens" else TileOutputs((output,), None)

    plans = _plans(images, scales, sizes, max_tile, shape, max_tiles)
    (map_, *_), prefix = run_scales(
        run,
        images,
        plans,
        out_index=_out_index(out_index, shape, len(plans)),
        tile_batch=tile_batch,
        resize=resize,
        antialias=antialias,
        norm_per_scale=norm_per_scale,
        overlap=overlap,
        reuse_constant_tiles=reuse_constant_tiles,
    )
    if kinds[0] == "maps":
        return map_
    tokens = rearrange(map_, "b d h w -> b (h w) d")
    return tokens if prefix is None else torch.cat([prefix, tokens], dim=1)


@register_encoder("multi-scale")
class MultiScale(Encoder):
    """Any encoder made multi-scale: the same tokens with the channels of all scales, without new weights.

    The pooled vector is the mean of those of the tiles, scale by scale; every level of a pyramid is
    treated as the patches are.

    Args:
        encoder: name as in `create_encoder` (timm and transformers models included), or an encoder.
        encoder_settings: of the encoder that is named.
        in_channels: of the encoder that is named.
        scales: multiples of the images' side; None with `sizes`.
        sizes: pixels instead, for photographs larger than the encoder's input.
        frozen: keep the encoder's weights and statistics as they are, which is the published use.
        max_tile: see `multiscale_features`, as for the arguments that follow.
        shape: the same.
        max_tiles: the same.
        out_index: the same.
        tile_batch: the same.
        resize: the same.
        antialias: the same.
        norm_per_scale: the same.
        overlap: the same.
        reuse_constant_tiles: the same, in evaluation mode.

    Raises:
        ValueError: settings that `plan_scales` refuses, an encoder together with its settings.
    """

    def __init__(
        self,
        *,
        encoder: str | Encoder = "conv-pyramid",
        encoder_settings: Mapping[str, Any] | None = None,
        in_channels: int = 3,
        scales: Sequence[float] | None = (1, 2),
        sizes: Sequence[int] | None = None,
        frozen: bool = False,
        max_tile: int | None = None,
        shape: Shape = "square",
        max_tiles: int = 12,
        out_index: int | None = None,
        tile_batch: int | None = None,
        resize: Literal["bicubic", "bilinear"] = "bicubic",
        antialias: bool = False,
        norm_per_scale: bool = False,
        overlap: float = 0.0,
        reuse_constant_tiles: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = inner_encoder(self, encoder, encoder_settings, in_channels)
        self.scales, self.sizes, self.max_tile = scales, sizes, max_tile
        self.shape, self.max_tiles = shape, max_tiles
        self.frozen, self.reuse_constant_tiles = frozen, reuse_constant_tiles
        count = len(plan_scales(2**20, 2**20, scales=scales, sizes=sizes, shape="any")) + (shape == "dynamic")
        self.out_index = _out_index(out_index, shape, count)
        self.options: dict[str, Any] = {
            "tile_batch": tile_batch,
            "resize": resize,
            "antialias": antialias,
            "norm_per_scale": norm_per_scale,
            "overlap": overlap,
        }
        self._announced: set[tuple[int, int]] = set()
        if frozen:
            self.encoder.requires_grad_(False).eval()

        inner = self.encoder
        self.in_channels, self.dim = inner.in_channels, inner.dim * count
        known = scales is not None and self.out_index < len(scales)
        finer = scales[self.out_index] if scales is not None and known else 1
        self.patch_size = max(1, round(inner.patch_size / finer))
        self.pyramid_channels = tuple(channels * count for channels in inner.pyramid_channels)
        self.pyramid_strides = tuple(max(1, round(stride / finer)) for stride in inner.pyramid_strides)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def plans(self, height: int, width: int) -> tuple[ScalePlan, ...]:
        """Sizes and tiles for images of a size."""
        return plan_scales(
            height,
            width,
            scales=self.scales,
            sizes=self.sizes,
            max_tile=self.max_tile,
            shape=self.shape,
            max_tiles=self.max_tiles,
        )

    def budget(self, height: int, width: int) -> str:
        """Tiles, tokens and cost for images of a size, as lines to print; logged before each first run."""
        return token_budget(
            self.plans(height, width), patch_size=self.encoder.patch_size, out_index=self.out_index
        )

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features.

        Raises:
            ValueError: images that are not float, or whose shape `plan_scales` refuses.
        """
        _check_images(images)
        height, width = images.shape[-2], images.shape[-1]
        if (height, width) not in self._announced:
            self._announced.add((height, width))
            logger.info("multi-scale features of %d x %d px\n%s", height, width, self.budget(height, width))
        (patches, *pyramid), pooled = run_scales(
            self._run,
            images,
            self.plans(height, width),
            out_index=self.out_index,
            reuse_constant_tiles=self.reuse_constant_tiles and not self.encoder.training,
            **self.options,
        )
        assert pooled is not None
        tokens = rearrange(patches, "b d h w -> b (h w) d")
        return Features(tokens, (patches.shape[2], patches.shape[3]), pooled[:, 0], pyramid=tuple(pyramid))

    def _run(self, tiles: Tensor) -> TileOutputs:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder(tiles)
        return TileOutputs((_patch_map(features), *features.pyramid), features.pooled[:, None])


def _plans(
    images: Tensor,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    max_tile: int | None,
    shape: Shape,
    max_tiles: int,
) -> tuple[ScalePlan, ...]:
    _check_images(images)
    return plan_scales(
        *images.shape[-2:], scales=scales, sizes=sizes, max_tile=max_tile, shape=shape, max_tiles=max_tiles
    )


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"images of shape {tuple(images.shape)} and type {images.dtype}; allowed: (B, C, H, W) float, "
            "e.g. images.float() / 255"
        )


def _out_index(index: int | None, shape: Shape, count: int) -> int:
    if index is None:
        return count - 1 if shape == "dynamic" else 0
    if not -count <= index < count:
        raise ValueError(f"out_index {index}; allowed: {-count} to {count - 1}")
    return index % count


def _patch_map(features: Features) -> Tensor:
    height, width = features.grid
    return rearrange(features.patches, "b (h w) d -> b d h w", h=height, w=width)


def _tensor_of(output: Any) -> Tensor:
    if hasattr(output, "last_hidden_state"):
        output = output.last_hidden_state
    if isinstance(output, tuple | list):
        output = next((part for part in output if isinstance(part, Tensor) and part.ndim > 2), None)
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the model returned {found}; allowed: tokens (n, N, D) or maps (n, D, g, g)")
    return output


def _kind_of(output: Tensor, layout: Layout) -> str:
    if layout not in ("auto", "tokens", "maps"):
        raise ValueError(unknown_name("layout", layout, ["auto", "tokens", "maps"]))
    kind = "tokens" if output.ndim == 3 else "maps"
    if layout not in ("auto", kind):
        raise ValueError(f"the model returned {kind} of shape {tuple(output.shape)}; layout says {layout!r}")
    return kind


def _from_tokens(tokens: Tensor, num_prefix: int | None) -> TileOutputs:
    count = tokens.shape[1]
    prefix = count - isqrt(count) ** 2 if num_prefix is None else num_prefix
    if not 0 <= prefix < count:
        raise ValueError(f"num_prefix {prefix} of {count} tokens; allowed: 0 to {count - 1}")
    side = isqrt(count - prefix)
    if side**2 != count - prefix or prefix > _MOST_PREFIX_TOKENS:
        raise ValueError(
            f"{count} tokens less {0 if num_prefix is None else prefix} prefix tokens do not fill a square "
            "grid; give the right num_prefix"
        )
    map_ = rearrange(tokens[:, prefix:], "b (h w) d -> b d h w", h=side)
    return TileOutputs((map_,), tokens[:, :prefix] if prefix else None)
