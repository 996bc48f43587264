"""The page of the biomarkers says what the code measures; FOVEAL_WRITE_DOCS=1 writes it and its figures."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from skimage.data import retina

from foveal.measurement.biomarkers import BIOMARKERS
from foveal.measurement.drawing import draw_biomarker
from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import Disc, Landmarks
from foveal.measurement.measure import biomarker_columns
from foveal.measurement.reference import FAMILIES, FIGURES, biomarkers_page, family
from foveal.measurement.regions import REGIONS
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.synthetic import synthesize_eye

DOCS = Path(__file__).parents[2] / "docs"
WRITE = bool(os.environ.get("FOVEAL_WRITE_DOCS"))
DRAWN = {
    "calibre": "vessel_calibre_um",
    "tortuosity": "vessel_tortuosity_inflection_median",
    "branching": "vessel_bifurcation_angle_median",
    "sparsity": "vessel_sparsity_max",
    "fractal": "vessel_fractal_dimension",
    "position": "vessel_temporal_angle",
    "central": "avr_knudtson",
}


@pytest.fixture(scope="module")
def page() -> str:
    return biomarkers_page()


def test_documentation_of_the_biomarkers_is_up_to_date(page: str):
    path = DOCS / "biomarkers.md"
    if WRITE:
        path.write_text(page, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == page, "set FOVEAL_WRITE_DOCS=1 to write it anew"


def test_every_biomarker_has_one_row_with_its_unit_and_range(page: str):
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip("|` ").removeprefix("KIND_").removesuffix("[_REGION]"): row for row in rows}
    for name, marker in BIOMARKERS.items():
        assert told[name][1:3] == [marker.unit, marker.range]
        assert marker.description in told[name][3]
        assert told[name][0].startswith("| `KIND_") == bool(marker.kinds)
        assert ("[_REGION]" in told[name][0]) == bool(marker.regional)


def test_every_region_is_on_the_page(page: str):
    for region in REGIONS.values():
        assert f"| `{region.name}` |" in page
        assert region.description in page


def test_families_hold_all_biomarkers_in_the_order_of_the_columns():
    order = list(dict.fromkeys(family(marker) for marker in BIOMARKERS.values()))
    assert order == list(FAMILIES)


def test_figures_are_there_and_small():
    if WRITE:
        write_figures(DOCS / "biomarkers")
    files = [DOCS / "biomarkers" / file for file, _ in FIGURES.values()]
    assert {file.name for file in (DOCS / "biomarkers").iterdir()} == {file.name for file in files}
    assert sum(file.stat().st_size for file in files) < 1_500_000


def write_figures(folder: Path) -> None:
    """Draw on a photograph in the public domain, and arteries and veins on a synthetic eye."""
    columns = {column.name: column for column in biomarker_columns()}
    photographed, synthetic = photographed_eye(), synthetic_eye()
    folder.mkdir(exist_ok=True)
    for name, (file, _) in FIGURES.items():
        eye = synthetic if name == "central" else photographed
        width = 9.5 if name == "fractal" else 6.4
        figure = Figure(figsize=(width, 6.4), dpi=140, layout="constrained")
        draw_biomarker(eye, columns[DRAWN[name]], figure.subplots())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        Image.open(buffer).convert("RGB").save(folder / file, quality=85, optimize=True)


def photographed_eye() -> Eye:
    """The public-domain photograph of scikit-image with the shipped model's vessels; landmarks by hand."""
    from foveal.models import Segmenter, shipped_model
    from foveal.segmentation.inference import segment_vessels

    image = retina()
    field = find_field_of_view(image)
    vessels = segment_vessels(Segmenter.from_pretrained(shipped_model("vessels")), image, field)
    landmarks = Landmarks(Disc((649.0, 218.0), 98.0), (701.0, 710.0), "L")
    return Eye(field, vessels.probability >= 0.5, landmarks=landmarks, image=image)


def synthetic_eye() -> Eye:
    made = synthesize_eye(1, size=1024, laterality="R")
    landmarks = Landmarks(Disc(made.disc.center, made.disc.radius), made.fovea, "R")
    arteries, veins = (np.isin(made.artery_vein, (value, 3)) for value in (1, 2))
    return Eye(made.field, made.vessels, arteries, veins, landmarks=landmarks, image=made.image)
