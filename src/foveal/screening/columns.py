"""The columns of the results: one registry for the tables, the report's glossary and the documentation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from foveal.measurement.registry import unit_symbol

if TYPE_CHECKING:
    from foveal.measurement.registry import BiomarkerColumn

Kind = Literal["text", "integer", "number", "date"]
Group = Literal["Photograph", "Quality", "Landmarks", "Vessels", "Lesions", "Grader", "Provenance"]


@dataclass(frozen=True)
class Column:
    """One column of `results.csv` and `results.parquet`.

    Attributes:
        name: as in the tables.
        title: as in the report.
        unit: "px", "px2", "mm", "mm2", "um", "field" (diameters of the field of view), "fraction", "count",
            "degree", "1" for other pure numbers; empty for text.
        kind: type of the cells; each may be missing.
        group: what it tells of.
        description: what it means, in one or two sentences.
    """

    name: str
    title: str
    unit: str
    kind: Kind
    group: Group
    description: str

    @property
    def symbol(self) -> str:
        """The unit as a reader sees it; empty for pure numbers, whose title says enough."""
        return unit_symbol(self.unit)

    @property
    def heading(self) -> str:
        """Title with its unit, where there is one to show."""
        return f"{self.title} ({self.symbol})" if self.symbol else self.title


def _kind(unit: str) -> Kind:
    return "integer" if unit == "count" else "number"


def _photograph(name: str, title: str, unit: str, kind: Kind, description: str) -> Column:
    return Column(name, title, unit, kind, "Photograph", description)


PHOTOGRAPH = (
    _photograph("name", "Photograph", "", "text", "File name without its ending; names all files about it."),
    _photograph("path", "File", "", "text", "Path of the file, as it was found."),
    _photograph(
        "patient", "Patient", "", "text", "Salted hash of the patient's id in the manifest or the file."
    ),
    _photograph("laterality", "Eye", "", "text", "L left eye, R right eye, from the manifest or the file."),
    _photograph("acquired", "Acquired", "", "date", "Day on which the photograph was taken, from the file."),
    _photograph("height", "Height", "px", "integer", "Height of the upright photograph."),
    _photograph("width", "Width", "px", "integer", "Width of the upright photograph."),
    _photograph("frames", "Frames", "count", "integer", "Frames in the file; the first one is screened."),
    _photograph("format", "Format", "", "text", "Format of the file's content, whatever its ending."),
    _photograph("bit_depth", "Bit depth", "bit", "integer", "Significant bits a channel in the file."),
    _photograph("spacing_row", "Row spacing", "mm/px", "number", "Distance of two rows on the retina."),
    _photograph(
        "spacing_column", "Column spacing", "mm/px", "number", "Distance of two columns on the retina."
    ),
    _photograph(
        "field_shape", "Field shape", "", "text", "Field of view: circle, rectangle, or full (no border)."
    ),
    _photograph(
        "field_diameter", "Field diameter", "px", "number", "Diameter of the field of view's circle."
    ),
    _photograph(
        "field_completeness",
        "Field completeness",
        "fraction",
        "number",
        "Visible share of that circle, 0 to 1.",
    ),
)

QUALITY = (
    Column(
        "quality",
        "Quality",
        "",
        "text",
        "Quality",
        "Image quality: good, usable, or reject (do not rely on it).",
    ),
    Column(
        "quality_reasons", "Quality reasons", "", "text", "Quality", "Why it is not good; semicolons between."
    ),
)


def _measure(name: str, title: str, unit: str, description: str) -> Column:
    return Column(f"quality_{name}", title, unit, _kind(unit), "Quality", description)


# Of `foveal.scans.quality_measures`, but for those that are columns of the photograph already.
QUALITY_MEASURES = (
    _measure(
        "brightness", "Brightness", "1", "Median of each pixel's largest channel in the field, 0 to 255."
    ),
    _measure("luminance", "Luminance", "1", "Median luma of the field, 0 to 255."),
    _measure("dark", "Dark share", "fraction", "Share of the field without signal, 0 to 1."),
    _measure(
        "washed_out",
        "Washed-out share",
        "fraction",
        "Share of the field with two saturated channels, 0 to 1.",
    ),
    _measure(
        "unevenness",
        "Uneven lighting",
        "1",
        "Range (5th to 95th percentile) of the background over its median.",
    ),
    _measure(
        "occlusion",
        "Hidden share",
        "fraction",
        "Share of the field in shadow or without any texture, 0 to 1.",
    ),
    _measure("contrast", "Contrast", "1", "Deviation of vessel-sized structures relative to the background."),
    _measure("sharpness", "Sharpness", "1", "Detail of 1 to 2 pixels over that of 4 to 8, without noise."),
    _measure("noise", "Noise", "1", "Deviation of the white noise, grey levels of 255."),
    _measure("chroma", "Coloured share", "fraction", "Share of pixels that have a colour, 0 to 1."),
    _measure("hue", "Hue", "degree", "Mean hue, degrees from red; yellow is positive."),
    _measure("hue_agreement", "Agreement of hue", "1", "How alike the hues of the pixels are, 0 to 1."),
    _measure(
        "unlikeness",
        "Unlikeness",
        "count",
        "How many of ten properties are foreign to photographs of a retina.",
    ),
)


def _landmark(name: str, title: str, unit: str, kind: Kind, description: str) -> Column:
    return Column(name, title, unit, kind, "Landmarks", description)


# Named as `foveal measure --landmarks` reads them.
LANDMARKS = (
    _landmark("disc_row", "Disc row", "px", "number", "Row of the optic disc's centre."),
    _landmark("disc_column", "Disc column", "px", "number", "Column of the optic disc's centre."),
    _landmark("disc_radius", "Disc radius", "px", "number", "Radius of the circle of the disc's area."),
    _landmark(
        "disc_confidence",
        "Disc confidence",
        "1",
        "number",
        "How sure the disc is, 0 to 1; empty if not found.",
    ),
    _landmark("fovea_row", "Fovea row", "px", "number", "Row of the fovea, where it is in view."),
    _landmark("fovea_column", "Fovea column", "px", "number", "Column of the fovea, where it is in view."),
    _landmark(
        "fovea_confidence",
        "Fovea confidence",
        "1",
        "number",
        "Probability that the fovea lies within one disc radius of there, 0 to 1; empty if not found.",
    ),
    _landmark(
        "laterality_found",
        "Eye as it looks",
        "",
        "text",
        "L or R as the photograph shows it, whatever the file says; empty where that is undecided.",
    ),
    _landmark(
        "laterality_confidence", "Confidence of the eye", "1", "number", "Probability of that side, 0.5 to 1."
    ),
)

CONFIDENCE = Column(
    "vessel_confidence",
    "Vessel confidence",
    "1",
    "number",
    "Vessels",
    "Mean certainty |2 p - 1| of the vessel probability p over pixels that may be vessel (p >= 0.1), 0 to 1.",
)
KIND_CONFIDENCE = Column(
    "artery_vein_confidence",
    "Artery/vein confidence",
    "1",
    "number",
    "Vessels",
    "How sure it is which vessels are arteries: mean over segments, each counted by its length, 0 to 1.",
)

PROVENANCE = (
    Column("sha256", "Input hash", "", "text", "Provenance", "SHA-256 of the file that was screened."),
    Column("foveal", "foveal version", "", "text", "Provenance", "Version of foveal that screened it."),
    Column(
        "weights",
        "Weights",
        "",
        "text",
        "Provenance",
        "First sixteen digits of the SHA-256 of each network's weights, by the network's name.",
    ),
)


def quality_columns() -> list[Column]:
    """Grade, reasons and measures of image quality."""
    return [*QUALITY, *QUALITY_MEASURES]


def vessel_columns() -> list[Column]:
    """Biomarkers of all vessels, arteries and veins, and the confidence in them."""
    return [*map(biomarker_column, screened_biomarkers()), CONFIDENCE, KIND_CONFIDENCE]


def screened_biomarkers() -> list["BiomarkerColumn"]:
    """The biomarkers that a photograph is screened for: all, of each kind of vessels, over its field."""
    from foveal.measurement.measure import biomarker_columns

    return biomarker_columns()


def lesion_number_columns() -> list[Column]:
    """Measures of the lesions."""
    from foveal.measurement.lesion_columns import lesion_columns

    return [
        Column(column.name, column.title, column.unit, _kind(column.unit), "Lesions", column.description)
        for column in lesion_columns()
    ]


def lesion_columns() -> list[Column]:
    """Measures of the lesions, and what a rule makes of them."""
    from foveal.measurement.lesion_summary import rule_columns

    rules = [Column(c.name, c.title, c.unit, "text", "Lesions", c.description) for c in rule_columns()]
    return [*lesion_number_columns(), *rules]


def measured_columns() -> list[Column]:
    """What is measured of the eye's structures, as numbers."""
    numbers = [column for column in LANDMARKS if column.kind != "text"]
    return [*numbers, *vessel_columns(), *lesion_number_columns()]


