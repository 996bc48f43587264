"""What tables and file names tell of a mask: landmarks, scale, and which files belong together."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from foveal.measurement.landmarks import Disc, Laterality
from foveal.scans.discovery import IMAGE_ENDINGS
from foveal.scans.stored_samples import MASK_ENDINGS
from foveal.screening.mask_settings import parse_spacing

if TYPE_CHECKING:
    import pandas as pd

Item = TypeVar("Item")

_ROLES = re.compile(
    r"[ _.-](?:masks?|fov|field|dis[ck]|od|optic|cup|oc|fovea|vessels?|vesselness|av|arter(?:y|ies)|veins?|"
    r"manual\d?|[12](?:st|nd)(?:ho|_manual)?|training|test|seg|segmentation|gt|labels?|prob|probability)$",
    re.IGNORECASE,
)
_SYNONYMS = {"fovea_row": "y_fovea", "fovea_column": "x_fovea"}  # as VascX writes them
DISC_COLUMNS = ("disc_row", "disc_column", "disc_radius")
FOVEA_COLUMNS = ("fovea_row", "fovea_column")
LANDMARK_COLUMNS = (*DISC_COLUMNS, *FOVEA_COLUMNS, "laterality", "spacing", "spacing_row", "spacing_column")


@dataclass(frozen=True)
class Known:
    """What a row of a table tells of one eye; None for what it does not."""

    disc: Disc | None = None
    fovea: tuple[float, float] | None = None
    laterality: Laterality | None = None
    spacing_mm: tuple[float, float] | None = None


class ByName(Generic[Item]):
    """Things that belong to masks by their names, such as the field `21_training_mask` to `21_manual1`.

    Names are compared without case, as they are and without words at their end that say what a file shows
    (mask, disc, artery, manual1, ...); of several that fit, the one that loses the fewest words is taken.

    Args:
        items: with the names that they have.
    """

    def __init__(self, items: Sequence[tuple[str, Item]]) -> None:
        self.items = list(items)
        self.used: set[int] = set()
        self._by_key: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, (name, _) in enumerate(self.items):
            for lost, key in enumerate(_keys(name)):
                self._by_key[key].append((lost, number))

    def find(self, name: str) -> Item | None:
        """What belongs to a name; None where there is nothing.

        Raises:
            ValueError: several things fit equally well.
        """
        fitting: dict[int, int] = {}
        for lost, key in enumerate(_keys(name)):
            for also_lost, number in self._by_key.get(key, ()):
                fitting[number] = min(lost + also_lost, fitting.get(number, 99))
        if not fitting:
            return None
        best = [number for number, lost in fitting.items() if lost == min(fitting.values())]
        if len(best) > 1:
            names = ", ".join(str(self.items[number][1]) for number in best[:3])
            raise ValueError(f"{len(best)} fit the name {name!r} equally well: {names}")
        self.used.add(best[0])
        return self.items[best[0]][1]

    @property
    def unused(self) -> list[str]:
        """Names of what has not been found yet."""
        return [name for number, (name, _) in enumerate(self.items) if number not in self.used]


def read_landmarks(path: Path, wanted: Sequence[str] = LANDMARK_COLUMNS) -> ByName[Known]:
    """Read a table of landmarks with one row a mask.

    Args:
        path: .csv or .parquet. The column `name` (or `path`, else the first column) holds the masks' names,
            with or without ending. The others are those of `LANDMARK_COLUMNS`, in pixels of the mask, pixel
            centres at integers; each may be absent or empty.
        wanted: columns of which at least one must be there; others are not read.

    Raises:
        OSError: the file is not there.
        ValueError: the file cannot be read, none of the wanted columns is there, or a cell is wrong.
    """
    from foveal.evaluation.tables import read_table

    frame = read_table(path).rename(columns={theirs: ours for ours, theirs in _SYNONYMS.items()})
    there = [column for column in wanted if column in frame]
    if not there:
        raise ValueError(
            f"{path} has the columns {', '.join(map(str, frame.columns))}; at least one is needed of "
            f"{', '.join(wanted)}"
        )
    key = next((column for column in ("name", "path") if column in frame), frame.columns[0])
    names = [_stem(str(name)) for name in frame[key]]
    return ByName(list(zip(names, known_of_rows(frame[there], str(path)), strict=True)))


def known_of_rows(frame: "pd.DataFrame", origin: str) -> list[Known]:
    """What each row of a table tells of `LANDMARK_COLUMNS`.

    Raises:
        ValueError: a cell is wrong; the message names its row.
    """
    from foveal.evaluation.tables import numbers_of, row_names, texts_of

    cells: dict[str, Sequence[Any]] = {}
    for column in (column for column in LANDMARK_COLUMNS if column in frame):
        if column in ("laterality", "spacing"):
            cells[column] = texts_of(frame[column]).tolist()
        else:
            cells[column] = numbers_of(frame[column], origin, row_names(frame)).tolist()
    return [
        _known({column: values[row] for column, values in cells.items()}, f"{origin}: row {row + 1}")
        for row in range(len(frame))
    ]


def _known(row: Mapping[str, Any], origin: str) -> Known:
    from foveal.scans.manifest import LATERALITIES

    disc = _numbers(row, DISC_COLUMNS, origin)
    fovea = _numbers(row, FOVEA_COLUMNS, origin)
    spacing = _numbers(row, ("spacing_row", "spacing_column"), origin)
    laterality = row.get("laterality")
    if laterality is not None and laterality.lower() not in LATERALITIES:
        raise ValueError(
            f"{origin}: laterality is {laterality!r}; allowed: L, R, left, right, OS, OD or empty"
        )
    try:
        if row.get("spacing") is not None:
            spacing = parse_spacing(row["spacing"])
        return Known(
            disc=Disc((disc[0], disc[1]), disc[2]) if disc else None,
            fovea=(fovea[0], fovea[1]) if fovea else None,
            laterality=LATERALITIES[laterality.lower()] if laterality else None,  # type: ignore[arg-type]
            spacing_mm=parse_spacing(f"{spacing[0]},{spacing[1]}") if spacing else None,
        )
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from None


def _numbers(row: Mapping[str, Any], columns: Sequence[str], origin: str) -> tuple[float, ...] | None:
    """The numbers of columns that belong together; None where all are missing."""
    values = [row.get(column) for column in columns]
    missing = [
        column for column, value in zip(columns, values, strict=True) if value is None or value != value
    ]
    if missing and len(missing) < len(columns):
        raise ValueError(f"{origin} has no {' and no '.join(missing)}; allowed: all of {', '.join(columns)}")
    return None if missing else tuple(float(value) for value in values if value is not None)


def _stem(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in IMAGE_ENDINGS | MASK_ENDINGS else path.name


def _keys(name: str) -> list[str]:
    """A name without case, then without the last word that says what it shows, and so on."""
    keys = [name.casefold()]
    while (shorter := _ROLES.sub("", keys[-1])) not in ("", keys[-1]):
        keys.append(shorter)
    return keys
