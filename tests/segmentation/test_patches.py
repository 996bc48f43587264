import numpy as np
import pytest
import torch

from foveal.scans.structure_datasets import synthetic_case, synthetic_eyes
from foveal.scans.vessel_datasets import VesselCase, synthetic_vessel_cases
from foveal.segmentation.augmentation import AugmentationSettings, disturb
from foveal.segmentation.patches import StructurePatches, VesselPatches

STILL = AugmentationSettings(
    zoom=0, rotate=False, flip=False, gamma=0, channel_gamma=0, gain=0, mix=0, grey=0, swap=0, illumination=0,
    haze=0, blur=0, low_resolution=0, noise=0, jpeg=0, blobs=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def cases():
    return synthetic_vessel_cases(2, seed=0, size=400)


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_patch_is_a_function_of_index_and_generator(cases):
    patches = VesselPatches(cases, size=96, diameter=256)
    first, again, other = (patches.sample(1, _draw(seed)) for seed in (3, 3, 4))
    assert len(patches) == 2
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["images"], other["images"])
    assert first["images"].shape == (3, 96, 96)
    assert first["soft_labels"].shape == first["masks"].shape == (1, 96, 96)


def test_labels_stay_in_range_and_follow_the_hard_mask(cases):
    patches = VesselPatches(cases, size=128, diameter=384)
    agree, missed = [], []
    for seed in range(6):
        patch = patches.sample(seed % 2, _draw(seed))
        assert patch["images"].min() >= 0
        assert patch["images"].max() <= 1
        assert patch["soft_labels"].abs().max() <= 1
        soft, hard = patch["soft_labels"] > 0, patch["masks"] > 0
        agree.append((soft == hard).float().mean().item())
        missed.append((hard & ~soft).sum().item() / max(1, hard.sum().item()))
    # A thin vessel's +1 outweighs the -0.6 beside it, so interpolation moves its zero outwards, never in.
    assert np.mean(agree) > 0.95
    assert max(missed) < 0.02


def test_without_augmentation_vessels_lie_on_darker_pixels(cases):
    patches = VesselPatches(cases, size=128, diameter=384, augmentation=STILL)
    for seed in range(4):
        patch = patches.sample(0, _draw(seed))
        green, vessel = patch["images"][1], patch["masks"][0] > 0
        lit = patch["images"].amax(0) > 0
        if vessel.sum() > 100:
            assert green[vessel & lit].mean() < green[~vessel & lit].mean()


def test_no_strength_leaves_the_photograph_and_every_strength_keeps_the_dark_outside():
    image = torch.rand(3, 48, 48, generator=_draw(0)) * 0.9 + 0.05
    image[:, :, :10] = 0
    torch.testing.assert_close(disturb(image, STILL, _draw(1)), image, atol=1e-4, rtol=0)
    for seed in range(20):
        changed = disturb(image, AugmentationSettings(), _draw(seed))
        assert torch.isfinite(changed).all()
        assert (changed[:, :, :10] == 0).all()
        assert changed.amin() >= 0
        assert changed.amax() <= 1


def test_no_photographs_is_an_error():
    with pytest.raises(ValueError, match="no labelled photographs"):
        VesselPatches([])


def test_structure_patches_carry_every_mask_and_where_it_is_known():
    eye = next(synthetic_eyes(1, seed=3, size=400))
    case = synthetic_case(eye, "eye", ("artery", "vein", "disc"))
    case.valid[1] = False
    patches = StructurePatches([case], size=128, diameter=384, augmentation=STILL)
    found = patches.sample(0, _draw(1))
    assert found["images"].shape == (3, 128, 128)
    assert found["masks"].shape == found["valid"].shape == (3, 128, 128)
    assert found["valid"][[0, 2]].all()
    assert not found["valid"][1, 32:96, 32:96].any()
    vessel = VesselPatches(
        [VesselCase("eye", "", "", eye.image, eye.vessels, eye.field.mask)],
        size=128,
        diameter=384,
        augmentation=STILL,
    ).sample(0, _draw(1))
    torch.testing.assert_close(found["images"], vessel["images"])
    either = found["masks"][:2].amax(0)
    assert (either == vessel["masks"][0]).float().mean() > 0.99


def test_a_narrow_camera_sees_a_circle_in_which_the_disc_is_larger():
    eye = next(synthetic_eyes(1, seed=3, size=400))
    case = synthetic_case(eye, "eye", ("disc",))
    settings = {"size": 160, "diameter": 128, "augmentation": STILL, "levels": (2.0, 1.0)}
    wide, narrow = (StructurePatches([case], narrow=share, narrowest=0.5, **settings) for share in (0, 1))
    offsets = torch.arange(160) - 79.5
    outside = offsets.square()[:, None] + offsets.square() > 64.0**2
    for seed in range(5):
        patch = narrow.sample(0, _draw(seed))
        assert not patch["images"][:, outside].any()
        assert not patch["masks"][:, outside].any()
        assert patch["images"].any()
    largest = [max(float(p.sample(0, _draw(s))["masks"].sum()) for s in range(12)) for p in (wide, narrow)]
    assert largest[1] > 1.5 * largest[0]
