"""The recipes msvmamba and mhs-vm build what their settings say, and mhs-vm learns from synthetic eyes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from foveal.models import Segmenter
from foveal.objectives.image_dice import BceImageDiceObjective
from foveal.recipes._mask_learning import spiky_blobs, thin_curves
from foveal.recipes._msvmamba_evidence import two_marks
from foveal.recipes.mhs_vm import MhsVmSettings
from foveal.recipes.mhs_vm import recipe as mhs_vm
from foveal.recipes.msvmamba import MsvmambaSettings
from foveal.recipes.msvmamba import recipe as msvmamba


def test_msvmamba_is_built_with_its_settings() -> None:
    settings = MsvmambaSettings(
        size="nano", route_full="col", encoder_settings={"dim": 8, "depths": [1, 1, 1, 1]}, image_size=64
    )
    model = msvmamba.build(settings).eval()
    assert model.encoder.stages[0][0].mixer.route_full == "col"
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 2)


def test_mhs_vm_is_trained_on_synthetic_eyes_and_loaded(tmp_path: Path) -> None:
    settings = MhsVmSettings(
        dims=(8, 16, 24), depths_enc=(1, 1, 1), depths_dec=(1, 1, 1), states=2, t="learn", sigma="sigmoid",
        working_diameter=64, patch_size=32, synthetic_eyes=1, training={"steps": 2, "batch_size": 2},
    )  # fmt: skip
    mhs_vm.train(settings, data=None, out=tmp_path)
    model = Segmenter.from_pretrained(tmp_path / "model")
    assert model.network.encoder[0][0].mixer.scan.fusions[0].sigma == "sigmoid"
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 1, 32, 32)
    with pytest.raises(ValueError, match="nothing to train on"):
        mhs_vm.train(MhsVmSettings(), data=None, out=tmp_path)


def test_loss_is_cross_entropy_and_dice_of_each_image_from_probabilities() -> None:
    logits, masks = torch.randn(3, 1, 8, 8), (torch.rand(3, 1, 8, 8) > 0.7).float()
    losses = BceImageDiceObjective(nn.Identity())({"images": logits, "masks": masks})
    p, y = logits.sigmoid().flatten(1), masks.flatten(1)
    dice = 1 - ((2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)).mean()
    bce = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    torch.testing.assert_close(losses["loss"], bce + dice)
    with pytest.raises(ValueError, match="divide 0/255 by 255"):
        BceImageDiceObjective(nn.Identity())({"images": logits, "masks": 255 * masks})


def test_synthetic_tasks_are_balanced_and_the_same_each_time() -> None:
    marks = two_marks(200, train=100)
    assert torch.equal(marks.images, two_marks(200, train=100).images)
    assert marks.labels.bincount(minlength=4).min() > 10
    for data, share in ((spiky_blobs(8, train=4), (0.05, 0.4)), (thin_curves(8, train=4), (0.1, 0.3))):
        assert share[0] < float(data.masks.mean()) < share[1]
        inside, outside = data.images[data.masks > 0].mean(), data.images[data.masks == 0].mean()
        assert outside - inside > 0.05
