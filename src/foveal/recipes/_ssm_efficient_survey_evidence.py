"""What proves the state-space study: exact facts of every operator, and their measured growth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import torch
from scipy.signal import cont2discrete, lfilter
from torch.nn import functional as F

from foveal.blocks.sequence_operators import OPERATORS, create_operator
from foveal.blocks.state_space import S4, S4D, S5
from foveal.blocks.state_space_theory import (
    discretise,
    hippo_legs,
    kernel_by_powers,
    legs_low_rank,
    legs_projection,
    legs_reconstruction,
)
from foveal.evaluation.sequence_costs import kept_bytes, measure_sequence_operators
from foveal.kernels.long_convolution import causal_convolution
from foveal.kernels.selective_scan import selective_scan
from foveal.recipes._encoder_cost import seconds_of
from foveal.recipes.base import Evidence, Finding, Scale, Section


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; growth of time and memory in full."""
    yield discretisation_is_scipys
    yield legs_remembers
    yield layers_equal_their_recurrences
    yield steps_equal_the_whole
    yield memory_of_the_scan
    yield short_sequences
    if scale == "full":
        yield growth


def discretisation_is_scipys() -> Iterator[Finding]:
    """ZOH and bilinear discretisation are SciPy's, and the convolution is its filter."""
    A, B = hippo_legs(8)
    worst = 0.0
    for rule in ("zoh", "bilinear"):
        wanted = cont2discrete((A.numpy(), B.numpy()[:, None], np.ones((1, 8)), np.zeros((1, 1))), 0.02, rule)
        found = discretise(A, B[:, None], 0.02, rule="zoh" if rule == "zoh" else "bilinear")
        worst = max(worst, *(float(np.abs(f - w).max()) for f, w in zip(found, wanted, strict=False)))
    yield Finding.at_most(
        "ZOH and bilinear beside scipy.signal.cont2discrete: largest difference", worst, 1e-10
    )
    u, kernel = torch.randn(1, 300, 1, dtype=torch.float64), torch.randn(1, 300, dtype=torch.float64)
    expected = lfilter(kernel[0].numpy(), [1.0], u[0, :, 0].numpy())
    difference = float(np.abs(causal_convolution(u, kernel)[0, :, 0].numpy() - expected).max())
    yield Finding.at_most("convolution by FFT beside scipy.signal.lfilter", difference, 1e-8)


def legs_remembers() -> Iterator[Finding]:
    """HiPPO-LegS gives back a polynomial, and is normal but for rank one."""
    times = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    curve = 0.3 - 2 * times + 1.5 * times**2 + 4 * times**3 - 3 * times**4
    back = legs_reconstruction(legs_projection(curve, states=32), times)
    error = float(torch.linalg.norm(back - curve) / torch.linalg.norm(curve))
    yield Finding.at_most("LegS, N = 32: relative error of a polynomial of degree 4", error, 1e-2)
    A, _ = hippo_legs(32)
    P = legs_low_rank(32)
    M = A + torch.outer(P, P)
    yield Finding.at_most(
        "A + P P^T is normal: |M M^T - M^T M|", float((M @ M.T - M.T @ M).abs().max()), 1e-9
    )
    real = torch.linalg.eigvals(M).real
    yield Finding.at_most("its eigenvalues' real parts are -1/2", float((real + 0.5).abs().max()), 1e-9)


@torch.no_grad()
def layers_equal_their_recurrences() -> Iterator[Finding]:
    """S4's kernel is that of naive powers; S4D and S5 equal their loops."""
    layer = S4(3, states=16).double()
    Ab, Bb, C = layer.system()
    naive = torch.stack([kernel_by_powers(Ab[h], Bb[h], C[h], 200).real for h in range(3)])
    yield Finding.at_most(
        "S4's kernel by Cauchy sums beside naive powers", float((layer.kernel(200) - naive).abs().max()), 1e-6
    )
    for core in (S4D(4, states=16).double(), S5(4, states=16).double()):
        u = torch.randn(2, 150, 4, dtype=torch.float64)
        state, rows = None, []
        for token in u.unbind(1):
            y, state = core.step(token, state)
            rows.append(y)
        difference = float((core(u) - torch.stack(rows, dim=1)).abs().max())
        yield Finding.at_most(f"{type(core).__name__} beside its loop", difference, 1e-8)


