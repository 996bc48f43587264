"""Every biomarker draws what it measured, on axes of any figure, without pyplot."""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from foveal.measurement.biomarkers import BIOMARKERS
from foveal.measurement.drawing import draw_biomarker, draw_eye
from foveal.measurement.drawing_canvas import COLOURS
from foveal.measurement.drawing_vessels import MARKS, bifurcation_arms, inflection_points
from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import NOTHING_KNOWN, Disc, Landmarks
from foveal.measurement.measure import biomarker_columns, measure_eye
from foveal.measurement.measured import VesselMeasurement
from foveal.measurement.registry import BiomarkerColumn
from foveal.scans.synthetic import synthesize_eye

COLUMNS = {column.name: column for column in biomarker_columns(regions=("hemifield_superior",))}


@pytest.fixture(scope="module")
def eye() -> Eye:
    made = synthesize_eye(1, size=512, laterality="R")
    arteries, veins = (np.isin(made.artery_vein, (value, 3)) for value in (1, 2))
    landmarks = Landmarks(Disc(made.disc.center, made.disc.radius), made.fovea, "R")
    return Eye(made.field, made.vessels, arteries, veins, landmarks, (0.014, 0.014), made.image)


@pytest.fixture
def axes() -> Axes:
    return Figure(figsize=(6, 6)).subplots()


def rendered(axes: Axes) -> np.ndarray:
    """(H, W, 3) pixels of the figure."""
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def test_every_biomarker_has_a_drawing():
    assert [name for name, marker in BIOMARKERS.items() if marker.draw is None] == []


@pytest.mark.parametrize("name", BIOMARKERS)
def test_a_drawing_shows_more_than_the_photograph(name: str, eye: Eye, axes: Axes):
    marker = BIOMARKERS[name]
    column = BiomarkerColumn(marker, marker.kinds[0] if marker.kinds else None)
    background = Figure(figsize=(6, 6)).subplots()
    draw_eye(eye, background)
    value = draw_biomarker(eye, column, axes)
    assert value == measure_eye(eye, columns=[column])[column.name]
    assert np.isfinite(value)
    assert axes.get_title(loc="left").startswith(f"{column.title}: ")
    drawn = rendered(axes)
    background.set_title(axes.get_title(loc="left"), fontsize=10, loc="left", wrap=True)
    background.set_xlim(axes.get_xlim())
    background.set_ylim(axes.get_ylim())
    changed = np.abs(drawn - rendered(background)).max(axis=2) > 40
    assert changed.sum() > 200


