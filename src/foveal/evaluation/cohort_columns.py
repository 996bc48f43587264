"""Which columns of a table are compared, and what they are called."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from foveal.evaluation.tables import is_numeric, some_of, texts_of
from foveal.measurement.registry import unit_symbol

if TYPE_CHECKING:
    import pandas as pd

# What a photograph's numbers tell of the camera and the file, not of the eye.
_NO_BIOMARKERS = {
    "name", "path", "patient", "laterality", "acquired", "height", "width", "frames", "bit_depth",
    "format", "spacing_row", "spacing_column", "field_shape", "field_diameter", "field_completeness",
    "um_per_px", "sha256", "foveal",
}  # fmt: skip
_IN_PIXELS = re.compile(r"_px2?(?=_|$)")
_IN_OTHER_UNITS = ("_field", "_um", "_mm", "_mm2")


class Measure(NamedTuple):
    """A compared column: its name in the table, a title for people, and its unit."""

    name: str
    title: str
    unit: str

    @property
    def heading(self) -> str:
        """Title with its unit, where there is one to show."""
        symbol = unit_symbol(self.unit)
        return f"{self.title} ({symbol})" if symbol else self.title


def choose_measures(
    frame: "pd.DataFrame",
    free: Iterable[str],
    columns: Sequence[str],
    units: dict[str, str],
    notes: list[str],
) -> list[Measure]:
    """The columns to compare, in the order of the table.

    By default these are the registered biomarkers, without those in pixels that are there in a unit which
    does not depend on the camera too. A table without biomarkers is compared by all its numbers but ids and
    sizes.

    Args:
        frame: the table.
        free: its columns that have no other part.
        columns: those that the user names; empty: the default.
        units: of columns that tell theirs.
        notes: is told what is left aside.

    Raises:
        ValueError: there is nothing to compare.
    """
    from foveal.measurement.measure import biomarker_columns
    from foveal.measurement.regions import REGIONS

    registered = {column.name: column for column in biomarker_columns(regions=tuple(REGIONS))}
    chosen = list(dict.fromkeys(columns))
    if not chosen:
        free = [name for name in free if name not in _NO_BIOMARKERS]
        chosen = [name for name in free if name in registered]
        pixels = [name for name in chosen if _has_sibling(name, chosen, frame)]
        if pixels:
            chosen = [name for name in chosen if name not in pixels]
            notes.append(
                "Left aside, as pixels depend on the camera and the same is there in another unit: "
                f"{some_of(pixels)}. To compare them, name them with --columns."
            )
        chosen = chosen or [name for name in free if is_numeric(frame[name])]
    if not chosen:
        raise ValueError("the table has no column of numbers to compare; name them with --columns")
    measures = []
    for name in chosen:
        column = registered.get(name)
        title = column.title if column else name.replace("_", " ").strip().capitalize()
        measures.append(Measure(name, title, units.get(name) or (column.biomarker.unit if column else "")))
    headings = [measure.heading for measure in measures]
    return [  # two columns may share a title: then the column says which one it is
        measure._replace(title=f"{measure.title}, {measure.name}") if headings.count(heading) > 1 else measure
        for measure, heading in zip(measures, headings, strict=True)
    ]


def _has_sibling(name: str, names: Sequence[str], frame: "pd.DataFrame") -> bool:
    """Whether a column in pixels is there, with values, in another unit."""
    if not _IN_PIXELS.search(name):
        return False
    siblings = {_IN_PIXELS.sub(unit, name) for unit in _IN_OTHER_UNITS} & set(names)
    return any(texts_of(frame[sibling]).notna().any() for sibling in siblings)
