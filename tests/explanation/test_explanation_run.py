"""Many methods over many images: failures are told, the rest is made, and nothing is made twice."""

import csv
import time

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import Trap, tiny_network
from torch import nn

from foveal.explanation import explain
from foveal.explanation.run import run_explanations
from foveal.explanation.run_settings import ExplainSettings
from foveal.explanation.run_worker import target_weights
from foveal.explanation.subjects import file_cases, load_model, read_subject, tensor_case
from foveal.models import Classifier, ClassifierConfig, Segmenter, SegmenterConfig
from foveal.models.mask_model import MaskModel, MaskModelConfig


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_failures_and_time_outs_are_recorded_and_the_rest_finishes(tmp_path):
    torch.manual_seed(0)
    images = torch.rand(1, 1, 16, 16)
    methods = [
        {"name": "attention-rollout"},  # raises: there is no attention
        {"name": "integrated-gradients", "options": {"batch_size": 16}},  # sleeps for ever
        "saliency",
        {"name": "input-x-gradient", "label": "times"},
    ]
    settings = ExplainSettings(methods=methods, targets=(1,), timeout=8, measures=("infidelity",))
    settings = settings.replace(measure_samples=3)
    cases = [tensor_case("noise", images)]
    summary = run_explanations(Trap().eval(), cases, tmp_path / "out", settings)
    assert summary.exit_code == 1
    reasons = {failure.label: failure.reason for failure in summary.failures}
    assert set(reasons) == {"attention-rollout", "integrated-gradients"}
    assert "has no attention" in reasons["attention-rollout"]
    assert "longer than 8 s" in reasons["integrated-gradients"]
    assert [record.label for record in summary.records] == ["saliency", "times"]
    folder = tmp_path / "out" / "maps" / "noise"
    expected = explain(Trap().eval(), images, 1, method="input-x-gradient")[0].numpy()
    np.testing.assert_allclose(np.load(folder / "times__1.npz")["relevance"], expected, rtol=1e-5)
    assert sorted(path.name for path in folder.iterdir()) == [
        "1__comparison.png", "saliency__1.json", "saliency__1.npz", "saliency__1.png",
        "times__1.json", "times__1.npz", "times__1.png",
    ]  # fmt: skip
    costs = rows(tmp_path / "out" / "costs.csv")
    assert [row["method"] for row in costs] == ["saliency", "times"]
    assert all(float(row["infidelity"]) >= 0 and float(row["seconds"]) > 0 for row in costs)
    assert len(rows(tmp_path / "out" / "failures.csv")) == 2

    fewer = settings.replace(methods=("saliency", {"name": "input-x-gradient", "label": "times"}))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    start = time.perf_counter()
    again = run_explanations(Trap().eval(), cases, tmp_path / "out", fewer)
    assert time.perf_counter() - start < 5  # no process is started
    assert (again.resumed, again.exit_code) == (2, 0)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")} == before


@pytest.mark.slow
def test_a_process_that_dies_takes_its_own_map_only(tmp_path):
    methods = [{"name": "occlusion", "options": {"batch_size": 5}}, "saliency"]
    settings = ExplainSettings(methods=methods, targets=(1,))
    cases = [tensor_case("noise", torch.rand(1, 1, 16, 16))]
    summary = run_explanations(Trap().eval(), cases, tmp_path / "out", settings)
    assert [record.label for record in summary.records] == ["saliency"]
    assert "died (exit status 9)" in summary.failures[0].reason


def test_volumes_keep_their_affine_and_photographs_their_place(tmp_path):
    torch.manual_seed(0)
    volumes = tmp_path / "volumes"
    volumes.mkdir()
    affine = np.array([[0.5, 0, 0, -9], [0, -0.4, 0.1, 7], [0, 0.1, 2.0, 3], [0, 0, 0, 1.0]])
    values = np.random.default_rng(0).normal(size=(16, 18, 20)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, affine), volumes / "head.nii.gz")
    (volumes / "broken.nii").write_bytes(b"no volume")
    config = MaskModelConfig(network="ssm-unet", network_settings={"dims": (4, 8)}, spatial_dims=3, outputs=2)
    MaskModel(config).save_pretrained(tmp_path / "model")
    cases, failed = file_cases([volumes])
    assert [case.name for case in cases] == ["broken", "head"]
    assert not failed
    settings = ExplainSettings(methods=("saliency",), targets=("1",), where="everywhere")
    model = load_model(tmp_path / "model")
    summary = run_explanations(model, cases, tmp_path / "out", settings)
    assert [failure.case for failure in summary.failures] == ["broken"]
    assert "cannot be read as NIfTI" in summary.failures[0].reason
    written = nibabel.load(tmp_path / "out" / "maps" / "head" / "saliency__1.nii")
    np.testing.assert_allclose(written.affine, affine, rtol=1e-6)
    assert written.shape == values.shape
    with Image.open(tmp_path / "out" / "maps" / "head" / "saliency__1.png") as picture:
        assert picture.size[0] > 600


