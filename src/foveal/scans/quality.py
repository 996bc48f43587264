"""Grades photographs good, usable or reject from what can be measured without labels, with reasons."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foveal.scans.field_of_view import FieldOfView
from foveal.scans.quality_measures import measure_quality

__all__ = ["LIMITS", "Limit", "Quality", "assess_quality"]

Grade = Literal["good", "usable", "reject"]


@dataclass(frozen=True)
class Quality:
    """A photograph's grade.

    Attributes:
        grade: "good", "usable" (read results with care) or "reject" (do not trust any).
        reasons: short sentences, worst first: the measured value and its limit. A good photograph may carry a
            note (that it is grey).
        measures: every measure by name, see `measure_quality`.
    """

    grade: Grade
    reasons: tuple[str, ...]
    measures: dict[str, float]


@dataclass(frozen=True)
class Limit:
    """Where one measure stops being good and where it stops being usable.

    Attributes:
        measure: name in `measure_quality`.
        bad: the side of the limits on which the photograph is worse.
        usable: limit of "good".
        reject: limit of "usable".
        complaint: beginning of the reason, what a reader would say of such a photograph.
        quantity: the measured quantity in words.
        percent: show the value as a percentage.
    """

    measure: str
    bad: Literal["below", "above"]
    usable: float
    reject: float
    complaint: str
    quantity: str
    percent: bool = False

    def grade(self, value: float) -> Grade:
        """Grade of one measured value."""
        sign = 1.0 if self.bad == "above" else -1.0
        if sign * (value - self.reject) > 0:
            return "reject"
        return "usable" if sign * (value - self.usable) > 0 else "good"

    def reason(self, value: float) -> str:
        """The sentence for a value that is not good."""
        limit = self.reject if self.grade(value) == "reject" else self.usable
        shown = (f"{value:.1%}", f"{limit:.0%}") if self.percent else (f"{value:.3g}", f"{limit:g}")
        return f"{self.complaint}: {self.quantity} {shown[0]} is {self.bad} {shown[1]}."


# Calibrated on CHASE_DB1, LES-AV, IDRiD and their degradations: limits of "usable" lie outside the range of
# nearly all of these photographs, those of "reject" where strong degradations of them begin.
LIMITS = (
    Limit(
        "unlikeness",
        "above",
        1,
        2,
        "Does not look like an eye photograph",
        "count of properties foreign to a retina",
    ),
    Limit("brightness", "below", 70, 40, "Too dark", "brightness (0 to 255)"),
    Limit("dark", "above", 0.1, 0.3, "Too dark", "share of the field without signal", percent=True),
    Limit("luminance", "above", 175, 200, "Overexposed", "luminance (0 to 255)"),
    Limit("washed_out", "above", 0.04, 0.15, "Overexposed", "share of washed-out pixels", percent=True),
    Limit("sharpness", "below", 0.29, 0.125, "Blurred", "sharpness"),
    Limit("contrast", "below", 0.01, 0.004, "Flat", "contrast of vessel-sized structures"),
    Limit("noise", "above", 2.5, 5.5, "Noisy", "noise (grey levels)"),
    Limit("unevenness", "above", 1.4, 2.2, "Unevenly lit", "range of the background over its median"),
    Limit(
        "occlusion",
        "above",
        0.1,
        0.3,
        "Partly hidden",
        "share of the field in shadow or blank",
        percent=True,
    ),
    Limit("completeness", "below", 0.8, 0.6, "Field cut off", "visible share of the field", percent=True),
    Limit("diameter", "below", 500, 300, "Low resolution", "diameter of the field (pixels)"),
)
MIN_CHROMA = 0.05  # share of coloured pixels below which a photograph is grey
NORMAL_HUE = (-20.0, 45.0)  # degrees from red, yellow positive
SWAPPED_HUE = 90.0  # degrees from red beyond which blue exceeds red


def assess_quality(image: np.ndarray, field: FieldOfView) -> Quality:
    """Grade a photograph by the worst of its measures.

    Args:
        image: (H, W, 3) uint8 RGB.
        field: of the same frame, see `find_field_of_view`.

    Returns:
        Grade, reasons (worst first) and all measures.

    Raises:
        ValueError: the image is not (H, W, 3) uint8 or the field belongs to a frame of another size.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if field.mask.shape != image.shape[:2]:
        raise ValueError(
            f"field is of a frame of {field.mask.shape}, image has {image.shape[:2]}; find it anew"
        )
    measures = measure_quality(image, field)
    findings = [
        (limit.grade(measures[limit.measure]), limit.reason(measures[limit.measure])) for limit in LIMITS
    ]
    findings = [finding for finding in findings if finding[0] != "good"] + _judge_color(measures)
    rejecting = [reason for grade, reason in findings if grade == "reject"]
    limiting = [reason for grade, reason in findings if grade == "usable"]
    notes = [reason for grade, reason in findings if grade == "good"]
    grade: Grade = "reject" if rejecting else "usable" if limiting else "good"
    return Quality(grade, (*rejecting, *limiting, *notes), measures)


def _judge_color(measures: dict[str, float]) -> list[tuple[Grade, str]]:
    hue = measures["hue"]
    if measures["chroma"] < MIN_CHROMA:
        return [("good", "Note: the photograph is grey, its colour is not judged.")]
    if abs(hue) > SWAPPED_HUE:
        return [
            (
                "reject",
                f"Red and blue look swapped (or it is a negative): hue {hue:.0f} degrees from red is beyond "
                f"{SWAPPED_HUE:.0f}.",
            )
        ]
    low, high = NORMAL_HUE
    if not low <= hue <= high:
        return [
            ("usable", f"Colour cast: hue {hue:.0f} degrees from red is outside of {low:.0f} to {high:.0f}.")
        ]
    return []
