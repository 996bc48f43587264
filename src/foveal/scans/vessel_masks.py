"""Vessel masks that other tools and people made, whatever they code arteries, veins and background by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from foveal.scans.scan import ScanError
from foveal.scans.stored_samples import StoredSamples, read_samples

Coding = Literal["binary", "probability", "av-labels", "av-foveal", "av-colour"]
CODINGS: dict[Coding, str] = {
    "binary": "0 background, anything else (1, 255, true) vessel of unknown kind",
    "probability": "grey level over the largest that the format holds, or floats from 0 to 1",
    "av-labels": "0 background, 1 artery, 2 vein, 3 both (LES-AV, VascX)",
    "av-foveal": "0 background, 1 artery, 2 vein, 3 vessel of unknown kind (masks of a foveal report)",
    "av-colour": "black background, red artery, blue vein, green both, white unknown (RITE, AutoMorph)",
}
UNKNOWN_KIND, BOTH_KINDS = "vessel of unknown kind", "artery and vein"

MOST_VESSEL = 0.5  # of the frame; retinal vessels cover about a tenth of it
PHOTOGRAPH_SHARE = 0.35  # of the frame between dark and bright: photographs have 0.65 and more, masks 0.05
NOTABLE_SHARE = 0.01  # of the vessel pixels
FOREIGN_SHARE = 0.05  # of the vessel pixels, in colours that no coding has
FEW_LEVELS = 8  # up to so many are labels, if they are not one of two ends

# By 4 R + 2 G + B of colours that are rounded to 0 or 1: which are arteries, veins, and in no coding.
_ARTERY = np.array([0, 0, 1, 1, 1, 1, 1, 0], bool)
_VEIN = np.array([0, 1, 1, 1, 0, 1, 1, 0], bool)
_FOREIGN = np.array([0, 0, 0, 1, 0, 0, 1, 0], bool)
_RED, _BLUE = 4, 1


@dataclass(frozen=True, eq=False)
class VesselMask:
    """A vessel mask.

    Attributes:
        vessels: (H, W) bool, vessels of any kind.
        arteries: (H, W) bool, or None where the mask does not tell the kinds apart. Pixels may be both.
        veins: as `arteries`.
        coding: how it was read.
        notes: what a reader of the results should know, one sentence each; the same for like masks.
        sha256: hexadecimal SHA-256 of the file's bytes.
    """

    vessels: np.ndarray
    arteries: np.ndarray | None
    veins: np.ndarray | None
    coding: Coding
    notes: tuple[str, ...] = ()
    sha256: str = ""


def read_vessel_mask(
    path: str | Path, *, coding: Coding | Literal["auto"] = "auto", threshold: float = 0.5
) -> VesselMask:
    """Read a vessel mask of any of `CODINGS` from PNG, TIFF, BMP, GIF, PGM, PPM, JPEG or NPY.

    Without a coding it is told by the content:

    - two levels, of which the lower is 0: binary; but 0 and 2, or 0 and 3, are labels;
    - labels (or palette indices) up to 3: "av-labels", except that 0 and 3 alone are "av-foveal";
    - other grey levels, and floats: probabilities;
    - colours: the nearest of black, red, green, blue, white, so that soft edges and JPEG do no harm. A
      palette is read by its colours where its indices are no labels, or say the opposite (1 blue, 2 red).

    Args:
        path: the file.
        coding: one of `CODINGS`, or "auto".
        threshold: probability from which a pixel is vessel, within (0, 1).

    Raises:
        ScanError: the file cannot be read (see `read_samples`), does not have the coding, looks like a
            photograph, holds no vessel, or is vessel in more than half of its pixels.
        ValueError: an unknown coding, or a threshold out of range.
    """
    if coding != "auto" and coding not in CODINGS:
        raise ValueError(f"coding is {coding!r}; allowed: auto, {', '.join(CODINGS)}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; allowed: between 0 and 1, without these")
    samples = read_samples(path)
    chosen = _tell_coding(samples) if coding == "auto" else coding
    if chosen in ("av-labels", "av-foveal"):
        mask = _read_labels(samples, chosen)
    elif chosen == "av-colour":
        mask = _read_colours(samples)
    elif chosen == "binary":
        mask = VesselMask(_binary(samples), None, None, "binary", sha256=samples.sha256)
    else:
        probability = _probability(samples)
        vessels = probability >= np.float32(threshold)
        note = f"grey levels were read as probabilities; vessel from {threshold:g}"
        if not vessels.any():
            raise ScanError(
                samples.path,
                f"no pixel reaches the threshold {threshold:g}; the largest probability is "
                f"{float(probability.max()):.3g}",
            )
        mask = VesselMask(vessels, None, None, "probability", (note,), samples.sha256)
    _check_share(samples.path, mask)
    return mask


def _tell_coding(samples: StoredSamples) -> Coding:
    """The coding that the content has, or a ScanError for what is no mask."""
    values = samples.values
    if samples.palette is not None:
        if 1 < values.max() <= 3:
            return "av-colour" if _palette_contradicts(samples) else _label_coding(values)
        values = samples.colours
    if values.ndim == 3:
        _refuse_photograph(samples.path, values, 32)
        return "av-colour"
    if values.dtype == bool:
        return "binary"
    if values.dtype.kind == "f" and not np.isin(values[:: max(1, len(values) // 64)], range(4)).all():
        return "probability"  # settled by a few rows; the next line sorts all pixels
    levels = _levels(values)
    if len(levels) == 1 or (len(levels) == 2 and levels[0] == 0 and levels[1] not in (2, 3)):
        return "binary"
    if levels[0] == 0 and np.isin(levels, range(4)).all():
        return _label_coding(values)
    if 2 < len(levels) <= FEW_LEVELS and values.dtype.kind != "f":
        _refuse_unknown_labels(samples.path, values, levels)
    if values.dtype.kind != "f":
        _refuse_photograph(samples.path, values, 16)
    return "probability"


def _levels(values: np.ndarray) -> np.ndarray:
    """The different values, ascending."""
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    return np.unique(values)


def _label_coding(values: np.ndarray) -> Coding:
    return "av-labels" if ((values == 1) | (values == 2)).any() else "av-foveal"


def _palette_contradicts(samples: StoredSamples) -> bool:
    """Whether the colours of indices up to 3 are those of `av-colour`, but name other kinds."""
    assert samples.palette is not None
    codes = _colour_codes(samples.palette[:4])
    pure = (np.minimum(samples.palette[:4], 255 - samples.palette[:4]) <= 32).all()
    return bool(pure and (codes[1] == _BLUE or codes[2] == _RED or codes[0] != 0))


def _refuse_unknown_labels(path: Path, values: np.ndarray, levels: np.ndarray) -> None:
    """Raise ScanError where a few levels are labels that no coding has, not soft edges."""
    top = levels[-1]
    between = [int(level) for level in levels if 0 < level < top]
    large = [level for level in between if np.mean(values == level) > NOTABLE_SHARE]
    if top < FEW_LEVELS or large:
        shown = ", ".join(str(int(level)) for level in levels)
        raise ScanError(
            path,
            f"holds the levels {shown}, which no coding has: labels are 0 to 3, a binary mask has two "
            "levels; to read them as grey levels of probabilities, set the coding to 'probability'",
        )


def _refuse_photograph(path: Path, values: np.ndarray, margin: int) -> None:
    top = (
        255 if values.dtype == np.uint8 else np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1.0
    )
    low, high = margin / 255 * top, (255 - margin) / 255 * top
    middle = (values >= low) & (values <= high)
    share = float((middle.any(axis=2) if values.ndim == 3 else middle).mean())
    if share <= PHOTOGRAPH_SHARE:
        return
    if values.ndim == 3:
        packed = values.astype(np.int64) @ np.array([1 << 32, 1 << 16, 1])
        what, instead = f"{len(np.unique(packed))} colours", "a vessel mask"
    else:
        what = f"{len(np.unique(values))} grey levels"
        instead = "a vessel mask, or, with the coding set to 'probability', a soft probability map"
    raise ScanError(
        path,
        f"looks like a photograph: {what}, and {100 * share:.0f} % of its pixels are neither dark nor "
        f"bright; allowed: {instead}",
    )


def _read_labels(samples: StoredSamples, coding: Literal["av-labels", "av-foveal"]) -> VesselMask:
    values = samples.values
    if values.ndim != 2 or not np.isin(values, range(4)).all():
        found = "colours" if values.ndim != 2 else f"values from {values.min():g} to {values.max():g}"
        raise ScanError(samples.path, f"holds {found}; allowed with coding {coding}: {CODINGS[coding]}")
    arteries, veins, third = values == 1, values == 2, values == 3
    vessels = values > 0
    notes: tuple[str, ...] = ()
    if third.any():
        meaning = BOTH_KINDS if coding == "av-labels" else UNKNOWN_KIND
        other = "av-foveal" if coding == "av-labels" else "av-labels"
        opposite = UNKNOWN_KIND if coding == "av-labels" else BOTH_KINDS
        notes = (f"label 3 was read as {meaning}; coding {other} reads it as {opposite}",)
    if coding == "av-labels":
        return VesselMask(vessels, arteries | third, veins | third, coding, notes, samples.sha256)
    if not (arteries.any() or veins.any()):
        return VesselMask(vessels, None, None, coding, notes, samples.sha256)
    return VesselMask(vessels, arteries, veins, coding, notes, samples.sha256)


def _read_colours(samples: StoredSamples) -> VesselMask:
    colours = samples.colours
    if colours.ndim != 3 or colours.dtype != np.uint8:
        raise ScanError(
            samples.path,
            f"holds no colours ({colours.dtype} {colours.shape}); allowed with coding av-colour: "
            f"{CODINGS['av-colour']}",
        )
    codes = _colour_codes(colours)
    counts = np.bincount(codes.ravel(), minlength=8)
    total = int(counts[1:].sum())
    foreign = int(counts[_FOREIGN].sum())
    if foreign > FOREIGN_SHARE * total:
        raise ScanError(
            samples.path,
            f"{100 * foreign / total:.0f} % of its coloured pixels are yellow or cyan; allowed: "
            f"{CODINGS['av-colour']}",
        )
    vessels = codes > 0
    if counts[_RED] + counts[_BLUE] + counts[_RED + _BLUE] <= NOTABLE_SHARE * total:
        note = "the picture has colours, but neither red nor blue; all that is bright was read as vessel"
        return VesselMask(vessels, None, None, "binary", (note,), samples.sha256)
    soft = ((colours >= 64) & (colours < 192)).any(axis=2)
    undecided = np.count_nonzero(soft | _FOREIGN[codes]) / max(total, 1)
    notes: tuple[str, ...] = ()
    if undecided > NOTABLE_SHARE:
        notes = (
            "more than 1 % of the coloured pixels lie between two colours (soft edges, JPEG); each was given "
            "the nearest",
        )
    return VesselMask(vessels, _ARTERY[codes], _VEIN[codes], "av-colour", notes, samples.sha256)


def _colour_codes(colours: np.ndarray) -> np.ndarray:
    """4 R + 2 G + B of (..., 3) uint8 colours, each rounded to 0 or 1."""
    bright = (colours >= 128).view(np.uint8)
    return bright[..., 0] << 2 | bright[..., 1] << 1 | bright[..., 2]


def _binary(samples: StoredSamples) -> np.ndarray:
    values = samples.values
    if values.dtype == bool:
        return values
    if values.max() > 3:
        values = samples.colours
    if values.ndim == 3:
        values = values.max(axis=2)
    top = values.max()
    return (
        values > 0 if top <= 3 and values.dtype.kind in "ui" else values >= top / 2 if top > 0 else values > 0
    )


def _probability(samples: StoredSamples) -> np.ndarray:
    """(H, W) float32 in 0 to 1."""
    values = samples.colours
    if values.ndim == 3:
        raise ScanError(samples.path, "holds colours; allowed with coding probability: grey levels or floats")
    if values.dtype.kind in "bu":
        return values.astype(np.float32) / (1 if values.dtype == bool else np.iinfo(values.dtype).max)
    if not np.isfinite(values).all():
        raise ScanError(samples.path, "holds NaN or infinite values; allowed: probabilities from 0 to 1")
    low, high = float(values.min()), float(values.max())
    scale = next((top for top in (1.0, 255.0, 65535.0) if high <= top * (1 + 1e-4)), None)
    if low < -1e-4 or scale is None:
        raise ScanError(
            samples.path,
            f"holds values from {low:g} to {high:g}; allowed: probabilities from 0 to 1 (or to 255, 65535)",
        )
    return values.astype(np.float32) / np.float32(scale)


def _check_share(path: Path, mask: VesselMask) -> None:
    share = float(mask.vessels.mean())
    if share == 0:
        raise ScanError(path, f"holds no vessel: every pixel is background (read as {mask.coding})")
    if share > MOST_VESSEL:
        raise ScanError(
            path,
            f"{100 * share:.0f} % of its pixels would be vessel (read as {mask.coding}); allowed: at most "
            f"{100 * MOST_VESSEL:g} %; is it inverted, or the mask of something else?",
        )
