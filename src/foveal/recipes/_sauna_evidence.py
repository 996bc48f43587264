"""What proves the SAUNA recipe: exact facts of labels and losses, learning, cost, and the kept scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import jaccard_score
from torch import Tensor

from foveal.objectives.base import Objective
from foveal.objectives.sauna import jaccard_distance, jaccard_metric_loss, stable_focal_l1
from foveal.recipes.base import Evidence, Finding, Scale
from foveal.scans.synthetic import synthesize_eye
from foveal.segmentation.augmentation import warp
from foveal.segmentation.soft_labels import sauna_label

if TYPE_CHECKING:
    from foveal.recipes.sauna import Sauna

_WORKED_EXAMPLE = {
    9: (0.6, 0.6, 0.6, 0.8, 1.0, 0.8, 0.6, 0.6, 0.6),
    3: (0.8, 1.0, 0.8),
    1: (1.0,),
}


def evidence(recipe: Sauna, scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; costs, learning experiments and kept scores in full."""
    yield label_invariants
    yield worked_example
    yield labels_of_limits
    yield codings_agree
    yield jaccard_is_intersection_over_union
    yield jaccard_is_a_metric
    yield focal_gradients
    yield warping_is_safe
    if scale == "full":
        from foveal.recipes._sauna_learning import kept_losses, kept_scores, thin_vessels

        # Times are never part of a test, and so not of the quick evidence.
        yield transform_cost
        yield step_cost
        yield thin_vessels
        yield kept_losses
        yield kept_scores


def _masks() -> list[np.ndarray]:
    """Vessel masks of four synthetic eyes."""
    return [synthesize_eye(seed, size=512).vessels for seed in range(4)]


def _bars(widths: Iterable[int], *, gap: int = 16, length: int = 80) -> tuple[np.ndarray, dict[int, slice]]:
    """Horizontal bars across an image, and the rows of each."""
    rows, top = {}, gap
    for width in widths:
        rows[width] = slice(top, top + width)
        top += width + gap
    mask = np.zeros((top, length), dtype=bool)
    for row in rows.values():
        mask[row] = True
    return mask, rows


def label_invariants() -> Iterator[Finding]:
    """Labels keep the mask's sign, range, centre lines and symmetry."""
    masks = _masks()
    labels = [sauna_label(mask) for mask in masks]
    agree = np.mean([np.mean((c > 0) == mask) for c, mask in zip(labels, masks, strict=True)])
    yield Finding.close("share of pixels whose label's sign is the mask's", float(agree), 1.0, tolerance=0)
    yield Finding.at_most("largest |label|", float(max(np.abs(c).max() for c in labels)), 1.0)

    shortfall = []
    for width in range(1, 16):
        mask, rows = _bars([width])
        peak = sauna_label(mask)[rows[width], 40].max()
        shortfall.append((1 - peak) * (width + 1) / 2)
    yield Finding.at_most("centre line of a bar of 1 to 15 px: (1 - label) x m", float(max(shortfall)), 1.0)

    turns = [
        np.array_equal(sauna_label(np.rot90(mask, k)[:, ::flip]), np.rot90(c, k)[:, ::flip])
        for mask, c in zip(masks[:2], labels[:2], strict=True)
        for k in range(4)
        for flip in (1, -1)
    ]
    yield Finding.fact("equivariant to flips and quarter turns, to the last bit (Euclidean)", all(turns))


def worked_example() -> Finding:
    """Bars of 9, 3 and 1 px have the card's profiles."""
    mask, rows = _bars(_WORKED_EXAMPLE)
    label = sauna_label(mask)
    error = max(
        float(np.abs(label[rows[width], 40] - np.array(profile)).max())
        for width, profile in _WORKED_EXAMPLE.items()
    )
    below = label[rows[9].stop : rows[9].stop + 4, 40]
    error = max(error, float(np.abs(below - np.array([-0.6, -0.6, -0.6, -0.8])).max()))
    return Finding.at_most("largest error on the worked example of 9, 3 and 1 px bars", error, 1e-3)


def labels_of_limits() -> Finding:
    """Empty and full masks have a label without NaN."""
    empty, full = np.zeros((9, 7), dtype=bool), np.ones((9, 7), dtype=bool)
    holds = all(
        (sauna_label(mask, mode=mode) == value).all()
        for mode in ("h", "c", "hh")
        for mask, value in ((empty, -1), (full, 1))
    )
    return Finding.fact("an empty mask is -1, a full one 1 everywhere, in all modes", holds)


def codings_agree() -> Finding:
    """Bool, 0/1, 0/255 and grey masks of any aspect give one label."""
    mask = _masks()[0][:300]
    grey = np.where(mask, 200, 60).astype(np.uint8)
    label = sauna_label(mask)
    codings = [mask.astype(np.uint8), mask.astype(np.uint8) * 255, mask.astype(float), grey]
    holds = all(np.array_equal(label, sauna_label(coding)) for coding in codings)
    return Finding.fact("bool, 0/1, 0/255 and grey masks of 300 x 512 px give the same label", holds)


