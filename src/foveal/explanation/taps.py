"""Outputs of named layers during a forward pass, and tokens laid out as maps again."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_NO_MAPS = "{} has no layer of maps; name a layer of tokens with layer="


@contextmanager
def tapped(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of named modules; the last call counts where one is called several times.

    Raises:
        ValueError: a name that no module has, with the nearest ones; or an output that is no tensor.
    """
    kept: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple | list) and output else output
            if not isinstance(first, Tensor):
                raise ValueError(f"layer {name!r} gives a {type(output).__name__}; a tensor is wanted")
            kept[name] = first

        return keep

    handles = [find_layer(model, name).register_forward_hook(keeper(name)) for name in names]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """A module by its name.

    Raises:
        ValueError: there is none; the nearest names are told.
    """
    modules = dict(model.named_modules())
    if name in modules and name:
        return modules[name]
    near = difflib.get_close_matches(name, list(modules), n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(map(repr, near))}" if near else ""
    raise ValueError(f"{type(model).__name__} has no layer {name!r}{hint}?" if near else
                     f"{type(model).__name__} has no layer {name!r}")  # fmt: skip


@contextmanager
def tapped_maps(model: nn.Module, images: Tensor, layer: str | None) -> Iterator[Callable[[], Tensor]]:
    """What a layer gave in the pass made inside, asked for afterwards; without a name the last layer of maps.

    It is the layer of `last_map_layer`, found on the way rather than by a pass of its own.

    Raises:
        ValueError: see `tapped`; when asked, there was no layer of maps.
    """
    if layer is not None:
        with tapped(model, [layer]) as kept:
            yield lambda: kept[layer]
        return
    last: list[Tensor] = []

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        if _gives_maps(module, output, images):
            last[:] = [output]

    def found() -> Tensor:
        if not last:
            raise ValueError(_NO_MAPS.format(type(model).__name__))
        return last[0]

    handles = [module.register_forward_hook(note) for module in model.modules() if module is not model]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def last_map_layer(model: nn.Module, images: Tensor) -> str:
    """Name of the last layer whose output is a map over places, (B, C, ...) with more than one place.

    Raises:
        ValueError: there is none; layers of tokens must be named.
    """
    name = last_called(model, images, lambda module, output: _gives_maps(module, output, images))
    if name is None:
        raise ValueError(_NO_MAPS.format(type(model).__name__))
    return name


def _gives_maps(module: nn.Module, output: Any, images: Tensor) -> bool:
    leaf = not list(module.children())
    return (
        leaf and isinstance(output, Tensor) and output.ndim == images.ndim and math.prod(output.shape[2:]) > 1
    )


def last_called(model: nn.Module, images: Tensor, wanted: Callable[[nn.Module, Any], bool]) -> str | None:
    """Name of the wanted module that is called last, told by itself and what it gives; None without one."""
    found: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if name:

            def note(module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
                if wanted(module, output):
                    found.append(name)

            handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    return found[-1] if found else None


def as_maps(
    output: Tensor, images: Tensor, *, prefix_tokens: int | None = None, grid: Sequence[int] | None = None
) -> Tensor:
    """A layer's output as maps (B, D, ...): tokens (B, P + N, D) lose their P prefix tokens and get a grid.

    Maps stay as they are. Channels-last maps (B, h, w, D) are told by `grid`.

    Args:
        output: of a layer.
        images: of the model; their sides tell the shape of a grid that is not given.
        prefix_tokens: how many tokens before the patches have no place, such as class tokens.
        grid: of the patches.

    Raises:
        ValueError: tokens that fit no grid.
    """
    if output.ndim == images.ndim:
        if grid is not None and tuple(output.shape[1:-1]) == tuple(grid) != tuple(output.shape[2:]):
            return output.movedim(-1, 1)
        return output
    if output.ndim != 3:
        raise ValueError(f"a layer's output of shape {tuple(output.shape)} is neither maps nor tokens")
    prefix, shape = grid_of(output.shape[1], images, prefix_tokens=prefix_tokens, grid=grid)
    return output[:, prefix:].movedim(2, 1).unflatten(2, shape)


def grid_of(
    tokens: int, images: Tensor, *, prefix_tokens: int | None = None, grid: Sequence[int] | None = None
) -> tuple[int, tuple[int, ...]]:
    """How many of a layer's tokens come before the patches, and the grid of the others over images.

    Args:
        tokens: of the layer.
        images: (B, C, ...), whose sides tell the shape of a grid of square cells.
        prefix_tokens: tokens before the patches; 0 or 1 is tried where neither this nor `grid` is given.
        grid: of the patches.

    Raises:
        ValueError: tokens that fit no grid.
    """
    dimensions = images.ndim - 2
    wanted = [(prefix_tokens, grid)] if grid is not None or prefix_tokens is not None else []
    for prefix, known in wanted or [(prefix, None) for prefix in (0, 1)]:
        prefix = tokens - math.prod(known) if prefix is None and known is not None else prefix or 0
        shape = tuple(known) if known is not None else _grid(tokens - prefix, tuple(images.shape[2:]))
        if shape is not None and len(shape) == dimensions and math.prod(shape) == tokens - prefix:
            return prefix, shape
    raise ValueError(
        f"{tokens} tokens fit no grid over images of {tuple(images.shape[2:])}; "
        "tell prefix_tokens, the number of tokens before the patches, or grid"
    )


def prefix_tokens_of(model: nn.Module) -> int | None:
    """How many tokens a model says it has before its patches, as timm's tell it; None where it does not."""
    found = (module.num_prefix_tokens for module in model.modules() if hasattr(module, "num_prefix_tokens"))
    told = next(found, None)
    return told if isinstance(told, int) else None


def _grid(cells: int, sides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The grid of square cells that divides the sides into so many, if there is one."""
    if cells < 1:
        return None
    step = (math.prod(sides) / cells) ** (1 / len(sides))
    shape = tuple(round(side / step) for side in sides)
    return shape if math.prod(shape) == cells else None
