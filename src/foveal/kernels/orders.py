"""Orders of rows that kernels follow without checks of their own."""

from __future__ import annotations

import torch
from torch import Tensor


def checked_order(order: Tensor, length: int, device: torch.device) -> Tensor:
    """The order (L,) as int64 on `device`.

    Raises:
        ValueError: it is no permutation of 0 to L - 1.
    """
    if tuple(order.shape) != (length,):
        raise ValueError(f"order has shape {tuple(order.shape)}; for {length} tokens it is ({length},)")
    order = order.to(device, torch.int64)
    seen = torch.zeros(length, dtype=torch.bool, device=device)
    inside = bool(((order >= 0) & (order < length)).all())
    if not inside or not bool(seen.index_fill_(0, order, True).all()):
        raise ValueError(f"order of {length} tokens is no permutation of 0 to {length - 1}")
    return order
