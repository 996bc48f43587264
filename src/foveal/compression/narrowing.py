"""The weakest heads and MLP units of a vision transformer taken out: really smaller and faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveal.blocks.changes import change_model
from foveal.blocks.narrow_blocks import SUITED, Narrowable, attention_heads, mlp_units
from foveal.compression.costs import macs_of
from foveal.models.classifier import Classifier

_STEPS = 1024


@dataclass(frozen=True)
class Narrowed:
    """What is left.

    Attributes:
        heads, heads_left, units, units_left: over all layers.
        share: of the operations.
        rows: `name`, `kind`, `before` and `left` of each layer.
    """

    heads: int
    heads_left: int
    units: int
    units_left: int
    share: float
    rows: list[dict[str, Any]]


def narrow_blocks_to(model: Classifier, images: Tensor, share: float) -> Narrowed:
    """Take heads and MLP units out, in place, until so many operations are left.

    Each is ranked by the root mean square of its weights, those that write it and those that read it, over
    the whole network; the same share of heads and of units goes. One of each stays in every layer.

    Args:
        model: a classifier whose encoder is a vision transformer.
        images: (B, C, H, W) in [0, 1]; the first counts operations.
        share: of the operations that may be left, above 0 to 1.

    Raises:
        ValueError: a model without heads and units to take out, or a share that is not met; tells the least.
    """
    encoder = model.encoder
    heads, units = attention_heads(encoder), mlp_units(encoder)
    if not heads or not units:
        raise ValueError(f"{getattr(encoder, 'name', type(encoder).__name__)} has no heads and MLP units to "
                         f"take out; allowed: {SUITED}")  # fmt: skip
    norms = {name: _norms(encoder.get_submodule(name), layer) for name, layer in {**heads, **units}.items()}
    whole = macs_of(model, images)
    saved = _savings(encoder, model, images, {**heads, **units})

    def kept_at(step: int) -> dict[str, Tensor]:
        return {
            **_strongest({name: norms[name] for name in heads}, step / _STEPS),
            **_strongest({name: norms[name] for name in units}, step / _STEPS),
        }

    def left(kept: Mapping[str, Tensor]) -> float:
        gone = sum(saved[name] * (len(norms[name]) - len(kept[name])) for name in kept)
        return (whole - gone) / whole

    steps = range(_STEPS + 1)
    first = next((step for step in steps if left(kept_at(step)) <= share * (1 + 1e-9)), None)
    if first is None:
        raise ValueError(
            f"{left(kept_at(_STEPS)):.1%} of the operations are left with one head and one unit a layer; "
            f"allowed: a target above that, not {share:.1%}"
        )
    kept = kept_at(first)
    take_out(encoder, {n: kept[n] for n in heads}, {n: kept[n] for n in units})
    rows = [
        {"name": name, "kind": kind, "before": len(norms[name]), "left": len(kept[name])}
        for kind, layers in (("heads", heads), ("units", units))
        for name in layers
    ]
    totals = [sum(len(part[name]) for name in of) for of in (heads, units) for part in (norms, kept)]
    return Narrowed(totals[0], totals[1], totals[2], totals[3], macs_of(model, images) / whole, rows)


def take_out(encoder: nn.Module, heads: Mapping[str, Tensor], units: Mapping[str, Tensor]) -> None:
    """Keep some heads and MLP units of an encoder, in place, with their weights.

    Args:
        encoder: see `narrow_blocks`.
        heads: indices of those that each of these attention layers keeps.
        units: indices of those that each of these MLPs keeps.

    Raises:
        ValueError: see `narrow_blocks`.
    """
    layers, state = {**attention_heads(encoder), **mlp_units(encoder)}, encoder.state_dict()
    for name, kept in {**heads, **units}.items():
        if name not in layers:
            continue  # the change refuses it, with the names that there are
        layer = layers[name]
        prefix = f"{name}." if name else ""
        rows = _indices(kept, layer)
        inner = torch.cat([rows + part * layer.count * layer.size for part in range(layer.parts)])
        for each in layer.into:
            for kind in ("weight", "bias"):
                if f"{prefix}{each}.{kind}" in state:
                    state[f"{prefix}{each}.{kind}"] = state[f"{prefix}{each}.{kind}"][inner]
        state[f"{prefix}{layer.out}.weight"] = state[f"{prefix}{layer.out}.weight"][:, rows]
    change_model(
        encoder,
        "narrow-blocks",
        heads={name: len(kept) for name, kept in heads.items()},
        units={name: len(kept) for name, kept in units.items()},
    )
    encoder.load_state_dict(state)


def _indices(kept: Tensor, layer: Narrowable) -> Tensor:
    """Rows of a linear layer that belong to some heads or units."""
    return (kept[:, None] * layer.size + torch.arange(layer.size)).flatten()


@torch.no_grad()
def _norms(module: nn.Module, layer: Narrowable) -> Tensor:
    """(count,) root mean square of the weights of each head or unit."""
    parts = [
        module.get_parameter(f"{name}.weight").unflatten(0, (layer.parts, layer.count, layer.size))
        for name in layer.into
    ]
    squares = torch.stack([part.square().sum(dim=(0, 2, 3)) for part in parts]).sum(dim=0)
    read = module.get_parameter(f"{layer.out}.weight").unflatten(1, (layer.count, layer.size))
    squares = squares + read.square().sum(dim=(0, 2))
    number = sum(part.numel() for part in parts) + read.numel()
    return (squares / (number / layer.count)).sqrt().cpu()


def _savings(
    encoder: nn.Module, model: nn.Module, images: Tensor, layers: Mapping[str, Narrowable]
) -> dict[str, int]:
    """Multiplications and additions that a head or unit of each layer takes for one image."""
    rows: dict[str, int] = {}
    handles = [
        encoder.get_submodule(f"{name}.{layer.out}").register_forward_hook(
            lambda _module, inputs, _output, name=name: rows.__setitem__(
                name, inputs[0].numel() // inputs[0].shape[-1]
            )
        )
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, layer in layers.items():
        module, tokens = encoder.get_submodule(name), rows.get(name, 0)
        weights = [module.get_parameter(f"{each}.weight") for each in (*layer.into, layer.out)]
        found[name] = tokens * sum(weight.numel() for weight in weights) // layer.count
        if layer.size > 1:
            found[name] += 2 * tokens**2 * layer.size
    return found


def _strongest(norms: Mapping[str, Tensor], gone: float) -> dict[str, Tensor]:
    """Indices, in order, of those that stay in each layer when a share of all goes; one at least."""
    count = round(gone * sum(len(each) for each in norms.values()))
    every = torch.cat(list(norms.values()))
    threshold_ranks = every.argsort(stable=True).argsort()
    kept = {}
    for name, ranks in zip(norms, threshold_ranks.split([len(n) for n in norms.values()]), strict=True):
        stay = (ranks >= count).nonzero().flatten()
        kept[name] = stay if len(stay) else ranks.argmax()[None]
    return kept
