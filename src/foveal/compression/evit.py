"""EViT: attentive tokens go on, the others are fused or dropped (arXiv 2202.07800)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from foveal.blocks.changes import change_model
from foveal.blocks.reduced_block import Score, transformer_of
from foveal.blocks.reduced_tokens import (
    default_places,
    keeping,
    settle_keep_rate,
    stages_tapped,
    warm_up_keep_rate,
)
from foveal.blocks.token_selection import Unpool
from foveal.compression.costs import macs_of
from foveal.compression.methods import Material, Outcome, Target, register_compressor
from foveal.explanation.methods import explain
from foveal.explanation.pictures import Drawn, grey_photograph, overlay_png
from foveal.models.classifier import Classifier
from foveal.settings import unknown_name

_STEPS = 1000  # keep rates are told in thousandths
_WEAK = 0.25  # share of operations below which the authors say that the method is weak


@register_compressor("evit", "kept")
def evit(
    model: Classifier,
    material: Material,
    target: Target,
    *,
    keep_rate: float | Sequence[float] | None = None,
    at: Sequence[int] | None = None,
    fuse: bool = True,
    schedule: Mapping[str, int] | None = None,
    score: Score | None = None,
    unpool: Unpool = "own",
) -> Outcome:
    """Tokens with little attention are dropped on the way, and fused into one; no weight changes.

    Args:
        model: whose encoder is a vision transformer.
        material: one of its images is passed to count operations.
        target: share of the operations that may be left.
        keep_rate: of tokens, at all of `at` or one for each; None finds the largest that meets the target.
        at: blocks that drop tokens, from 0; None takes a quarter, a half and three quarters of the way.
        fuse: put dropped tokens into one.
        schedule: "start" and "steps" of a fall of the keep rate from 1 while the model is tuned; None drops
            tokens from the first step, as the authors do when they tune.
        score: see `reduce_tokens`.
        unpool: the same.

    Raises:
        ValueError: a model that does not suit, settings that do not fit, or a target that is not met; tells
            what is left at least.
    """
    depth = len(transformer_of(model.encoder).blocks)
    places = default_places(depth) if at is None else list(at)
    options: dict[str, Any] = {"at": places, "fuse": fuse, "score": score, "unpool": unpool}
    fall = _checked_schedule(schedule)
    whole = macs_of(model, material.images)
    if keep_rate is None:
        rate: float | list[float] = _rate_within(model, material.images, target, whole, options)
    else:
        rate = list(keep_rate) if isinstance(keep_rate, Sequence) else keep_rate
    change_model(model.encoder, "reduced-tokens", keep_rate=rate, **options)
    share = macs_of(model, material.images) / whole
    if share > target.value * (1 + 1e-9):
        raise ValueError(
            f"keep_rate {rate} leaves {share:.1%} of the operations; the target {target.text!r} is "
            f"{target.value:.1%}: lower it, or leave it out and it is found"
        )
    rows = _rows(model, material.images[:1])
    if fall is not None:
        ends = warm_up_keep_rate(model.encoder, **fall)

    def finish(tuned: Classifier) -> None:
        if fall is not None:
            ends.remove()
        settle_keep_rate(tuned.encoder)

    return Outcome(_summary(rows, rate, share, fuse=fuse), layers=rows, finish=finish)


def kept_overlay(model: Classifier, image: Tensor) -> bytes:
    """PNG of one image with the patches that a model with reduced tokens keeps, the longer the brighter.

    `foveal explain MODEL IMAGES --method kept-patches` writes the same for many.

    Args:
        model: in evaluation mode.
        image: (C, H, W) in [0, 1], of the size that the model takes.

    Raises:
        ValueError: the model keeps all its tokens.
    """
    share = explain(model, image[None], method="kept-patches")[0]
    drawn = Drawn(share.numpy(), "share of selections that kept the patch", signed=False)
    return overlay_png(drawn, grey_photograph(image.numpy()))


def _checked_schedule(schedule: Mapping[str, int] | None) -> dict[str, int] | None:
    allowed = ("start", "steps")
    if schedule is not None and (unknown := set(schedule) - set(allowed)):
        raise ValueError(unknown_name("setting of schedule", str(unknown.pop()), allowed))
    return None if schedule is None else dict(schedule)


def _rate_within(
    model: Classifier, images: Tensor, target: Target, whole: int, options: Mapping[str, Any]
) -> float:
    """The largest keep rate, in thousandths, whose operations are within the target, found by halving.

    Fusing a single token saves nothing and costs its ranking, so that the last step to 1 may be one down.
    """
    trial = deepcopy(model)
    change_model(trial.encoder, "reduced-tokens", keep_rate=0.5, **options)

    def left(thousandths: int) -> float:
        with keeping(trial.encoder, thousandths / _STEPS):
            return macs_of(trial, images) / whole

    low, high = 1, _STEPS
    if left(high) <= target.value:
        return 1.0
    least = left(low)
    if least > target.value:
        raise ValueError(
            f"with blocks {options['at']} dropping tokens {least:.1%} of the operations are left at least; "
            f"the target {target.text!r} is {target.value:.1%}: name earlier blocks by the option 'at'"
        )
    high -= 1
    while low < high:
        middle = (low + high + 1) // 2
        if left(middle) <= target.value:
            low = middle
        else:
            high = middle - 1
    return low / _STEPS


def _rows(model: Classifier, image: Tensor) -> list[dict[str, Any]]:
    with stages_tapped(model) as stages, torch.no_grad():
        model(image)
    return [
        {
            "block": stage.block,
            "tokens": stage.kept.shape[1] + stage.dropped.shape[1],
            "kept": stage.kept.shape[1],
            "fused": stage.dropped.shape[1] if stage.fused else 0,
            "dropped": 0 if stage.fused else stage.dropped.shape[1],
        }
        for stage in stages
    ]


def _summary(
    rows: Sequence[Mapping[str, Any]], rate: float | Sequence[float], share: float, *, fuse: bool
) -> str:
    if not rows:
        return "Every token is kept."
    rates = ", ".join(f"{each:g}" for each in (rate if isinstance(rate, Sequence) else [rate]))
    kept = ", ".join(f"{row['kept']} of {row['tokens']} in block {row['block']}" for row in rows)
    rest = "the others of each are fused into one" if fuse else "the others are dropped"
    told = (
        f"Tokens that the class token or the others attend to are kept, {kept} (from 0; keep rate {rates}); "
        f"{rest}. {share:.1%} of the operations are left; weights are as they were."
    )
    if share < _WEAK:
        told += " Below a quarter of the operations the authors call the method weak."
    return told