@torch.no_grad()
def steps_equal_the_whole() -> Iterator[Finding]:
    """Token by token gives what the whole sequence gives, for every operator that has a step."""
    x = torch.randn(1, 40, 64)
    for name, kind in OPERATORS.items():
        if kind.has_step:
            op = create_operator(name, 64)
            exact = create_operator(name, 64).double()
            exact.load_state_dict(op.state_dict())
            state, rows = None, []
            for token in x.double().unbind(1):
                y, state = exact.step(token, state)
                rows.append(y)
            truth = torch.stack(rows, dim=1)
            relative = float((op(x)[0].double() - truth).abs().max() / truth.abs().max())
            yield Finding.at_most(
                f"{name}: 32 bits at once beside steps in 64 bits, relative", relative, 1e-4
            )


def memory_of_the_scan() -> Finding:
    """The compiled scan keeps at most an eighth of the laid-out states' memory."""
    length, width, states = 256, 64, 16
    u, dt = torch.randn(2, 1, length, width)
    B, C = torch.randn(2, 1, length, states)
    A = -torch.arange(1.0, states + 1).repeat(width, 1)
    given = [x.requires_grad_() for x in (u, dt, A, B, C, torch.ones(width))]

    def laid_out() -> torch.Tensor:
        d = F.softplus(given[1])
        decays, added = torch.exp(d[..., None] * given[2]), d[..., None] * given[3][:, :, None] * u[..., None]
        state, out = torch.zeros_like(added[:, 0]), []
        for t in range(length):
            state = decays[:, t] * state + added[:, t]
            out.append((state * given[4][:, t, None]).sum(dim=-1))
        return torch.stack(out, dim=1) + given[5] * given[0]

    share = kept_bytes(lambda: selective_scan(*given)) / kept_bytes(laid_out)
    return Finding.at_most(
        "bytes kept by the compiled scan over those of the (B, L, D, N) form", share, 1 / 8
    )


@torch.no_grad()
def short_sequences() -> Finding:
    """At 196 tokens attention is as fast as Mamba or faster."""
    x = torch.randn(1, 196, 192)
    ops = {name: create_operator(name, 192).eval() for name in ("attention", "mamba")}
    taken = seconds_of({name: partial(op, x) for name, op in ops.items()}, rounds=15)
    return Finding.at_most(
        "196 tokens, D = 192, forward: time of attention over Mamba's",
        taken["attention"] / taken["mamba"],
        1.1,
    )


def growth() -> Iterator[Finding | Section]:
    """Growth of time and memory from 1024 to 8192 tokens, and crossovers with attention."""
    linear = ("mamba", "mamba2", "s4d")
    report = measure_sequence_operators(
        ["attention", *linear],
        [256, 512, 1024, 2048, 4096, 8192],
        settings={"attention": {"fused": False}},
        passes=("forward",),
        warm_ups=1,
        repeats=5,
    )
    times, memory = report.exponents(), report.exponents(of="kept_bytes")
    for kind, found in (("time", times), ("kept memory", memory)):
        yield Finding.at_least(
            f"attention with its scores laid out: exponent of {kind}", found["attention"], 1.7
        )
        for name in linear:
            yield Finding.close(f"{name}: exponent of {kind}", found[name], 1.025, tolerance=0.175)
    rows = []
    for name in linear:
        middle, low, high = report.crossover("attention", name)
        rows.append(f"- {name}: from {middle:.0f} tokens ({low:.0f} to {high:.0f}) faster than attention")
    yield Section("Costs", report.table() + "\n\n" + "\n".join(rows))
