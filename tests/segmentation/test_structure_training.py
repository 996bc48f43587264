from dataclasses import replace

import numpy as np
import pytest
import torch

from foveal.models import Segmenter, SegmenterConfig
from foveal.objectives.hard_masks import BceDiceObjective
from foveal.scans.structure_datasets import synthetic_case, synthetic_eyes
from foveal.segmentation.structure_training import (
    StructureSet,
    StructureSettings,
    build_structure_segmenter,
    train_structures,
)

TINY = StructureSettings(
    structures=("artery", "vein"),
    widths=(8, 12, 16),
    working_diameter=128,
    patch_size=64,
    levels=(1.0,),
    focus=0.5,
    training={"steps": 3, "batch_size": 2, "learning_rate": 1e-3},
)


def test_training_on_real_and_synthetic_eyes_is_repeatable(tmp_path):
    cases = [synthetic_case(eye, "real", TINY.structures) for eye in synthetic_eyes(1, seed=5, size=300)]
    settings = TINY.replace(synthetic_eyes=1)
    data = StructureSet(settings, cases)
    first, second = (train_structures(data, folder=tmp_path / name, progress=False) for name in ("a", "b"))
    assert first.config.classes == ("artery", "vein")
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_without_any_photograph_there_is_nothing_to_train_on():
    with pytest.raises(ValueError, match="no labelled photographs"):
        StructureSet(TINY, [])


def test_photographs_of_held_out_patients_are_never_drawn():
    eyes = list(synthetic_eyes(2, seed=5, size=300))
    cases = [synthetic_case(eye, name, TINY.structures) for eye, name in zip(eyes, "ab", strict=True)]
    data = StructureSet(TINY.replace(synthetic_eyes=2, synthetic_share=0.5), cases)
    assert data.weights() == [0.25] * 4
    assert data.weights({"synthetic/b"}) == [0.5, 0, 0.25, 0.25]
    assert data.weights({"synthetic/a", "synthetic/b"}) == [0, 0, 0.5, 0.5]
    with pytest.raises(ValueError, match="all 4 photographs are held out"):
        data.weights(data.patients)


def test_photographs_without_any_structure_get_their_share_of_patches():
    eyes = list(synthetic_eyes(3, seed=5, size=300))
    cases = [synthetic_case(eye, name, TINY.structures) for eye, name in zip(eyes, "abc", strict=True)]
    empty = replace(cases[2], masks=np.zeros_like(cases[2].masks))
    data = StructureSet(
        TINY.replace(synthetic_eyes=1, synthetic_share=0.2, empty_share=0.3), [*cases[:2], empty]
    )
    assert data.weights() == pytest.approx([0.25, 0.25, 0.3, 0.2])
    assert data.weights({"synthetic/a", "synthetic/b"}) == pytest.approx([0, 0, 0.6, 0.4])
    none_wanted = StructureSet(TINY.replace(empty_share=0.0), [empty])
    assert none_wanted.weights() == [1.0]
    every = StructureSet(TINY, [*cases[:2], empty])
    assert every.weights() == pytest.approx([1 / 3] * 3)


def test_training_begins_at_the_prevalence_of_each_structure():
    settings = TINY.replace(prevalence=(0.02, 0.3), rarity=0.5)
    model = build_structure_segmenter(settings).eval()
    probability = model(torch.rand(2, 3, 64, 64)).sigmoid()
    torch.testing.assert_close(probability[:, 0], torch.full((2, 64, 64), 0.02))
    torch.testing.assert_close(probability[:, 1], torch.full((2, 64, 64), 0.3))
    rare, common = settings.structure_weights()
    assert rare / common == pytest.approx(15**0.5)
    assert rare + common == pytest.approx(2)
    assert TINY.structure_weights() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synthetic_share": 0.6, "empty_share": 0.6}, "are more than 1"),
        ({"prevalence": (0.1,)}, "2 values between 0 and 1"),
        ({"prevalence": (0.1, 0.0)}, "2 values between 0 and 1"),
        ({"rarity": 0.5}, "needs the prevalence"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY.replace(**changes)


def test_the_cross_entropy_of_each_class_is_weighted():
    model = build_structure_segmenter(TINY)
    batch = {"images": torch.rand(2, 3, 64, 64), "masks": (torch.rand(2, 2, 64, 64) > 0.5).float()}
    only = [
        BceDiceObjective(model, dice_weight=0, class_weights=weights)(batch)["loss"]
        for weights in ((1.0, 0.0), (0.0, 1.0), (0.5, 2.0))
    ]
    torch.testing.assert_close(only[2], 0.5 * only[0] + 2 * only[1])
    batch["valid"] = torch.ones_like(batch["masks"])
    masked = BceDiceObjective(model, dice_weight=0, class_weights=(0.5, 2.0))(batch)["loss"]
    torch.testing.assert_close(masked, only[2])


def test_a_deeper_network_takes_over_the_weights_that_fit(tmp_path):
    given = Segmenter(SegmenterConfig(encoder_settings={"widths": [8, 12]}))
    given.save_pretrained(tmp_path)
    model = build_structure_segmenter(TINY.replace(start_from=str(tmp_path)))
    taken, own = given.state_dict(), model.state_dict()
    same = {
        name
        for name, value in taken.items()
        if own[name].shape == value.shape and torch.equal(own[name], value)
    }
    assert any(name.startswith("network.encoder.stages.1") for name in same)
    assert not any(name.startswith("network.head.project.weight") for name in same)


def test_what_is_not_valid_counts_for_no_loss():
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 2, 1)
    images, masks = torch.rand(2, 3, 8, 8), (torch.rand(2, 2, 8, 8) > 0.5).float()
    valid = torch.ones_like(masks)
    valid[:, 1, :4] = 0
    changed = masks.clone()
    changed[:, 1, :4] = 1 - changed[:, 1, :4]
    objective = BceDiceObjective(model)
    first = objective({"images": images, "masks": masks, "valid": valid})
    second = objective({"images": images, "masks": changed, "valid": valid})
    assert all(torch.equal(first[key], second[key]) for key in first)
    whole = objective({"images": images, "masks": masks})
    everywhere = objective({"images": images, "masks": masks, "valid": torch.ones_like(masks)})
    torch.testing.assert_close(whole["loss"], everywhere["loss"])
