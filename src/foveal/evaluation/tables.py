"""Tables of unknown making (CSV, Parquet), and their columns as texts or numbers."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveal.settings import unknown_name

if TYPE_CHECKING:
    import pandas as pd

_EMPTY = {"", "na", "n/a", "nan", "null"}  # "none" may well be a grade


def read_table(path: Path) -> "pd.DataFrame":
    """Read a .csv as texts ("007" stays "007") or a .parquet as it is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a file that cannot be parsed, a repeated column, or no rows.
    """
    import pandas as pd

    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"{path} ends in {path.suffix or 'nothing'}; allowed: .csv or .parquet")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is no file; allowed: a .csv or .parquet table")
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            # Without a header, so that pandas does not rename a column that is there twice.
            cells = pd.read_csv(path, encoding="utf-8-sig", header=None, dtype=str, keep_default_na=False)
            frame = cells.iloc[1:].reset_index(drop=True)
            frame.columns = pd.Index([str(name).strip() for name in cells.iloc[0]])
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parsing errors are ValueErrors
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"{path} has the column {repeated[0]!r} more than once; rename one")
    if len(frame.columns) == 1 and ";" in str(frame.columns[0]):
        raise ValueError(
            f"{path} is separated by semicolons; save it with commas, and points as decimal signs"
        )
    if not len(frame):
        raise ValueError(f"{path} has no rows below its header")
    return frame


def parquet_units(path: Path) -> dict[str, str]:
    """Units by column, where a Parquet file tells them as foveal's tables do."""
    if path.suffix.lower() != ".parquet":
        return {}
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    return {field.name: (field.metadata or {}).get(b"unit", b"").decode() for field in schema}


def require_column(column: str, frame: "pd.DataFrame", origin: str, *, option: str = "") -> None:
    """Raise a ValueError that suggests the nearest column where there is no such one."""
    if column in frame:
        return
    complaint = unknown_name("column", column, [str(name) for name in frame.columns])
    raise ValueError(f"{option + ': ' if option else ''}{origin}: {complaint}")


def texts_of(column: "pd.Series") -> "pd.Series":
    """Labels as text without blanks around them; None where nothing is left. 2.0 is "2"."""
    import pandas as pd

    def text(value: object) -> str | None:
        if value is None or value is pd.NaT or value is pd.NA or value != value:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        label = str(value).strip()
        return None if label.lower() in _EMPTY else label

    return pd.Series([text(value) for value in column], index=column.index, dtype=object)


def numbers_of(column: "pd.Series", origin: str, names: "pd.Series") -> "pd.Series":
    """Finite numbers, NaN where missing; an error that names the first cell that is neither."""
    import pandas as pd

    if pd.api.types.is_bool_dtype(column):
        raise ValueError(f"{origin}: column {column.name!r} holds true and false; allowed: numbers")
    if pd.api.types.is_numeric_dtype(column):
        plain = column.astype(float)
        if not np.isinf(plain).any():
            return plain
    texts = texts_of(column)
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    wrong = (texts.notna() & numbers.isna()) | np.isinf(numbers)
    if wrong.any():
        row = int(np.argmax(wrong.to_numpy()))
        raise ValueError(
            f"{origin}: column {column.name!r} holds {texts.iloc[row]!r} in row {names.iloc[row]}; "
            "allowed: finite numbers or empty cells"
        )
    return numbers


def is_numeric(column: "pd.Series") -> bool:
    """Whether there is a value, and every value is a number."""
    import pandas as pd

    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return False
    if pd.api.types.is_numeric_dtype(column):
        return bool(column.notna().any())
    texts = texts_of(column).dropna()
    return bool(len(texts)) and bool(pd.to_numeric(texts, errors="coerce").notna().all())


def row_names(frame: "pd.DataFrame") -> "pd.Series":
    """How each row is told to a reader: its name, path or patient, else its number."""
    import pandas as pd

    for column in ("name", "path", "patient"):
        if column in frame and texts_of(frame[column]).notna().all():
            return texts_of(frame[column])
    return pd.Series(
        [f"row {number}" for number in range(1, len(frame) + 1)], index=frame.index, dtype=object
    )


def some_of(names: Iterable[object], count: int = 5) -> str:
    """The first names in words, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more
