"""The reference of the biomarkers: `docs/biomarkers.md`, made from the registry that the code measures by."""

import inspect
import sys
from collections.abc import Iterator, Sequence

from foveal.measurement.biomarkers import BIOMARKERS
from foveal.measurement.eye import AVASCULAR, SHORTEST_SEGMENT
from foveal.measurement.graph import vessel_graph
from foveal.measurement.landmarks import DISC_DIAMETER_MM
from foveal.measurement.regions import LEAST_VISIBLE, REGIONS
from foveal.measurement.registry import KIND_TITLES, KINDS, Biomarker
from foveal.measurement.tree import VesselTree, root_graph

FAMILIES: dict[str, str] = {
    "extent": "Extent",
    "calibre": "Calibre",
    "central": "Central equivalents",
    "tortuosity": "Tortuosity",
    "branching": "Branching",
    "fractal": "Fractal geometry",
    "sparsity": "Sparsity",
    "position": "Position and image",
}
"""Titles of the families: the modules of `foveal.measurement.biomarkers`, in their order."""

FIGURES: dict[str, tuple[str, str]] = {
    "calibre": (
        "calibre.jpg",
        "Centre lines by width; grey in junctions and before ends, where no width is taken.",
    ),
    "central": (
        "central.jpg",
        "Eleven circles from two to three disc radii, and the width of each artery (red) and vein (blue) "
        "that leads through them; the six widest of a circle enter and are bold. A synthetic eye.",
    ),
    "tortuosity": (
        "tortuosity.jpg",
        "Segments by arc length over chord, times one more than their inflections, which are marked.",
    ),
    "branching": (
        "branching.jpg",
        "Where one vessel becomes two, and the angle between the daughters in degrees.",
    ),
    "sparsity": (
        "sparsity.jpg",
        "Distance to the nearest vessel; hatched is left out, and the circle is the largest gap.",
    ),
    "fractal": ("fractal.jpg", "Box counts of the vessels and the line whose slope is D0."),
    "position": (
        "position.jpg",
        "The widest superior and inferior vessels on circles around the disc, and the angle between them.",
    ),
}
"""Of a family: file in `docs/biomarkers/`, and what it shows."""

_UNITS = {
    "fraction": "of 1",
    "px, px2": "pixels of the photograph; they depend on its resolution",
    "field": "diameters of the camera's field of view, which do not depend on the resolution",
    "field/1000": "thousandths of that diameter",
    "1/field": "a number or length for each diameter",
    "mm, mm2, um": "millimetres and micrometres on the retina",
    "degree": "degrees",
    "count": "a number of things",
    "1": "a pure number",
}


def family(biomarker: Biomarker) -> str:
    """Key in `FAMILIES` of the family that a biomarker belongs to."""
    return biomarker.function.__module__.rpartition(".")[2]


def biomarkers_page() -> str:
    """The text of `docs/biomarkers.md`, which a test holds to this."""
    sources = list(dict.fromkeys(marker.source for marker in BIOMARKERS.values()))
    parts = [_introduction(), *(_family(name, sources) for name in FAMILIES), _sources(sources), _regions()]
    return "\n".join([*parts, _rules(), _scale(), _missing()])


def _introduction() -> str:
    units = "\n".join(f"| {unit} | {meaning} |" for unit, meaning in _UNITS.items())
    kinds = ", ".join(f"`{kind}` ({KIND_TITLES[kind].lower()})" for kind in KINDS)
    return f"""# Biomarkers

Every measure of retinal vessels that foveal takes, with its definition. This page is generated from the
registry that the code measures by (`foveal.measurement.registry.BIOMARKERS`), so the two cannot differ.

A column of a table is named `KIND_MEASURE_REGION`. KIND is {kinds}; measures of the eye as a whole have
none. REGION is one of the [regions](#regions); without one, everything visible is measured. Thus
`artery_calibre_um_hemifield_superior` is the mean calibre of arteries in the superior hemifield, in
micrometres.

```python
from matplotlib.figure import Figure

from foveal.measurement.drawing import draw_biomarker
from foveal.measurement.measure import biomarker_columns, measure_eye

measures = measure_eye(eye, regions=["hemifield_superior"])  # values by column; measures.missing_reasons
column = biomarker_columns(names=["calibre_um"])[0]
draw_biomarker(eye, column, Figure().subplots())  # what was measured, on the photograph
```

| unit | meaning |
| --- | --- |
{units}

In the tables below "of" names the kinds of vessels (`all` is every kind), "in" the regions besides
everything visible, and "needs" the landmarks without which the measure is [missing](#missing-values).
"""


