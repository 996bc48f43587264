"""The record of one screened photograph: what is known of it, and the marker that it is done."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from foveal.files import write_atomically

Value = str | int | float | None
"""One cell of the results; None where a value is missing."""


@dataclass(frozen=True)
class Failure:
    """A photograph that could not be screened, or an explanation that one lacks.

    Attributes:
        path: the file.
        name: of its results, which only a failure of "explanations" leaves it.
        stage: the step that failed ("find", "read", "field of view", "quality", "vessels", "landmarks",
            "arteries and veins", "lesions", "biomarkers", "grader", "explanations", "pictures", "write" or
            "worker").
        reason: what was found and what is allowed, in one line.
    """

    path: str
    name: str
    stage: str
    reason: str


def failure_reason(error: Exception) -> str:
    """What an error says to somebody who looks for the file at fault, in one line."""
    from foveal.scans.scan import ScanError

    if isinstance(error, ScanError):
        reason = error.reason
    elif isinstance(error, ValueError | OSError):
        reason = str(error)
    else:
        reason = f"unexpected {type(error).__name__}: {error}"
    return " ".join(reason.split())


def tidy(value: float, unit: str = "") -> Value:
    """A cell: six significant digits, a whole number for a count, None for what is not finite."""
    if not math.isfinite(value):
        return None
    return round(value) if unit == "count" else float(f"{value:.6g}")


class Provenance(BaseModel):
    """Everything besides the input that decides a result; two equal ones give equal results.

    Attributes:
        foveal: version of this package.
        settings: SHA-256 of the settings that change a result.
        weights: SHA-256 of the weights of each network, by its name.
        grader_weights: SHA-256 of the grader's weights; None without a grader.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    foveal: str
    settings: str
    weights: dict[str, str]
    grader_weights: str | None = None


class Explanation(BaseModel):
    """What a map of an explanation explains, and what it is worth.

    Attributes:
        of: the answer: "disc", "fovea" or a grade.
        method: of `foveal.explanation`.
        probability: of the answer, in a structure's case the mean over where it is called.
        without_top: the same with the tenth of pixels that the map marks most filled in from around them
            (without the noise of ROAD, arXiv 2202.00449).
        without_other: the same with that shape filled in elsewhere, mean of three places.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    method: str
    probability: float
    without_top: float
    without_other: float


class Record(BaseModel):
    """One finished photograph. Written after all its other files, so that its presence means they are whole.

    Attributes:
        name: file name of the results, without ending.
        input_sha256: hash of the file that was screened.
        provenance: what else decided the result.
        software: versions of the packages that computed it.
        values: column name to value, one row of the results table.
        reasons: why the quality is not "good".
        missing: name of each biomarker without a value to the reason.
        notes: remarks on the input ("frame 1 of 12 is screened") and on what could not be explained.
        explanations: of the page's maps "relevance_0", "relevance_1", …, in this order.
        unexplained: methods that failed in a way that was not foreseen; another run tries them again.
        outputs: path within the report to size in bytes, of each file written for this photograph.
        thumbnail: data URI, at most 96 pixels.
        seconds: wall time of each step.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    input_sha256: str
    provenance: Provenance
    software: dict[str, str]
    values: dict[str, Value]
    reasons: list[str]
    missing: dict[str, str]
    notes: list[str]
    explanations: list[Explanation] = []
    unexplained: list[str] = []
    outputs: dict[str, int]
    thumbnail: str
    seconds: dict[str, float]


def record_path(report: Path, name: str) -> Path:
    """Where the record of photograph `name` lies within a report folder."""
    return report / "scans" / f"{name}.json"


def write_record(report: Path, record: Record) -> None:
    """Write a record, atomically.

    Raises:
        OSError: the report folder cannot be written.
    """
    write_atomically(record_path(report, record.name), record.model_dump_json(indent=1))


def read_record(report: Path, name: str) -> Record | None:
    """The record of photograph `name`, or None where there is none that this version understands."""
    try:
        return Record.model_validate_json(record_path(report, name).read_bytes())
    except (OSError, ValidationError):
        return None


def discard_results(report: Path, name: str) -> None:
    """Remove what an earlier run wrote for a photograph that cannot be screened any more.

    The record goes first, so that it never vouches for files that are gone.
    """
    folders = ("vessels", "arteries", "masks", "structures")
    for path in (f"scans/{name}.json", f"scans/{name}.html", *(f"{folder}/{name}.png" for folder in folders)):
        (report / path).unlink(missing_ok=True)
    if (dicom := report / "dicom" / name).is_dir():
        shutil.rmtree(dicom)


def outputs_are_whole(report: Path, record: Record) -> bool:
    """Whether every file that a record lists is present with its size."""
    try:
        return all((report / path).stat().st_size == size for path, size in record.outputs.items())
    except OSError:
        return False
