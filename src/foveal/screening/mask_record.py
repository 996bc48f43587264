"""What is kept of each measured mask, in one file beside the table, so that a stopped run can go on."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from foveal.files import write_atomically
from foveal.measurement.registry import Kind
from foveal.screening.records import Value


class MaskRecord(BaseModel):
    """One measured mask.

    Attributes:
        name: of its row.
        key: SHA-256 of all that decides the result, see `foveal.screening.mask_worker.result_key`.
        kinds: of vessels that were measured.
        values: column name to value, one row of the table.
        missing: name of each biomarker without a value to the reason.
        notes: what a reader should know.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    key: str
    kinds: tuple[Kind, ...]
    values: dict[str, Value]
    missing: dict[str, str]
    notes: tuple[str, ...]


class Journal:
    """Records in a file of JSON lines, appended one by one; only their places are held in memory.

    A line that a killed run left half written is dropped, and so are records that others have replaced.

    Args:
        path: of the file; it is made where there is none.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        self.keys: dict[str, str] = {}
        if not path.exists():
            write_atomically(path, b"")
        self._file = path.open("r+b")
        end = 0
        for line in self._file:
            record = _parsed(line)
            if record is not None:
                self._remember(record, end, len(line))
            elif not line.endswith(b"\n"):
                break
            end += len(line)
        self._file.truncate(end)

    def add(self, record: MaskRecord) -> None:
        """Append a record; it is in the file when this returns."""
        line = record.model_dump_json().encode() + b"\n"
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(line)
        self._file.flush()
        self._remember(record, start, len(line))

    def read(self, name: str) -> MaskRecord:
        """The latest record of a name in `keys`."""
        start, length = self._places[name]
        self._file.seek(start)
        return MaskRecord.model_validate_json(self._file.read(length))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _remember(self, record: MaskRecord, start: int, length: int) -> None:
        self._places[record.name] = start, length
        self.keys[record.name] = record.key


def _parsed(line: bytes) -> MaskRecord | None:
    try:
        return MaskRecord.model_validate_json(line) if line.endswith(b"\n") else None
    except ValidationError:
        return None
