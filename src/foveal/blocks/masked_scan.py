"""Scans of drawn masks, and the spread of what a model says under them: MambaMIR (arXiv 2402.18451)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foveal.blocks.scan_routes import routes_of
from foveal.blocks.ss2d import SS2D, scan_route


class MaskedSS2D(SS2D):
    """SS2D of which each route leaves out cells that are drawn anew each time; the other routes stand in.

    A cell that is left out is 0 to its route, whose state only decays there, and gets nothing from it. What
    the others give is scaled up by their number; a cell that all leave out gets 0. Masks are drawn in
    training, and in evaluation inside `drawn_masks`; else none is left out. How the released code joins the
    routes is unconfirmed.

    Args:
        dim: D.
        mask_rate: chance of a cell to be left out of a route.
        **options: of `SS2D`.

    Raises:
        ValueError: a rate outside [0, 1).
    """

    def __init__(self, dim: int, *, mask_rate: float = 0.25, **options: Any) -> None:
        super().__init__(dim, **options)
        if not 0 <= mask_rate < 1:
            raise ValueError(f"mask_rate is {mask_rate}; allowed: from 0 to below 1")
        self.mask_rate = mask_rate
        self.generator: torch.Generator | None = None

    def scan(self, x: Tensor) -> Tensor:
        """The masked scans, merged: (B, *grid, E) to the same."""
        if self.mask_rate == 0 or not (self.training or self.generator is not None):
            return super().scan(x)
        routes = routes_of(self.routes, *x.shape[1:-1], **self.route_options)
        tokens = x.flatten(1, -2)
        drawn = torch.rand(len(self.scans), *tokens.shape[:2], 1, generator=self.generator)
        kept = (drawn >= self.mask_rate).to(tokens)
        y = torch.zeros_like(tokens)
        for k, scan in enumerate(self.scans):
            y = y + kept[k] * scan_route(scan, (tokens * kept[k]).contiguous(), routes, k)
        share = kept.sum(dim=0).clamp_min(1)
        return (y / share if self.merge == "mean" else y * len(self.scans) / share).view(x.shape)


@contextmanager
def drawn_masks(model: nn.Module, seed: int) -> Iterator[None]:
    """Let all masked scans of a model draw masks of a seed for a while, in evaluation too."""
    layers = [module for module in model.modules() if isinstance(module, MaskedSS2D)]
    kept = [layer.generator for layer in layers]
    generator = torch.Generator().manual_seed(seed)
    try:
        for layer in layers:
            layer.generator = generator
        yield
    finally:
        for layer, old in zip(layers, kept, strict=True):
            layer.generator = old


@torch.no_grad()
def spread_over_masks(
    model: nn.Module, images: Tensor, *, passes: int = 20, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a model's output over passes that differ in their masks alone.

    Args:
        model: in evaluation mode, with `MaskedSS2D` layers.
        images: its input.
        passes: at least 2.
        seed: of the masks; the same seed gives the same numbers.

    Raises:
        ValueError: fewer than 2 passes, a model in training mode, or one without a layer that masks.
    """
    masking = [m for m in model.modules() if isinstance(m, MaskedSS2D) and m.mask_rate > 0]
    if passes < 2 or model.training or not masking:
        raise ValueError(
            f"{passes} passes of a model with {len(masking)} layers that mask, training={model.training}; "
            "allowed: at least 2 passes, 1 such layer, and evaluation mode (model.eval())"
        )
    with drawn_masks(model, seed):
        outputs = torch.stack([model(images) for _ in range(passes)])
    return outputs.mean(dim=0), outputs.std(dim=0)
