"""A classifier with fewer tokens by one command: to a target, exported, drawn."""

import copy
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.blocks.reduced_tokens import keeping, reduced_blocks
from foveal.compression.costs import macs_of
from foveal.compression.evit import kept_overlay
from foveal.compression.methods import Material, compress_model, parse_target
from foveal.compression.onnx_models import OnnxClassifier, export_onnx
from foveal.compression.run import CompressSettings, compress
from foveal.models import Classifier, ClassifierConfig
from foveal.scans.labelled_images import read_labelled_images
from foveal.training.labelled_samples import LabelledSamples


@pytest.fixture(scope="module")
def material(npz) -> Material:
    loaded = read_labelled_images(npz).splits["train"].load(size=32, channels=1)
    samples = LabelledSamples(loaded, size=32, channels=1)
    draw = torch.Generator().manual_seed(0)
    return Material(samples, torch.stack([samples.sample(index, draw)["images"] for index in range(8)]))


def evit(model: Classifier, material: Material, target: str, **options):
    smaller = copy.deepcopy(model)
    return smaller, compress_model("evit", smaller, material, parse_target(target), options)


@pytest.mark.parametrize("share", [80, 60])
def test_the_largest_keep_rate_within_the_target_is_found(classifier, material, share) -> None:
    smaller, outcome = evit(classifier, material, f"{share}%", at=[0, 1])
    whole, rate = macs_of(classifier, material.images), reduced_blocks(smaller)[0].selection.keep_rate
    left = macs_of(smaller, material.images) / whole
    assert left <= share / 100
    with keeping(smaller, rate + 0.001):
        assert macs_of(smaller, material.images) / whole > share / 100
    assert f"{left:.1%} of the operations are left" in outcome.summary
    assert [row["block"] for row in outcome.layers] == [0, 1]


def test_the_whole_target_keeps_every_token(classifier, material) -> None:
    smaller, outcome = evit(classifier, material, "100%")
    torch.testing.assert_close(smaller(material.images), classifier(material.images), atol=1e-5, rtol=0)
    assert outcome.summary == "Every token is kept."


def test_options_reach_the_blocks(classifier, material) -> None:
    smaller, outcome = evit(classifier, material, "99%", keep_rate=[0.5, 0.25], at=[1, 2], fuse=False)
    assert [block.index for block in reduced_blocks(smaller)] == [1, 2]
    assert [(row["kept"], row["dropped"]) for row in outcome.layers] == [(8, 8), (2, 6)]


@pytest.mark.parametrize(
    ("target", "options", "told"),
    [
        ("5%", {}, "of the operations are left at least"),
        ("50%", {"keep_rate": 0.95}, "keep_rate 0.95 leaves"),
        ("50%", {"keep_rate": 0.0}, "above 0 to 1"),
        ("50%", {"schedule": {"stop": 3}}, "unknown setting of schedule 'stop'"),
        ("6bit", {}, "does not take the target"),
    ],
)
def test_what_cannot_be_is_refused(classifier, material, target, options, told) -> None:
    with pytest.raises(ValueError, match=told):
        evit(classifier, material, target, **options)


def test_an_encoder_without_tokens_is_refused(material) -> None:
    config = ClassifierConfig(
        encoder="timm/resnet18", encoder_settings={"in_channels": 1}, classes=("a", "b"), size=32
    )
    with pytest.raises(ValueError, match="allowed: timm's VisionTransformer"):
        evit(Classifier(config).eval(), material, "50%")


def test_the_schedule_lowers_the_keep_rate_while_tuning(classifier, material) -> None:
    smaller, outcome = evit(classifier, material, "100%", keep_rate=0.5, schedule={"start": 2, "steps": 2})
    selection = reduced_blocks(smaller)[0].selection
    rates = []
    smaller.train()
    for _ in range(6):
        smaller(material.images)
        rates.append(selection.current)
    assert rates == pytest.approx([1, 1, 1, 0.75, 0.5, 0.5])
    outcome.finish(smaller)
    smaller(material.images)
    assert selection.current == 0.5


def test_onnx_runtime_drops_the_same_tokens_for_any_number_of_images(classifier, material, tmp_path) -> None:
    smaller, _ = evit(classifier, material, "60%", at=[0, 1])
    assert export_onnx(smaller, tmp_path, material.images) < 1e-4
    one = OnnxClassifier(tmp_path)(material.images[:1])
    torch.testing.assert_close(one, smaller(material.images[:1]).detach(), atol=1e-4, rtol=0)


def test_the_command_writes_a_smaller_model_that_loads_with_its_tokens_reduced(npz, folder, tmp_path) -> None:
    settings = CompressSettings(
        options={"at": [0, 1], "schedule": {"steps": 2}}, tune=4, rounds=1, memory=False, calibration=8
    )
    found = compress(
        folder, npz, tmp_path / "small", method="evit", target="60%", settings=settings, progress=False
    )
    again = Classifier.from_pretrained(tmp_path / "small")
    images = torch.rand(2, 1, 32, 32)
    assert found.costs["after"].macs <= 0.6 * found.costs["before"].macs
    assert macs_of(again, images) == found.costs["after"].macs
    assert found.costs["after"].parameters == pytest.approx(found.costs["before"].parameters, rel=0.01)
    assert len(json.loads((tmp_path / "small" / "compression.json").read_text())["layers"]) == 2
    assert again.state_dict().keys() == Classifier.from_pretrained(folder).state_dict().keys()


def test_the_overlay_shows_the_patches_that_go_on(classifier, material) -> None:
    smaller, _ = evit(classifier, material, "99%", keep_rate=0.5, at=[0, 1])
    picture = np.asarray(Image.open(io.BytesIO(kept_overlay(smaller, material.images[0]))).convert("RGB"))
    assert picture.std() > 10
    with pytest.raises(ValueError, match="keeps all its tokens"):
        kept_overlay(classifier, material.images[0])
