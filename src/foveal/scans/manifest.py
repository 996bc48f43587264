"""Tables of scans (CSV, Parquet), and splits of them that keep every patient on one side."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveal.files import write_atomically

if TYPE_CHECKING:  # pandas takes half a second to import; `foveal --help` does not need it
    import pandas as pd

OWN_COLUMNS = ("path", "patient", "laterality", "channels")
LATERALITIES = {
    "l": "L", "left": "L", "os": "L",
    "r": "R", "right": "R", "od": "R",
}  # fmt: skip


def read_manifest(path: str | Path) -> "pd.DataFrame":
    """Read a table with one row a scan.

    Args:
        path: a .csv (UTF-8, comma-separated, with a header) or .parquet file. Column `path` is
            required; `patient`, `laterality` and `channels` are optional texts ("007" stays "007").
            Laterality is L, R, left, right, OS or OD, in any case. All other columns are kept as they are.

    Returns:
        The table; `laterality` as "L" or "R"; None where one of these texts is empty. Paths are
        as written, to be taken relative to the manifest's folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a file that cannot be parsed, `path` missing, empty or repeated, or
            an unknown laterality; the message names the first row at fault.
    """
    import pandas as pd

    path = Path(path)
    kind = _kind(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is no file; allowed: a .csv or .parquet manifest")
    try:
        if kind == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, encoding="utf-8-sig", index_col=False)
            # Read again as text: 007 is no number, and a patient may be called NA.
            texts = pd.read_csv(path, encoding="utf-8-sig", index_col=False, dtype=str, keep_default_na=False)
            for column in set(OWN_COLUMNS) & set(frame.columns):
                frame[column] = texts[column]
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parsing errors are ValueErrors
        raise ValueError(f"{path} is no readable {kind} manifest: {error}") from error
    return _validated(frame, str(path))


def write_manifest(frame: "pd.DataFrame", path: str | Path) -> None:
    """Write a table that `read_manifest` gives back. The file appears whole or not at all.

    Args:
        frame: one row a scan; see `read_manifest` for the columns.
        path: .csv or .parquet; its folder is made when it does not exist.

    Raises:
        ValueError: another ending, or a table that `read_manifest` would refuse.
    """
    path = Path(path)
    kind = _kind(path)
    frame = _validated(frame, f"frame for {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == ".parquet":
        write_atomically(path, partial(frame.to_parquet, index=False))
    else:
        write_atomically(path, partial(frame.to_csv, index=False))


def split_patients(
    frame: "pd.DataFrame",
    *,
    folds: int | None = None,
    fractions: Mapping[str, float] | None = None,
    seed: int,
    stratify: str | None = None,
) -> "pd.Series":
    """Deal the rows out to folds or named parts, never dividing a patient.

    Patients are dealt largest first, each to the side that is furthest below its share of images;
    with `stratify`, furthest below its share of that label's images. Without `stratify` no fold
    differs from another by more than the largest patient. The seed decides among equals. The result
    does not depend on the order of the rows.

    Args:
        frame: a manifest; rows without `patient` (or all, without that column) are patients of their
            own, told apart by `path`.
        folds: number of equal folds, at least 2.
        fractions: share of the images by name of the part, e.g. {"train": 0.8, "test": 0.2}; sums to 1.
        seed: of the order among equals.
        stratify: a label column; a patient counts with the largest label of its images.

    Returns:
        Aligned with `frame`: fold numbers from 0, named "fold", or part names, named "split".

    Raises:
        ValueError: not exactly one of folds and fractions, values out of range, no such column, or too
            few patients to give every side one.
    """
    import pandas as pd

    sides, shares = _sides(folds, fractions)
    for column in ["path", *([stratify] if stratify else [])]:
        if column not in frame:
            raise ValueError(f"frame has no column {column!r}; its columns: {list(map(str, frame.columns))}")
    owner = _owner(frame)
    table = pd.DataFrame({"owner": owner, "label": frame[stratify] if stratify else 0}, index=frame.index)
    patients = table.groupby("owner", sort=True)["label"].agg(["size", "max"])
    if len(patients) < len(sides):
        raise ValueError(
            f"frame has {len(patients)} patients for {len(sides)} sides; allowed: at least one each"
        )
    labels = patients["max"].map(str).where(patients["max"].notna(), "")
    strata, images = pd.factorize(labels, sort=True)[0], patients["size"].to_numpy()
    side_of = _deal(images, strata, shares, np.random.default_rng(seed))
    empty = [str(side) for index, side in enumerate(sides) if index not in side_of]
    if empty:
        raise ValueError(
            f"no patient falls to {', '.join(empty)} ({len(patients)} patients, {int(images.sum())} images); "
            "allowed: more patients, or a larger fraction"
        )
    chosen = pd.Series([sides[index] for index in side_of], index=patients.index)
    return owner.map(chosen).rename("split" if fractions else "fold")


def _deal(images: np.ndarray, strata: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Index of the side of each patient: greedy, largest first, rarest stratum first."""
    side_of = np.zeros(len(images), dtype=int)
    total, dealt = images.sum(), np.zeros(len(shares))
    stratum_images = np.bincount(strata, weights=images)
    shuffled = rng.permutation(len(images))
    order = shuffled[np.lexsort((-images[shuffled], strata[shuffled], stratum_images[strata[shuffled]]))]
    dealt_of_stratum = np.zeros((len(stratum_images), len(shares)))
    for patient in order:
        stratum = strata[patient]
        lacking = (shares * stratum_images[stratum] - dealt_of_stratum[stratum]).round(9)
        lacking_overall = (shares * total - dealt).round(9)
        side = np.lexsort((-lacking_overall, -lacking))[0]
        side_of[patient] = side
        dealt_of_stratum[stratum, side] += images[patient]
        dealt[side] += images[patient]
    return side_of


