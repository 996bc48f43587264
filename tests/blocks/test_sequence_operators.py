"""The registry of sequence operators: one signature, steps, declarations, exact counts."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveal.blocks.sequence_operators import OPERATORS, CausalAttention, create_operator, operator_kind
from foveal.kernels.gated_recurrence import gated_recurrence
from foveal.kernels.selective_scan import selective_scan

SETTINGS = {
    "attention": {"head_dim": 8},
    "window_attention": {"head_dim": 8, "window": 3},
    "retention": {"head_dim": 8, "chunk": 8},
    "linear_attention": {"head_dim": 8, "chunk": 8},
    "mamba2": {"head_dim": 8, "states": 8, "chunk": 8},
    "mamba": {"states": 4},
    "s4": {"states": 8},
    "s4d": {"states": 8},
    "s5": {"states": 8},
}


def _made(name: str, dim: int = 16):
    torch.manual_seed(0)
    return create_operator(name, dim, **SETTINGS.get(name, {})).double()


@pytest.mark.parametrize("name", [name for name, kind in OPERATORS.items() if kind.has_step])
def test_steps_and_parts_equal_the_whole(name: str) -> None:
    op, x = _made(name), torch.randn(2, 29, 16, dtype=torch.float64)
    whole, _ = op(x)
    torch.testing.assert_close(op.output(x), whole)
    state, outputs = None, []
    for t in range(29):
        y, state = op.step(x[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=1), whole)
    first, state = op(x[:, :11])
    second, _ = op(x[:, 11:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


@pytest.mark.parametrize("name", list(OPERATORS))
def test_declared_causality_is_that_of_the_gradient(name: str) -> None:
    op, x = _made(name), torch.randn(1, 20, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(op(x)[0][:, 4].sum(), x)
    assert gradient[:, :4].abs().sum() > 0
    assert bool(gradient[:, 5:].abs().max() < 1e-12) == OPERATORS[name].causal


@pytest.mark.parametrize("name", [name for name, kind in OPERATORS.items() if kind.time_invariant])
def test_time_invariant_operators_do_not_see_how_many_zeros_came_before(name: str) -> None:
    op, x = _made(name), torch.randn(1, 12, 16, dtype=torch.float64)
    late = torch.cat([torch.zeros(1, 4, 16, dtype=torch.float64), x], dim=1)
    torch.testing.assert_close(op(late)[0][:, 4:], op(x)[0])


D, L, N = 16, 20, 8
FFT = D * (3 * math.ceil(2.5 * 40 * math.log2(40)) + 6 * 21)
CHUNKED = 2 * L * 2 * 8 * (8 + 8) + L * 2 * 4 * 64  # 2 heads of 8, chunks of 8
FORMULAS = {
    "attention": 8 * L * D * D + 4 * L * L * D,
    "window_attention": 8 * L * D * D + 4 * D * (9 * 9 + 9 * 9 + 2 * 2),
    "conv": 2 * L * D * 7 + 2 * L * D * D,
    "lstm": 16 * L * D * D,
    "s4": FFT + 16 * N * (L // 2 + 1) * D + D * 8 * (4 * N**3 + 2 * N**2) + 2 * L * D * 2 * D,
    "s4d": FFT + 4 * 4 * L * D + 2 * L * D * 2 * D,
    "s5": 8 * L * 4 * D + 8 * L * 4 + 2 * L * D * D,
    # R = 1, E = 32, N = 4
    "mamba": 2 * L * (D * 64 + 32 * (1 + 8) + 32 + 32 * D + 32 * 4) + L * 32 * (9 * 4 + 2),
    # E = 32, 4 heads of 8, N = 8, one group: 32 + 32 + 16 + 4 columns of the first projection
    "mamba2": 2 * L * (D * 84 + 32 * D + 48 * 4) + L * 4 * (2 * 8 * 16 + 4 * 64),
    "retention": 8 * L * D * D + CHUNKED,
    "linear_attention": 8 * L * D * D + CHUNKED,
}


@pytest.mark.parametrize("name", list(OPERATORS))
def test_counts_are_the_formulas_by_hand(name: str) -> None:
    assert OPERATORS[name].flops(_made(name), L) == FORMULAS[name]


def test_counts_of_matrix_products_are_torchs() -> None:
    x = torch.randn(1, L, D, dtype=torch.float64)
    op = CausalAttention(D, head_dim=8, fused=False).double()
    with FlopCounterMode(display=False) as counter:
        op(x)
    assert counter.get_total_flops() == FORMULAS["attention"]


def test_attention_is_the_same_with_its_scores_laid_out() -> None:
    op, x = _made("attention"), torch.randn(2, 9, 16, dtype=torch.float64)
    fused, _ = op(x)
    op.fused = False
    torch.testing.assert_close(op(x)[0], fused)


def test_scalar_decay_is_a_masked_matrix_and_a_selective_scan() -> None:
    torch.manual_seed(0)
    length, keys, values = 23, 4, 6
    C, B = torch.randn(2, 1, length, keys, dtype=torch.float64)
    x = torch.randn(1, length, values, dtype=torch.float64)
    step = torch.rand(1, length, 1, dtype=torch.float64)
    logs = -2.0 * step  # a_t = exp(-2 d_t)
    sums = logs[0, :, 0].cumsum(0)
    mask = torch.exp(sums[:, None] - sums).tril()
    masked = (mask * (C @ B.mT)) @ (step * x)
    ssd = gated_recurrence(C[:, :, None], B[:, :, None], (step * x)[:, :, None], logs)[:, :, 0]
    A = torch.full((values, keys), -2.0, dtype=torch.float64)
    scan = selective_scan(x, step.expand_as(x), A, B, C, None, softplus=False)
    torch.testing.assert_close(ssd, masked)
    torch.testing.assert_close(scan, masked)


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: attention, window_attention"):
        create_operator("rwkv", 16)
    with pytest.raises(ValueError, match="not known"):
        operator_kind("")
    with pytest.raises(ValueError, match="not causal"):
        _made("window_attention")(torch.randn(1, 9, 16, dtype=torch.float64), torch.zeros(1))
    with pytest.raises(ValueError, match="heads of 64"):
        create_operator("attention", 100)


@pytest.mark.parametrize("name", list(OPERATORS))
def test_tokens_that_no_operator_takes_are_refused(name: str) -> None:
    op = _made(name)
    with pytest.raises(ValueError, match="1 token or more"):
        op(torch.randn(1, 0, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"\(B, L, 16\)"):
        op(torch.randn(1, 4, 15, dtype=torch.float64))
    with pytest.raises(TypeError, match="real floating"):
        op(torch.randn(1, 4, 16, dtype=torch.complex128))


@pytest.mark.parametrize("name", list(OPERATORS))
def test_outputs_are_of_the_declared_types(name: str) -> None:
    for dtype in OPERATORS[name].dtypes:
        kind = getattr(torch, dtype)
        y, _ = _made(name).to(kind)(torch.randn(1, 5, 16, dtype=kind))
        assert y.dtype == kind


@pytest.mark.parametrize("name", [name for name, kind in OPERATORS.items() if kind.has_step])
def test_a_state_grows_only_where_it_is_declared_to(name: str) -> None:
    op = _made(name)
    few, many = (op(torch.randn(1, length, 16, dtype=torch.float64))[1] for length in (16, 32))

    def size(state: object) -> int:
        return state.numel() if isinstance(state, torch.Tensor) else sum(map(size, state))  # type: ignore[call-overload]

    assert (size(few) == size(many)) == OPERATORS[name].constant_state


def test_every_operator_that_steps_tells_its_state_in_symbols() -> None:
    for kind in OPERATORS.values():
        assert kind.complexity.operations
        assert kind.complexity.memory
        assert bool(kind.complexity.state) == kind.has_step


def test_an_unstable_system_is_refused() -> None:
    op = _made("mamba")
    op.mixer.scan.A_log.data.fill_(-torch.inf)  # A = 0 keeps its state for ever
    with pytest.raises(ValueError, match="must be below 0"):
        op(torch.randn(1, 4, 16, dtype=torch.float64))
