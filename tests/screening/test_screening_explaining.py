"""Explanations in the report: which are made, what they are worth, and what happens where one cannot be."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal import explanation
from foveal.compression.onnx_models import export_onnx
from foveal.explanation import explain
from foveal.models import Classifier, Segmenter, shipped_model
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.synthetic import synthesize_eye
from foveal.screening import ScreenSettings, screen
from foveal.screening.explaining import explain_landmarks, moved_shapes
from foveal.screening.grading import Grader


@pytest.fixture(scope="module")
def landmarks() -> Segmenter:
    return Segmenter.from_pretrained(shipped_model("landmarks")).eval()


def records(report: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(report.glob("scans/*.json"))]


def test_disc_and_grade_are_explained_by_each_method_named(source, tmp_path, settings, grader):
    asked = settings.model_copy(update={"explain": ("saliency", "grad-cam")})
    assert screen(source, tmp_path / "report", asked, model=grader, progress=False).exit_code == 0
    for record in records(tmp_path / "report"):
        told = record["explanations"]
        assert [each["method"] for each in told] == ["saliency", "grad-cam"] * (len(told) // 2)
        assert told[0]["of"] == record["values"]["grade"]
        assert len(told) + 2 * sum("called nowhere" in note for note in record["notes"]) == 6
        page = (tmp_path / "report" / "scans" / f"{record['name']}.html").read_text()
        assert len(set(re.findall(r'data-picture="(relevance_\d+)"', page))) == len(told)


def test_without_methods_only_a_grade_is_explained(source, tmp_path, settings, grader):
    screen(source, tmp_path / "plain", settings, progress=False)
    screen(source, tmp_path / "graded", settings, model=grader, progress=False)
    assert [record["explanations"] for record in records(tmp_path / "plain")] == [[], [], []]
    for record in records(tmp_path / "graded"):
        assert [each["method"] for each in record["explanations"]] == ["cam"]


def test_an_unknown_method_stops_the_run_before_it_starts(source, tmp_path, settings: ScreenSettings):
    summary = screen(source, tmp_path / "report", settings.model_copy(update={"explain": ("grad-cm",)}))
    assert summary.exit_code == 2
    assert "grad-cam" in (summary.error or "")
    assert not (tmp_path / "report").exists()


def test_a_method_that_does_not_suit_the_model_is_remarked_on_and_the_rest_is_made(landmarks):
    eye = synthesize_eye(0, size=512)
    made = explain_landmarks(
        landmarks, eye.image, find_field_of_view(eye.image), methods=["attention-rollout", "grad-cam"]
    )
    assert {reason.told.method for reason in made.reasons} == {"grad-cam"}
    assert any("attention-rollout" in remark for remark in made.remarks)
    assert not made.failures


def test_a_method_that_breaks_costs_its_map_alone_and_the_run_ends_with_1(
    source, tmp_path, settings, grader, monkeypatch
):
    def breaks(model, images, target, *, method):
        if method == "saliency":
            raise RuntimeError("out of luck")
        return explain(model, images, target, method=method)

    asked = settings.model_copy(update={"explain": ("saliency", "grad-cam")})
    with monkeypatch.context() as changed:
        changed.setattr(explanation, "explain", breaks)
        summary = screen(source, tmp_path / "report", asked, model=grader, progress=False)
    assert summary.exit_code == 1
    broken = [record for record in records(tmp_path / "report") if record["unexplained"]]
    assert broken
    assert [each.name for each in summary.failures] == [record["name"] for record in broken]
    assert all({each["method"] for each in record["explanations"]} == {"grad-cam"} for record in broken)
    table = (tmp_path / "report" / "failures.csv").read_text()
    assert "explanations" in table
    assert "unexpected RuntimeError: out of luck" in table
    # once it is mended, only these are screened again
    again = screen(source, tmp_path / "report", asked, model=grader, progress=False)
    assert (again.exit_code, again.screened) == (0, len(broken))


@pytest.mark.parametrize("method", ["lrp", "grad-cam"])
def test_the_disc_rests_on_the_pixels_that_its_map_marks(landmarks, method):
    eye = synthesize_eye(0, size=512)
    made = explain_landmarks(landmarks, eye.image, find_field_of_view(eye.image), methods=[method])
    disc = next(reason for reason in made.reasons if reason.told.of == "disc")
    assert disc.told.without_top < 0.5 * disc.told.without_other
    row, column = np.unravel_index(disc.levels.argmax(), disc.levels.shape)
    scale = eye.image.shape[0] / disc.levels.shape[0]
    assert (
        np.hypot(row * scale - eye.disc.center[0], column * scale - eye.disc.center[1]) < 2 * eye.disc.radius
    )


def test_a_shape_is_moved_to_where_it_does_not_lie_already():
    rows, columns = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    inside = rows.hypot(columns) < 32
    for row, column in ((0, 0), (0, 20), (-14, 14)):
        top = (rows - row).hypot(columns - column) < 9
        for moved in moved_shapes(top, inside):
            assert moved.sum() == top.sum()
            assert (moved & top).sum() < 0.1 * top.sum()
            assert (moved & ~inside).sum() < 0.2 * top.sum()


def test_a_graders_onnx_file_gives_its_probabilities(grader, tmp_path):
    eye = synthesize_eye(0, size=256)
    field, folder = find_field_of_view(eye.image), tmp_path / "grader"
    shutil.copytree(grader, folder)
    wanted, _ = Grader(folder, "cpu")(eye.image, field)
    export_onnx(Classifier.from_pretrained(folder), folder, torch.rand(2, 3, 64, 64))
    found, explained = Grader(folder, "cpu")(eye.image, field)
    assert found["probability_healthy"] == pytest.approx(wanted["probability_healthy"], abs=1e-5)
    assert explained.reasons[0].told.method == "cam"
    # of a file that says something else, it is the file that counts
    changed = Classifier.from_pretrained(folder)
    torch.nn.init.zeros_(changed.head.weight)
    export_onnx(changed, folder, torch.rand(2, 3, 64, 64))
    found, _ = Grader(folder, "cpu")(eye.image, field)
    assert found["probability_healthy"] != wanted["probability_healthy"]
