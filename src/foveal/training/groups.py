"""Parameter groups: which weights decay, and how fast each layer learns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from foveal.training.settings import TrainingSettings


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into decayed ones and those that are not.

    Biases, norms and scales (one dimension or none) do not decay, nor does what a module's
    `no_weight_decay()` names: timm's convention, which its models and foveal's blocks follow for positions,
    class tokens and the rates of state-space layers.
    """
    return layer_decay_groups(model, lambda name: 0, 1.0, weight_decay)


def layer_decay_groups(
    model: nn.Module, layer_of: Callable[[str], int], decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups whose learning rate shrinks by `decay` a layer from the output back to the input.

    The layer-wise decay of ELECTRA (arXiv 2003.10555) and BEiT: layer l of L learns at decay^(L - l).

    Args:
        model: whose trainable parameters are grouped.
        layer_of: parameter name to layer number; the largest number met learns at the full rate.
        decay: factor between neighbouring layers, in (0, 1].
        weight_decay: of parameters with two or more dimensions that no module wants undecayed.

    Returns:
        Optimiser groups with `params`, `weight_decay` and `lr_scale` (multiplies the learning rate), ordered
        by layer.

    Raises:
        ValueError: `decay` out of range, or the model has nothing to train.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay is {decay}; allowed: above 0, up to 1")
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not named:
        raise ValueError(f"{type(model).__name__} has no parameter with requires_grad: nothing to train")
    layers = {name: layer_of(name) for name, _ in named}
    spared = _undecayed(model)
    last = max(layers.values())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named:
        decays = parameter.ndim > 1 and name not in spared
        group = groups.setdefault(
            (layers[name], decays),
            {
                "params": [],
                "weight_decay": weight_decay if decays else 0.0,
                "lr_scale": decay ** (last - layers[name]),
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _undecayed(model: nn.Module) -> set[str]:
    """Full names of the parameters that modules name in `no_weight_decay()`."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if callable(own := getattr(module, "no_weight_decay", None))
        for name in own()
    }


def build_optimizer(groups: Iterable[dict[str, Any]], settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make the optimiser; a group's `lr` (default: the setting) times its `lr_scale` is its peak rate.

    The fused implementations are used: one pass over memory, on CPU as on GPU.
    """
    groups = list(groups)
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=rate,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=decay,
            fused=True,
        )
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=rate, betas=settings.betas, eps=settings.epsilon, weight_decay=decay, fused=True)


def check_groups(model: nn.Module, groups: Iterable[dict[str, Any]]) -> None:
    """Refuse groups that leave out a trainable parameter or name one twice.

    Raises:
        ValueError: names the parameters.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen: set[int] = set()
    for group in groups:
        for parameter in group["params"]:
            if id(parameter) in seen:
                raise ValueError(f"parameter {names.get(id(parameter), '?')!r} is in two parameter groups")
            if id(parameter) not in names:
                raise ValueError("parameter_groups names a parameter that the objective does not own")
            seen.add(id(parameter))
    left_out = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in seen
    ]
    if left_out:
        raise ValueError(
            f"parameter_groups leaves out trainable parameters {left_out[:5]} ({len(left_out)} in all); "
            "add them, or freeze them with requires_grad_(False)"
        )
