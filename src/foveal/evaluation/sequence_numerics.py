"""How far sequence operators and their kernels in 32 bits are from a loop over tokens in 64 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.blocks.sequence_operators import create_operator, operator_kind
from foveal.kernels.gated_recurrence import FORMS, gated_recurrence
from foveal.kernels.selective_scan import BACKENDS, selective_scan
from foveal.markdown import table

# The matrix of L x L weights of longer sequences would take gibibytes.
LONGEST_MATRIX = 4096


@dataclass(frozen=True)
class Deviation:
    """Of one backend of an operator or kernel, in 32 bits.

    Attributes:
        name: of the operator in the registry, or of the kernel.
        backend: that computed.
        errors: largest absolute error over the largest absolute value, by number of tokens.
    """

    name: str
    backend: str
    errors: dict[int, float]


@torch.inference_mode()
def measure_deviations(
    ops: Sequence[str], sizes: Sequence[int], *, dim: int = 64, seed: int = 0, device: str = "cpu"
) -> list[Deviation]:
    """Operators of the registry beside their own steps in 64 bits, and the kernels' backends beside loops.

    An operator that has no step is compared with itself in 64 bits. A sequence is the beginning of the
    longest one, so that one loop serves all sizes.

    Args:
        ops: names in the registry.
        sizes: numbers of tokens.
        dim: width D.
        seed: of weights and inputs.
        device: of the 32 bits; the loop in 64 bits runs on the CPU.

    Raises:
        ValueError: an unknown operator, or no token.
    """
    for name in ops:
        operator_kind(name)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes={list(sizes)}; allowed: whole numbers, 1 or more")
    found = [_of_operator(name, sorted(sizes), dim, seed, device) for name in ops]
    return found + list(_of_kernels(sorted(sizes), seed, device))


def deviation_table(deviations: Sequence[Deviation]) -> str:
    """A Markdown table: a row for each backend, a column for each number of tokens."""
    sizes = sorted({n for d in deviations for n in d.errors})
    rows = [
        [d.name, d.backend, *(f"{d.errors[n]:.1e}" if n in d.errors else "" for n in sizes)]
        for d in deviations
    ]
    return table(["", "backend", *(f"L = {n}" for n in sizes)], rows)


def _of_operator(name: str, sizes: Sequence[int], dim: int, seed: int, device: str) -> Deviation:
    torch.manual_seed(seed)
    kind, op = operator_kind(name), create_operator(name, dim)
    exact = create_operator(name, dim)
    exact.load_state_dict(op.state_dict())
    exact = exact.double()
    op = op.to(device)
    x = torch.randn(1, sizes[-1], dim)
    if kind.has_step:
        state, rows = None, []
        for token in x.double().unbind(1):
            y, state = exact.step(token, state)
            rows.append(y)
        whole = torch.stack(rows, dim=1)
    errors = {}
    for n in sizes:
        part = x[:, :n]
        truth = whole[:, :n] if kind.has_step else exact.output(part.double())
        errors[n] = relative_error(op.output(part.to(device)), truth)
    backend = "triton" if device != "cpu" and "triton" in kind.backends else kind.backends[0]
    return Deviation(name, backend, errors)


def _of_kernels(sizes: Sequence[int], seed: int, device: str) -> Iterator[Deviation]:
    source = torch.Generator().manual_seed(seed)
    length, width, states = sizes[-1], 32, 16

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source)

    u, dt, B, C = drawn(1, length, width), drawn(1, length, width) - 3, *drawn(2, 1, length, states)
    A = -torch.arange(1.0, states + 1).repeat(width, 1)

    def scan(backend: str, *given: Tensor) -> Tensor:
        return selective_scan(given[0], given[1], A.to(given[0]), *given[2:], backend=backend)  # type: ignore[arg-type]

    kept = {"cpu": "compiled"}.get(device, "triton")
    backends = [name for name in BACKENDS if name in ("reference", kept)]
    truth = scan("reference", *(x.double() for x in (u, dt, B, C)))
    for backend in backends:
        yield _compared("selective scan", backend, sizes, truth, scan, (u, dt, B, C), device)

    q, k, v = drawn(3, 1, length, 2, 16)
    logs = -torch.rand(1, length, 2, generator=source)

    def recurrence(form: str, *given: Tensor) -> Tensor:
        return gated_recurrence(*given, form=form)  # type: ignore[arg-type]

    truth = recurrence("recurrent", *(x.double() for x in (q, k, v, logs)))
    for form in FORMS:
        some = [n for n in sizes if form != "parallel" or n <= LONGEST_MATRIX]
        yield _compared("gated recurrence", form, some, truth, recurrence, (q, k, v, logs), device)


def _compared(
    name: str,
    backend: str,
    sizes: Sequence[int],
    truth: Tensor,
    run: Callable[..., Tensor],
    given: Sequence[Tensor],
    device: str,
) -> Deviation:
    errors = {
        n: relative_error(run(backend, *(x[:, :n].to(device) for x in given)), truth[:, :n]) for n in sizes
    }
    return Deviation(name, backend, errors)


def relative_error(found: Tensor, truth: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of the truth."""
    return float((found.cpu().double() - truth).abs().max() / truth.abs().max())
