"""How a loss falls with a size: a power law with a floor against a straight line in the logarithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize_scalar

Interval = tuple[float, float]
_FEWEST_POINTS = 4
_EXPONENTS = np.concatenate([[0.0], np.geomspace(1e-3, 8.0, 240)])


@dataclass(frozen=True)
class PowerLaw:
    """The fits of loss = c + a L^-b and loss = intercept + slope log2 L.

    Attributes:
        floor: c, 0 or more.
        scale: a, 0 or more.
        exponent: b, 0 or more.
        intercept: of the line, at L = 1.
        slope: of the line, change of the loss by each doubling of L.
        error: root mean square of what each leaves unexplained, by "power" and "line".
        left_out: the same at each size when it is left out of the fit.
        exponent_interval: 95 % interval of b from resampled seeds; NaN with one seed.
        slope_interval: the same of the slope.
    """

    floor: float
    scale: float
    exponent: float
    intercept: float
    slope: float
    error: dict[str, float]
    left_out: dict[str, float]
    exponent_interval: Interval
    slope_interval: Interval

    @property
    def better(self) -> Literal["power", "line"]:
        """Which tells a size that is left out with the lower error."""
        return "power" if self.left_out["power"] < self.left_out["line"] else "line"

    def predict(self, sizes: np.ndarray) -> np.ndarray:
        """The power law's loss at each size."""
        return self.floor + self.scale * np.asarray(sizes, float) ** -self.exponent


def fit_power_law(sizes: np.ndarray, losses: np.ndarray, *, resamples: int = 300, seed: int = 0) -> PowerLaw:
    """Fit both laws by least squares, the power law with c, a and b bounded below by 0.

    For each exponent the best floor and scale are a bounded linear regression, so that only the exponent is
    searched for, and no start can lead astray.

    Args:
        sizes: (n,) such as numbers of tokens, all different and above 0.
        losses: (n,) or (n, seeds).
        resamples: drawn of the seeds of each size, for the intervals.
        seed: of the drawing.

    Raises:
        ValueError: fewer than four sizes, sizes that are not positive or equal, shapes that do not fit, or
            losses that are not finite.
    """
    sizes, losses = np.asarray(sizes, float), np.asarray(losses, float)
    losses = losses[:, None] if losses.ndim == 1 else losses
    if len(sizes) < _FEWEST_POINTS:
        raise ValueError(f"{len(sizes)} sizes; a power law with a floor needs {_FEWEST_POINTS} or more")
    if losses.ndim != 2 or len(losses) != len(sizes):
        raise ValueError(
            f"losses of shape {losses.shape} for {len(sizes)} sizes; allowed: (n,) or (n, seeds)"
        )
    if not (sizes > 0).all() or len(np.unique(sizes)) < len(sizes):
        raise ValueError(f"sizes {sizes.tolist()}; allowed: different numbers above 0")
    if not np.isfinite(losses).all():
        raise ValueError("losses hold NaN or infinity; leave out runs that diverged")
    mean = losses.mean(axis=1)
    floor, scale, exponent = _power(sizes, mean)
    slope, intercept = _line(sizes, mean)
    predicted = {"power": floor + scale * sizes**-exponent, "line": intercept + slope * np.log2(sizes)}
    draws = np.random.default_rng(seed)
    exponents, slopes = [], []
    for _ in range(resamples if losses.shape[1] > 1 else 0):
        drawn = draws.integers(losses.shape[1], size=losses.shape)
        again = np.take_along_axis(losses, drawn, axis=1).mean(axis=1)
        exponents.append(_power(sizes, again)[2])
        slopes.append(_line(sizes, again)[0])
    return PowerLaw(
        floor,
        scale,
        exponent,
        intercept,
        slope,
        error={name: float(np.sqrt(np.mean((mean - fit) ** 2))) for name, fit in predicted.items()},
        left_out=_left_out(sizes, mean),
        exponent_interval=_interval(exponents),
        slope_interval=_interval(slopes),
    )


def _power(sizes: np.ndarray, losses: np.ndarray) -> tuple[float, float, float]:
    """c, a and b."""
    relative = sizes / sizes.min()  # powers stay in (0, 1]
    errors = _regress(relative ** -_EXPONENTS[:, None], losses)[2]
    best = int(np.argmin(errors))
    around = _EXPONENTS[max(best - 1, 0)], _EXPONENTS[min(best + 1, len(_EXPONENTS) - 1)]
    found = minimize_scalar(
        lambda b: float(_regress(relative**-b, losses)[2]),
        bounds=around,
        method="bounded",
        options={"xatol": 1e-7},
    )
    exponent = float(found.x) if found.fun < errors[best] else float(_EXPONENTS[best])
    floor, scale, _ = _regress(relative**-exponent, losses)
    return float(floor), float(scale) * float(sizes.min()) ** exponent, exponent


def _regress(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Floor and scale, neither below 0, of y = floor + scale x along the last axis; and the squared error."""
    centre, level = x.mean(axis=-1, keepdims=True), y.mean()
    spread = ((x - centre) ** 2).sum(axis=-1)
    scale = ((x - centre) * (y - level)).sum(axis=-1) / np.where(spread > 0, spread, 1.0)
    scale = np.maximum(scale, 0.0)
    floor = level - scale * centre[..., 0]
    through_zero = np.maximum((x * y).sum(axis=-1) / (x * x).sum(axis=-1), 0.0)
    scale = np.where(floor < 0, through_zero, scale)
    floor = np.maximum(floor, 0.0)
    return floor, scale, ((y - floor[..., None] - scale[..., None] * x) ** 2).sum(axis=-1)


def _line(sizes: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    """Slope by each doubling, and intercept."""
    slope, intercept = np.polyfit(np.log2(sizes), losses, 1)
    return float(slope), float(intercept)


def _left_out(sizes: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    misses: dict[str, list[float]] = {"power": [], "line": []}
    for at in range(len(sizes)):
        rest = np.arange(len(sizes)) != at
        floor, scale, exponent = _power(sizes[rest], losses[rest])
        slope, intercept = _line(sizes[rest], losses[rest])
        misses["power"].append(floor + scale * sizes[at] ** -exponent - losses[at])
        misses["line"].append(intercept + slope * np.log2(sizes[at]) - losses[at])
    return {name: float(np.sqrt(np.mean(np.square(values)))) for name, values in misses.items()}


def _interval(values: list[float]) -> Interval:
    if not values:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
