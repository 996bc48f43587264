"""How faithful explanations are: infidelity, sensitivity, confidence under masks, and a summary of all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from foveal.explanation.cam import unit_range
from foveal.explanation.localisation import mass_ratio, pointing_game
from foveal.explanation.methods import Question, ask, find_method, frozen
from foveal.explanation.perturbing import (
    Baseline,
    Perturbations,
    Reading,
    baseline_images,
    changed_readings,
    gaussian,
    pixels_of,
    relevance_ranks,
    unchanged_readings,
    uniform,
)
from foveal.explanation.removal_curves import ROAD_SHARES, deletion, insertion, road
from foveal.explanation.targets import Target
from foveal.metrics.comparison import Estimate
from foveal.metrics.segmentation import bootstrap_mean

Explainer: TypeAlias = Callable[[Question], Tensor]
"""From a question to relevance (B, ...) or (B, C, ...)."""
KEPT_SHARES = (1.0, 0.5, 0.15)
"""Shares of pixels that T-TAME (arXiv 2403.04523) keeps."""


class ConfidenceChange(NamedTuple):
    """What is left of a model's confidence p when it sees an image through a map: p'.

    Attributes:
        drop: (B, V) max(0, p - p') / p; its mean over images in percent is the average drop AD.
        increase: (B, V) 1 where p' > p, else 0; its mean in percent is the increase in confidence IC.
    """

    drop: Tensor
    increase: Tensor


def infidelity(
    asked: Question,
    relevance: Tensor,
    *,
    perturbations: Perturbations | None = None,
    normalise: bool = False,
    batch_size: int = 32,
) -> Tensor:
    """Mean of (I·phi - (f(x) - f(x - I)))^2 over perturbations I (Yeh et al., arXiv 1901.09392).

    Args:
        asked: the question that the relevance answers; f is its score.
        relevance: phi, (B, C, ...), or (B, ...) for the same in every channel.
        perturbations: see `perturbing`; ten of `gaussian(0.02)` by default.
        normalise: scale phi by E[(I·phi)(f(x) - f(x - I))] / E[(I·phi)^2], which fits best, so that only its
            pattern matters.
        batch_size: images through the model at once.

    Returns:
        (B,) float64, 0 at best.

    Raises:
        ValueError: relevance on another grid.
    """
    images = asked.images
    pixels_of(relevance, images)
    phi = (relevance if relevance.ndim == images.ndim else relevance.unsqueeze(1)).to(images.device).double()
    chosen = perturbations or gaussian()
    told: list[Tensor] = []

    def change(x: Tensor, at: Tensor, number: Tensor) -> Tensor:
        less = chosen.make(x, at, number)
        told.append((less * phi[at]).flatten(1).sum(dim=1))
        return x - less

    changed = changed_readings(asked, chosen.count, change, batch_size=batch_size)
    true = unchanged_readings(asked).double()[:, None] - changed.double()
    said = torch.cat(told).view_as(true)
    if normalise:
        size = said.square().mean(dim=1, keepdim=True)
        scale = (said * true).mean(dim=1, keepdim=True) / torch.where(size > 0, size, torch.ones_like(size))
        said = said * scale
    return (said - true).square().mean(dim=1)


def sensitivities(
    asked: Question,
    explainer: Explainer | str,
    *,
    relevance: Tensor | None = None,
    perturbations: Perturbations | None = None,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 16,
) -> Tensor:
    """||phi(x - I) - phi(x)|| / ||phi(x)|| for each perturbation I; the score's weights stay as they are.

    Args:
        asked: the question.
        explainer: a method's name or a function from a question to relevance.
        relevance: phi(x) where it is known, as the explainer gives it.
        perturbations: see `perturbing`; ten of `uniform(0.02)` by default, as in Captum.
        options: of a method that is named.
        batch_size: images that are explained at once.

    Returns:
        (B, S). Where phi(x) is 0, the numerator alone.
    """
    answer = explainer_of(explainer, **(options or {}))
    chosen = perturbations or uniform()
    images = asked.images
    found = []
    with frozen(asked.model):
        known = (answer(asked) if relevance is None else relevance).detach().flatten(1).to(images.device)
        for flat in torch.arange(len(images) * chosen.count, device=images.device).split(batch_size):
            at, number = flat // chosen.count, flat % chosen.count
            changed = images[at] - chosen.make(images[at], at, number)
            again = answer(Question(asked.model, changed, asked.weights[at])).detach()
            found.append(torch.linalg.vector_norm(again.flatten(1) - known[at], dim=1))
    size = torch.linalg.vector_norm(known, dim=1)
    return (
        torch.cat(found).view(len(images), -1) / torch.where(size > 0, size, torch.ones_like(size))[:, None]
    )


def sensitivity_max(asked: Question, explainer: Explainer | str, **options: Any) -> Tensor:
    """(B,) the largest of `sensitivities` (Yeh et al., arXiv 1901.09392), whose options these are."""
    return sensitivities(asked, explainer, **options).amax(dim=1)


def sensitivity_mean(asked: Question, explainer: Explainer | str, **options: Any) -> Tensor:
    """(B,) the mean of `sensitivities`, whose options these are."""
    return sensitivities(asked, explainer, **options).mean(dim=1)


def confidence_change(
    asked: Question,
    maps: Tensor,
    *,
    keep: Sequence[float] = KEPT_SHARES,
    baseline: Baseline = 0.0,
    reading: Reading = "probability",
    batch_size: int = 32,
) -> ConfidenceChange:
    """Average drop and increase in confidence of images seen through maps (Grad-CAM++, T-TAME).

    The changed image is baseline + map (image - baseline), with the map 0 but for its largest values. A model
    that standardises images itself sees what T-TAME calls `raw_normalize` with a baseline of 0, and its `new`
    with the mean of the standardisation.

    Args:
        asked: the question; its target is the class that the model says where T-TAME is followed.
        maps: (B, ...) in [0, 1]; `cam.unit_range` makes them of any relevance.
        keep: V shares of the pixels that keep their value, above 0 to 1; see `kept`.
        baseline: what is seen where a map is 0.
        reading: the confidence.
        batch_size: images through the model at once.

    Returns:
        Two tensors (B, V); NaN where the confidence p is not above 0, such as for an empty region.

    Raises:
        ValueError: maps out of [0, 1] or on another grid, a share out of range.
    """
    pixels = pixels_of(maps, asked.images)
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):
        raise ValueError(
            f"maps reach from {float(pixels.min()):.3g} to {float(pixels.max()):.3g}; allowed: 0 to 1; "
            "cam.unit_range scales them"
        )
    masks = torch.stack([kept(pixels, share) for share in keep], dim=1).to(asked.images)
    base = baseline_images(asked.images, baseline)
    same: list[Tensor] = []

    def change(x: Tensor, at: Tensor, number: Tensor) -> Tensor:
        mask = masks[at, number].unsqueeze(1)
        changed = torch.where(mask == 1, x, base[at] + mask * (x - base[at]))
        same.append((changed == x).flatten(1).all(dim=1))
        return changed

    after = changed_readings(asked, len(keep), change, reading=reading, batch_size=batch_size)
    before = unchanged_readings(asked, reading)[:, None].expand_as(after)
    after = torch.where(torch.cat(same).view_as(after), before, after)  # batches round in their own way
    sure = before > 0
    drop = torch.where(sure, (before - after).clamp_min(0) / torch.where(sure, before, 1.0), torch.nan)
    return ConfidenceChange(drop, torch.where(sure, (after > before).to(after), torch.nan))


def kept(maps: Tensor, share: float) -> Tensor:
    """Maps (B, ...) with their largest round(N share) values, others 0; equal values go by their index.

    Raises:
        ValueError: a share out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share to keep is {share}; allowed: above 0 to 1")
    count = round(share * maps[0].numel())
    return torch.where(relevance_ranks(maps) < count, maps, torch.zeros_like(maps))


def explainer_of(method: Explainer | str, **options: Any) -> Explainer:
    """A function from a question to relevance: a registered method with its options, or what is given.

    Raises:
        ValueError: an unknown method, or an option that it does not have.
    """
    return (
        find_method(method).with_options(**options) if isinstance(method, str) else partial(method, **options)
    )


def measure_faithfulness(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    method: str,
    options: Mapping[str, Any] | None = None,
    masks: Tensor | None = None,
    steps: int = 20,
    samples: int = 10,
    shares: Sequence[float] = ROAD_SHARES,
    seed: int = 0,
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Every metric of one method on images; `summary` gives means with intervals.

    Args:
        model: see `explain`.
        images: see `explain`.
        target: see `explain`.
        method: of `list_methods`.
        options: of the method.
        masks: (B, ...) bool of what should be found, such as lesions.
        steps: of deletion and insertion.
        samples: perturbations of infidelity and sensitivity.
        shares: of the pixels that ROAD removes.
        seed: of all that is drawn.
        batch_size: images through the model at once.

    Returns:
        (B,) each: infidelity (scaled to fit best), sensitivity_max, deletion and insertion (areas of the
        probability), road (probability with the least relevant removed first less with the most relevant
        removed first), drop_100 and increase_100 (and 50, 15); with masks pointing_game and mass_ratio.
    """
    asked = ask(model, images, target)
    answer = explainer_of(method, **(options or {}))
    with frozen(model):
        relevance = answer(asked).detach()
    signed = find_method(method).signed
    pixels = relevance
    if relevance.ndim == images.ndim:
        pixels = relevance.sum(dim=1) if signed else relevance.abs().amax(dim=1)
    drawn = {"samples": samples, "seed": seed}
    through: dict[str, Any] = {"reading": "probability", "batch_size": batch_size}
    worst, best = (
        road(asked, pixels, shares=shares, order=order, seed=seed, **through).mean
        for order in ("most relevant first", "least relevant first")
    )
    scores = {
        "infidelity": infidelity(
            asked, relevance, perturbations=gaussian(**drawn), normalise=True, batch_size=batch_size
        ),
        "sensitivity_max": sensitivity_max(
            asked, answer, relevance=relevance, perturbations=uniform(**drawn), batch_size=batch_size
        ),
        "deletion": deletion(asked, pixels, steps=steps, **through).area,
        "insertion": insertion(asked, pixels, steps=steps, **through).area,
        "road": best - worst,
    }
    change = confidence_change(asked, unit_range(pixels), batch_size=batch_size)
    for number, share in enumerate(KEPT_SHARES):
        scores[f"drop_{share * 100:.0f}"] = change.drop[:, number]
        scores[f"increase_{share * 100:.0f}"] = change.increase[:, number]
    if masks is not None:
        scores["pointing_game"] = pointing_game(pixels, masks)
        scores["mass_ratio"] = mass_ratio(pixels, masks)
    return scores


def summary(
    scores: Mapping[str, Tensor],
    *,
    patients: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Mean of each metric with its 95% bootstrap interval over images, or patients where they are told.

    Images that a metric does not know, such as those without a mask, are left out; with none left it is NaN.
    """
    means = {}
    for name, values in scores.items():
        known = torch.isfinite(values).cpu()
        groups = None if patients is None else [p for p, k in zip(patients, known, strict=True) if k]
        if not bool(known.any()):
            means[name] = Estimate(float("nan"), float("nan"), float("nan"))
            continue
        numbers = values.detach().cpu()[known].double().tolist()
        means[name] = Estimate(*bootstrap_mean(numbers, groups, resamples=resamples, seed=seed))
    return means