def biomarker_column(column: "BiomarkerColumn") -> Column:
    """A biomarker as a column of the results."""
    marker = column.biomarker
    return Column(column.name, column.title, marker.unit, _kind(marker.unit), "Vessels", marker.description)


def grader_columns(classes: Sequence[str]) -> list[Column]:
    """Result of a grader over `classes`; none without classes."""
    if not classes:
        return []
    return [
        Column("grade", "Grade", "", "text", "Grader", "The grader's most probable class."),
        Column(
            "grade_uncertainty",
            "Grade uncertainty",
            "1",
            "number",
            "Grader",
            "Entropy of the class probabilities over that of a uniform guess: 0 certain, 1 a pure guess.",
        ),
        *(
            Column(
                f"probability_{name}",
                f"P({name})",
                "1",
                "number",
                "Grader",
                f"Probability of {name}, 0 to 1.",
            )
            for name in classes
        ),
        Column(
            "grader_weights", "Grader weights", "", "text", "Provenance", "SHA-256 of the grader's weights."
        ),
    ]


def result_columns(classes: Sequence[str] = ()) -> list[Column]:
    """All columns of the results, in order, for a run with a grader over `classes` or without one."""
    return [
        *PHOTOGRAPH,
        *quality_columns(),
        *LANDMARKS,
        *vessel_columns(),
        *lesion_columns(),
        *grader_columns(classes),
        *PROVENANCE,
    ]


