"""What retention costs: growth of time and memory with the tokens, in its three forms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from foveal.blocks.retention import Retention
from foveal.evaluation.tensor_memory import TensorMemory
from foveal.kernels.gated_recurrence import Form
from foveal.machine import seconds_of
from foveal.recipes.base import Finding


@torch.no_grad()
def _run(retention: Retention, form: Form, x: Tensor) -> None:
    retention.set_form(form)
    retention(x)


def growth_of_time(dim: int = 192, heads: int = 3) -> Iterator[Finding]:
    """Time of the forms from 1024 to 4096 tokens."""
    retention = Retention(dim, heads).eval()
    tokens = {length: torch.randn(1, length, dim) for length in (1024, 4096)}
    forms: tuple[Form, ...] = ("parallel", "recurrent", "chunkwise")
    seconds = seconds_of(
        {
            f"{form} {length}": partial(_run, retention, form, x)
            for form in forms
            for length, x in tokens.items()
        }
    )
    growth = {form: seconds[f"{form} 4096"] / seconds[f"{form} 1024"] for form in forms}
    what = f"D = {dim}, {heads} heads, 1024 to 4096 tokens: time grows by, "
    yield Finding.at_most(what + "in chunks", growth["chunkwise"], 4.6)
    yield Finding.at_least(what + "as a matrix", growth["parallel"], 10)
    at_4096 = {form: seconds[f"{form} 4096"] for form in forms}
    yield Finding.at_least(
        "4096 tokens: times faster in chunks than as a matrix", at_4096["parallel"] / at_4096["chunkwise"], 3
    )
    order = sorted(forms, key=at_4096.__getitem__)
    yield Finding.fact(
        "token by token is the slowest form at 1024 tokens in eager torch",
        max(forms, key=lambda form: seconds[f"{form} 1024"]) == "recurrent",
        measured=f"at 1024: {_told(seconds, 1024)}; at 4096: {_told(seconds, 4096)}; fastest first {order}",
    )


def _told(seconds: dict[str, float], length: int) -> str:
    named = {key.split()[0]: value for key, value in seconds.items() if key.endswith(f" {length}")}
    return ", ".join(f"{form} {1000 * value:.3g} ms" for form, value in named.items())


@torch.no_grad()
def memory(dim: int = 192, heads: int = 3) -> Iterator[Finding]:
    """Memory of the forms: tensors alive at most, counted."""
    retention, x = Retention(dim, heads).eval(), torch.randn(1, 4096, dim)
    peaks = {}
    forms: tuple[Form, ...] = ("parallel", "chunkwise")
    for form in forms:
        with TensorMemory() as counted:
            _run(retention, form, x)
        peaks[form] = counted.peak
    claim = "4096 tokens: peak memory in chunks over that as a matrix"
    yield Finding.at_most(claim, peaks["chunkwise"] / peaks["parallel"], 0.3)
    streamed = []
    for length in (64, 256):
        with TensorMemory() as counted:
            state = None
            for token in x[0, :length]:
                _, state = retention.step(token[None], state)
        streamed.append(counted.peak)
    claim = "token by token: peak memory after 256 tokens over that after 64"
    yield Finding.close(claim, streamed[1] / streamed[0], 1.0, tolerance=1e-6)
