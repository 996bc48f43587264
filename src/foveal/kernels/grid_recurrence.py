"""Retention over a grid (ViR, arXiv 2310.19731): each cell sees those up and left of it.

    o_{x,y} = q_{x,y} sum_{x' <= x, y' <= y} g^((x - x') + (y - y')) k_{x',y'}^T v_{x',y'}

The decay is a product of one of rows and one of columns. So a state for each column, passed down the rows,
S_x = g S_{x-1} + R_x with R the recurrence along row x, replaces the matrix of all pairs of cells.
"""

from __future__ import annotations

from functools import partial

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from foveal.kernels.gated_recurrence import RECOMPUTE_ABOVE
from foveal.kernels.overriding import overridable


@overridable
def grid_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    grid: tuple[int, int],
    rows: int | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output of the recurrence and the states of the columns after the last row.

    Args:
        q: (B, h w, H, K) queries, row-major over `grid`.
        k: (B, h w, H, K) keys.
        v: (B, h w, H, V) values.
        log_decay: (H,) <= 0, log g.
        grid: (h, w).
        rows: that are computed at once, by a matrix of the pairs of their cells; between such bands only the
            states are passed on. 1 is the recurrence, h the parallel form, and what None takes.
        initial_state: (B, H, w, K, V) states of the columns from rows above; zero by default.

    Returns:
        (B, h w, H, V), of the type of `v`, and (B, H, w, K, V) states in 32 or 64 bits; that of the last
        column holds all cells, as seen from the last corner.

    Raises:
        ValueError: tokens that do not fill the grid, other shapes that do not fit, rows < 1, or a decay
            above 1.
    """
    height, width = grid
    rows = height if rows is None else rows
    _check(q, k, v, log_decay, grid, rows, initial_state)
    wide = any(x.dtype == torch.float64 for x in (q, k, v, log_decay))
    kind = torch.float64 if wide else torch.float32
    batch, _, heads, values = v.shape
    with torch.autocast(v.device.type, enabled=False):
        if initial_state is None:
            state = torch.zeros(batch, heads, width, q.shape[-1], values, dtype=kind, device=v.device)
        else:
            state = initial_state.to(kind)
        sizes = [min(rows, height - row) * width for row in range(0, height, rows)]
        q_parts, k_parts, v_parts = (x.to(kind).split(sizes, dim=1) for x in (q, k, v))
        work = partial(_band, width=width)
        outputs = []
        for part in zip(q_parts, k_parts, v_parts, strict=True):
            if height * width > RECOMPUTE_ABOVE and torch.is_grad_enabled():
                out, state = checkpoint(
                    work, *part, log_decay.to(kind), state, use_reentrant=False, preserve_rng_state=False
                )
            else:
                out, state = work(*part, log_decay.to(kind), state)
            outputs.append(out)
    return torch.cat(outputs, dim=1).to(v.dtype), state


@overridable
def corner_recurrence(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, grid: tuple[int, int], rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """The mean of the recurrences from all four corners: every cell sees every other.

    Arguments and output are those of `grid_recurrence`; the second result is (4, B, H, K, V), the state at
    the last corner of each.
    """
    outputs, corners = [], []
    for axes in ((), (1,), (2,), (1, 2)):

        def flip(x: Tensor, axes: tuple[int, ...] = axes) -> Tensor:
            return x.unflatten(1, grid).flip(axes).flatten(1, 2)

        out, state = grid_recurrence(flip(q), flip(k), flip(v), log_decay, grid=grid, rows=rows)
        outputs.append(flip(out))
        corners.append(state[:, :, -1])
    return torch.stack(outputs).mean(dim=0), torch.stack(corners)


def _band(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, *, width: int
) -> tuple[Tensor, Tensor]:
    """A band of rows at once."""
    count = q.shape[1] // width
    down, across = _mask(log_decay, count), _mask(log_decay, width)
    within = torch.einsum("hxa,hyb->hxyab", down, across).flatten(1, 2).flatten(2, 3)
    q_all, k_all, v_all = (rearrange(x, "b n h k -> b h n k") for x in (q, k, v))
    inner = ((q_all @ k_all.mT) * within) @ v_all
    by_column = [rearrange(x, "b (x y) h k -> b h y x k", y=width) for x in (q, k, v)]
    since_start = torch.exp(torch.arange(1, count + 1, device=q.device) * log_decay[:, None])
    cross = since_start[:, None, :, None] * (by_column[0] @ state)  # b h y x v
    out = inner + rearrange(cross, "b h y x v -> b h (x y) v")
    until_end = down[:, -1]  # h x
    new = by_column[1].mT @ (until_end[:, None, :, None] * by_column[2])  # b h y k v
    along_rows = (across @ new.flatten(3)).unflatten(-1, new.shape[-2:])
    state = since_start[:, -1, None, None, None] * state + along_rows
    return rearrange(out, "b h n v -> b n h v"), state


def _mask(log_decay: Tensor, length: int) -> Tensor:
    """(H, length, length) g^(i - j) on and below the diagonal, else 0; masked before the exponential."""
    index = torch.arange(length, device=log_decay.device)
    apart = index[:, None] - index
    return torch.exp((apart * log_decay[:, None, None]).masked_fill(apart < 0, -torch.inf))


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    grid: tuple[int, int],
    rows: int,
    state: Tensor | None,
) -> None:
    if rows < 1:
        raise ValueError(f"rows={rows}; allowed: 1 or more rows at once")
    if v.ndim != 4 or v.shape[1] != grid[0] * grid[1] or not v.shape[1]:
        raise ValueError(
            f"v of shape {tuple(v.shape)} does not fill a grid of {grid[0]} x {grid[1]} cells; "
            f"allowed: (B, {grid[0] * grid[1]}, H, V)"
        )
    heads, wanted = v.shape[2], (*v.shape[:3], q.shape[-1])
    if q.shape != wanted or k.shape != wanted or log_decay.shape != (heads,):
        raise ValueError(
            f"q, k and log_decay of shapes {tuple(q.shape)}, {tuple(k.shape)} and {tuple(log_decay.shape)}; "
            f"for v of {tuple(v.shape)} they are {wanted}, {wanted} and {(heads,)}"
        )
    shape = (v.shape[0], heads, grid[1], q.shape[-1], v.shape[-1])
    if state is not None and tuple(state.shape) != shape:
        raise ValueError(f"initial_state has shape {tuple(state.shape)}; for this grid it is {shape}")
    if not float(log_decay.detach().max()) <= 0:
        raise ValueError(f"log_decay has entries up to {float(log_decay.max()):.4g}; all must be <= 0")