def results_page() -> str:
    """The text of `docs/results.md`, which a test holds to this."""
    return f"""# Results of `foveal screen`

`results.csv` and `results.parquet` hold the same rows, one a photograph, in the order of the file names; what
could not be screened is in `failures.csv` instead. A missing value is an empty cell (CSV) or null (Parquet).
The fields of the Parquet schema carry `unit` and `description` as metadata. This page is generated from the
code that writes the tables; with `--model` there are also the columns of the grader.

{columns_as_markdown(result_columns())}
## With a grader

For a grader over the classes `mild` and `severe`, as an example:

{columns_as_markdown(grader_columns(("mild", "severe")))}"""


def columns_as_markdown(columns: Sequence[Column]) -> str:
    """The columns as a Markdown table."""
    rows = [
        f"| `{column.name}` | {column.unit or ' '} | {column.kind} | {column.title}. {column.description} |"
        for column in columns
    ]
    return "\n".join(["| column | unit | type | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"


def index_columns() -> list[str]:
    """Names of the number columns that the report's index shows; the tables have all."""
    wanted = (
        "vessel_density",
        "vessel_length_field",
        "vessel_calibre_field",
        "vessel_tortuosity_distance_weighted",
        "vessel_fractal_dimension",
        "avr_knudtson",
        "vessel_branch_points",
        "microaneurysms_count",
        "haemorrhages_count",
        "hard_exudates_count",
        "soft_exudates_count",
    )
    return [*wanted, CONFIDENCE.name, "grade_uncertainty"]
