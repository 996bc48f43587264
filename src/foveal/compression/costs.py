"""What a saved classifier costs to run: time, memory, size and operations, taken in turn in one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foveal.blocks.quantized_linear import QuantizedLayer
from foveal.compression.onnx_models import ONNX, OnnxClassifier
from foveal.machine import added_memory, seconds_of
from foveal.models.classifier import Classifier
from foveal.models.pretrained import WEIGHTS

Runtime = Literal["torch", "onnx"]


@dataclass(frozen=True)
class Costs:
    """Of one way to run a classifier.

    Attributes:
        parameters: numbers that are learnt and not 0.
        bytes: of the file of weights.
        macs: multiplications and additions for an image in matrix products and convolutions; None of ONNX.
        latency: seconds for one image.
        throughput: images a second, `batch` at a time.
        memory: bytes that loading it and passing a batch add to a process; None where the system does not
            tell.
        batch: images at a time.
    """

    parameters: int
    bytes: int
    macs: int | None
    latency: float
    throughput: float
    memory: int | None
    batch: int


def folder_costs(
    folders: Mapping[str, tuple[str | Path, Runtime]], images: Tensor, *, rounds: int = 7, memory: bool = True
) -> dict[str, Costs]:
    """Costs of saved classifiers, all timed in turn.

    Args:
        folders: of each by a name, and what runs it.
        images: (B, C, size, size); the first alone for latency, all for throughput.
        rounds: of which the least time counts.
        memory: measure it, each in a process of its own.

    Raises:
        FileNotFoundError, ValueError: a folder is no saved classifier.
    """
    runs: dict[str, Callable[[Tensor], Tensor]] = {}
    models: dict[str, nn.Module] = {}
    for name, (folder, runtime) in folders.items():
        models[name] = Classifier.from_pretrained(folder)
        runs[name] = runner(folder, runtime)
    with torch.inference_mode():
        one = seconds_of({name: partial(run, images[:1]) for name, run in runs.items()}, rounds=rounds)
        many = seconds_of({name: partial(run, images) for name, run in runs.items()}, rounds=rounds)
    found = {}
    for name, (folder, runtime) in folders.items():
        model = models[name]
        found[name] = Costs(
            parameters=_weights(model),
            bytes=(Path(folder) / (WEIGHTS if runtime == "torch" else ONNX)).stat().st_size,
            macs=macs_of(model, images) if runtime == "torch" else None,
            latency=one[name],
            throughput=len(images) / many[name],
            memory=_memory(folder, runtime, images) if memory else None,
            batch=len(images),
        )
    return found


def runner(folder: str | Path, runtime: Runtime) -> Callable[[Tensor], Tensor]:
    """What gives a saved classifier's logits."""
    return OnnxClassifier(folder) if runtime == "onnx" else Classifier.from_pretrained(folder)


@torch.no_grad()
def macs_of(model: nn.Module, images: Tensor) -> int:
    """Multiplications and additions for the first image in matrix products, convolutions and attention."""
    # Fused attention on a CPU is not counted; its plain form is.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(images[:1])
    return int(counter.get_total_flops()) // 2


def _weights(model: nn.Module) -> int:
    """Parameters that are not 0, and weights that lie packed in buffers."""
    packed = [math.prod(part.shape) for part in model.modules() if isinstance(part, QuantizedLayer)]
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters()) + sum(packed)


def _memory(folder: str | Path, runtime: Runtime, images: Tensor) -> int | None:
    try:
        return added_memory(_prepared, str(folder), runtime, tuple(images.shape), torch.get_num_threads())
    except OSError:
        return None


def _prepared(folder: str, runtime: Runtime, shape: tuple[int, ...], threads: int) -> Callable[[], Any]:
    torch.set_num_threads(threads)
    images = torch.zeros(shape)

    def work() -> None:
        with torch.inference_mode():
            runner(folder, runtime)(images)

    return work
