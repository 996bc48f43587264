"""What proves the state-space study: exact facts of every operator, what they learn, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import torch
from scipy.signal import cont2discrete, dlsim
from torch.utils.flop_counter import FlopCounterMode

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
from foveal.evaluation.sequence_costs import pinned_threads
from foveal.kernels.gated_recurrence import gated_recurrence
from foveal.kernels.long_convolution import causal_convolution
from foveal.kernels.selective_scan import selective_scan
from foveal.recipes._copying_learning import (
    CopyingModel,
    CopyingTask,
    copying_accuracy,
    width_of_equal_parameters,
)
from foveal.recipes._ssm_efficient_survey_costs import (
    constant_steps,
    declarations,
    growth,
    memory_of_processes,
    memory_of_the_scan,
    numbers_in_32_bits,
    scan_paths,
    short_sequences,
    speed_of_the_scan,
)
from foveal.recipes.base import Evidence, Finding, Scale

SELECTIVE, DELAYED = CopyingTask(64), CopyingTask(128, lag=128)
SELECTIVE_STEPS, DELAYED_STEPS = 2000, 500


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts and short costs at either scale; learning, growth and fresh processes in full."""
    yield discretisation_is_scipys
    yield linear_systems_are_convolutions
    yield legs_remembers
    yield layers_equal_their_recurrences
    yield one_recurrence_in_three_forms
    yield steps_equal_the_whole
    yield counts_are_torchs
    yield memory_of_the_scan
    yield speed_of_the_scan
    yield short_sequences
    if scale == "full":
        yield selective_copying
        yield delayed_copying
        yield context_helps_where_evidence_is_far
        yield growth
        yield memory_of_processes
        yield constant_steps
        yield scan_paths
        yield numbers_in_32_bits
        yield declarations


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


def linear_systems_are_convolutions() -> Finding:
    """Recurrence, dlsim, convolution by FFT and explicit kernel agree."""
    A, B = hippo_legs(4)
    C, u = torch.randn(4, dtype=torch.float64), torch.randn(300, dtype=torch.float64)
    Ab, Bb = discretise(A, B[:, None], 0.05)
    state, looped = torch.zeros(4, dtype=torch.float64), []
    for value in u:
        state = Ab @ state + Bb[:, 0] * value
        looped.append(C @ state)
    kernel = kernel_by_powers(Ab, Bb[:, 0], C, 300)
    # dlsim reads the state before its update, so that its output takes C Ab and its feed-through C Bb.
    system = (Ab.numpy(), Bb.numpy(), (C @ Ab).numpy()[None], np.array([[float(C @ Bb[:, 0])]]), 1.0)
    ways = (
        causal_convolution(u[None, :, None], kernel[None])[0, :, 0].numpy(),
        np.convolve(u.numpy(), kernel.numpy())[:300],
        dlsim(system, u.numpy()[:, None])[1][:, 0],
    )
    worst = max(float(np.abs(way - torch.stack(looped).numpy()).max()) for way in ways)
    return Finding.at_most(
        "recurrence beside FFT, explicit kernel and scipy.signal.dlsim: largest difference", worst, 1e-8
    )


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


def one_recurrence_in_three_forms() -> Finding:
    """With one decay a token, SSD, the masked matrix and the selective scan are the same."""
    length, keys, values = 70, 8, 6
    C, B = torch.randn(2, 1, length, keys, dtype=torch.float64)
    x = torch.randn(1, length, values, dtype=torch.float64)
    step = torch.rand(1, length, 1, dtype=torch.float64)
    sums = (-2 * step[0, :, 0]).cumsum(0)
    masked = (torch.exp(sums[:, None] - sums).tril() * (C @ B.mT)) @ (step * x)
    ssd = gated_recurrence(C[:, :, None], B[:, :, None], (step * x)[:, :, None], -2 * step)[:, :, 0]
    A = torch.full((values, keys), -2.0, dtype=torch.float64)
    scan = selective_scan(x, step.expand_as(x), A, B, C, None, softplus=False)
    worst = max(float((form - masked).abs().max()) for form in (ssd, scan))
    return Finding.at_most("SSD and selective scan with a scalar A beside the masked matrix", worst, 1e-6)


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


@torch.no_grad()
def counts_are_torchs() -> Finding:
    """Counted operations of attention are those of torch's own counter."""
    op, x = create_operator("attention", 64, head_dim=16, fused=False), torch.randn(1, 50, 64)
    with FlopCounterMode(display=False) as counter:
        op.output(x)
    counted, formula = counter.get_total_flops(), OPERATORS["attention"].flops(op, 50)
    return Finding.fact(
        "operations of attention by formula", counted == formula, expected=str(counted), measured=str(formula)
    )


def selective_copying() -> Iterator[Finding]:
    """S6 copies symbols from random places among noise, which a time-invariant layer does not."""
    with pinned_threads(1):
        right = {name: copying_accuracy(name, SELECTIVE, steps=SELECTIVE_STEPS) for name in ("mamba", "s4d")}
    told = f"selective copying, 64 tokens, 8 symbols of 8 kinds, width 64, 2 layers, {SELECTIVE_STEPS} steps"
    yield Finding.at_least(f"{told}: S6", right["mamba"], 0.9)
    yield Finding.at_least(
        f"S6 ({right['mamba']:.3f}) above time-invariant S4D ({right['s4d']:.3f})",
        right["mamba"] - right["s4d"],
        0.3,
    )


def delayed_copying() -> Iterator[Finding]:
    """Time-invariant layers copy over a long lag, which an LSTM of equal parameters does not."""
    parameters = sum(weight.numel() for weight in CopyingModel("s4d", DELAYED).parameters())
    width = width_of_equal_parameters("lstm", DELAYED, parameters)
    train = partial(copying_accuracy, task=DELAYED, steps=DELAYED_STEPS)
    with pinned_threads(1):
        lstm = train("lstm", dim=width)
        for name in ("s4d", "s5"):
            right = train(name)
            yield Finding.at_least(
                f"copying over a lag of {DELAYED.lag}, {DELAYED_STEPS} steps: {name} ({right:.3f}) above an "
                f"LSTM of width {width} ({lstm:.3f})",
                right - lstm,
                0.2,
            )
            yield Finding.at_least(f"the same: {name} alone", right, 0.9)


def context_helps_where_evidence_is_far() -> Iterator[Finding]:
    """Longer context gains on a far symbol, and nothing on a near one."""
    gains = {}
    with pinned_threads(1):
        for lag in (8, 64):
            task = CopyingTask(lag, lag=lag)
            # two convolutions of 7 taps see 12 tokens back
            near, far = (copying_accuracy(name, task, steps=300) for name in ("conv", "s4d"))
            gains[lag] = far - near
    claim = "symbols right with the whole context (S4D) above 12 tokens of it (convolution)"
    yield Finding.close(f"lag 8: {claim}", gains[8], 0.0, tolerance=0.05)
    yield Finding.at_least(f"lag 64: {claim}", gains[64], 0.5)
