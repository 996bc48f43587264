"""Scans between the gates of an LSTM, frame by frame (VMRNN, arXiv 2403.16536)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foveal.blocks.routed_mamba import in_full_precision
from foveal.blocks.ss2d import SS2D, ScanBlock


class FrameState(NamedTuple):
    """What a recurrent scan remembers of the frames so far: both (B, H, W, C)."""

    hidden: Tensor
    cell: Tensor


class ScanLSTMCell(nn.Module):
    """One frame: o = VSS(Linear[x; h]), f = sigmoid(o), c = f (c + tanh o), h = f tanh c.

    One gate serves as input, forget and output gate; that it is one is unconfirmed.

    Args:
        dim: C.
        depth: scanning blocks.
        drop_path: chance to drop a scan.
        **options: of `SS2D`.
    """

    def __init__(self, dim: int, *, depth: int = 1, drop_path: float = 0.0, **options: Any) -> None:
        super().__init__()
        self.join = nn.Linear(2 * dim, dim)
        self.blocks = nn.Sequential(
            *(ScanBlock(dim, SS2D(dim, **options), drop_path=drop_path) for _ in range(depth))
        )

    def forward(self, x: Tensor, state: FrameState | None = None) -> FrameState:
        """A channels-last frame (B, H, W, C) and the state before it (None: the first) to that after it."""
        h, c = state or (torch.zeros_like(x), torch.zeros_like(x))
        o = self.blocks(self.join(torch.cat([x, h], dim=-1)))
        f = torch.sigmoid(o)
        c = f * (c + torch.tanh(o))
        return FrameState(f * torch.tanh(c), c)


class RecurrentScan(nn.Module):
    """x + the hidden states of `ScanLSTMCell` over the frames: (B, C, T, H, W) to the same.

    Args:
        dim: C.
        **options: of `ScanLSTMCell`.
    """

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.cell = ScanLSTMCell(dim, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Go through the frames."""
        return x + in_full_precision(self._states, x)

    def _states(self, x: Tensor) -> Tensor:
        state, hidden = None, []
        for frame in self.norm(x.movedim(1, -1)).unbind(dim=1):
            state = self.cell(frame, state)
            hidden.append(state.hidden)
        return torch.stack(hidden, dim=1).movedim(-1, 1)
