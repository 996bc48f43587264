"""The Triton kernels beside the recurrence: on a GPU where there is one, and in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
from test_selective_scan import NAMES, _inputs

from foveal.kernels.selective_scan import selective_scan_with_state

pytest.importorskip("triton")
CASES = [(5, 1, False, NAMES), (70, 2, True, NAMES), (40, 1, True, ("u", "dt", "A", "B", "C"))]


def largest_error(length, groups, ordered, names, device):
    """Largest relative error of output, state and gradients of the Triton path."""
    x, y = (
        _inputs(length, channels=10, states=3, groups=groups, given=names, kind=kind)
        for kind in (torch.float32, torch.float64)
    )
    order = torch.randperm(length, generator=torch.Generator().manual_seed(0)) if ordered else None
    found = []
    for tensors, backend, place in ((x, "triton", device), (y, "reference", "cpu")):
        moved = {name: tensor.to(place) for name, tensor in tensors.items()}
        out, state = selective_scan_with_state(
            **moved, order=None if order is None else order.to(place), backend=backend
        )
        weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype, device=place).view_as(out)
        ((out * weights).sum() + (state * state).sum()).backward()
        found.append([out, state, *(tensors[name].grad for name in names)])
    return max(
        float((a.detach().cpu() - b.detach()).abs().max() / b.detach().abs().max())
        for a, b in zip(*found, strict=True)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("length", "groups", "ordered", "names"), CASES)
def test_the_gpu_path_is_the_recurrence(length, groups, ordered, names):
    assert largest_error(length, groups, ordered, names, "cuda") < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="tested on the device itself")
def test_the_gpu_kernels_are_the_recurrence_in_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # read when Triton is imported
    run = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 1e-5


if __name__ == "__main__":
    print(max(largest_error(*case, "cpu") for case in CASES))
