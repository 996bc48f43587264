"""Whole tensors from sharded ones and back, for runs whose parameters are split over processes (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace sharded tensors by whole copies; every process has to call this, with the same names.

    Tensors that are not sharded are returned as they are, so outside FSDP this costs nothing.
    """
    return {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in tensors.items()
    }


def placed_like(value: Tensor, target: Tensor) -> Tensor:
    """Bring a whole tensor to the device, the memory layout and the shards of `target`, keeping its dtype."""
    if isinstance(target, DTensor):
        return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    return torch.empty_like(target, dtype=value.dtype, requires_grad=False).copy_(value)
