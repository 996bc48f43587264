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