def test_drawing_needs_no_pyplot():
    code = (
        "import sys; import foveal.measurement.drawing as drawing;"
        "assert 'matplotlib' not in sys.modules;"
        "import numpy as np; from matplotlib.figure import Figure;"
        "from foveal.measurement.eye import Eye; from foveal.scans.synthetic import synthesize_eye;"
        "from foveal.measurement.measure import biomarker_columns; made = synthesize_eye(0, size=256);"
        "axes = Figure().subplots(); column = biomarker_columns(('vessel',), names=['calibre_px'])[0];"
        "drawing.draw_biomarker(Eye(made.field, made.vessels), column, axes);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_biomarker_says_why(eye: Eye, axes: Axes):
    unknown = replace(eye, landmarks=NOTHING_KNOWN, spacing_mm=None)
    assert np.isnan(draw_biomarker(unknown, COLUMNS["vessel_start_points"], axes))
    assert axes.get_title(loc="left") == "Start points: missing, the optic disc is not known"


def test_nothing_is_drawn_outside_of_the_region(eye: Eye, axes: Axes):
    draw_biomarker(eye, COLUMNS["vessel_length_field_hemifield_superior"], axes)
    lines = next(lines for lines in axes.collections if isinstance(lines, LineCollection))
    points = np.concatenate([path.vertices for path in lines.get_paths()])[:, ::-1]
    points = points[np.isfinite(points).all(axis=1)]
    (top, left), (row, column) = eye.landmarks.known_disc.center, eye.landmarks.known_fovea
    border = top + (points[:, 1] - left) * (row - top) / (column - left)
    assert len(points) > 100
    assert (points[:, 0] <= border + 1).all()


@pytest.mark.parametrize(("kind", "strong", "weak"), [("artery", 0, 2), ("vein", 2, 0)])
def test_arteries_are_red_and_veins_blue(kind: str, strong: int, weak: int, eye: Eye, axes: Axes):
    draw_biomarker(eye, COLUMNS[f"{kind}_density"], axes)
    pixels = rendered(axes)
    coloured = np.ptp(pixels, axis=2) > 60
    assert coloured.sum() > 500
    assert (pixels[coloured][:, strong] > pixels[coloured][:, weak] + 40).mean() > 0.99
    assert COLOURS["artery"] != COLOURS["vein"]


def test_marks_of_nodes_differ_in_shape_and_colour():
    assert len({symbol for symbol, _, _ in MARKS.values()}) == len(MARKS)
    assert len({colour for _, colour, _ in MARKS.values()}) == len(MARKS)


def test_the_key_counts_what_the_biomarker_counts(eye: Eye, axes: Axes):
    values = measure_eye(eye)
    draw_biomarker(eye, COLUMNS["vessel_endpoints"], axes)
    legend = axes.get_legend()
    assert legend is not None
    counted = (("start", "start_points"), ("end", "endpoints"), ("branch", "branch_points"))
    expected = [f"{name} ({values[f'vessel_{column}']:.0f})" for name, column in counted]
    assert [text.get_text() for text in legend.get_texts()][:3] == expected


@pytest.mark.parametrize("unit", ["segments", "resolved"])
@pytest.mark.parametrize("seed", range(4))
def test_as_many_inflections_are_marked_as_counted(unit: str, seed: int):
    made = synthesize_eye(seed, size=512)
    m = VesselMeasurement(Eye(made.field, made.vessels).layers["vessel"])
    course = m.segments if unit == "segments" else m.resolved
    assert course.inflections.sum() > 0
    assert len(inflection_points(m, course, unit)) == course.inflections.sum()  # type: ignore[arg-type]


def test_arms_enclose_the_angles_that_are_told(eye: Eye):
    arms = bifurcation_arms(VesselMeasurement(eye.layers["vessel"]))
    first, second = (arms.tips[:, side] - arms.nodes for side in (0, 1))
    cosine = (first * second).sum(axis=1) / (np.hypot(*first.T) * np.hypot(*second.T))
    np.testing.assert_allclose(np.degrees(np.arccos(np.clip(cosine, -1, 1))), arms.angles, atol=1e-5)


def test_the_background_lies_where_the_photograph_lies(axes: Axes):
    made = synthesize_eye(0, size=300)
    image = np.zeros_like(made.image)
    image[100:110, 200:210] = 255
    draw_eye(Eye(made.field, made.vessels, image=image), axes)
    pixels = rendered(axes).max(axis=2)[::-1]
    left, bottom, right, top = (round(bound) for bound in axes.bbox.extents)
    rows, columns = np.nonzero(pixels[bottom + 3 : top - 3, left + 3 : right - 3] > 100)
    place = columns.mean() + left + 3.5, rows.mean() + bottom + 3.5
    column, row = axes.transData.inverted().transform(place)
    assert (row, column) == pytest.approx((104.5, 204.5), abs=0.7)


def test_drawings_of_one_eye_take_less_than_half_a_second_each(eye: Eye):
    """Many times that would not be noticed below: a loop over points, or a plot for each segment."""
    measure_eye(eye)
    start = time.process_time()
    names = ("vessel_calibre_um", "vessel_tortuosity_inflection_median", "vessel_sparsity_max")
    for name in names:
        rendered_axes = Figure(figsize=(6, 6)).subplots()
        draw_biomarker(eye, COLUMNS[name], rendered_axes)
        rendered(rendered_axes)
    assert time.process_time() - start < 0.5 * len(names)
