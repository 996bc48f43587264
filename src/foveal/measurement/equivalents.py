"""Central retinal equivalents: the widths of the vessels around the disc as that of one central vessel.

Sources: M. D. Knudtson et al., "Revised formulas for summarizing retinal vessel diameters", Curr. Eye Res.
27, 2003; L. D. Hubbard et al., "Methods for evaluation of retinal microvascular abnormalities associated with
hypertension/sclerosis in the ARIC study", Ophthalmology 106, 1999.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

LARGEST = 6  # vessels that enter
KNUDTSON = {"artery": 0.88, "vein": 0.95}


def knudtson_equivalent(widths: np.ndarray, kind: Literal["artery", "vein"]) -> float:
    """Central retinal equivalent by Knudtson's formulas, in the unit of the widths.

    Of the six widest vessels the widest is combined with the narrowest, w = c sqrt(a^2 + b^2) with c = 0.88
    for arteries and 0.95 for veins, and so on inwards; the middle one of an odd number is carried on. This is
    repeated until one is left.

    Args:
        widths: (n,) vessel widths, in any order and unit; fewer than six are combined the same way.
        kind: "artery" or "vein".

    Returns:
        The equivalent; the width itself for one vessel, NaN for none.

    Raises:
        ValueError: a width is not a positive number, or `kind` is neither.
    """
    factor = KNUDTSON[_checked(kind)]
    return combine_widths(widths, lambda narrow, wide: factor * np.hypot(narrow, wide))


def hubbard_equivalent(widths_um: np.ndarray, kind: Literal["artery", "vein"]) -> float:
    """Central retinal equivalent by the formulas of Parr and Hubbard, which hold in micrometres only.

    As `knudtson_equivalent`, with a <= b combined to sqrt(0.87 a^2 + 1.01 b^2 - 0.22 a b - 10.76) for
    arteries and to sqrt(0.72 a^2 + 0.91 b^2 + 450.05) for veins.

    Args:
        widths_um: (n,) vessel widths in micrometres, in any order.
        kind: "artery" or "vein".

    Returns:
        The equivalent in micrometres; the width itself for one vessel, NaN for none.

    Raises:
        ValueError: a width is not a positive number, or `kind` is neither.
    """
    formula = _hubbard_artery if _checked(kind) == "artery" else _hubbard_vein
    return combine_widths(widths_um, formula)


def _hubbard_artery(narrow: np.ndarray, wide: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(0.87 * narrow**2 + 1.01 * wide**2 - 0.22 * narrow * wide - 10.76, 0.0))


def _hubbard_vein(narrow: np.ndarray, wide: np.ndarray) -> np.ndarray:
    return np.sqrt(0.72 * narrow**2 + 0.91 * wide**2 + 450.05)


def _checked(kind: str) -> str:
    if kind not in KNUDTSON:
        raise ValueError(f"kind must be 'artery' or 'vein', got {kind!r}; the formulas of the two differ")
    return kind


def combine_widths(widths: np.ndarray, formula: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """Combine the six widest vessels pairwise, widest with narrowest, until one is left.

    Args:
        widths: (n,) positive vessel widths, in any order.
        formula: from the narrower and the wider widths of pairs, both (k,), to the (k,) widths of their
            parent vessels.

    Returns:
        The width of the last one; NaN for none.

    Raises:
        ValueError: a width is not a positive number.
    """
    left = np.sort(np.asarray(widths, np.float64).ravel())[::-1][:LARGEST]
    if not (np.isfinite(widths).all() and (left > 0).all()):
        raise ValueError(f"widths must be positive numbers, got {widths}")
    while len(left) > 1:
        half = len(left) // 2
        pairs = formula(left[::-1][:half], left[:half])
        left = np.sort(np.append(pairs, left[half : len(left) - half]))[::-1]
    return float(left[0]) if len(left) else float("nan")
