"""Attention to each patch laid out over images, for pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.attention_taps import LayerAttention, attention_tapped
from foveal.explanation.attention_profiles import among_patches
from foveal.explanation.attention_windows import windows_of
from foveal.explanation.taps import prefix_tokens_of


@torch.no_grad()
def overlay_maps(
    model: nn.Module,
    images: Tensor,
    *,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> tuple[Tensor | None, tuple[str, ...], tuple[int, int]]:
    """Maps, names of the views and the grid; see `AttentionAnalysis.overlays`.

    Attention within windows is that of a patch's own window: each has its share of the whole image's.
    """
    prefix_tokens = prefix_tokens_of(model) if prefix_tokens is None else prefix_tokens
    found: list[Tensor] = []
    views: list[str] = []
    for image in images.split(1) if len(images) else ():
        layers: list[Tensor | None] = []

        def read(layer: LayerAttention, image: Tensor = image, layers: list[Tensor | None] = layers) -> None:
            laid = among_patches(layer, image, prefix_tokens=prefix_tokens, grid=grid)
            received = laid.among.mean(dim=2)  # (W, H, n)
            views[:] = ["from all patches"]
            if laid.windows > 1:
                windows = windows_of(model, layer.name)
                layers.append(None if windows is None else windows.laid_out(received).unsqueeze(1))
                return
            maps = [received[0]]
            if not laid.from_class.isnan().any():
                maps.insert(0, layer.weights[0, :, 0, -laid.among.shape[-1] :].double().cpu())
                views.insert(0, "from the class token")
            layers.append(torch.stack(maps, dim=1).unflatten(-1, laid.grid))  # (H, V, h, w)

        with attention_tapped(model, read=read):
            model(image)
        known = [layer for layer in layers if layer is not None]
        if len(known) < len(layers) or len({layer.shape[1] for layer in known}) > 1:
            return None, (), (0, 0)
        found.append(_stacked(known))
    if not found:
        return None, (), (0, 0)
    whole = torch.stack(found)
    return whole.flatten(-2), tuple(views), (whole.shape[-2], whole.shape[-1])


def _stacked(layers: Sequence[Tensor]) -> Tensor:
    """(L, H, V, h, w) uint8 of layers (H, V, h, w) on grids and with heads of their own."""
    heads = max(len(layer) for layer in layers)
    size = max((layer.shape[-2:] for layer in layers), key=math.prod)
    filled = []
    for layer in layers:
        scaled = layer / layer.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
        levels = F.interpolate((255 * scaled).round(), size=tuple(size), mode="nearest-exact").byte()
        filled.append(F.pad(levels, (0, 0, 0, 0, 0, 0, 0, heads - len(layer))))
    return torch.stack(filled)
