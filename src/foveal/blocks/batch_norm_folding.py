"""Batch normalisations folded into the layers beside them, for inference."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@runtime_checkable
class MergesNorms(Protocol):
    """A module that knows which of its normalisations another of its layers can do as well."""

    def merge_batch_norms(self) -> object:
        """Fold them, in place; once folded, nothing is left to do."""


def fold_batch_norms(model: nn.Module) -> None:
    """Fold every batch normalisation of a model that a layer beside it can do; the model changes in place.

    These are the ones that `fold_convolutions` finds, and those that modules with a method
    `merge_batch_norms` know of. The weights have other names and values then, and are no longer those of a
    saved model.

    Raises:
        ValueError: the model is in training mode, whose statistics are not fixed yet.
    """
    fold_convolutions(model)
    for module in list(model.modules()):
        if module is not model and isinstance(module, MergesNorms):
            module.merge_batch_norms()


def fold_convolutions(model: nn.Module) -> int:
    """Fold each BatchNorm2d that directly follows a Conv2d in an `nn.Sequential`; the model changes in place.

    Returns:
        How many were folded; each leaves an `nn.Identity` behind.

    Raises:
        ValueError: the model is in training mode, whose statistics are not fixed yet.
    """
    check_evaluating(model)
    count = 0
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for place in range(len(sequence) - 1):
            convolution, norm = sequence[place], sequence[place + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                sequence[place] = fuse_conv_bn_eval(convolution, norm)
                sequence[place + 1] = nn.Identity()
                count += 1
    return count


@torch.no_grad()
def fold_into_linear(linear: nn.Linear, *norms: nn.Module) -> None:
    """Let `linear` do what normalisations before it did, first one first: W (s x + t) + b; in place.

    Args:
        linear: with a bias.
        norms: BatchNorm1d or BatchNorm2d of as many channels as the layer's inputs; others are passed over.

    Raises:
        ValueError: the layer has no bias.
    """
    if linear.bias is None:
        raise ValueError("the linear layer has no bias to take the shift; make it with bias=True")
    scale, shift = torch.ones_like(linear.weight[0]), torch.zeros_like(linear.weight[0])
    for norm in norms:
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            factor, offset = affine_of(norm)
            scale, shift = scale * factor, shift * factor + offset
    linear.bias.add_(linear.weight @ shift)
    linear.weight.mul_(scale)


def affine_of(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and offset (C,) of a batch normalisation in evaluation mode.

    Raises:
        ValueError: it keeps no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("the normalisation keeps no running statistics; nothing fixed can be folded")
    factor = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight
    offset = -norm.running_mean * factor
    return factor, offset if norm.bias is None else offset + norm.bias


def check_evaluating(model: nn.Module) -> None:
    """Raise a ValueError where a model is in training mode."""
    if model.training:
        raise ValueError("the model is in training mode; call .eval() before batch normalisations are folded")
