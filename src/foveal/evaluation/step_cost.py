"""What one training step of a model costs: floating-point operations and memory, counted in a single step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from foveal.blocks.mamba import SelectiveScan
from foveal.evaluation.tensor_memory import TensorMemory
from foveal.kernels.selective_scan import scan_flops
from foveal.objectives.base import Objective


@dataclass(frozen=True)
class StepCost:
    """Of one forward and backward pass of a batch.

    Attributes:
        flops: of matrix products, convolutions, attention and selective scans.
        peak_bytes: of tensors at most alive at once, without weights and the optimiser's state.
    """

    flops: int
    peak_bytes: int


def step_cost(objective: Objective, batch: dict[str, Any]) -> StepCost:
    """Count one step; gradients are cleared afterwards."""
    scans = 0

    def count_scan(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal scans
        assert isinstance(module, SelectiveScan)
        tokens, width = output.shape[1:]
        # The backward pass costs twice the forward one, as in matrix products.
        scans += 3 * scan_flops(len(output), tokens, width, module.states, skip=True, gate=True)

    hooks = [
        module.register_forward_hook(count_scan)
        for module in objective.modules()
        if isinstance(module, SelectiveScan)
    ]
    try:
        with FlopCounterMode(display=False) as counter, TensorMemory() as memory, torch.enable_grad():
            objective(batch)["loss"].backward()
    finally:
        for hook in hooks:
            hook.remove()
        objective.zero_grad(set_to_none=True)
    return StepCost(int(counter.get_total_flops()) + scans, memory.peak)
