"""What layers of few bits need to know of their inputs, and LayerNorms that make them easier to quantise.

After RepQ-ViT (arXiv 2212.08254): behind a LayerNorm each channel has a grid of its own, which is then made
one grid for all by scaling the LayerNorm and the layers that read it; with the clipping of LRP-QViT (arXiv
2401.11243) no channel's range is far beyond those of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from foveal.blocks.module_calls import named_calls
from foveal.blocks.quantized_numbers import OFF, uniform
from foveal.compression.quantizers import PERCENTILES, grid_of_range, uniform_grid

CLIP_SHARES = (0.0, 0.005, 0.01, 0.02, 0.05)
_LEAST_RATIO = 1e-4
_ROWS_OF_ERROR = 2048


@dataclass(frozen=True)
class ChannelGrids:
    """A grid for each channel behind a LayerNorm.

    Attributes:
        scale: (C,) steps.
        zero_point: (C,) whole codes of 0.
        clipped: share of the channels at either end whose range was clipped.
    """

    scale: Tensor
    zero_point: Tensor
    clipped: float = 0.0


@torch.no_grad()
def norm_readers(model: nn.Module, images: Tensor) -> dict[str, list[str]]:
    """Linear layers by the LayerNorm whose output they read, where they alone read it.

    Between them channels may only change places as a whole: windows, shifts, flattening. A LayerNorm without
    weights, one that is called twice, or whose output is padded or goes elsewhere too, is left out: it cannot
    be scaled without changing what the model gives.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W), of which the first is passed.
    """
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        and module.weight is not None
        and len(module.normalized_shape) == 1
    }
    with named_calls(model) as calls, _Readers(calls, norms) as found:
        model(images[:1])
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {
        name: list(dict.fromkeys(readers))
        for name, readers in found.readers.items()
        if readers and name not in found.spoilt and set(readers) <= linear
    }


# A torch function that moves channels as a whole, by its name.
_KEEPING = (
    "roll reshape view view_as permute transpose contiguous flatten unflatten squeeze unsqueeze dropout "
    "clone movedim to detach"
)
_KEEPS = frozenset(_KEEPING.split())


class _Readers(TorchFunctionMode):
    """Follows outputs of LayerNorms to what reads them."""

    def __init__(self, calls: list[str], norms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.calls, self.norms = calls, norms
        self.readers: dict[str, list[str]] = {}
        self.spoilt: set[str] = set()
        self._from: dict[int, tuple[Tensor, str]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        y = func(*args, **(kwargs or {}))
        here = self.calls[-1] if self.calls else ""
        name = getattr(func, "__name__", "")
        if func is F.layer_norm and here in self.norms:
            if here in self.readers:
                self.spoilt.add(here)
            self.readers.setdefault(here, [])
            self._from[id(y)] = y, here
        if name in ("__get__", "size", "dim", "stride", "is_contiguous", "numel", "is_floating_point"):
            return y
        for given in (*args, *(kwargs or {}).values()):
            if not isinstance(given, Tensor) or id(given) not in self._from:
                continue
            norm = self._from[id(given)][1]
            if func is F.linear and given is args[0]:
                self.readers[norm].append(here)
            elif (
                name in _KEEPS
                and isinstance(y, Tensor)
                and y.numel() == given.numel()
                and y.shape[-1] == given.shape[-1]
            ) or (name == "pad" and isinstance(y, Tensor) and y.shape == given.shape):
                self._from[id(y)] = y, norm
            else:
                self.spoilt.add(norm)
        return y


@torch.no_grad()
def channel_grids(
    x: Tensor,
    readers: Sequence[nn.Linear],
    weight_bits: Sequence[int],
    bits: int,
    *,
    clip: Sequence[float] = CLIP_SHARES,
    percentiles: Sequence[float] = PERCENTILES,
) -> ChannelGrids:
    """Grids of the channels of x, clipped so that the layers that read x err least.

    Args:
        x: (..., C) behind a LayerNorm.
        readers: the layers that read it.
        weight_bits: of each.
        bits: of x.
        clip: shares of the channels, at either end, whose least and largest values are drawn to those of
            their neighbours; the one is taken by which the outputs of the layers, with their weights on grids
            too, have the least squared error. (0,) clips none, as RepQ-ViT.
        percentiles: see `UniformQuantizer`.
    """
    rows = x.flatten(0, -2)
    if bits == OFF:
        return ChannelGrids(torch.ones(rows.shape[1]), torch.zeros(rows.shape[1]))
    scale, zero_point = uniform_grid(rows.T, bits, percentiles)
    # A channel that does not vary would ask for an endless factor.
    least = _LEAST_RATIO * scale.mean()
    zero_point = torch.where(scale < least, torch.round(zero_point * scale / least), zero_point)
    scale = scale.clamp_min(least)
    if len(clip) == 1 and clip[0] == 0:
        return ChannelGrids(scale, zero_point)
    low, high = -zero_point * scale, (2**bits - 1 - zero_point) * scale
    rows = rows[:: -(-len(rows) // _ROWS_OF_ERROR)]
    wanted = [F.linear(rows, layer.weight) for layer in readers]
    found = []
    for share in clip:
        grids = ChannelGrids(scale, zero_point)
        if share:
            ends = grid_of_range(_banded(low, share), _banded(high, share), bits)
            grids = ChannelGrids(*ends, clipped=share)
        target, zero = common_grid(grids)
        ratio, shift = grids.scale / target, (zero - grids.zero_point) * target
        given = uniform(rows, grids.scale, grids.zero_point, bits) / ratio - shift
        error = 0.0
        for layer, width, output in zip(readers, weight_bits, wanted, strict=True):
            weight = layer.weight * ratio
            step, zero = uniform_grid(weight, width, percentiles)
            made = F.linear(given, uniform(weight, step[:, None], zero[:, None], width), weight @ shift)
            error += float((made - output).square().mean() / output.square().mean().clamp_min(1e-12))
        found.append((error, grids))
    return min(found, key=lambda each: each[0])[1]


def _banded(values: Tensor, share: float) -> Tensor:
    """(C,) values within the shares `share` and 1 - `share` of them."""
    if share == 0:
        return values
    ends = torch.quantile(values, torch.tensor([share, 1 - share], dtype=values.dtype))
    return values.clamp(ends[0], ends[1])


def common_grid(grids: ChannelGrids, *, whole: bool = True) -> tuple[Tensor, Tensor]:
    """The mean scale and the mean zero-point, which is rounded if `whole`."""
    zero_point = grids.zero_point.mean()
    return grids.scale.mean(), zero_point.round() if whole else zero_point


@torch.no_grad()
def reparameterise(
    norm: nn.LayerNorm, readers: Sequence[nn.Linear], grids: ChannelGrids, *, whole: bool = True
) -> tuple[Tensor, Tensor]:
    """Scale a LayerNorm and its readers, in place, so that one grid does what one for each channel did.

    What the readers give stays the same: r = s_c / s, b = min_c / r - min, the norm's output y becomes
    y / r - b, and (y / r - b + b) r is y. With a whole zero-point so do the numbers on the grids.

    Args:
        norm: with weights.
        readers: all that read it.
        grids: of its channels.
        whole: round the common zero-point; without, as in the original code, the grids are shifted by up to
            half a step.

    Returns:
        Scale and zero-point of the common grid, of shape ().

    Raises:
        ValueError: the LayerNorm has no weights to scale.
    """
    if norm.weight is None:
        raise ValueError("the LayerNorm has no weights (elementwise_affine=False), so it cannot be scaled")
    scale, zero_point = common_grid(grids, whole=whole)
    ratio, shift = grids.scale / scale, (zero_point - grids.zero_point) * scale
    if norm.bias is None:
        norm.bias = nn.Parameter(torch.zeros_like(norm.weight))
    norm.weight.div_(ratio)
    norm.bias.div_(ratio).sub_(shift)
    for layer in readers:
        layer.weight.mul_(ratio)
        added = layer.weight @ shift
        if layer.bias is None:
            layer.bias = nn.Parameter(added)
        else:
            layer.bias.add_(added)
    return scale, zero_point
