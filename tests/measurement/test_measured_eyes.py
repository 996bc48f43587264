"""Biomarkers of real masks are plausible, and of synthetic eyes near their exact ground truth."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vessel_shapes import full_field

from foveal.measurement.eye import Eye
from foveal.measurement.graph import NodeKind, vessel_graph
from foveal.measurement.measure import measure_eye
from foveal.scans.synthetic import synthesize_eye

# From the published ranges of 30 to 45 degree photographs, with room for two labelling habits.
PLAUSIBLE = {
    "vessel_density": (0.03, 0.18),
    "vessel_length_field": (6, 22),
    "vessel_calibre_field": (3, 10),
    "vessel_tortuosity_distance_median": (1.0, 1.1),
    "vessel_tortuosity_index": (1.0, 1.15),
    "vessel_fractal_dimension": (1.3, 1.75),
    "vessel_endpoints": (15, 150),
    "vessel_branch_points": (10, 150),
}


def files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        pytest.skip(f"no {pattern} in {folder}")
    return found


def test_real_masks_have_plausible_values(data_root):
    paths = files(data_root / "LES-AV" / "av", "*.png")[:3]
    paths += files(data_root / "CHASE_DB1" / "manual1", "*_1stHO.png")[:3]
    for path in paths:
        with Image.open(path) as image:
            vessels = np.array(image) > 0
        values = measure_eye(Eye(full_field(vessels.shape), vessels))
        for name, (low, high) in PLAUSIBLE.items():
            assert low <= values[name] <= high, (path.name, name)


def test_crossings_are_where_an_artery_meets_a_vein(data_root):
    """LES-AV labels arteries 1, veins 2 and crossings 3, which the graph is not told of."""
    found = true = 0
    for path in files(data_root / "LES-AV" / "av", "*.png")[:5]:
        with Image.open(path) as image:
            label = np.array(image)
        graph = vessel_graph(label > 0)
        crossing = graph.kinds == NodeKind.CROSSING
        for node, radius in zip(graph.nodes[crossing], graph.radii[crossing], strict=True):
            row, column = np.rint(node).astype(int)
            reach = int(np.ceil(1.5 * radius)) + 3
            around = label[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
            found += 1
            true += bool((around == 3).any() or ((around == 1).sum() > reach < (around == 2).sum()))
    assert found > 40
    assert true / found > 0.85


@pytest.mark.parametrize("seed", [3, 4])
def test_synthetic_eye_is_measured_near_its_ground_truth(seed):
    eye = synthesize_eye(seed, size=1024)
    values = measure_eye(Eye(eye.field, eye.vessels))
    lengths = np.concatenate([np.hypot(*np.diff(s.points, axis=0).T) for s in eye.segments])
    widths = np.concatenate([(s.widths[1:] + s.widths[:-1]) / 2 for s in eye.segments])
    assert values["vessel_length_px"] == pytest.approx(lengths.sum(), rel=0.06)
    assert values["vessel_calibre_px"] == pytest.approx(np.average(widths, weights=lengths), rel=0.05)
    assert values["vessel_density"] == pytest.approx(
        (eye.vessels & eye.field.mask).sum() / eye.field.mask.sum(), rel=1e-9
    )


@pytest.mark.parametrize("seed", [3, 4])
def test_synthetic_arteries_have_their_length_and_branch_points(seed):
    eye = synthesize_eye(seed, size=1024)
    values = measure_eye(Eye(eye.field, arteries=np.isin(eye.artery_vein, (1, 3))))
    arteries = [segment for segment in eye.segments if segment.kind == "artery"]
    length = sum(np.hypot(*np.diff(segment.points, axis=0).T).sum() for segment in arteries)
    branches = sum(eye.segments[point.parent].kind == "artery" for point in eye.branch_points)
    assert values["artery_length_px"] == pytest.approx(length, rel=0.02)
    assert values["artery_branch_points"] == pytest.approx(branches, rel=0.15)
