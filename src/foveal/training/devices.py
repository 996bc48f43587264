"""Where a run computes: the accelerator, and batches brought to it."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import Tensor

from foveal.training.settings import TrainingSettings


def start_accelerator(settings: TrainingSettings) -> Accelerator:
    """Accelerator of this call; accelerate's process-wide state is renewed where an earlier call differs."""
    on_cpu = settings.device == "cpu"
    if settings.mixed_precision == "fp16" and (on_cpu or not torch.accelerator.is_available()):
        raise ValueError("mixed_precision='fp16' needs a GPU; allowed on CPU: 'no', 'bf16'")
    process, shared = PartialState._shared_state, AcceleratorState._shared_state
    if process and process.get("_cpu") != on_cpu and not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    elif shared and shared.get("_mixed_precision") != settings.mixed_precision:
        AcceleratorState._reset_state()
    kwargs = DistributedDataParallelKwargs(find_unused_parameters=settings.find_unused_parameters)
    accelerator = Accelerator(mixed_precision=settings.mixed_precision, cpu=on_cpu, kwargs_handlers=[kwargs])
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError("FSDP version 1 is not supported; launch with --fsdp_version 2")
    return accelerator


def to_device(batch: Any, device: torch.device, *, channels_last: bool = False) -> Any:
    """Move every tensor of a nested batch; 4-D float tensors become channels-last when asked."""
    if isinstance(batch, Tensor):
        layout = (
            torch.channels_last
            if channels_last and batch.ndim == 4 and batch.is_floating_point()
            else torch.preserve_format
        )
        return batch.to(device, non_blocking=True, memory_format=layout)
    if isinstance(batch, dict):
        return {key: to_device(value, device, channels_last=channels_last) for key, value in batch.items()}
    if isinstance(batch, list | tuple) and any(
        isinstance(value, Tensor | dict | list | tuple) for value in batch
    ):
        moved = [to_device(value, device, channels_last=channels_last) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch
