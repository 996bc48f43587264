"""The recipe of patch scaling: what it builds, and what its evidence learns from."""

import torch

from foveal.encoders.adventurer import Adventurer
from foveal.recipes import load_recipe
from foveal.recipes._patch_scaling_learning import LinearHead, SkipDecoder, lesions, thin_lines


def test_it_builds_a_classifier_of_the_paper_s_sizes() -> None:
    recipe = load_recipe("patch-scaling")
    settings = recipe.Settings(size="tiny", image_size=32, patch_size=4, encoder_settings={"depth": 2})
    model = recipe.build(settings).eval()
    assert isinstance(model.encoder, Adventurer)
    assert model.encoder.dim == 256
    with torch.no_grad():
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 2)


def test_lesions_are_balanced_in_class_and_size() -> None:
    images, labels, sides = lesions(12)
    assert images.shape == (12, 1, 32, 32)
    assert labels.sum() == 6
    assert sides[labels == 1].tolist() == [2, 3, 4, 2, 3, 4]


def test_both_heads_give_logits_of_the_size_of_the_image() -> None:
    lines = thin_lines(2)
    assert 0.02 < float(lines.masks.mean()) < 0.3
    for patch_size in (2, 16):
        encoder = Adventurer(dim=32, depth=1, patch_size=patch_size, image_size=32, in_channels=1)
        for head in (LinearHead, SkipDecoder):
            assert head(encoder)(lines.images).shape == lines.masks.shape
