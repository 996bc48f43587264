"""What Vim costs: the scan beside public ones, and growth of time and memory with the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foveal.encoders.vim import Vim
from foveal.kernels.selective_scan import selective_scan
from foveal.machine import added_memory, seconds_of
from foveal.recipes.base import Finding


def scan_beside_others(
    batch: int = 4, width: int = 384, states: int = 16, length: int = 1024
) -> Iterator[Finding]:
    """Time of the compiled scan beside a loop in torch and mambapy's parallel scan."""
    from mambapy.mamba import MambaBlock, MambaConfig

    shape = (batch, length, width)
    given: dict[str, Any] = {
        "u": torch.randn(shape),
        "dt": torch.rand(shape) / 10,
        "A": -torch.rand(width, states) - 0.1,
        "B": torch.randn(batch, length, states),
        "C": torch.randn(batch, length, states),
        "D": torch.randn(width),
    }
    block = MambaBlock(MambaConfig(d_model=width // 2, n_layers=1, d_state=states, use_cuda=False))
    scans: dict[str, Callable[..., Tensor]] = {
        "compiled": partial(selective_scan, softplus=False, backend="compiled"),
        "a loop in torch": partial(selective_scan, softplus=False, backend="reference"),
        "mambapy's parallel scan": lambda u, dt, A, B, C, D: block.selective_scan(u, dt, A, B, C, D),
    }

    def forward(scan: Callable[..., Tensor]) -> None:
        with torch.no_grad():
            scan(**given)

    def both(scan: Callable[..., Tensor]) -> None:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
        scan(**leaves).sum().backward()

    what = f"(B, E, N, L) = ({batch}, {width}, {states}, {length}), {torch.get_num_threads()} threads"
    for name, work, wanted in (("forward", forward, (3.5, 10.0)), ("forward and backward", both, (6.0, 4.0))):
        seconds = seconds_of({key: partial(work, scan) for key, scan in scans.items()}, rounds=3)
        for other, times in zip(list(scans)[1:], wanted, strict=True):
            claim = f"scan {what}, {name}: times faster than {other}"
            yield Finding.at_least(claim, seconds[other] / seconds["compiled"], times)


def growth_of_time(dim: int = 192) -> Iterator[Finding]:
    """Time of a block from 1024 to 4096 tokens, beside attention of equal width."""
    from timm.layers import Attention

    from foveal.blocks.bidirectional import BidirectionalMamba

    mixers = {"Vim": BidirectionalMamba(dim).eval(), "attention": Attention(dim, num_heads=3).eval()}

    @torch.no_grad()
    def run(name: str, x: Tensor) -> None:
        mixers[name](x)

    tokens = {length: torch.randn(1, length, dim) for length in (196, 1024, 4096)}
    seconds = seconds_of(
        {f"{name} {length}": partial(run, name, x) for name in mixers for length, x in tokens.items()}
    )
    ratios = {name: seconds[f"{name} 4096"] / seconds[f"{name} 1024"] for name in mixers}
    yield Finding.at_most("a mixer's time from 1024 to 4096 tokens grows by", ratios["Vim"], 4.8)
    encoder = Vim(dim=dim, depth=4).eval()

    @torch.inference_mode()
    def encode(images: Tensor) -> None:
        encoder(images)

    whole = seconds_of({str(side): partial(encode, torch.randn(1, 3, side, side)) for side in (512, 1024)})
    claim = "an encoder's of four blocks, patches and positions included, goal of this toolkit"
    yield Finding.at_most(claim, whole["1024"] / whole["512"], 4.2)
    yield Finding.at_least("attention's of equal width grows by", ratios["attention"], 8.0)
    for length, wins in ((196, False), (4096, True)):
        ratio = seconds[f"attention {length}"] / seconds[f"Vim {length}"]
        yield Finding.fact(
            f"at {length} tokens {'the mixer' if wins else 'attention'} is the faster",
            (ratio > 1) == wins,
            measured=f"attention takes {ratio:.2f} times as long as the mixer",
        )


def training_pass(image_size: int) -> Callable[[], Any]:
    """A forward and a backward pass of a small Vim, warmed up."""
    torch.set_num_threads(1)
    encoder = Vim(dim=64, depth=4, image_size=224)

    def once(images: Tensor) -> None:
        encoder(images).pooled.sum().backward()

    once(torch.randn(1, 3, 32, 32))
    return partial(once, torch.randn(2, 3, image_size, image_size))


def growth_of_memory() -> Finding:
    """Peak memory of a training pass from 196 to 3136 tokens."""
    few, many = (added_memory(training_pass, size) for size in (224, 896))
    claim = "peak memory of a training pass from 196 to 3136 tokens, over the growth of the tokens"
    return Finding.at_most(claim, many / few / 16, 1.2)