def _triples(count: int, dimension: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(3, count, dimension, generator=generator, dtype=torch.float64) - 1


def jaccard_is_intersection_over_union() -> Iterator[Finding]:
    """On hard maps the Jaccard loss is 1 - IoU of both classes pooled."""
    a, b, _ = (_triples(200, 64) > 0).double() * 2 - 1
    loss = jaccard_distance(a, b)
    oracle = [
        1 - jaccard_score(np.r_[y > 0, y < 0], np.r_[p > 0, p < 0])
        for p, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    error = float((loss - torch.tensor(oracle, dtype=loss.dtype)).abs().max())
    yield Finding.at_most("hard maps: |Jaccard loss - (1 - pooled IoU of scikit-learn)|", error, 1e-12)
    first = jaccard_metric_loss(a[:8], b[:8], variant=1)
    second = jaccard_metric_loss(a[:8], b[:8], variant=2)
    yield Finding.at_least("variants 1 and 2 differ", float((first - second).abs()), 0.01)


def jaccard_is_a_metric() -> Iterator[Finding]:
    """Symmetry, identity and the triangle inequality on 10^4 random triples."""
    x, y, z = _triples(10_000, 16)
    # A third of the triples lie between or beside their neighbours, where the inequality is tight.
    y[::3] = (x[::3] + z[::3]) / 2
    d = jaccard_distance
    excess = float((d(x, z) - d(x, y) - d(y, z)).max())
    yield Finding.at_most(
        "triangle inequality: largest d(x,z) - d(x,y) - d(y,z), 10^4 triples", excess, 1e-12
    )
    asymmetry = float((d(x, y) - d(y, x)).abs().max())
    yield Finding.at_most("symmetry: largest |d(x,y) - d(y,x)|", asymmetry, 1e-12)
    yield Finding.fact("d is 0 if and only if x = y", bool((d(x, x) == 0).all() and (d(x, y) > 0).all()))


def focal_gradients() -> Iterator[Finding]:
    """Focal-L1 against automatic differentiation in double precision, and at its kinks."""
    generator = torch.Generator().manual_seed(1)
    y = 2 * torch.rand(40, generator=generator, dtype=torch.float64) - 1
    p = 2 * torch.rand(40, generator=generator, dtype=torch.float64) - 1
    away = ((p - y).abs() > 0.05) & (p.abs() > 0.05)
    p, y = p[away].requires_grad_(), y[away]
    passed = torch.autograd.gradcheck(lambda q: stable_focal_l1(q, y), p)
    yield Finding.fact("Focal-L1 passes gradcheck away from its kinks", passed)

    # With alpha e^beta = 1 at p = 0 (e = |y|), the two branches meet there.
    target = torch.full((1,), 0.5, dtype=torch.float64)
    sides = [
        stable_focal_l1(torch.tensor([s * 1e-9], dtype=torch.float64), target, alpha=2.0) for s in (-1, 1)
    ]
    yield Finding.at_most(
        "jump at p = 0 for y = 0.5, alpha = 2, beta = 1", float((sides[0] - sides[1]).abs()), 1e-8
    )

    finite = True
    for beta in (0.5, 1.0, 2.0):
        q = y.clone().requires_grad_()
        stable_focal_l1(q, y, beta=beta).backward()
        finite &= bool(torch.isfinite(q.grad).all()) if q.grad is not None else False
    yield Finding.fact("gradient is finite at p = y for beta 0.5, 1 and 2", finite)


def warping_is_safe() -> Iterator[Finding]:
    """Warping flips a soft label's sign nowhere that the hard mask is sure, and fills with -1."""
    flipped, sure = 0, 0
    for seed, mask in enumerate(_masks()):
        hard = torch.where(torch.from_numpy(mask), 1.0, -1.0)
        labels = torch.stack([torch.from_numpy(sauna_label(mask)), hard])
        soft, warped = warp(
            torch.zeros(3, *mask.shape),
            labels,
            center=torch.tensor([250.3, 260.7]),
            scale=0.8 + 0.3 * seed,
            angle=0.3 + seed,
            flip=bool(seed % 2),
            size=512,
        )[1]
        unanimous = warped.abs() > 1 - 1e-5
        flipped += int(((soft > 0) != (warped > 0))[unanimous].sum())
        sure += int(unanimous.sum())
    claim = f"signs flipped by bilinear warping where the warped hard mask is unanimous ({sure} pixels)"
    yield Finding.close(claim, flipped, 0, tolerance=0)
    beyond = warp(
        torch.ones(3, 32, 32),
        torch.ones(1, 32, 32),
        center=torch.tensor([15.5, 15.5]),
        scale=0.5,
        angle=0.4,
        flip=False,
        size=64,
    )[1][0, 0, 0]
    yield Finding.close("what warping fills in beyond the edge", float(beyond), -1.0, tolerance=0)


def transform_cost() -> Finding:
    """Time of the exact transform of a 512 x 512 mask."""
    mask = _masks()[0]
    return Finding.at_most(
        "milliseconds for a 512 x 512 mask, exact metric", 1000 * _best(lambda: sauna_label(mask)), 50
    )


def step_cost(steps: int = 30) -> Finding:
    """A training step with the SAUNA losses over one with BCE + Dice."""
    from foveal.models import Segmenter, SegmenterConfig
    from foveal.objectives.hard_masks import BceDiceObjective
    from foveal.objectives.sauna import SaunaObjective

    mask = torch.from_numpy(_masks()[0][:256, :256])[None, None].expand(4, -1, -1, -1).float()
    batch = {
        "images": torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(0)),
        "masks": mask,
        "soft_labels": 2 * mask - 1,
    }
    objectives = [
        SaunaObjective(Segmenter(SegmenterConfig())),
        BceDiceObjective(Segmenter(SegmenterConfig())),
    ]
    best = [float("inf"), float("inf")]
    # Turn about, so that whatever else the machine does falls on both.
    for _ in range(steps):
        for i, objective in enumerate(objectives):
            best[i] = min(best[i], _best(partial(_step, objective, batch), rounds=1))
    return Finding.at_most("time of a training step, SAUNA over BCE + Dice", best[0] / best[1], 1.05)


def _step(objective: Objective, batch: dict[str, Tensor]) -> None:
    objective(batch)["loss"].backward()


def _best(work: Callable[[], object], rounds: int = 5) -> float:
    """Shortest of a few timings, seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
