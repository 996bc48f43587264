"""The layers with weights of a model, what each is for, and what it costs an image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Role = Literal["patches", "query, key, value", "projection", "first of MLP", "second of MLP", "head", "other"]

_ROLES: tuple[tuple[Role, str], ...] = (
    ("patches", r"(^|\.)(patch_embed|patch_embeddings?|conv_proj|stem)(\.|$)"),
    ("query, key, value", r"(^|\.)(qkv|in_proj|query|key|value|[qkv]_proj|to_qkv|to_[qkv])$"),
    ("first of MLP", r"(^|\.)(fc1|linear1|lin1|up_proj|mlp\.0|intermediate\.dense)$"),
    ("second of MLP", r"(^|\.)(fc2|linear2|lin2|down_proj|mlp\.3|layer\.\d+\.output\.dense)$"),
    ("projection", r"(^|\.)(proj|out_proj|o_proj|to_out|attention\.output\.dense)$"),
    ("head", r"(^|\.)(head|heads|classifier|fc)(\.\w+)?$"),
)


@dataclass(frozen=True)
class WeightLayer:
    """A linear layer or convolution.

    Attributes:
        name: of the module in its model.
        role: what it is for in a transformer, told by its name.
        outputs, inputs: of its weight as a matrix; a convolution's inputs are channels times kernel.
        rows: rows of inputs that it multiplies for one image: tokens, or places of a convolution.
    """

    name: str
    role: Role
    outputs: int
    inputs: int
    rows: int

    @property
    def parameters(self) -> int:
        """Of the weight alone."""
        return self.outputs * self.inputs

    @property
    def macs(self) -> int:
        """Multiplications and additions for one image."""
        return self.rows * self.parameters


@torch.no_grad()
def weight_layers(model: nn.Module, images: Tensor, *, roles: Sequence[Role] = ()) -> list[WeightLayer]:
    """The linear layers and convolutions that a pass calls, in the order of their first calls.

    Args:
        model: in evaluation mode.
        images: (B, C, ...), of which the first is passed.
        roles: to keep; none keeps all.

    Raises:
        ValueError: nothing with weights is called, or nothing of the roles.
    """
    rows: dict[str, int] = {}
    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }

    def counter(name: str) -> Any:
        def count(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            channels = output.shape[1] if not isinstance(module, nn.Linear) else output.shape[-1]
            rows[name] = rows.get(name, 0) + output.numel() // channels

        return count

    handles = [module.register_forward_hook(counter(name)) for name, module in modules.items()]
    try:
        model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    layers = [
        WeightLayer(name, role_of(name), len(weight), weight[0].numel(), count)
        for name, count in rows.items()
        for weight in [modules[name].weight]
    ]
    kept = [layer for layer in layers if not roles or layer.role in roles]
    if not kept:
        found = ", ".join(dict.fromkeys(layer.role for layer in layers)) or "none at all"
        raise ValueError(
            f"{type(model).__name__} has no layers for {', '.join(roles) or 'weights'}; it has: {found}"
        )
    return kept


def role_of(name: str) -> Role:
    """What a layer is for, by its name as timm, torchvision and transformers give them."""
    return next((role for role, pattern in _ROLES if re.search(pattern, name)), "other")
