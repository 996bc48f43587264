"""Overlays of measured vessels: valid pictures whose marks stand where the graph has them."""

import base64
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from foveal.measurement.eye import Eye
from foveal.measurement.graph import NodeKind
from foveal.scans.synthetic import synthesize_eye
from foveal.screening.vessel_overlays import WIDTH_COLOURS, vessel_layers

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def eye() -> Eye:
    made = synthesize_eye(3, size=512)
    return Eye(made.field, made.vessels, image=made.image)


@pytest.fixture(scope="module")
def pictures(eye: Eye) -> dict[str, ElementTree.Element]:
    return {name: opened(uri) for name, uri in vessel_layers(eye).items()}


def opened(uri: str) -> ElementTree.Element:
    head, content = uri.split(",", 1)
    assert head == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(content))


def test_overlays_cover_the_photograph(pictures: dict[str, ElementTree.Element], eye: Eye):
    height, width = eye.field.mask.shape
    assert set(pictures) == {"widths", "nodes", "angles"}
    for picture in pictures.values():
        assert picture.get("viewBox") == f"-0.5 -0.5 {width} {height}"  # pixel centres are at integers


def test_width_lines_keep_the_length_of_the_measured_centre_lines(
    pictures: dict[str, ElementTree.Element], eye: Eye
):
    graph = eye.layers["vessel"].graph
    paths = [path for path in pictures["widths"].iter(f"{SVG}path") if "l" in path.get("d", "")]
    assert {path.get("stroke") for path in paths} <= set(WIDTH_COLOURS)
    drawn = 0.0
    for path in paths:
        moves = re.sub(r"M-?\d+ -?\d+l", " ", path.get("d", ""))
        drawn += np.hypot(*np.array(moves.split(), float).reshape(-1, 2).T).sum()
    measured = graph.spans[np.isfinite(graph.widths)].sum()
    assert drawn == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("name", ["end", "branch", "crossing"])
def test_every_node_is_marked_once(pictures: dict[str, ElementTree.Element], eye: Eye, name: str):
    kind = {"end": NodeKind.ENDPOINT, "branch": NodeKind.BRANCH, "crossing": NodeKind.CROSSING}[name]
    graph = eye.layers["vessel"].graph
    path = next(path for path in pictures["nodes"].iter(f"{SVG}path") if path.get("id") == name)
    places = [(int(row), int(column)) for column, row in re.findall(r"M(\d+) (\d+)", path.get("d", ""))]
    assert places == [tuple(node) for node in np.rint(graph.nodes[graph.kinds == kind]).astype(int).tolist()]


def test_angles_are_those_of_the_bifurcations(pictures: dict[str, ElementTree.Element], eye: Eye):
    angles = eye.layers["vessel"].tree.bifurcations.angles
    texts = [text.text for text in pictures["angles"].iter(f"{SVG}text")]
    assert texts
    assert set(texts) <= {f"{angle:.0f}°" for angle in angles}
    path = next(path for path in pictures["angles"].iter(f"{SVG}path") if path.get("id") == "arms")
    assert path.get("d", "").count("M") == len(angles)


def test_there_are_no_overlays_without_a_vessel(eye: Eye):
    assert vessel_layers(Eye(eye.field, np.zeros_like(eye.field.mask))) == {}
