"""Noisy linear imputation: removed pixels filled from their neighbours (ROAD, arXiv 2202.00449)."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import solveh_banded
from scipy.sparse.linalg import splu
from torch import Tensor

from foveal.explanation.perturbing import generator_of

_BAND_NUMBERS = 20_000_000  # in the band of a system, at most
_BAND_PRODUCTS = 4_000_000_000  # to decompose a band, at most
_LEAF = 64  # pixels below which a part of the grid is not parted any more


def impute(image: Tensor, removed: Tensor, *, noise: float = 0.01, seed: int = 0) -> Tensor:
    """An image whose removed pixels each are the weighted mean of all their neighbours, plus noise.

    Neighbours that are removed too count with the values they get, so that all are the solution of one linear
    system, which is symmetric and positive definite. In two dimensions a neighbour beside counts 1/6 and one
    at a corner 1/12, as in the paper; in general 1 to 1/2 for each axis more along which it is moved. At the
    image's edge the mean is over the neighbours that there are.

    Args:
        image: (C, H, W) or (C, T, H, W).
        removed: (H, W) or (T, H, W) bool.
        noise: standard deviation of what is added, in units of the image, so that a model cannot tell filled
            pixels by their smoothness.
        seed: of the noise.

    Returns:
        The image with removed pixels filled, same type.

    Raises:
        ValueError: shapes that do not fit, or nothing that is kept.
    """
    if removed.shape != image.shape[1:] or removed.dtype != torch.bool:
        raise ValueError(
            f"removed is {removed.dtype} of shape {tuple(removed.shape)}; a bool mask of "
            f"{tuple(image.shape[1:])} is wanted"
        )
    gone = removed.flatten().cpu().numpy()
    if gone.all():
        raise ValueError("all pixels are removed; at least one must be kept to fill others from")
    if not gone.any():
        return image.clone()
    values = image.detach().flatten(1).double().cpu().numpy().T
    shape = tuple(removed.shape)
    unknown = _by_longest_axis(shape)
    unknown = unknown[gone[unknown]]
    rows = neighbour_system(shape)[unknown]
    solution = _solved(rows[:, unknown], -(rows @ np.where(gone[:, None], 0.0, values)), shape, unknown)
    filled = torch.from_numpy(np.ascontiguousarray(solution.T))
    if noise:
        filled += noise * torch.randn(filled.shape, generator=generator_of(seed), dtype=filled.dtype)
    result = image.detach().flatten(1).clone()
    result[:, torch.from_numpy(unknown).to(result.device)] = filled.to(result)
    return result.view_as(image)


@lru_cache(maxsize=4)
def neighbour_system(shape: tuple[int, ...]) -> sparse.csr_array:
    """(N, N) Laplacian of the grid: a row times the pixels is 0 where one is the mean of its neighbours."""
    indices = np.arange(math.prod(shape)).reshape(shape)
    offsets = [o for o in itertools.product((-1, 0, 1), repeat=len(shape)) if any(o)]
    sizes = np.array([0.5 ** (np.count_nonzero(o) - 1) for o in offsets])
    rows, columns, weights = [], [], []
    for offset, weight in zip(offsets, sizes / sizes.sum(), strict=True):
        here = tuple(slice(max(0, -o), s - max(0, o)) for o, s in zip(offset, shape, strict=True))
        there = tuple(slice(max(0, o), s - max(0, -o)) for o, s in zip(offset, shape, strict=True))
        rows.append(indices[here].ravel())
        columns.append(indices[there].ravel())
        weights.append(np.full(rows[-1].size, weight))
    size = (indices.size, indices.size)
    beside = sparse.csr_array(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=size
    )
    return sparse.csr_array(sparse.diags_array(beside.sum(axis=1)) - beside)


def _solved(
    system: sparse.csr_array, known: np.ndarray, shape: tuple[int, ...], unknown: np.ndarray
) -> np.ndarray:
    """Solution of a symmetric positive definite system of pixels `unknown` of a grid.

    Its band is at most as wide as all axes but the longest together, and narrower the fewer pixels are
    removed; Cholesky's decomposition of a band runs at the speed of dense blocks. Where the band is large, in
    volumes and very large images, a sparse decomposition fills in less.
    """
    entries = system.tocoo()
    lower = entries.row >= entries.col
    row, column, value = entries.row[lower], entries.col[lower], entries.data[lower]
    size, width = len(unknown), int((row - column).max()) + 1
    if size * width <= _BAND_NUMBERS and size * width**2 <= _BAND_PRODUCTS:
        band = np.zeros((width, size), order="F")
        band[row - column, column] = value
        return solveh_banded(band, known, lower=True, overwrite_ab=True, check_finite=False)
    place = np.empty(math.prod(shape), dtype=np.int64)
    place[unknown] = np.arange(size)
    order = _dissection(shape)
    order = place[order[np.isin(order, unknown, assume_unique=True)]]
    factors = splu(system[order][:, order].tocsc(), permc_spec="NATURAL", diag_pivot_thresh=0.0)
    solution = np.empty_like(known)
    solution[order] = factors.solve(known[order])
    return solution


@lru_cache(maxsize=4)
def _by_longest_axis(shape: tuple[int, ...]) -> np.ndarray:
    """Indices of pixels, the longest axis going slowest, so that neighbours lie near each other."""
    indices = np.arange(math.prod(shape)).reshape(shape)
    return np.moveaxis(indices, int(np.argmax(shape)), 0).ravel()


@lru_cache(maxsize=4)
def _dissection(shape: tuple[int, ...]) -> np.ndarray:
    """Pixels in an order of elimination that fills in little: both halves of the grid, then what parts them.

    George's nested dissection; as the grid is known, it costs nothing beside an ordering of minimal degree.
    """

    def halved(indices: np.ndarray) -> list[np.ndarray]:
        if indices.size <= _LEAF:
            return [indices.ravel()]
        longest = np.moveaxis(indices, int(np.argmax(indices.shape)), 0)
        middle = len(longest) // 2
        return [*halved(longest[:middle]), *halved(longest[middle + 1 :]), longest[middle].ravel()]

    return np.concatenate(halved(np.arange(math.prod(shape)).reshape(shape)))
