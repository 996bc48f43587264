"""Pictures of PACE's concepts: the patches nearest to each, and where each is in an image."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from foveal.explanation.cam import enlarged
from foveal.explanation.pace import ConceptModel, Pace, drivers
from foveal.explanation.pictures import Drawn, comparison_png, grey_photograph
from foveal.measurement.drawing_canvas import SMALL, lay_grid
from foveal.settings import unknown_name

Rank = Literal["density", "responsibility"]
_TILE, _LABEL = 0.85, 2.6  # inches: side of a crop, width of what is said of a concept


@dataclass(frozen=True, eq=False)
class NearestPatches:
    """The patches that show each concept best.

    Attributes:
        crops: (K, N, C, h, w), best first, with their surroundings; 0 where there are fewer.
        scores: (K, N) log-density or chance; -inf where there are fewer.
        images: (K, N) which image of all, -1 where there are fewer.
        cells: (K, N) which patch of it, row-major.
    """

    crops: Tensor
    scores: Tensor
    images: Tensor
    cells: Tensor


@torch.no_grad()
def nearest_patches(
    pace: Pace,
    batches: Tensor | Iterable[Tensor],
    *,
    count: int = 8,
    rank: Rank = "density",
    around: float = 1.0,
) -> NearestPatches:
    """Go through images once and keep the best patches of each concept.

    Args:
        pace: a model with its concepts.
        batches: (B, C, H, W), or several; of volumes (B, C, T, H, W) the middle slice of a patch is shown.
        count: of patches of each concept.
        rank: "density" takes the patches of the highest density among those that are likeliest of the
            concept; "responsibility" those with the highest chance of it.
        around: cells shown on each side of a patch.

    Raises:
        ValueError: no images, or another rank.
    """
    if rank not in get_args(Rank):
        raise ValueError(unknown_name("rank", rank, get_args(Rank)))
    best: NearestPatches | None = None
    before = 0
    for images in [batches] if isinstance(batches, Tensor) else batches:
        found = pace.explain(images)
        phi = found.posterior.phi[:, found.read.prefix :]
        if rank == "density":
            tokens = pace.fitted.reduce(found.read.embeddings[:, found.read.prefix :])
            density = pace.fitted.concepts.log_density(tokens)
            own = phi >= phi.amax(dim=-1, keepdim=True)
            scores = torch.where(own, density, torch.full_like(density, -torch.inf))
        else:
            scores = phi
        flat = scores.flatten(0, 1).mT
        top = flat.topk(min(count, flat.shape[1]), dim=1)
        image, cell = top.indices // phi.shape[1], top.indices % phi.shape[1]
        crops = _crops(images, image, cell, found.read.grid, around)
        new = NearestPatches(crops, top.values, image + before, cell)
        best = new if best is None else _merged(best, new, count)
        before += len(images)
    if best is None:
        raise ValueError("there are no images to show concepts by")
    missing = ~torch.isfinite(best.scores)
    return NearestPatches(
        best.crops.masked_fill(missing[:, :, None, None, None], 0),
        best.scores,
        best.images.masked_fill(missing, -1),
        best.cells.masked_fill(missing, -1),
    )


def concept_sheet_png(
    fitted: ConceptModel, nearest: NearestPatches, *, concepts: Sequence[int] | None = None
) -> bytes:
    """A row for each concept: its number, its share of all attention, the class it drives, its patches.

    Args:
        fitted: the concepts.
        nearest: their patches.
        concepts: which, in this order; the 20 most prevalent by default.

    Returns:
        PNG.
    """
    from matplotlib.figure import Figure

    chosen = list(concepts if concepts is not None else fitted.order()[:20])
    count = nearest.crops.shape[1]
    width, height = _LABEL + count * _TILE, len(chosen) * _TILE
    figure = Figure(figsize=(width, height), dpi=100, facecolor="black")
    shown = nearest.crops[chosen]
    low, high = float(shown.min()), float(shown.max())
    for row, concept in enumerate(chosen):
        bottom = 1 - (row + 1) / len(chosen)
        figure.text(
            0.12 / width, bottom + 0.5 / len(chosen), _told(fitted, concept), color="white",
            fontsize=SMALL, va="center", linespacing=1.4,
        )  # fmt: skip
        for place in range(count):
            if int(nearest.images[concept, place]) < 0:
                continue
            pixels = (nearest.crops[concept, place] - low) / max(high - low, 1e-12)
            axes = figure.add_axes(
                ((_LABEL + place * _TILE) / width, bottom, 0.95 * _TILE / width, 0.95 / len(chosen))
            )
            lay_grid(axes, _rgb(pixels.cpu().numpy()), interpolation="nearest")
            axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="black")
    return buffer.getvalue()


def image_concepts_png(
    pace: Pace, image: Tensor, *, count: int = 5, background: np.ndarray | None = None
) -> bytes:
    """An image beside maps of the concepts that it has most of.

    Args:
        pace: a model with its concepts.
        image: (1, C, H, W), as the model takes it.
        count: of concepts.
        background: (H, W, 3) uint8 to draw on; the image itself by default.
    """
    if image.ndim != 4 or len(image) != 1:
        raise ValueError(f"an image of shape {tuple(image.shape)}; allowed: one, (1, C, H, W)")
    found = pace.explain(image)
    most = found.theta[0].topk(min(count, found.theta.shape[1]))
    maps = [
        Drawn(
            enlarged(found.maps[:, concept], image)[0].cpu().numpy(),
            f"concept {concept}: {100 * share:.0f} % of the image",
            signed=False,
        )
        for share, concept in zip(most.values.tolist(), most.indices.tolist(), strict=True)
    ]
    drawn_on = grey_photograph(image[0].cpu().numpy()) if background is None else background
    return comparison_png(maps, drawn_on, title="image")


def _told(fitted: ConceptModel, concept: int) -> str:
    lines = [f"concept {concept}   {100 * float(fitted.prevalence[concept]):.1f} % of attention"]
    names = fitted.config.class_names
    count = len(fitted.prevalence)
    for number, concepts in enumerate(drivers(fitted, count=count)):
        strength = dict(concepts)[concept]
        if strength > 0 and strength == max(
            float(v) for v in (fitted.eta - fitted.eta.mean(dim=0))[:, concept]
        ):
            lines.append(
                f"for {names[number] if number < len(names) else f'class {number}'}: {strength:+.2f}"
            )
    return "\n".join(lines)


def _crops(images: Tensor, image: Tensor, cell: Tensor, grid: tuple[int, ...], around: float) -> Tensor:
    """(K, N, C, h, w) patches with their surroundings; the edge of the image is repeated beyond it."""
    *depth, rows, columns = grid
    size = images.shape[-2] // rows, images.shape[-1] // columns
    margin = tuple(round(around * side) for side in size)
    flat_image, flat_cell = image.flatten().tolist(), cell.flatten().tolist()
    crops = []
    for b, n in zip(flat_image, flat_cell, strict=True):
        picture = images[b]
        if depth:
            thick = images.shape[2] / depth[0]
            picture = picture[:, int((n // (rows * columns) + 0.5) * thick)]
        row, column = n // columns % rows, n % columns
        top, left = row * size[0], column * size[1]
        y = torch.arange(top - margin[0], top + size[0] + margin[0]).clamp(0, images.shape[-2] - 1)
        x = torch.arange(left - margin[1], left + size[1] + margin[1]).clamp(0, images.shape[-1] - 1)
        crops.append(picture[:, y][:, :, x])
    return torch.stack(crops).unflatten(0, tuple(image.shape))


def _merged(one: NearestPatches, two: NearestPatches, count: int) -> NearestPatches:
    scores = torch.cat([one.scores, two.scores], dim=1)
    top = scores.topk(min(count, scores.shape[1]), dim=1)

    def taken(a: Tensor, b: Tensor) -> Tensor:
        both = torch.cat([a, b], dim=1)
        place = top.indices.view(*top.indices.shape, *[1] * (both.ndim - 2))
        return both.gather(1, place.expand(-1, -1, *both.shape[2:]))

    return NearestPatches(
        taken(one.crops, two.crops), top.values, taken(one.images, two.images), taken(one.cells, two.cells)
    )


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """(C, h, w) in [0, 1] as (h, w, 3) uint8; anything but three channels is grey."""
    seen = pixels if pixels.shape[0] == 3 else np.repeat(pixels.mean(axis=0, keepdims=True), 3, axis=0)
    return np.rint(255 * np.clip(seen, 0, 1)).astype(np.uint8).transpose(1, 2, 0)