def _sides(
    folds: int | None, fractions: Mapping[str, float] | None
) -> tuple[list[int] | list[str], np.ndarray]:
    if (folds is None) == (fractions is None):
        raise ValueError(f"folds is {folds} and fractions is {fractions}; allowed: exactly one of the two")
    if folds is not None:
        if folds < 2:
            raise ValueError(f"folds is {folds}; allowed: at least 2")
        return list(range(folds)), np.full(folds, 1 / folds)
    assert fractions is not None
    shares = np.array(list(fractions.values()), dtype=float)
    if len(shares) < 2 or not (shares > 0).all() or not np.isclose(shares.sum(), 1):
        raise ValueError(f"fractions is {dict(fractions)}; allowed: two or more above 0 that sum to 1")
    return list(fractions), shares


def _owner(frame: "pd.DataFrame") -> "pd.Series":
    """A key for the patient of each row; rows without one are keyed by their path."""
    own = "path:" + frame["path"].astype(str)
    if "patient" not in frame:
        return own
    patient = frame["patient"]
    known = patient.notna() & (patient.astype(str).str.strip() != "")
    return own.where(~known, "patient:" + patient.astype(str))


def _validated(frame: "pd.DataFrame", origin: str) -> "pd.DataFrame":
    """A copy with tidy own columns, or a ValueError that names the first row at fault."""
    import pandas as pd

    if "path" not in frame:
        raise ValueError(f"{origin}: columns are {list(map(str, frame.columns))}; 'path' is required")
    frame = frame.reset_index(drop=True)
    texts = {column: _texts(frame[column]) for column in OWN_COLUMNS if column in frame}
    first_row: dict[str, int] = {}
    for row, path in enumerate(texts["path"], start=1):
        if path is None:
            raise ValueError(f"{origin}: row {row} has an empty path")
        if path in first_row:
            raise ValueError(f"{origin}: row {row} repeats the path of row {first_row[path]}, {path}")
        first_row[path] = row
    for row, side in enumerate(texts.get("laterality", ()), start=1):
        if side is not None and side.lower() not in LATERALITIES:
            raise ValueError(
                f"{origin}: row {row} has laterality {side!r}; allowed: L, R, left, right, OS, OD or empty"
            )
    if "laterality" in texts:
        texts["laterality"] = [side and LATERALITIES[side.lower()] for side in texts["laterality"]]
    for column, values in texts.items():
        frame[column] = pd.Series(values, index=frame.index, dtype=object)  # object: None stays None
    return frame


def _texts(column: "pd.Series") -> list[str | None]:
    """Values as text without blanks around them; None where nothing is left."""
    return [
        str(value).strip() or None if known else None
        for value, known in zip(column, column.notna(), strict=True)
    ]


def _kind(path: Path) -> str:
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise ValueError(f"{path} ends in {path.suffix or 'nothing'}; allowed: .csv or .parquet")
    return kind
