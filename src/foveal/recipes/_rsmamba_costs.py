"""What RSMamba costs: three paths beside one, and four times the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foveal.blocks.mamba import MambaMixer
from foveal.blocks.multi_path import PATHS, MultiPath, along
from foveal.encoders.rsmamba import RSMamba
from foveal.machine import added_memory, seconds_of
from foveal.recipes.base import Finding


def _trained(work: Callable[[Tensor], Tensor], x: Tensor) -> None:
    work(x).sum().backward()


def cost_of_paths(dim: int = 192, tokens: int = 784) -> Iterator[Finding]:
    """Time of a forward and a backward pass along three paths, over one."""
    x, mixer = torch.randn(2, tokens, dim), MambaMixer(dim)
    order = torch.randperm(tokens)

    def composed(x: Tensor) -> Tensor:
        return torch.stack(along(mixer, x, ["forward", "reverse", order])).sum(dim=0)

    works: dict[str, Callable[[Tensor], Tensor]] = {
        "one": mixer,
        "composed": composed,
        "shared": MultiPath(mixer, dim),
    }
    seconds = seconds_of({name: partial(_trained, work, x) for name, work in works.items()}, rounds=5)
    yield Finding.fact(
        "time of three copies of the tokens through one mixer, over one",
        2.6 <= seconds["composed"] / seconds["one"] <= 3.2,
        expected="2.6 to 3.2",
        measured=f"{seconds['composed'] / seconds['one']:.2f}",
    )
    claim = "time of three gated paths whose projections run once, over one path"
    yield Finding.at_most(claim, seconds["shared"] / seconds["one"], 3.2)


def path_pass(paths: tuple[str, ...]) -> Callable[[], Any]:
    """A forward and a backward pass of one block, warmed up."""
    torch.set_num_threads(1)
    block = MultiPath(MambaMixer(192), 192, paths=paths)
    _trained(block, torch.randn(1, 8, 192))
    return partial(_trained, block, torch.randn(8, 784, 192))


def memory_of_paths() -> Finding:
    """Peak memory of three paths over one."""
    three, one = (added_memory(path_pass, paths) for paths in (PATHS, PATHS[:1]))
    return Finding.at_most("peak memory of a training pass along three paths, over one", three / one, 3.2)


def cost_of_tokens() -> Iterator[Finding]:
    """Stride 8 against 16: tokens and time."""
    images = torch.randn(4, 3, 224, 224)
    encoders = {stride: RSMamba(size="s", depth=4, stride=stride).eval() for stride in (8, 16)}

    @torch.no_grad()
    def run(stride: int) -> None:
        encoders[stride](images)

    tokens = [encoders[stride](images).patches.shape[1] for stride in (8, 16)]
    yield Finding.close("tokens at stride 8 over those at stride 16", tokens[0] / tokens[1], 4, tolerance=0)
    seconds = seconds_of({str(stride): partial(run, stride) for stride in encoders})
    ratio = seconds["8"] / seconds["16"]
    yield Finding.fact(
        "and time, with four blocks of the S model",
        3.6 <= ratio <= 4.6,
        expected="3.6 to 4.6",
        measured=f"{ratio:.2f}",
    )
