"""What Adventurer costs: one token a pixel at 224 px, and growth of time beside attention."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from foveal.blocks.mamba2 import Mamba2Mixer
from foveal.encoders.adventurer import Adventurer
from foveal.machine import added_memory, seconds_of
from foveal.recipes.base import Finding


def training_pass() -> Callable[[], float]:
    """A forward and backward pass at one token a pixel of 224; gives its seconds."""
    encoder, images = Adventurer(dim=32, depth=2, patch_size=1), torch.rand(1, 3, 224, 224)

    def work() -> float:
        begun = time.perf_counter()
        encoder(images).pooled.sum().backward()
        return time.perf_counter() - begun

    return work


def one_token_a_pixel() -> Iterator[Finding]:
    """A forward and backward pass at 50,176 tokens fits a laptop."""
    added = added_memory(training_pass) / 2**30
    yield Finding.at_most("D = 32, depth 2, 50,176 tokens, forward and backward: GiB added", added, 4)
    yield Finding.at_most("the same: seconds", training_pass()(), 60)


def growth_of_time(dim: int = 192) -> Iterator[Finding]:
    """Time from 1024 tokens on, beside attention, and where the two cross."""
    from timm.layers import Attention

    mixers: dict[str, nn.Module] = {"Mamba-2": Mamba2Mixer(dim), "attention": Attention(dim, num_heads=3)}
    lengths = (256, 1024, 4096)

    @torch.no_grad()
    def run(mixer: nn.Module, x: Tensor) -> None:
        mixer(x)

    seconds = seconds_of(
        {
            f"{name} {length}": partial(run, mixer.eval(), torch.randn(1, length, dim))
            for name, mixer in mixers.items()
            for length in lengths
        }
    )
    growth = {name: seconds[f"{name} 4096"] / seconds[f"{name} 1024"] for name in mixers}
    claim = f"D = {dim}, 1024 to 4096 tokens: time of the Mamba-2 mixer grows by"
    yield Finding.close(claim, growth["Mamba-2"], 4.05, tolerance=0.55)
    yield Finding.at_least("that of attention grows by", growth["attention"], 9)
    ratio = [seconds[f"attention {length}"] / seconds[f"Mamba-2 {length}"] for length in lengths]
    told = ", ".join(f"{r:.2f} at {length}" for r, length in zip(ratio, lengths, strict=True))
    crossing = np.interp(0.0, np.log(ratio), np.log(lengths)) if np.all(np.diff(ratio) > 0) else np.nan
    where = f"about {np.exp(crossing):.0f} tokens" if ratio[0] < 1 < ratio[-1] else "not between these"
    yield Finding.fact(
        "length from which the mixer is faster than attention (no bound claimed)",
        bool(np.isfinite(ratio).all()),
        expected="reported",
        measured=f"{where}; attention's time over the mixer's: {told}",
    )
