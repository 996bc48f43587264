import json
import subprocess
import sys

import pytest
import torch

from foveal.models import Classifier, ClassifierConfig, Preprocess, Segmenter, SegmenterConfig, weights_hash
from foveal.models.classifier import predictive_entropy
from foveal.models.preprocess import local_contrast

SMALL = SegmenterConfig(encoder_settings={"widths": (4, 6, 8)}, preprocess=Preprocess(contrast_sigma=8))


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SMALL.model_copy(update={"network": "unet++", "encoder": "timm/resnet10t", "encoder_settings": {}}),
        SMALL.model_copy(
            update={
                "network": "BasicUNet",
                "network_settings": {
                    "spatial_dims": 2,
                    "in_channels": 3,
                    "out_channels": 1,
                    "features": [4] * 6,
                },
            }
        ),
    ],
    ids=["unet", "unet++ over timm", "monai"],
)
def test_saved_segmenter_comes_back_bit_by_bit(tmp_path, config):
    torch.manual_seed(0)
    model = Segmenter(config).eval()
    model.save_pretrained(tmp_path / "m", card="# A model\n")
    again = Segmenter.from_pretrained(tmp_path / "m")
    images = torch.rand(1, 3, 64, 64)
    logits = model(images)
    assert logits.shape == (1, 1, 64, 64)
    assert torch.equal(logits, again(images))
    assert not again.training
    assert (tmp_path / "m" / "README.md").read_text() == "# A model\n"
    assert len(weights_hash(tmp_path / "m")) == 64
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_loading_names_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        Segmenter.from_pretrained(tmp_path)
    folder = Segmenter(SMALL).save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="holds a Segmenter, not a Classifier"):
        Classifier.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"netwrk": "unet"}))
    with pytest.raises(ValueError, match="did you mean 'network'"):
        Segmenter.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config | {"encoder_settings": {"widths": [4, 6, 9]}}))
    with pytest.raises(ValueError, match="cannot be loaded"):
        Segmenter.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        Segmenter.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="cannot be loaded"):
        Segmenter.from_pretrained(folder)


def test_neither_folder_nor_hub_id_is_a_clear_error():
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        Segmenter.from_pretrained("/no/such/folder/here")


def test_unknown_network_is_refused():
    with pytest.raises(ValueError, match="unknown network 'UNot'"):
        Segmenter(SMALL.model_copy(update={"network": "UNot"}))


def test_local_contrast_ignores_gain_colour_cast_and_the_black_surround():
    torch.manual_seed(0)
    image = 0.4 + 0.2 * torch.rand(1, 3, 96, 96)
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    lit = ((rows - 48) ** 2 + (columns - 48) ** 2 < 44**2).float()
    contrast = local_contrast(image * lit, sigma=12)
    cast = local_contrast(image * lit * torch.tensor([1.0, 0.6, 0.4])[:, None, None], sigma=12)
    assert (contrast * (1 - lit)).abs().max() == 0
    assert (contrast - cast).abs().max() < 0.25
    # The border of the field is not brighter or darker than its middle.
    border = lit.bool() & ((rows - 48) ** 2 + (columns - 48) ** 2 > 40**2)
    assert contrast[0, :, border].mean().abs() < 0.1
    # The surround's size does not matter either.
    wide = local_contrast(torch.nn.functional.pad(image * lit, (12, 12, 12, 12)), sigma=12)
    torch.testing.assert_close(wide[..., 12:-12, 12:-12], contrast, atol=1e-4, rtol=0)
    assert torch.isfinite(local_contrast(torch.zeros(1, 3, 32, 32), sigma=12)).all()


def test_signed_map_of_hard_label_models_is_twice_the_sigmoid_less_one():
    z = torch.linspace(-4, 4, 9)
    soft, hard = Segmenter(SMALL), Segmenter(SMALL.model_copy(update={"activation": "sigmoid"}))
    torch.testing.assert_close(soft.signed(z), torch.tanh(z))
    torch.testing.assert_close((hard.signed(z) + 1) / 2, torch.sigmoid(z))


def test_classifier_probabilities_sum_to_one_and_survive_saving(tmp_path):
    config = ClassifierConfig(
        encoder="conv-pyramid", encoder_settings={"widths": (4, 8)}, classes=("a", "b", "c"), size=32
    )
    model = Classifier(config).eval()
    images = torch.rand(2, 3, 32, 32)
    p = model.predict_proba(images)
    torch.testing.assert_close(p.sum(1), torch.ones(2))
    again = Classifier.from_pretrained(model.save_pretrained(tmp_path / "c"))
    assert torch.equal(again.predict_proba(images), p)


def test_predictive_entropy_runs_from_certain_to_uniform():
    p = torch.tensor([[1.0, 0, 0, 0], [0.25] * 4])
    torch.testing.assert_close(predictive_entropy(p), torch.tensor([0.0, 1.0]))


def test_thresholds_are_saved_with_a_segmenter(tmp_path):
    config = SegmenterConfig(
        encoder_settings={"widths": [8, 12]}, classes=("disc", "fovea"), thresholds={"fovea": 0.3}
    )
    loaded = Segmenter.from_pretrained(Segmenter(config).save_pretrained(tmp_path))
    assert [loaded.config.threshold(name) for name in ("disc", "fovea")] == [0.5, 0.3]


def test_loading_a_segmenter_does_not_wait_for_timm():
    code = "import sys, foveal.models; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
