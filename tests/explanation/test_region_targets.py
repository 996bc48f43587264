import pytest
import torch
from torch import nn

from foveal.explanation import explain
from foveal.explanation.methods import ask
from foveal.explanation.region_targets import DiceOfMask, otsu_region


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)).eval()


def test_otsus_threshold_is_that_of_the_unchanged_image(segmenter):
    images = torch.rand(2, 1, 12, 12)
    outputs = segmenter(images)
    above = ask(segmenter, images, otsu_region()).weights > 0
    below = ask(segmenter, images, otsu_region("below")).weights < 0
    assert torch.equal(above, ~below)
    for output, inside in zip(outputs, above, strict=True):
        assert output[inside].min() > output[~inside].max()
    given = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad((segmenter(given) * above).sum(), given)
    found = explain(segmenter, images, otsu_region(), method="saliency")
    torch.testing.assert_close(found, expected[:, 0].abs())
    with pytest.raises(ValueError, match="one structure"):
        otsu_region()(torch.rand(1, 2, 4, 4))


def test_dice_with_its_own_mask_grows_with_certainty(segmenter):
    images = torch.rand(1, 1, 12, 12)
    with torch.no_grad():
        segmenter[2].bias -= segmenter(images).median()
    scored = DiceOfMask(segmenter, images).eval()
    before = float(scored(images))
    assert 0 < before < 1
    with torch.no_grad():
        segmenter[2].weight *= 20
        segmenter[2].bias *= 20
    assert float(scored(images)) > before
    found = explain(scored, images, 0, method="integrated-gradients", steps=16)
    gained = float(scored(images) - scored(images * 0))
    assert float(found.sum()) == pytest.approx(gained, abs=0.1)
    with pytest.raises(ValueError, match="class 2"):
        DiceOfMask(segmenter, images, index=2)
