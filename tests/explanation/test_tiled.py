"""Maps laid together from tiles: equal to the whole image's where nothing reaches beyond half an overlap."""

import pytest
import torch
from tiny_networks import tiny_network
from torch import nn

from foveal.explanation import explain, region
from foveal.explanation.tiled import explain_tiled


def local_linear(dimensions, *, reach=1):
    torch.manual_seed(0)
    conv = nn.Conv2d if dimensions == 2 else nn.Conv3d
    return nn.Sequential(conv(1, 3, 2 * reach + 1, padding=reach)).eval()


@pytest.mark.parametrize("sides", [(37, 50), (14, 17, 23)])
@pytest.mark.parametrize("method", ["saliency", "input-x-gradient", "integrated-gradients"])
@pytest.mark.parametrize("where", ["predicted", "everywhere"])
def test_tiles_of_a_local_linear_model_make_the_map_of_the_whole(sides, method, where):
    network = local_linear(len(sides))
    images = torch.rand(2, 1, *sides)
    target = region(1, where)
    expected = explain(network, images, target, method=method)
    tile = 16 if len(sides) == 2 else 8
    found = explain_tiled(network, images, target, method=method, tile=tile, overlap=0.5)
    assert len(found.corners) > 8
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)


def test_a_local_network_with_rectifiers_agrees_too():
    network, _, target = tiny_network("2-D segmenter")
    images = torch.rand(1, 1, 40, 44)
    expected = explain(network, images, target, method="saliency")
    found = explain_tiled(network, images, target, method="saliency", tile=20, overlap=0.5)
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)


def test_the_mean_of_overlaps_covers_every_pixel():
    network = local_linear(3)
    images = torch.rand(1, 1, 9, 11, 13) + 0.1
    options = {"method": "input-x-gradient", "tile": (4, 6, 8), "overlap": 0.3, "blend": "mean"}
    found = explain_tiled(network, images, region(0, "everywhere"), **options)
    assert (found.values != 0).all()
    inside = explain(network, images, region(0, "everywhere"), method="input-x-gradient")
    corner = (0, slice(0, 2), slice(0, 2), slice(0, 2))  # of one tile alone, whose far border is out of reach
    torch.testing.assert_close(found.values[corner], inside[corner], rtol=1e-4, atol=1e-5)


def test_scores_are_those_of_the_tiles():
    network = local_linear(2)
    images = torch.rand(2, 1, 16, 40)
    target = region(2, torch.ones(16, 40))
    found = explain_tiled(network, images, target, method="saliency", tile=16, overlap=0.25)
    expected = torch.stack(
        [network(images[..., left : left + 16])[:, 2].sum((1, 2)) for _, left in found.corners]
    )
    torch.testing.assert_close(found.scores, expected.detach())


def test_a_classifier_is_asked_about_one_class_in_all_tiles():
    network, _, _ = tiny_network("3-D classifier")
    images = torch.rand(2, 1, 12, 14, 16)
    found = explain_tiled(network, images, method="saliency", tile=8, overlap=0.25)
    assert found.values.shape == (2, 12, 14, 16)
    assert (found.values > 0).all()
    assert torch.isfinite(found.values).all()


def test_tiles_that_overflow_at_lower_precision_are_explained_again():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1)).eval()
    nn.init.constant_(network[0].weight, 1.0)
    images = torch.full((1, 1, 8, 16), 0.5)
    images[..., 8:] = 3e4  # sums beyond the largest half, 65504
    options = {"method": "input-x-gradient", "tile": 8, "overlap": 0.0}
    expected = explain_tiled(network, images, region(0, "everywhere"), **options)
    weights = region(0, torch.full((8, 16), 1e5))
    large = explain_tiled(network, images, weights, autocast=torch.float16, **options)
    assert torch.isfinite(large.values).all()
    assert large.repeated
    torch.testing.assert_close(large.values, 1e5 * expected.values, rtol=1e-2, atol=1e-3)


def test_bad_tiles_are_refused():
    network, images, target = tiny_network("2-D segmenter")
    with pytest.raises(ValueError, match="2 sides"):
        explain_tiled(network, images, target, method="saliency", tile=(4, 4, 4))
    with pytest.raises(ValueError, match="overlap is 1"):
        explain_tiled(network, images, target, method="saliency", tile=8, overlap=1.0)
    strided = nn.Sequential(nn.Conv2d(1, 2, 2, stride=2)).eval()
    with pytest.raises(ValueError, match="keep the size"):
        explain_tiled(strided, images, 0, method="saliency", tile=8)
