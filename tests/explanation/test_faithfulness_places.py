"""Pointing game, mass and area in masks by hand, and against the lesion masks of IDRiD."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from foveal.explanation.faithfulness import summary
from foveal.explanation.localisation import (
    area_overlap,
    components,
    masks_on_grid,
    mass_in_mask,
    mass_ratio,
    pointing_game,
    rank_accuracy,
    relevant_area,
)
from foveal.explanation.methods import ask
from foveal.explanation.perturbing import blurred
from foveal.scans.structure_datasets import IDRID_CODES, iterate_idrid


@pytest.fixture
def lesion():
    masks = torch.zeros(1, 4, 5, dtype=torch.bool)
    masks[0, 1:3, 1:3] = True
    return masks


def test_the_pointing_game_by_hand(lesion):
    relevance = torch.zeros(1, 4, 5)
    relevance[0, 2, 2], relevance[0, 0, 4] = 2.0, 1.0
    assert pointing_game(relevance, lesion).tolist() == [1]
    relevance[0, 0, 4] = 3.0  # two to the right of the mask and one above it: sqrt(5) away
    assert pointing_game(relevance, lesion).tolist() == [0]
    assert pointing_game(relevance, lesion, tolerance=2).tolist() == [0]
    assert pointing_game(relevance, lesion, tolerance=2.3).tolist() == [1]
    relevance[0, 1, 1] = 3.0
    assert pointing_game(relevance, lesion).tolist() == [0.5]
    assert pointing_game(torch.zeros(1, 4, 5), lesion).tolist() == pytest.approx([4 / 20])
    assert pointing_game(relevance, lesion & False).isnan().all()
    assert pointing_game(relevance, lesion & False, tolerance=2).isnan().all()


def test_mass_and_rank_and_area_by_hand(lesion):
    relevance = torch.full((1, 4, 5), -1.0)
    relevance[0, 1, 1], relevance[0, 1, 2], relevance[0, 0, 0] = 3.0, 2.0, 5.0
    assert mass_in_mask(relevance, lesion).tolist() == [0.5]
    assert mass_ratio(relevance, lesion).tolist() == pytest.approx([0.5 / (4 / 20)])
    assert rank_accuracy(relevance, lesion).tolist() == [0.5]
    assert area_overlap(relevance, lesion, share=3 / 20).tolist() == pytest.approx([2 / 5])
    assert area_overlap(lesion.float(), lesion).tolist() == [1]
    assert mass_ratio(torch.ones(1, 4, 5), lesion).tolist() == pytest.approx([1])
    assert mass_in_mask(-torch.ones(1, 4, 5), lesion).isnan().all()
    for metric in (mass_in_mask, mass_ratio, rank_accuracy, area_overlap):
        assert metric(relevance, lesion & False).isnan().all()


def test_areas_have_the_share_that_is_asked_for_and_parts_are_counted():
    relevance = torch.rand(3, 5, 6, 7)
    for share in (0.01, 0.3, 1.0):
        found = relevant_area(relevance, share)
        assert ((found.flatten(1).sum(1) - share * 210).abs() <= 0.5).all()
    areas = torch.zeros(2, 5, 5, dtype=torch.bool)
    areas[0, 0, 0] = areas[0, 1, 1] = areas[0, 4, 4] = True
    assert components(areas).tolist() == [2, 0]


def test_masks_of_small_lesions_stay_on_small_grids():
    masks = torch.zeros(1, 40, 60, dtype=torch.bool)
    masks[0, 7, 33] = True
    small = masks_on_grid(masks, (4, 6))
    assert small.nonzero().tolist() == [[0, 0, 3]]
    assert masks_on_grid(torch.ones(2, 4, 6, 8, dtype=torch.bool), (2, 3, 4)).shape == (2, 2, 3, 4)


def test_wrong_masks_are_refused(lesion):
    with pytest.raises(ValueError, match="masks_on_grid"):
        pointing_game(torch.rand(1, 4, 4), lesion)
    with pytest.raises(ValueError, match="bool masks"):
        mass_in_mask(torch.rand(1, 4, 5), lesion.float())
    with pytest.raises(ValueError, match="NaN"):
        pointing_game(torch.full((1, 4, 5), torch.nan), lesion)
    with pytest.raises(ValueError, match="above 0 to 1"):
        relevant_area(torch.rand(1, 4, 4), 2)
    with pytest.raises(ValueError, match="allowed"):
        masks_on_grid(lesion, (2, 2, 2))


class BrightSpots(nn.Module):
    """Scores what is brighter in green than its surroundings, as hard exudates are."""

    def forward(self, images):
        green = images[:, 1:2]
        contrast = blurred(green, 1.0) - blurred(green, 6.0)
        return F.relu(contrast - 0.05).flatten(1).sum(1, keepdim=True)


def test_relevance_of_bright_spots_lies_on_hard_exudates_of_idrid(data_root):
    case = next(iterate_idrid(data_root / "IDRiD" / "segmentation", tuple(IDRID_CODES)))
    exudates = list(IDRID_CODES).index("hard_exudates")
    sides = (178, 268)
    image = torch.from_numpy(case.image.copy()).permute(2, 0, 1)[None].float() / 255
    images = F.interpolate(image, size=sides, mode="area")
    mask = masks_on_grid(torch.from_numpy(case.masks[exudates])[None], sides)
    asked = ask(BrightSpots().eval(), images, 0)
    x = images.clone().requires_grad_()
    relevance = (torch.autograd.grad(asked.score(x).sum(), x)[0] * x).sum(1).detach()
    assert mass_ratio(relevance, mask) > 3
    found = summary(
        {"mass": mass_ratio(relevance, mask), "point": pointing_game(relevance, mask, tolerance=4)}
    )
    assert found["mass"].value > 3
    assert found["point"].value in (0, 1)
