"""Pictures of patch features: principal components as colours, lengths, and likeness to one patch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.settings import unknown_name


def principal_colours(maps: Sequence[Tensor]) -> list[np.ndarray]:
    """Three principal components of features as red, green and blue, the same axes for all maps.

    Args:
        maps: (H, W, D) each, D at least 3.

    Returns:
        (H, W, 3) uint8 each; a component goes from its first to its last hundredth over all maps.

    Raises:
        ValueError: maps of other shapes.
    """
    if not maps or any(each.ndim != 3 or each.shape[-1] != maps[0].shape[-1] for each in maps):
        raise ValueError("maps are (H, W, D) of one D")
    if maps[0].shape[-1] < 3:
        raise ValueError(f"features of {maps[0].shape[-1]} channels; three are wanted for colours")
    rows = torch.cat([each.detach().float().flatten(0, 1) for each in maps])
    centred = rows - rows.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # in ascending order
    found = centred @ vectors[:, -3:].flip(1)
    low, high = torch.quantile(found, torch.tensor([0.01, 0.99], device=found.device), dim=0)
    shades = ((found - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).mul(255).round().to(torch.uint8)
    parts = shades.cpu().split([each.shape[0] * each.shape[1] for each in maps])
    return [part.view(*each.shape[:2], 3).numpy() for part, each in zip(parts, maps, strict=True)]


def feature_lengths(features: Tensor) -> np.ndarray:
    """(H, W) Euclidean length of each vector of (H, W, D)."""
    return features.detach().float().norm(dim=-1).cpu().numpy()


def likeness(features: Tensor, cell: tuple[int, int]) -> np.ndarray:
    """(H, W) cosine of each vector of (H, W, D) and that of one cell (row, column).

    Raises:
        ValueError: a cell outside the grid.
    """
    height, width = features.shape[:2]
    if not (0 <= cell[0] < height and 0 <= cell[1] < width):
        raise ValueError(f"cell {cell}; allowed: rows 0 to {height - 1}, columns 0 to {width - 1}")
    return F.cosine_similarity(features.detach().float(), features[cell].float(), dim=-1).cpu().numpy()


def features_png(
    maps: Mapping[str, Tensor],
    image: Tensor,
    *,
    cell: tuple[int, int] | None = None,
    together: Sequence[str] = (),
) -> bytes:
    """A sheet: the image, and for each map of features its colours, lengths and likeness to one patch.

    Args:
        maps: (H, W, D) each, by title, such as those of a `Decomposition`: raw, clean, artifact.
        image: (C, h, w) of any range.
        cell: (row, column) of the patch that others are compared to, marked; the middle where None.
        together: titles of maps that share axes of colours, and the scale of lengths; each of the others has
            its own, as a strong artifact would leave no colour for clean features.

    Returns:
        PNG.

    Raises:
        ValueError: a title that is no map's; see `principal_colours` and `likeness`.
    """
    from matplotlib.figure import Figure

    from foveal.explanation.pictures import grey_photograph

    titles = list(maps)
    grid = next(iter(maps.values())).shape[:2]
    cell = cell or (grid[0] // 2, grid[1] // 2)
    if unknown := set(together) - set(titles):
        raise ValueError(unknown_name("map", unknown.pop(), titles))
    shared = principal_colours([maps[title] for title in together]) if together else []
    colours = dict(zip(together, shared, strict=True))
    colours |= {title: principal_colours([maps[title]])[0] for title in titles if title not in together}
    lengths = {title: feature_lengths(each) for title, each in maps.items()}
    longest = {title: float(each.max()) for title, each in lengths.items()}
    longest |= dict.fromkeys(together, max((longest[title] for title in together), default=1.0))
    figure = Figure(figsize=(2.6 * (len(titles) + 1), 8.2), dpi=100, facecolor="black")
    axes = figure.subplots(3, len(titles) + 1, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 0.965, wspace=0.02, hspace=0.08)
    for panel in axes.flat:
        panel.set_axis_off()
    axes[0, 0].imshow(grey_photograph(image.detach().float().cpu().numpy()))
    axes[0, 0].set_title("image", color="white", fontsize=9)
    for column, title in enumerate(titles, start=1):
        axes[0, column].imshow(colours[title])
        limit = longest[title]
        axes[1, column].imshow(lengths[title], cmap="magma", vmin=0, vmax=limit or 1.0)
        axes[2, column].imshow(likeness(maps[title], cell), cmap="viridis", vmin=-1, vmax=1)
        axes[2, column].plot(cell[1], cell[0], "+", color="white", markersize=10, markeredgewidth=2)
        axes[0, column].set_title(title, color="white", fontsize=9)
        axes[1, column].set_title(f"length, 0 to {limit:.3g}", color="white", fontsize=9)
        axes[2, column].set_title("cosine to the marked patch, -1 to 1", color="white", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="black", dpi=100)
    return buffer.getvalue()
