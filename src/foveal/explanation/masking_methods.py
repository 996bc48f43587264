"""RISE: which places an image keeps whenever the score stays high (arXiv 1806.07421), for any dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.explanation.methods import Question, register_method
from foveal.explanation.perturbing import Baseline, baseline_images


@register_method("rise", "perturbation")
def rise(
    asked: Question,
    *,
    masks: int = 256,
    cells: int | Sequence[int] | None = None,
    keep: float = 0.5,
    baseline: Baseline = 0.0,
    centred: bool = True,
    batch_size: int = 16,
    seed: int = 0,
) -> Tensor:
    """Mean score of images seen through random soft masks, weighted by the masks (arXiv 1806.07421).

    `cells` along each side of the coarse masks are 7 for images and 4 for volumes where none are given;
    `keep` is the chance of each to be seen; `baseline` stands where nothing is. The paper draws 4000 masks or
    more and takes the mean score at each place over `keep`; `centred` takes the scores' own mean away before,
    which has the same expectation but for a constant and varies much less with few masks.
    """
    if not 0 < keep < 1 or masks < 2:
        raise ValueError(f"keep is {keep}, masks {masks}; allowed: between 0 and 1, and 2 or more")
    images = asked.images
    sides = tuple(images.shape[2:])
    grid = _cells(cells, sides)
    reference = baseline_images(images, baseline)
    generator = torch.Generator().manual_seed(seed)
    seen, scores = images.new_zeros(images.shape[:1] + sides), []
    sums = images.new_zeros(sides)
    with torch.no_grad():
        for start in range(0, masks, batch_size):
            drawn = random_masks(min(batch_size, masks - start), sides, grid, keep=keep, generator=generator)
            drawn = drawn.to(images)
            part = torch.stack(
                [
                    asked.score(
                        image * drawn[:, None] + ground * (1 - drawn[:, None]),
                        weights.expand(len(drawn), *weights.shape),
                    )
                    for image, ground, weights in zip(images, reference, asked.weights, strict=True)
                ]
            )
            seen += torch.einsum("bn,n...->b...", part, drawn)
            sums += drawn.sum(0)
            scores.append(part)
    if centred:
        mean = torch.cat(scores, dim=1).mean(dim=1).view(-1, *[1] * len(sides))
        seen = seen - mean * sums
    return seen / (masks * keep)


def random_masks(
    count: int, sides: Sequence[int], cells: Sequence[int], *, keep: float, generator: torch.Generator
) -> Tensor:
    """(count, *sides) coarse random grids, linearly enlarged and shifted at random by less than a cell."""
    size = [-(-side // n) for side, n in zip(sides, cells, strict=True)]
    coarse = (torch.rand(count, 1, *[n + 1 for n in cells], generator=generator) < keep).float()
    large = [(n + 1) * s for n, s in zip(cells, size, strict=True)]
    masks = F.interpolate(
        coarse, size=large, mode="bilinear" if len(sides) == 2 else "trilinear", align_corners=False
    )[:, 0]
    for axis, (side, step) in enumerate(zip(sides, size, strict=True), start=1):
        shift = torch.randint(step, (count,), generator=generator)
        places = shift[:, None] + torch.arange(side)
        shape = [count if a == 0 else side if a == axis else 1 for a in range(masks.ndim)]
        wanted = [side if a == axis else n for a, n in enumerate(masks.shape)]
        masks = masks.gather(axis, places.view(shape).expand(wanted))
    return masks


def _cells(cells: int | Sequence[int] | None, sides: tuple[int, ...]) -> tuple[int, ...]:
    default = 7 if len(sides) == 2 else 4
    found = (cells or default,) * len(sides) if cells is None or isinstance(cells, int) else tuple(cells)
    if len(found) != len(sides) or min(found) < 1:
        raise ValueError(f"cells is {cells}; allowed: {len(sides)} numbers of 1 or more")
    return tuple(min(n, side) for n, side in zip(found, sides, strict=True))
