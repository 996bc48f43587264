"""Areas that stand out in a map: context-aware saliency (Goferman et al., TPAMI 2012).

On a relevance map it turns scattered pixels into coherent areas (salient relevance, arXiv 1712.08268): a
patch stands out where even the patches most like it differ, near ones counting more than far ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from skimage.color import rgb2lab
from skimage.measure import label, regionprops
from torch import Tensor
from torch.nn import functional as F

from foveal.explanation.cam import unit_range
from foveal.explanation.methods import Question, attribute, register_method
from foveal.settings import unknown_name

PATCH = 7
LARGEST_SIDE = 250  # pixels, of the map that is looked at
Colours = Literal["lab", "channels"]
Content = Literal["size", "signed"]


@register_method("salient-relevance", "propagation", signed=False)
def salient_relevance(
    asked: Question,
    *,
    of: str = "lrp",
    content: Content = "size",
    scales: Sequence[float] = (1.0, 0.8, 0.5, 0.3),
    neighbours: int = 64,
    position_weight: float = 3.0,
    colours: Colours = "lab",
    **options: object,
) -> Tensor:
    """Areas that stand out in a relevance map, in [0, 1] (salient relevance, arXiv 1712.08268).

    `of` names the method whose map is looked at; `content` takes the size of its relevance, or its values
    with their sign. The other options are those of `context_saliency`. It may hide diffuse evidence: keep
    the map itself beside it.
    """
    raw = attribute(asked.model, asked.images, asked.weights_for, method=of, **options)
    if raw.ndim != asked.images.ndim:
        raw = raw[:, None]
    if raw.ndim != 4:
        raise ValueError(
            "salient-relevance takes images; explain volumes slice by slice or by another method"
        )
    if content not in ("size", "signed"):
        raise ValueError(unknown_name("content", content, ("size", "signed")))
    return context_saliency(
        raw.abs() if content == "size" else raw,
        scales=scales,
        neighbours=neighbours,
        position_weight=position_weight,
        colours=colours,
    )


def context_saliency(
    maps: Tensor,
    *,
    scales: Sequence[float] = (1.0, 0.8, 0.5, 0.3),
    neighbours: int = 64,
    position_weight: float = 3.0,
    stride: int = 4,
    focus: float = 0.8,
    colours: Colours = "lab",
    centre_prior: float | None = None,
) -> Tensor:
    """How much each place of a map stands out.

    For a patch at scale r, S = 1 - exp(-mean of the distances to its most similar patches at r, r / 2 and
    r / 4), with the distance d_content / (1 + c d_position). The mean over scales is weakened with the
    distance to the nearest place above `focus`.

    Args:
        maps: (B, C, H, W), of one or three channels; scaled to [0, 1] image by image.
        scales: r, of the map at most 250 px long; each above 0 and at most 1.
        neighbours: K, most similar patches.
        position_weight: c.
        stride: pixels between patches, of 7 px, at the largest scale.
        focus: least saliency of a focus of attention.
        colours: distances of three channels in CIE Lab ("lab"), or as they are ("channels").
        centre_prior: deviation over the larger side of a Gaussian around the centre; None for none.

    Returns:
        (B, H, W) in [0, 1]; 0 everywhere where nothing stands out.

    Raises:
        ValueError: maps of other axes or not finite, or a scale outside its range.
    """
    if maps.ndim != 4 or not bool(torch.isfinite(maps).all()):
        raise ValueError(f"maps of shape {tuple(maps.shape)}; allowed: finite (B, C, H, W)")
    if not scales or not all(0 < r <= 1 for r in scales) or neighbours < 1:
        raise ValueError(
            f"scales are {tuple(scales)}, neighbours {neighbours}; allowed: in (0, 1], from 1 on"
        )
    if colours not in ("lab", "channels"):
        raise ValueError(unknown_name("colours", colours, ("lab", "channels")))
    found = [
        _one(unit_range(one[None]), scales, neighbours, position_weight, stride, focus, colours, centre_prior)
        for one in maps.float()
    ]
    return torch.stack(found)


def areas(salient: Tensor, *, threshold: float = 0.5) -> list[list[dict[str, float]]]:
    """Connected areas of maps (B, H, W) above a threshold, largest first.

    Returns:
        For each map, areas with `top`, `left`, `bottom`, `right` (pixels, the last two outside), `pixels`
        and `mean` of the map inside.
    """
    result = []
    for one in salient.cpu().numpy():
        found = regionprops(label(one > threshold), intensity_image=one)
        boxes = [
            dict(zip(("top", "left", "bottom", "right"), map(float, region.bbox), strict=True))
            | {"pixels": float(region.area), "mean": float(region.intensity_mean)}
            for region in found
        ]
        result.append(sorted(boxes, key=lambda box: -box["pixels"]))
    return result


def _one(
    image: Tensor,
    scales: Sequence[float],
    neighbours: int,
    position_weight: float,
    stride: int,
    focus: float,
    colours: Colours,
    centre_prior: float | None,
) -> Tensor:
    """(H, W) of one map (1, C, H, W) in [0, 1]."""
    size = tuple(image.shape[2:])
    content = image
    if colours == "lab" and image.shape[1] == 3:
        lab = rgb2lab(image[0].permute(1, 2, 0).cpu().numpy()) / 100
        content = torch.from_numpy(lab).to(image).permute(2, 0, 1)[None]
    longer = max(size)
    base = _resized(content, LARGEST_SIDE / longer) if longer > LARGEST_SIDE else content
    height, width = base.shape[2:]
    grid = _centres(height, stride), _centres(width, stride)
    means = []
    for r in scales:
        queries, _ = _patches(base, r, grid)
        candidates, places = zip(
            *(
                _patches(base, part, (_centres(height, stride / part), _centres(width, stride / part)))
                for part in (r, r / 2, r / 4)
                if part >= 0.2 or part == r
            ),
            strict=True,
        )
        _, here = _patches(base, r, grid)
        means.append(
            _stands_out(
                queries,
                torch.cat(candidates),
                here,
                torch.cat(places),
                neighbours,
                position_weight,
                max(height, width),
            )
        )
    each = torch.stack([unit_range(mean.view(1, len(grid[0]), len(grid[1])))[0] for mean in means])
    salient = each.mean(dim=0)
    foci = (salient > focus).cpu().numpy()
    if foci.any():
        steps = distance_transform_edt(~foci) * stride / max(height, width)
        salient = salient * (1 - torch.from_numpy(steps.clip(0, 1)).to(salient))
    if centre_prior is not None:
        rows, columns = (
            (torch.as_tensor(line) - (side - 1) / 2) / max(height, width)
            for line, side in zip(grid, (height, width), strict=True)
        )
        away = rows[:, None] ** 2 + columns[None] ** 2
        salient = salient * torch.exp(-away / (2 * centre_prior**2)).to(salient)
    full = F.interpolate(salient[None, None], size=size, mode="bilinear", align_corners=False)[0]
    return unit_range(full)[0]


def _stands_out(
    queries: Tensor,
    candidates: Tensor,
    here: Tensor,
    there: Tensor,
    neighbours: int,
    weight: float,
    side: int,
) -> Tensor:
    """1 - exp(-mean distance to the K nearest) of each query; content distances over the largest of all."""
    largest = torch.zeros(())
    nearest = []
    for rows, where in zip(queries.split(1024), here.split(1024), strict=True):
        content = torch.cdist(rows, candidates)
        largest = torch.maximum(largest, content.amax())
        distance = content / (1 + weight * torch.cdist(where, there) / side)
        nearest.append(
            distance.topk(min(neighbours, len(candidates)), dim=1, largest=False).values.mean(dim=1)
        )
    return 1 - torch.exp(-torch.cat(nearest) / largest.clamp_min(1e-6))


def _patches(image: Tensor, scale: float, grid: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Patches (N, 7 * 7 * C) at places of a grid, in the image scaled by `scale`, and the places (N, 2)."""
    scaled = _resized(image, scale) if scale < 1 else image
    # Between pixels patches are interpolated, so that a mirrored map has mirrored patches.
    inside = torch.arange(PATCH) - (PATCH - 1) / 2
    rows, columns = (
        ((torch.from_numpy(line).float() + 0.5) * (small / side))[:, None] + inside
        for line, small, side in zip(grid, scaled.shape[2:], image.shape[2:], strict=True)
    )
    shape = len(rows), len(columns), PATCH, PATCH
    x = (columns * 2 / scaled.shape[3] - 1)[None, :, None, :].expand(shape)
    y = (rows * 2 / scaled.shape[2] - 1)[:, None, :, None].expand(shape)
    where = torch.stack([x, y], dim=-1).flatten(0, 1).flatten(1, 2).to(scaled)
    chosen = F.grid_sample(scaled, where[None], padding_mode="border", align_corners=False)
    lines = [torch.from_numpy(line).float() for line in grid]
    places = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, 1)
    return chosen[0].permute(1, 2, 0).flatten(1), places


def _resized(image: Tensor, scale: float) -> Tensor:
    size = [max(1, round(side * scale)) for side in image.shape[2:]]
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)


def _centres(side: int, stride: float) -> np.ndarray:
    """Places along a side, symmetric about its middle, about `stride` apart."""
    count = max(1, int(side // stride))
    return (np.arange(count) + 0.5) * side / count - 0.5