def _family(name: str, sources: Sequence[str]) -> str:
    module = sys.modules[f"foveal.measurement.biomarkers.{name}"]
    told = (module.__doc__ or "").strip()
    rows = "\n".join(_row(marker, sources) for marker in BIOMARKERS.values() if family(marker) == name)
    figure = ""
    if name in FIGURES:
        file, caption = FIGURES[name]
        figure = f"\n![{caption}](biomarkers/{file})\n\n*{caption}*\n"
    return f"""## {FAMILIES[name]}
{told}

| column | unit | range | definition | of | in | needs |
| --- | --- | --- | --- | --- | --- | --- |
{rows}
{figure}"""


def _row(marker: Biomarker, sources: Sequence[str]) -> str:
    kind = "KIND_" if marker.kinds else ""
    region = "[_REGION]" if marker.regional else ""
    kinds = "eye" if not marker.kinds else "all" if marker.kinds == KINDS else ", ".join(marker.kinds)
    regions = ", ".join("any region" if not start else f"{start} regions" for start in marker.regional)
    source = sources.index(marker.source) + 1
    definition = f"**{marker.title}.** {marker.description} [{source}]"
    cells = (
        f"`{kind}{marker.name}{region}`",
        marker.unit,
        marker.range,
        definition,
        kinds,
        regions,
        ", ".join(marker.needs),
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _sources(sources: Sequence[str]) -> str:
    lines = "\n".join(f"{number}. {source}." for number, source in enumerate(sources, 1))
    return f"""## Sources
Where each definition comes from; the number stands behind it. How it is computed is this package's own,
and said in the definition and the [rules](#rules).

{lines}
"""


def _regions() -> str:
    rows = "\n".join(
        f"| `{region.name}` | {region.title[0].upper()}{region.title[1:]}. {region.description} |"
        for region in REGIONS.values()
    )
    sources = "\n".join(f"- {source}." for source in dict.fromkeys(r.source for r in REGIONS.values()))
    return f"""## Regions
A region is measured where at least {100 * LEAST_VISIBLE:g} % of its whole area, also that outside of the
frame, lies in the camera's field; else it is missing, with the share that is visible as the reason.
Points of centre lines and nodes count where they lie; a segment counts where its middle lies, a whole
vessel where at least half of its length does. Superior and nasal follow from disc, fovea and laterality,
however the photograph lies; where the laterality is not given, it is taken to be upright.

| region | definition |
| --- | --- |
{rows}

Sources:

{sources}
"""


def _rules() -> str:
    options = ", ".join(
        f"`{name}` is {option.default:g}"
        for name, option in inspect.signature(vessel_graph).parameters.items()
        if option.default is not option.empty
    )
    return f"""## Rules
### From a mask to centre lines
{_prose(vessel_graph)}

Here {options}.

Where the disc is known, centre lines are those of the vessels outside of it. Areas, perimeters, box
counts and distances are taken from the mask itself, inside the camera's field.

### From the disc outwards
{_prose(root_graph)}

### Whole vessels
{_prose(vars(VesselTree)["vessels"])}

Tortuosity leaves out segments and whole vessels shorter than {100 * SHORTEST_SEGMENT:g} % of the field's
diameter, sparsity the surroundings of the fovea within {AVASCULAR:.3f} of the disc-fovea distance.
"""


def _prose(described: object) -> str:
    """A docstring without its first line and without its sections of arguments, results and sources."""
    paragraphs = (inspect.getdoc(described) or "").split("\n\n")[1:]
    return "\n\n".join(_until_sections(paragraphs))


def _until_sections(paragraphs: Sequence[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        if paragraph.startswith(("Args:", "Returns:", "Raises:", "Source:")):
            return
        yield paragraph


def _scale() -> str:
    return f"""## Scale
Millimetres and micrometres come from the pixel spacing that the scan states. Where it states none and
the optic disc is known, the disc's diameter is taken as {1000 * DISC_DIAMETER_MM:.0f} um: real discs
vary by a tenth and more, so compare eyes by `um` only where all have a spacing, or by `field` and
`field/1000` on photographs of one camera angle. `um_per_px` records the scale that was used. Without
both, these measures are missing. Where pixels are not square, lengths in millimetres are exact, and
widths use the geometric mean of the two sides.
"""


def _missing() -> str:
    return """## Missing values
A measure that cannot be taken is missing (NaN in Python, an empty cell in CSV, null in Parquet), never 0
and never a guess, and the reason is kept beside it (`Measures.missing_reasons`, the report of `foveal
screen`): a landmark that is not known, arteries and veins that are not told apart, a region that is less
than half visible, no vessel long enough. A count or a density of 0 is a measured 0.
"""
