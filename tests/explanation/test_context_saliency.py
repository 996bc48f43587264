"""Context-aware saliency: what is unlike everything else stands out."""

import pytest
import torch
from torch import nn

from foveal.explanation import explain
from foveal.explanation.context_saliency import areas, context_saliency


def textured(odd: bool = True) -> torch.Tensor:
    """Stripes of 8 px with, perhaps, one odd patch at (64, 96)."""
    image = (torch.arange(128) % 8 < 4).float().expand(128, 128).clone()
    if odd:
        image[60:68, 92:100] = torch.eye(8)
    return image[None, None]


def test_nothing_stands_out_of_a_constant_map():
    assert torch.equal(context_saliency(torch.full((2, 1, 40, 60), 0.3)), torch.zeros(2, 40, 60))


@pytest.mark.parametrize("ground", ["flat", "textured"])
def test_an_odd_patch_stands_out(ground):
    image = torch.zeros(1, 1, 128, 128)
    image[..., 60:68, 92:100] = torch.eye(8)
    found = context_saliency(image if ground == "flat" else textured())[0]
    row, column = divmod(int(found.argmax()), 128)
    assert abs(row - 64) <= 8
    assert abs(column - 96) <= 8


def test_a_periodic_texture_is_suppressed():
    found = context_saliency(textured())[0]
    ground = torch.cat([found[:40].flatten(), found[90:].flatten()])
    assert found.max() >= 5 * ground.mean()


def test_a_constant_added_changes_nothing():
    image = torch.rand(1, 1, 60, 80, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(context_saliency(image + 3), context_saliency(image), atol=1e-4, rtol=0)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_mirrored_map_gives_the_mirrored_saliency(axis):
    image = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    found, mirrored = context_saliency(image), context_saliency(image.flip(axis))
    torch.testing.assert_close(mirrored.flip(axis - 1), found, atol=2e-2, rtol=0)


def test_images_of_a_batch_do_not_touch_each_other():
    images = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(context_saliency(images)[1], context_saliency(images[1:])[0])


def test_areas_are_boxes_of_what_is_connected():
    salient = torch.zeros(1, 20, 30)
    salient[0, 2:5, 3:9] = 0.8
    salient[0, 10:11, 20:22] = 0.6
    (found,) = areas(salient)
    assert [box["pixels"] for box in found] == [18, 2]
    assert (found[0]["top"], found[0]["left"], found[0]["bottom"], found[0]["right"]) == (2, 3, 5, 9)
    assert found[1]["mean"] == pytest.approx(0.6)


def test_it_is_a_method_over_any_other():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    network, images = nn.Sequential(*layers).eval(), torch.rand(2, 3, 40, 40)
    for of in ("lrp", "grad-cam"):
        found = explain(network, images, 1, method="salient-relevance", of=of)
        assert found.shape == (2, 40, 40)
        assert found.amax() <= 1


@pytest.mark.parametrize(
    "changes", [{"scales": ()}, {"scales": (2.0,)}, {"neighbours": 0}, {"colours": "hsv"}]
)
def test_bad_options_are_refused(changes):
    with pytest.raises(ValueError, match=r"allowed|colours"):
        context_saliency(torch.rand(1, 3, 20, 20), **changes)
    with pytest.raises(ValueError, match="finite"):
        context_saliency(torch.full((1, 1, 20, 20), torch.nan))
