"""Attention with fewer heads and MLPs with fewer units, in transformers of timm and transformers.

    change_model(encoder, "narrow-blocks", heads={"backbone.blocks.0.attn": 2}, units={...})

makes room for the weights that are left; `foveal.compression.narrowing` chooses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from timm.layers.attention import Attention
from torch import nn

from foveal.blocks.changes import register_change
from foveal.blocks.soft_cap import SoftCappedAttention

SUITED = "transformers of timm's Attention and Mlp, such as ViT and DeiT, and of transformers, such as CLIP"


@dataclass(frozen=True)
class Narrowable:
    """What can be taken from an attention layer or MLP one by one.

    Attributes:
        count: of heads, or units.
        size: rows of a linear layer that a head has; 1 of units.
        into: names of the linear layers that have so many rows for each; `parts` sets of them.
        out: name of the one that has so many columns for each.
        parts: 3 where queries, keys and values are one layer.
    """

    count: int
    size: int
    into: tuple[str, ...]
    out: str
    parts: int = 1


def attention_heads(model: nn.Module) -> dict[str, Narrowable]:
    """The attention layers of a model whose heads can be taken out, by name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention | SoftCappedAttention):
            plain = isinstance(getattr(module, "norm", None) or nn.Identity(), nn.Identity)
            if plain and getattr(module, "gate", None) is None:
                found[name] = Narrowable(module.num_heads, module.head_dim, ("qkv",), "proj", parts=3)
        elif all(isinstance(getattr(module, f"{part}_proj", None), nn.Linear) for part in "qkv"):
            out = next((each for each in ("o_proj", "out_proj") if hasattr(module, each)), None)
            size, queries = getattr(module, "head_dim", None), module.q_proj.out_features  # type: ignore[union-attr]
            if out is None or not isinstance(size, int):
                continue
            if module.k_proj.out_features == queries:  # type: ignore[union-attr]
                found[name] = Narrowable(queries // size, size, ("q_proj", "k_proj", "v_proj"), out)  # type: ignore[operator]
    return found


def mlp_units(model: nn.Module) -> dict[str, Narrowable]:
    """The MLPs of a model whose hidden units can be taken out, by name."""
    found = {}
    for name, module in model.named_modules():
        first, second = getattr(module, "fc1", None), getattr(module, "fc2", None)
        if not isinstance(first, nn.Linear) or not isinstance(second, nn.Linear):
            continue
        norm = getattr(module, "norm", None) or nn.Identity()
        if first.out_features == second.in_features and isinstance(norm, nn.Identity):
            found[name] = Narrowable(first.out_features, 1, ("fc1",), "fc2")
    return found


@register_change("narrow-blocks")
def narrow_blocks(model: nn.Module, *, heads: Mapping[str, int], units: Mapping[str, int]) -> None:
    """Make attention layers and MLPs of a model narrower, in place, with weights that are yet to be loaded.

    Args:
        model: an encoder, or a timm or transformers model.
        heads: how many each of these attention layers has left.
        units: how many each of these MLPs has left.

    Raises:
        ValueError: a layer that the model has not, or more than it has, or none.
    """
    for counts, layers, what in (
        (heads, attention_heads(model), "heads"),
        (units, mlp_units(model), "units"),
    ):
        for name, count in counts.items():
            if name not in layers:
                raise ValueError(
                    f"{type(model).__name__} has no {what} to take from {name!r}; allowed: {SUITED}"
                )
            layer = layers[name]
            if not 1 <= count <= layer.count:
                raise ValueError(f"{count} {what} of {name}; allowed: 1 to {layer.count}")
            _resize(model.get_submodule(name), layer, count)


def _resize(module: nn.Module, layer: Narrowable, count: int) -> None:
    for name in layer.into:
        whole = module.get_submodule(name)
        setattr(module, name, _linear(whole, outputs=layer.parts * count * layer.size))
    setattr(module, layer.out, _linear(module.get_submodule(layer.out), inputs=count * layer.size))
    for attribute in ("num_heads", "num_attention_heads"):
        if hasattr(module, attribute):
            setattr(module, attribute, count)
    if hasattr(module, "attn_dim"):
        setattr(module, "attn_dim", count * layer.size)  # noqa: B010


def _linear(whole: nn.Module, *, inputs: int | None = None, outputs: int | None = None) -> nn.Linear:
    """A linear layer of other sizes, with zeros."""
    assert isinstance(whole, nn.Linear)
    made = nn.Linear(
        inputs or whole.in_features, outputs or whole.out_features, bias=whole.bias is not None,
        device=whole.weight.device, dtype=whole.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    made.train(whole.training)
    made.requires_grad_(whole.weight.requires_grad)
    return made
