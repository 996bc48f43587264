"""Why the models said so of one photograph: maps, each with what hiding its top tenth does to the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from foveal.screening.pictures import SOFT_SIDE, fitted_size
from foveal.screening.records import Explanation, failure_reason

if TYPE_CHECKING:
    from torch import Tensor, nn

    from foveal.explanation.targets import Target
    from foveal.models import Segmenter
    from foveal.scans.field_of_view import FieldOfView
    from foveal.segmentation.frames import Box

GRADER_METHOD = "cam"
"""How a grade is explained where no method is named."""

TENTH = 0.1
"""Share of the pixels that is filled in to try an explanation."""

_AROUND = ((0, 1), (0, -1), (1, 0), (-1, 0))


@dataclass(frozen=True)
class Reason:
    """One map over a photograph.

    Attributes:
        told: what it explains and what it is worth.
        levels: (h, w) uint8 over the whole photograph, at the size of soft overlays, 255 from where one
            pixel in 200 lies above; what speaks against the answer is 0.
    """

    told: Explanation
    levels: np.ndarray


@dataclass
class Explained:
    """What came of explaining answers.

    Attributes:
        reasons: the maps.
        remarks: on what there was nothing to explain of, and on methods that do not suit a model.
        failures: what went wrong in a way that was not foreseen, in one line each.
    """

    reasons: list[Reason] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def extend(self, other: Explained) -> None:
        """Take over what came of others."""
        self.reasons += other.reasons
        self.remarks += other.remarks
        self.failures += other.failures


def check_methods(methods: Sequence[str]) -> None:
    """Refuse methods that there are not.

    Raises:
        ValueError: an unknown name, or one twice.
    """
    from foveal.explanation.methods import find_method

    for name in methods:
        find_method(name)
    if len(set(methods)) < len(methods):
        raise ValueError(f"explain names a method twice: {', '.join(methods)}")


def explain_answer(
    model: nn.Module,
    images: Tensor,
    target: Target,
    probability: Callable[[Tensor], Tensor],
    *,
    of: str,
    methods: Sequence[str],
    place: Callable[[np.ndarray], np.ndarray],
) -> Explained:
    """Explain one answer by several methods, and try each map.

    Args:
        model: in evaluation mode.
        images: (1, 3, S, S), what the model was given.
        target: of the answer; see `foveal.explanation.explain`.
        probability: from outputs (B, ...) to (B,), how sure the model is of the answer.
        of: the answer, in words.
        methods: of `foveal.explanation.list_methods`.
        place: from (S, S) uint8 levels to the whole photograph.

    Returns:
        The maps, a remark on each method that says that it does not suit this model, and a failure for each
        that raised anything else.
    """
    import torch

    from foveal.explanation import explain
    from foveal.explanation.imputation import impute
    from foveal.explanation.perturbing import relevance_ranks
    from foveal.explanation.pictures import limit_of

    made = Explained()
    for method in methods:
        try:
            relevance = explain(model, images, target, method=method)
        except (ValueError, ImportError, NotImplementedError) as error:
            made.remarks.append(f"{of} could not be explained by {method}: {_told(error)}")
            continue
        except Exception as error:  # of whatever kind, it does not cost the photograph its other results
            made.failures.append(f"{of} could not be explained by {method}: {failure_reason(error)}")
            continue
        top = relevance_ranks(relevance)[0] < round(TENTH * relevance[0].numel())
        elsewhere = moved_shapes(top, images[0].amax(dim=0) > 0)
        filled = torch.stack([impute(images[0], gone) for gone in (top, *elsewhere)])
        with torch.inference_mode():
            sure = [float(value) for value in probability(model(torch.cat([images, filled])))]
        told = Explanation(
            of=of,
            method=method,
            probability=float(f"{sure[0]:.6g}"),
            without_top=float(f"{sure[1]:.6g}"),
            without_other=float(f"{sum(sure[2:]) / len(elsewhere):.6g}"),
        )
        heat = relevance[0].cpu().numpy()
        levels = np.rint(255 * np.clip(heat / limit_of(heat), 0, 1)).astype(np.uint8)
        made.reasons.append(Reason(told, place(levels)))
    return made


def _told(error: Exception) -> str:
    """What a method says of a model that it does not suit, in one line."""
    return " ".join(str(error).split())


def moved_shapes(top: Tensor, inside: Tensor, *, count: int = 3) -> list[Tensor]:
    """A shape in other places of the field: what filling it in costs depends on its form, not its size alone.

    Args:
        top: (S, S) bool.
        inside: (S, S) bool, the field of view.
        count: of places.

    Returns:
        Mirrored, turned or shifted shapes that meet the first, and leave the field, least.
    """
    shift = round(0.35 * len(top))  # from the middle of the field to where a round tenth still lies in it
    moved = [top.flip(0), top.flip(1), top.flip(0, 1), top.mT, top.mT.flip(0, 1)]
    moved += [top.roll((down * shift, right * shift), (0, 1)) for down, right in _AROUND]
    return sorted(moved, key=lambda each: int((each & (top | ~inside)).sum()))[:count]


def explain_landmarks(
    model: Segmenter, image: np.ndarray, field: FieldOfView, *, methods: Sequence[str]
) -> Explained:
    """Why the network of landmarks called disc and fovea where it did.

    Args:
        model: of "disc" and "fovea".
        image: (H, W, 3) uint8.
        field: its field of view.
        methods: see `explain_answer`.

    Returns:
        Maps, remarks and failures; a structure that is called nowhere is only remarked on.
    """
    import torch

    from foveal.explanation import region
    from foveal.explanation.targets import called
    from foveal.segmentation.frames import working_frame

    if not methods:
        return Explained()
    frame = working_frame(image, field, diameter=model.preprocess.working_diameter)
    images = frame.image.to(next(model.parameters()).device)
    with torch.inference_mode():
        outputs = model(images)
    made = Explained()
    for index, name in enumerate(model.config.classes):
        where = called(model, outputs, index)
        assert not isinstance(where, str), "a segmenter calls by its own thresholds"
        if not bool(where.any()):
            made.remarks.append(f"{name} is called nowhere, so that there is nothing to explain")
            continue

        def probability(
            changed: Tensor,
            index: int = index,
            where: Tensor = where[0],  # of this turn of the loop
        ) -> Tensor:
            return (1 + model.signed(changed[:, index])[:, where].mean(dim=1)) / 2

        made.extend(
            explain_answer(
                model,
                images,
                region(index, where.clone(), mean=True),
                probability,
                of=name,
                methods=methods,
                place=lambda levels: place_box(levels, field, frame.box),
            )
        )
    return made


def place_box(levels: np.ndarray, field: FieldOfView, box: Box) -> np.ndarray:
    """Put a map over a square back onto the photograph, at the size of soft overlays.

    Args:
        levels: (s, s) uint8 over the square.
        field: its mask tells the photograph's size; the map is 0 outside it.
        box: the square: top, left, bottom and right in the photograph, which it may exceed.

    Returns:
        (h, w) uint8.
    """
    top, left, bottom, _ = box
    height, width = field.mask.shape
    size = fitted_size((height, width), SOFT_SIDE)
    factor = levels.shape[0] / (bottom - top)
    # PIL's affine takes output pixels to input pixels, both measured at pixel corners.
    affine = (width / size[0] * factor, 0, -left * factor, 0, height / size[1] * factor, -top * factor)
    placed = Image.fromarray(levels).transform(
        size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )
    visible = Image.fromarray(field.mask).convert("L").resize(size, Image.Resampling.NEAREST)
    return np.where(np.asarray(visible) > 0, np.asarray(placed), np.uint8(0))
