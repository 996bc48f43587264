"""Multi-head scanning: each head of channels walks its own routes, fused by a gate (arXiv 2406.05992)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.mamba import SelectiveScan
from foveal.blocks.scan_routes import count_routes, routes_of
from foveal.blocks.ss2d import check_channels_last, depthwise, over_grid, positive, scan_route
from foveal.settings import unknown_name

Fuse = Literal["sra", "sum", "mean"]
Sigma = Literal["relu", "sigmoid", "power", "exp"]
HEADS = {3: ("C", "X", "S"), 4: ("C", "X", "S", "Z")}


class MHScan(nn.Module):
    """Scans of sub-spaces of the channels, each along the routes of one pattern: (B, h, w, D) to the same.

    Args:
        dim: D.
        heads: for each head a scan of `foveal.blocks.scan_routes`, or several; or 3 or 4, for continuous,
            diagonal, spiral (and raster) ones.
        states: N of each channel.
        rank: of the steps; ceil(s / 16) by default, s the channels of a head.
        fuse: how the routes of a head are joined: "sra" as `RouteAttention`, their "sum" or their "mean".
        t: threshold of "sra": a number, or "learn" for one a head that starts at 0.
        sigma: of "sra".
        proj: normalise the joined heads and project them to D.
        allow_truncate: let heads have floor(D / heads) channels where there is a remainder.

    Raises:
        ValueError: fewer channels than heads, or a remainder; another number of heads than 3 or 4 without
            patterns for them; a head of one route with fuse "sra"; an option that is not known.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int | Sequence[str | Sequence[str]] = ("C", "X", "S", "Z"),
        states: int = 16,
        rank: int | None = None,
        fuse: Fuse = "sra",
        t: float | Literal["learn"] = 0.5,
        sigma: Sigma = "relu",
        proj: bool = True,
        allow_truncate: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(heads, int):
            if heads not in HEADS:
                raise ValueError(
                    f"heads is {heads}; allowed: 3, 4, or a tuple that names a scan for each head"
                )
            heads = HEADS[heads]
        if fuse not in get_args(Fuse):
            raise ValueError(unknown_name("fuse", fuse, get_args(Fuse)))
        count = len(heads)
        if count < 1 or dim < count:
            raise ValueError(f"{count} heads for {dim} channels; allowed: from one head to one a channel")
        if dim % count and not allow_truncate:
            raise ValueError(
                f"{dim} channels leave a remainder in {count} heads; choose a multiple, or "
                f"allow_truncate=True for heads of {dim // count}"
            )
        if not proj and dim % count:
            raise ValueError(f"without a projection {count} heads must fill all of {dim} channels")
        routes = [count_routes(head) for head in heads]
        if fuse == "sra" and min(routes) < 2:
            raise ValueError(
                f"heads {tuple(heads)} have {routes} routes; fuse='sra' takes 2 or more a head, such as "
                "('hilbert', 'hilbert_r'); fuse='sum' takes one too"
            )
        width = dim // count
        self.dim, self.heads, self.fuse = dim, tuple(heads), fuse
        self.in_proj = nn.Linear(dim, width * count, bias=False)
        self.scans = nn.ModuleList(
            nn.ModuleList(
                SelectiveScan(width, states=positive(states), rank=rank or math.ceil(width / 16))
                for _ in range(number)
            )
            for number in routes
        )
        self.fusions = (
            nn.ModuleList(RouteAttention(t=t, sigma=sigma) for _ in heads) if fuse == "sra" else None
        )
        self.norm = nn.LayerNorm(width * count) if proj else nn.Identity()
        self.out_proj = nn.Linear(width * count, dim, bias=False) if proj else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map.

        Raises:
            ValueError: channels that are not last, or a grid that a scan does not fit.
        """
        check_channels_last(x, self.dim)
        parts = self.in_proj(x).chunk(len(self.heads), dim=-1)
        fused = []
        for k, part in enumerate(parts):
            outputs = self.scan(part, k)
            if self.fusions is not None:
                fused.append(self.fusions[k](outputs))
            else:
                fused.append(outputs.sum(dim=0) if self.fuse == "sum" else outputs.mean(dim=0))
        return self.out_proj(self.norm(torch.cat(fused, dim=-1)))

    def scan(self, x: Tensor, head: int) -> Tensor:
        """Responses (K, B, h, w, s) of the routes of one head to its channels (B, h, w, s)."""
        routes = routes_of(self.heads[head], *x.shape[1:3])
        tokens = x.flatten(1, 2).contiguous()
        scans = cast(nn.ModuleList, self.scans[head])
        outputs = [scan_route(scans[k], tokens, routes, k) for k in range(len(scans))]
        return torch.stack(outputs).unflatten(2, x.shape[1:3])


class RouteAttention(nn.Module):
    """Scan route attention: the sum of K responses times sigma of their coefficient of variation, less t.

    cv = sd / (mean(Y - min Y) + 1e-5) of each cell and channel, sd with divisor K - 1. Equal responses have a
    cv, and a gradient of sd, of exactly 0.

    Args:
        t: threshold, a number or "learn" for a parameter that starts at 0.
        sigma: "relu": max(cv - t, 0); "sigmoid": 1 / (1 + exp(t - cv)); "power": max(cv - t, 0)^2;
            "exp": exp(cv - t).

    Raises:
        ValueError: sigma is not known.
    """

    def __init__(self, *, t: float | Literal["learn"] = 0.5, sigma: Sigma = "relu") -> None:
        super().__init__()
        if sigma not in get_args(Sigma):
            raise ValueError(unknown_name("sigma", sigma, get_args(Sigma)))
        if isinstance(t, str) and t != "learn":
            raise ValueError(f"t is {t!r}; allowed: a number or 'learn'")
        self.sigma = sigma
        self.t: nn.Parameter | float = nn.Parameter(torch.zeros(1)) if isinstance(t, str) else float(t)

    def forward(self, responses: Tensor) -> Tensor:
        """(K, ...) to (...), K at least 2."""
        over = variation(responses) - self.t
        total = responses.sum(dim=0)
        if self.sigma == "relu":
            return total * F.relu(over)
        if self.sigma == "sigmoid":
            return total * torch.sigmoid(over)
        return total * (F.relu(over).square() if self.sigma == "power" else torch.exp(over))


def variation(responses: Tensor) -> Tensor:
    """Coefficient of variation of (K, ...) about their least: sd / (mean(Y - min Y) + 1e-5); 0 at ties."""
    above = responses - responses.amin(dim=0)
    mean = above.mean(dim=0)
    variance = (above - mean).square().sum(dim=0) / (len(responses) - 1)
    # The slope of the root at 0 is infinite: ties take another way, with value and gradient 0.
    tied = variance == 0
    deviation = torch.sqrt(variance.masked_fill(tied, 1.0)).masked_fill(tied, 0.0)
    return deviation / (mean + 1e-5)


class GatedMultiHeadScan(nn.Module):
    """Mixer of the gated VSS block: (B, h, w, D) to the same, without a projection after the gate.

    Args:
        dim: D.
        kernel_size: of the depthwise convolution, odd.
        **options: of `MHScan`.
    """

    def __init__(self, dim: int, *, kernel_size: int = 3, **options: object) -> None:
        super().__init__()
        self.dim = dim
        self.in_proj = nn.Linear(dim, 2 * dim, bias=False)
        self.conv2d = depthwise(dim, kernel_size=kernel_size)
        self.scan = MHScan(dim, **options)  # type: ignore[arg-type]
        self.out_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map."""
        check_channels_last(x, self.dim)
        u, z = self.in_proj(x).chunk(2, dim=-1)
        return self.out_norm(self.scan(F.silu(over_grid(self.conv2d, u)))) * F.silu(z)