def photograph(path):
    y, x = np.mgrid[:200, :260]
    inside = np.hypot(y - 100, x - 130) < 90
    image = np.where(inside[..., None], [150, 80, 40], 0) + np.random.default_rng(0).integers(
        0, 12, (200, 260, 3)
    )
    image[60:80, 120:140] += np.array([60, 60, 30]) * inside[60:80, 120:140, None]
    Image.fromarray(np.clip(image * inside[..., None], 0, 255).astype(np.uint8)).save(path)


def test_maps_come_back_to_their_place_on_the_photograph(tmp_path):
    photograph(tmp_path / "eye.png")
    config = SegmenterConfig(preprocess={"working_diameter": 64, "contrast_sigma": 0})
    segmenter = Segmenter(config).eval()
    subject = read_subject(tmp_path / "eye.png", segmenter)
    assert subject.images.shape == (1, 3, 64, 64)
    bright = subject.images[0].sum(0).numpy()
    placed = subject.place(bright)
    assert placed.shape == (200, 260)
    row, column = np.unravel_index(placed.argmax(), placed.shape)
    assert 57 <= row <= 82
    assert 117 <= column <= 142
    classifier = Classifier(ClassifierConfig(encoder="timm/resnet10t", classes=("a", "b"), size=48)).eval()
    subject = read_subject(tmp_path / "eye.png", classifier)
    assert subject.images.shape == (1, 3, 48, 48)
    assert (subject.place(np.ones((48, 48), np.float32)) > 0).mean() == pytest.approx(0.49, abs=0.03)
    with pytest.raises(ValueError, match="does not tell how files are prepared"):
        read_subject(tmp_path / "eye.png", nn.Identity())


def test_a_class_of_a_segmenter_is_where_its_own_threshold_calls_it():
    torch.manual_seed(0)
    config = SegmenterConfig(classes=("disc", "fovea"), activation="sigmoid", thresholds={"fovea": 0.7})
    model = Segmenter(config).eval()
    logits = torch.tensor([[[[-1.0, 0.5, 2.0, -3.0]], [[-2.0, 0.6, 3.0, -1.0]]]])
    for name, index, wanted in (("disc", 0, [0, 1, 1, 0]), ("fovea", 1, [0, 0, 1, 0])):
        weights = target_weights(name, model, ExplainSettings())(logits)
        assert weights[0, index, 0].tolist() == wanted
        assert weights.sum() == sum(wanted)


def test_wrong_settings_are_refused_with_the_nearest_name(tmp_path):
    for wrong, message in (
        ({"methods": ["salience"]}, "did you mean 'saliency'"),
        ({"methods": [{"name": "occlusion", "options": {"windows": 3}}]}, "did you mean 'window'"),
        ({"methods": ["saliency", "saliency"]}, "named twice"),
        ({"time_out": 3}, "did you mean 'timeout'"),
    ):
        with pytest.raises(ValueError, match=message):
            ExplainSettings(**wrong)
    network, images, _ = tiny_network("2-D classifier")
    case = tensor_case("a", images[:1])
    (tmp_path / "mine.txt").write_text("text")
    with pytest.raises(ValueError, match="holds other files"):
        run_explanations(network, [case], tmp_path, ExplainSettings())
    with pytest.raises(ValueError, match="there twice"):
        run_explanations(network, [case, case], tmp_path / "out", ExplainSettings())
    with pytest.raises(ValueError, match="target 'lesion'"):
        run_explanations(network, [case], tmp_path / "out", ExplainSettings(targets=("lesion",)))
    with pytest.raises(ValueError, match="neither the folder of a saved model"):
        load_model("vessel")


def test_a_model_that_cannot_be_sent_is_told(tmp_path):
    network, images, _ = tiny_network("2-D classifier")
    network.odd = lambda x: x
    with pytest.raises(ValueError, match="cannot be sent to another process"):
        run_explanations(
            network, [tensor_case("a", images[:1])], tmp_path / "out", ExplainSettings(targets=(1,))
        )
