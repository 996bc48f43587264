"""Recurrence with one decay a head: three forms, its state, its special cases and its errors."""

import pytest
import torch
from torch import Tensor

from foveal.kernels import gated_recurrence as module
from foveal.kernels.gated_recurrence import (
    FORMS,
    gated_recurrence,
    gated_recurrence_step,
    gated_recurrence_with_state,
    recurrence_flops,
)
from foveal.kernels.selective_scan import selective_scan


def parts(
    *, length: int = 23, heads: int = 4, groups: int = 2, keys: int = 3, values: int = 5, fixed: bool = False
) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    decay = -normal(heads).abs() if fixed else -normal(2, length, heads).abs()
    tensors = [
        normal(2, length, groups, keys),
        normal(2, length, groups, keys),
        normal(2, length, heads, values),
    ]
    return [*tensors, decay, normal(2, heads, keys, values)]


def run(tensors: list[Tensor], **options: object) -> list[Tensor]:
    """Output, state and all gradients."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    out, state = gated_recurrence_with_state(*leaves[:4], initial_state=leaves[4], **options)  # type: ignore[arg-type]
    weights = torch.arange(out.numel(), dtype=out.dtype).reshape(out.shape).cos()
    ((weights * out).sum() + (state * state.detach().sin()).sum()).backward()
    return [out.detach(), state.detach(), *(leaf.grad for leaf in leaves)]  # type: ignore[misc]


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("heads_and_groups", [(1, 1), (3, 3), (4, 2), (3, 1)])
def test_all_forms_and_chunks_give_equal_numbers_and_gradients(
    fixed: bool, heads_and_groups: tuple[int, int]
) -> None:
    heads, groups = heads_and_groups
    tensors = parts(length=67, heads=heads, groups=groups, fixed=fixed)
    wanted = run(tensors, form="recurrent")
    ways = [{"form": "parallel"}] + [
        {"form": "chunkwise", "chunk": chunk} for chunk in (1, 7, 16, 64, 67, 99)
    ]
    for way in ways:
        for a, b in zip(run(tensors, **way), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fixed", [True, False])
def test_forms_agree_in_32_bits(fixed: bool) -> None:
    tensors = parts(length=67, fixed=fixed)
    wanted = run(tensors, form="recurrent")
    narrow = [x.float() for x in tensors]
    for form in FORMS:
        for a, b in zip(run(narrow, form=form, chunk=16), wanted, strict=True):
            assert float((a - b).abs().max() / b.abs().max()) < 1e-4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fixed", [True, False])
def test_gradients_are_those_of_finite_differences(form: str, fixed: bool) -> None:
    tensors = [x.requires_grad_() for x in parts(length=5, heads=2, groups=1, keys=2, values=2, fixed=fixed)]

    def function(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return gated_recurrence_with_state(q, k, v, log_decay, form=form, chunk=2, initial_state=state)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("form", FORMS)
def test_two_halves_with_the_state_carried_are_one_pass(form: str) -> None:
    q, k, v, decay, state = parts()
    whole, last = gated_recurrence_with_state(q, k, v, decay, initial_state=state, chunk=7)
    outputs = []
    for cut in (slice(0, 9), slice(9, None)):
        half = (q[:, cut], k[:, cut], v[:, cut], decay[:, cut])
        out, state = gated_recurrence_with_state(*half, form=form, chunk=7, initial_state=state)  # type: ignore[arg-type]
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fixed", [True, False])
def test_steps_are_the_whole_pass(fixed: bool) -> None:
    q, k, v, decay, state = parts(fixed=fixed)
    whole, last = gated_recurrence_with_state(q, k, v, decay, initial_state=state)
    for t in range(q.shape[1]):
        here = decay if fixed else decay[:, t]
        out, state = gated_recurrence_step(q[:, t], k[:, t], v[:, t], here, state=state)
        torch.testing.assert_close(out, whole[:, t], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


def test_it_is_a_selective_scan_with_one_rate_a_head() -> None:
    q, k, v, _, _ = parts(length=33, heads=4, groups=2, keys=3, values=5)
    draw = torch.Generator().manual_seed(1)
    step = torch.rand(2, 33, 4, generator=draw, dtype=torch.float64)
    rate = -torch.rand(4, generator=draw, dtype=torch.float64) - 0.1
    out = gated_recurrence(q, k, step[..., None] * v, step * rate, chunk=16)
    scanned = selective_scan(
        v.flatten(2),
        step.repeat_interleave(5, dim=2),
        rate.repeat_interleave(5)[:, None].expand(20, 3),
        k,
        q,
        softplus=False,
        backend="reference",
    )
    torch.testing.assert_close(out.flatten(2), scanned, rtol=1e-10, atol=1e-10)


def test_decay_one_is_linear_attention_with_prefix_sums() -> None:
    q, k, v, _, _ = parts(heads=3, groups=3)
    states = (k[..., :, None] * v[..., None, :]).cumsum(dim=1)
    wanted = torch.einsum("blhk,blhkv->blhv", q, states)
    out = gated_recurrence(q, k, v, torch.zeros(3, dtype=torch.float64), chunk=7)
    torch.testing.assert_close(out, wanted, rtol=1e-10, atol=1e-10)


def test_decay_zero_leaves_each_token_to_itself() -> None:
    q, k, v, _, _ = parts(heads=3, groups=3)
    out = gated_recurrence(q, k, v, torch.full((3,), -800.0, dtype=torch.float64), chunk=7)
    torch.testing.assert_close(out, (q * k).sum(-1, keepdim=True) * v, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("strongest", [-20.0, -20.0 * 256])
def test_strong_decay_over_long_chunks_has_finite_gradients(form: str, strongest: float) -> None:
    tensors = [x.float() for x in parts(length=300)]
    tensors[3] = tensors[3] / tensors[3].abs().max() * -strongest
    for made in run(tensors, form=form, chunk=256):
        assert torch.isfinite(made).all()


def test_long_sequences_are_recomputed_with_equal_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = parts(length=67)
    wanted = run(tensors, chunk=8)
    monkeypatch.setattr(module, "RECOMPUTE_ABOVE", 20)
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", 2 * 4 * 8 * 8 * 2)
    for a, b in zip(run(tensors, chunk=8), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_outputs_keep_the_type_of_the_values_and_states_stay_in_32_bits() -> None:
    q, k, v, decay, _ = (x.to(torch.float16) for x in parts())
    out, state = gated_recurrence_with_state(q, k, v, decay)
    assert (out.dtype, state.dtype) == (torch.float16, torch.float32)


def test_operations_of_chunks_grow_linearly_and_those_of_the_matrix_by_the_square() -> None:
    sizes = {"heads": 3, "keys": 64, "values": 64}
    assert recurrence_flops(4096, **sizes) == 4 * recurrence_flops(1024, **sizes)
    assert recurrence_flops(4096, **sizes, form="parallel") == 16 * recurrence_flops(
        1024, **sizes, form="parallel"
    )


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"chunk": 0}, ValueError, "chunk=0; allowed: a whole number"),
        ({"form": "fast"}, ValueError, "form='fast'; allowed: parallel, recurrent, chunkwise"),
        ({"log_decay": torch.full((4,), 0.1)}, ValueError, "up to 0.1; all must be <= 0"),
        ({"log_decay": torch.full((4,), torch.nan)}, ValueError, "up to nan"),
        ({"initial_state": torch.zeros(3, 4, 3, 5)}, ValueError, r"initial_state has shape \(3, 4, 3, 5\)"),
        ({"initial_state": torch.zeros(2, 4, 3, 5).half()}, TypeError, "kept in 32 bits"),
        ({"v": torch.zeros(2, 23, 3, 5)}, ValueError, "divides the heads"),
        ({"v": torch.zeros(2, 0, 4, 5)}, ValueError, "at least one token"),
        ({"k": torch.zeros(2, 23, 2, 4)}, ValueError, r"k has shape \(2, 23, 2, 4\)"),
        ({"q": torch.zeros(2, 23, 2, 3, dtype=torch.int64)}, TypeError, "floating numbers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change: dict[str, object], error: type[Exception], says: str) -> None:
    q, k, v, decay, _ = (x.float() for x in parts())
    arguments: dict[str, object] = {"q": q, "k": k, "v": v, "log_decay": decay}
    with pytest.raises(error, match=says):
        gated_recurrence(**(arguments | change))  # type: ignore[arg-type]
