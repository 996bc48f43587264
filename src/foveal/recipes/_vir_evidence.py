"""What proves the ViR recipe: equal forms, states, limits, the grid, causality, size, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from foveal.blocks.retention import Retention
from foveal.encoders.vir import ViR
from foveal.kernels.gated_recurrence import Form, gated_recurrence, gated_recurrence_with_state
from foveal.kernels.grid_recurrence import grid_recurrence
from foveal.recipes.base import Evidence, Finding, Scale

_LENGTH = 67
_FORMS: tuple[tuple[Form, int], ...] = (
    ("parallel", 64), ("chunkwise", 1), ("chunkwise", 7), ("chunkwise", 16), ("chunkwise", 64),
    ("chunkwise", _LENGTH),
)  # fmt: skip


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; learning beside DeiT and costs in full."""
    from foveal.recipes import _vir_learning

    yield partial(forms_agree, torch.float64, 1e-10)
    yield partial(forms_agree, torch.float32, 1e-4)
    yield states_carry
    yield limits_of_the_decay
    yield over_a_grid
    yield causality
    yield parameters
    yield refused
    if scale == "quick":
        yield _vir_learning.predictions_in_all_modes
    else:
        from foveal.recipes import _vir_costs

        yield _vir_learning.digits_beside_deit
        yield _vir_learning.corners_beside_one_order
        yield _vir_costs.growth_of_time
        yield _vir_costs.memory


def _sequence(kind: torch.dtype, heads: int, length: int = _LENGTH) -> list[Tensor]:
    """q, k, v and log decays of RetNet, all ready for gradients."""
    q, k, v = torch.randn(3, 2, length, heads, 8, dtype=torch.float64).to(kind)
    decay = Retention(8 * heads, heads).log_decay.to(kind)
    return [x.requires_grad_() for x in (q * 8**-0.5, k, v, decay)]


def _apart(a: Tensor, b: Tensor) -> float:
    """Largest difference."""
    return float((a - b).abs().max())


def _outputs(leaves: list[Tensor], form: Form, chunk: int) -> list[Tensor]:
    """Output and gradients, in 64 bits."""
    q, k, v, decay = leaves
    out = gated_recurrence(q, k, v, decay, form=form, chunk=chunk)
    weights = torch.arange(out.numel(), dtype=out.dtype).view_as(out).cos()
    return [x.detach().double() for x in (out, *torch.autograd.grad((weights * out).sum(), leaves))]


def forms_agree(kind: torch.dtype, tolerance: float) -> Finding:
    """The forms of retention give equal outputs and gradients."""
    worst = 0.0
    for heads in (1, 3):
        leaves = _sequence(kind, heads)
        truth = _outputs([x.detach().double().requires_grad_() for x in leaves], "recurrent", 1)
        for form, chunk in (("recurrent", 1), *_FORMS):
            for a, b in zip(_outputs(leaves, form, chunk), truth, strict=True):
                worst = max(worst, float((a - b).abs().max() / b.abs().max()))
    return Finding.at_most(
        f"parallel, recurrent, chunks of 1, 7, 16, 64 and L = {_LENGTH}, {torch.finfo(kind).bits} bits, 1 "
        "and 3 heads: largest relative difference of outputs and gradients to the 64-bit recurrence",
        worst,
        tolerance,
    )


def _vir(**options: Any) -> ViR:
    return ViR(**({"dim": 24, "heads": 3, "depth": 3, "patch_size": 4, "image_size": 32} | options)).double()


