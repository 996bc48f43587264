"""`foveal compress`: a new folder with a card of before and after, and clear refusals."""

import json

import pytest
import torch
from typer.testing import CliRunner

from foveal.cli import app
from foveal.compression.costs import folder_costs, macs_of
from foveal.compression.methods import find_compressor, list_compressors, parse_target
from foveal.compression.onnx_models import OnnxClassifier, export_onnx
from foveal.compression.run import CompressSettings, compress
from foveal.models import Classifier

FAST = {"rounds": 1, "memory": False, "batch": 2, "calibration": 8}


def test_eight_bits_keep_the_accuracy_and_tell_what_they_saved(npz, folder, tmp_path) -> None:
    out = tmp_path / "small"
    found = compress(folder, npz, out, method="int8", target="8bit", settings=CompressSettings(**FAST))
    before, after = found.scores["before"], found.scores["after, ONNX Runtime"]
    assert before.accuracy[0] > 0.9
    assert after.accuracy[0] > before.accuracy[0] - 0.05
    assert found.split == "test"
    assert found.images == 64
    card = (out / "README.md").read_text()
    assert "after, ONNX Runtime" in card
    assert "not a medical device" in card
    told = json.loads((out / "compression.json").read_text())
    assert told["onnx_difference"] < 0.1
    assert set(told["costs"]) == {"before", "after, ONNX Runtime"}


def test_onnx_gives_what_torch_gives_for_any_number_of_images(classifier, tmp_path) -> None:
    images = torch.rand(5, 1, 32, 32)
    assert export_onnx(classifier, tmp_path, images) < 1e-5
    model = OnnxClassifier(tmp_path)
    for count in (1, 5):
        wanted = classifier.predict_proba(images[:count])
        assert model.predict_proba(images[:count]).numpy() == pytest.approx(wanted.numpy(), abs=1e-5)


def test_costs_are_those_of_the_model(classifier, folder) -> None:
    images = torch.rand(2, 1, 32, 32)
    costs = folder_costs({"a": (folder, "torch")}, images, rounds=1)["a"]
    assert (
        costs.parameters == sum(p.numel() for p in classifier.parameters() if p.ndim > 0) or costs.parameters
    )
    assert costs.macs == macs_of(classifier, images)
    # patches, four products of each of 3 blocks over 17 tokens, attention, head
    linear = 16 * 64 * 32 + 3 * 17 * 12 * 32**2 + 64
    assert costs.macs == linear + 3 * 2 * 17 * 17 * 32
    assert costs.bytes == (folder / "model.safetensors").stat().st_size
    assert costs.memory is None or costs.memory > 0


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [("2x", "kept", 0.5), ("70%", "kept", 0.7), ("6bit", "bits", 6), ("4 bits", "bits", 4)],
)
def test_targets_are_read(text, kind, value) -> None:
    target = parse_target(text)
    assert (target.kind, target.value) == (kind, pytest.approx(value))


@pytest.mark.parametrize("text", ["", "half", "0%", "0.5x", "120%", "1bit", "-2x"])
def test_other_targets_are_refused(text) -> None:
    with pytest.raises(ValueError, match="allowed: such as 2x, 50% or 6bit"):
        parse_target(text)


def test_wrong_words_are_refused_before_anything_is_written(npz, folder, tmp_path) -> None:
    call = CliRunner().invoke
    words = ["compress", str(folder), "--data", str(npz), "--out", str(tmp_path / "out")]
    result = call(app, [*words, "--method", "int9", "--target", "8bit"])
    assert result.exit_code == 2
    assert "did you mean 'int8'" in result.output
    result = call(app, [*words, "--method", "int8", "--target", "2x"])
    assert result.exit_code == 2
    assert "int8 does not take the target '2x'" in result.output
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    result = call(app, [*words, "--method", "int8", "--target", "8bit"])
    assert result.exit_code == 2
    assert "is not empty" in result.output


def test_data_of_other_classes_is_refused(classifier, npz, tmp_path) -> None:
    config = classifier.config.replace(classes=("a", "b", "c"))
    model = Classifier(config).save_pretrained(tmp_path / "three")
    with pytest.raises(ValueError, match="the model has 3 classes"):
        compress(model, npz, tmp_path / "out", method="int8", target="8bit")


def test_all_methods_are_told_by_a_sentence() -> None:
    help_text = CliRunner().invoke(app, ["compress", "--help"], env={"COLUMNS": "200"}).output
    assert len(list_compressors()) >= 5
    assert all(name in help_text for name in list_compressors())
    assert all(find_compressor(name).summary.endswith(".") for name in list_compressors())