@torch.no_grad()
def states_carry() -> Iterator[Finding]:
    """Halves, steps and streams with the state carried over equal one pass."""
    q, k, v, decay = _sequence(torch.float64, 3)
    whole, last = gated_recurrence_with_state(q, k, v, decay)
    worst = 0.0
    for form, chunk in _FORMS:
        state, parts = None, []
        for part in (slice(0, 29), slice(29, None)):
            out, state = gated_recurrence_with_state(
                q[:, part], k[:, part], v[:, part], decay, form=form, chunk=chunk, initial_state=state
            )
            parts.append(out)
        assert state is not None
        worst = max(
            worst, float((torch.cat(parts, 1) - whole).abs().max()), float((state - last).abs().max())
        )
    yield Finding.at_most("two halves with the state carried over and one pass, all forms", worst, 1e-10)

    encoder, images = _vir().eval(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    features = encoder(images)
    tokens = encoder.embed(images).flatten(1, 2)
    steps = list(encoder.stream(tokens.split(1, dim=1)))
    strips = [encoder.embed(images[:, :, r : r + 8], first_row=r // 4, grid=(8, 8)) for r in range(0, 32, 8)]
    streamed = list(encoder.stream(strips))
    for name, seen in (("token by token", steps), ("strip by strip", streamed)):
        joined = torch.cat([part.tokens for part in seen], dim=1)
        worst = max(_apart(joined, features.patches), _apart(seen[-1].pooled, features.pooled))
        claim = f"an image streamed {name} and encoded at once: tokens and class feature"
        yield Finding.at_most(claim, worst, 1e-10)
    kept = sum(state.numel() for state in streamed[-1].memory) // (2 * 3)
    yield Finding.close("numbers kept a block between strips, heads x d^2 = 3 x 8^2", kept, 192, tolerance=0)


@torch.no_grad()
def limits_of_the_decay() -> Iterator[Finding]:
    """Decay 1 is linear attention; decay 0 leaves each token to itself."""
    q, k, v, _ = _sequence(torch.float64, 3)
    prefix = torch.einsum("blhk,blhkv->blhv", q, (k[..., :, None] * v[..., None, :]).cumsum(dim=1))
    ones = gated_recurrence(q, k, v, torch.zeros(3, dtype=torch.float64))
    yield Finding.at_most("g = 1: difference to prefix sums", _apart(ones, prefix), 1e-10)
    alone = (q * k).sum(dim=-1, keepdim=True) * v
    zeros = gated_recurrence(q, k, v, torch.full((3,), -800.0, dtype=torch.float64))
    yield Finding.at_most(
        "g = e^-800: difference to q k^T v of each token", float((zeros - alone).abs().max()), 1e-10
    )


@torch.no_grad()
def over_a_grid(height: int = 5, width: int = 7) -> Iterator[Finding]:
    """The separable recursion equals the mask, inclusion and exclusion, and moves with the picture."""
    heads, grid = 3, (height, width)
    q, k, v, decay = _sequence(torch.float64, heads, height * width)
    x, y = (at.flatten() for at in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    down, right = x[:, None] - x, y[:, None] - y
    apart = torch.where((down >= 0) & (right >= 0), (down + right).double(), torch.inf)
    mask = torch.exp(apart * decay[:, None, None])
    truth = torch.einsum("bnhk,bmhk,hnm,bmhv->bnhv", q, k, mask, v)
    worst = max(
        _apart(grid_recurrence(q, k, v, decay, grid=grid, rows=rows)[0], truth) for rows in (1, 2, None)
    )
    yield Finding.at_most(
        "grid of 5 x 7: separable recursion, bands and the matrix of all pairs", worst, 1e-6
    )

    g, outer = decay.exp()[:, None, None], k[..., :, None] * v[..., None, :]
    states = outer.new_zeros(height + 1, width + 1, *outer[:, 0].shape)
    for n, (i, j) in enumerate(product(range(height), range(width))):
        states[i + 1, j + 1] = g * states[i, j + 1] + g * states[i + 1, j] - g**2 * states[i, j] + outer[:, n]
    included = torch.einsum("bnhk,nbhkv->bnhv", q, states[1:, 1:].flatten(0, 1))
    claim = "the recursion by inclusion and exclusion and the same matrix"
    yield Finding.at_most(claim, _apart(included, truth), 1e-6)

    def moved(tensor: Tensor) -> Tensor:
        cells = tensor.unflatten(1, grid)
        return torch.nn.functional.pad(cells, (0, 0, 0, 0, 1, 0, 1, 0)).flatten(1, 2)

    shifted, _ = grid_recurrence(moved(q), moved(k), moved(v), decay, grid=(height + 1, width + 1))
    inner = shifted.unflatten(1, (height + 1, width + 1))[:, 1:, 1:].flatten(1, 2)
    claim = "a picture moved by (1, 1), zeros outside, moves the output"
    yield Finding.at_most(claim, _apart(inner, truth), 1e-10)


def causality() -> Iterator[Finding]:
    """No patch sees a later one; a class token sees all at the end and nothing at the beginning."""
    encoder, images = _vir(), torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    features = encoder(images)
    leaks = 0
    for patch in range(0, 64, 9):
        (gradient,) = torch.autograd.grad(features.patches[0, patch, 0], images, retain_graph=True)
        cells = gradient.unfold(2, 4, 4).unfold(3, 4, 4).abs().sum((0, 1, 4, 5)).flatten()
        leaks += int((cells[patch + 1 :] > 0).sum())
    yield Finding.close(
        "later patches that a patch's output depends on (8 patches tried)", leaks, 0, tolerance=0
    )
    (gradient,) = torch.autograd.grad(features.pooled[0, 0], images)
    share = float((gradient != 0).double().mean())
    yield Finding.close("share of the pixels on which the class feature depends", share, 1.0, tolerance=0)
    tokens = torch.cat([encoder.class_tokens.tokens.detach(), encoder.embed(images).flatten(1, 2)], dim=1)
    first = encoder.step(tokens, encoder.init_state(1))[0][0, 0, 0]
    (gradient,) = torch.autograd.grad(first, images, allow_unused=True, materialize_grads=True)
    share = float((gradient != 0).double().mean())
    yield Finding.close("the same with the class token in the wrong place, first", share, 0.0, tolerance=0)


def parameters() -> Iterator[Finding]:
    """Parameters beside DeiT of equal size."""
    from timm import create_model

    for size in ("tiny", "small", "base"):
        with torch.device("meta"):
            ours = sum(p.numel() for p in ViR(size=size).parameters())
            deit = create_model(f"deit_{size}_patch16_224", num_classes=0)
        theirs = sum(p.numel() for p in deit.parameters())
        claim = f"parameters of ViR-{size} over those of DeiT-{size}"
        yield Finding.close(claim, ours / theirs, 1.0, tolerance=0.01)


def refused() -> Finding:
    """What retention cannot do is refused with an error."""
    encoder, retention = _vir(), Retention(12, 3)
    tokens = torch.rand(2, 5, 12)
    wrong: dict[str, Callable[[], object]] = {
        "g = 1": partial(Retention, 12, 3, decays=(0.5, 1.0, 0.9)),
        "g = 0": partial(Retention, 12, 3, decays=(0.5, 0.0, 0.9)),
        "chunk = 0": partial(Retention, 12, 3, chunk=0),
        "a state of another batch size": partial(retention.continued, tokens, retention.init_state(3)),
        "an unknown mode": partial(encoder.set_mode, "chunk"),  # type: ignore[arg-type]
        "a state in half precision": partial(retention.continued, tokens, retention.init_state(2).half()),
    }
    passed = []
    for name, call in wrong.items():
        try:
            call()
            passed.append(name)
        except (ValueError, TypeError):
            continue
    state = Retention(12, 3).bfloat16().continued(tokens.bfloat16())[1]
    told = f"not refused: {', '.join(passed)}" if passed else ""
    holds = not passed and state.dtype == torch.float32
    return Finding.fact(
        f"refused: {', '.join(wrong)}; states of half-precision tokens are kept in 32 bits",
        holds,
        measured=told,
    )
