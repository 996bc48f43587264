"""Networks under one protocol: reading, patches, scores, the table, a saved model."""

import math

import numpy as np
import pytest
import torch

from foveal.evaluation.mask_protocol import (
    MaskArrays,
    compare_networks,
    mean_dice,
    mean_hd95,
    read_mask_arrays,
    scores_table,
)
from foveal.models.mask_model import MaskModel, MaskModelConfig
from foveal.training import TrainingSettings


def bright_squares(count: int = 12, side: int = 16, axes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    masks = np.zeros((count, 1, *(side,) * axes), dtype=np.uint8)
    for mask in masks:
        corner = random.integers(0, side // 2, axes)
        mask[(0, *(slice(start, start + side // 2) for start in corner))] = 1
    return (masks * 200 + random.integers(0, 50, masks.shape)).astype(np.uint8), masks


def arrays(axes: int = 2) -> dict[str, np.ndarray]:
    images, masks = bright_squares(axes=axes)
    return {
        "train_images": images[:8],
        "train_masks": masks[:8],
        "test_images": images[8:],
        "test_masks": masks[8:],
    }


@pytest.mark.parametrize("axes", [2, 3])
def test_networks_are_trained_alike_scored_and_saved(tmp_path, axes: int):
    np.savez(tmp_path / "data.npz", **arrays(axes))
    data = read_mask_arrays(tmp_path / "data.npz", patch_size=8)
    assert data.images.max() <= 1
    common = {"network": "ssm-unet", "spatial_dims": axes}
    networks = {
        block: MaskModelConfig(network_settings={"dims": (4, 8), "block_bot": block}, **common)
        for block in ("conv", "mamba")
    }
    training = TrainingSettings(steps=30, batch_size=4, learning_rate=1e-2, tensorboard=False)
    scores = compare_networks(networks, data, training, seeds=(0, 1), folder=tmp_path / "models")
    assert [score.name for score in scores] == ["conv", "mamba"]
    assert all(len(score.dice) == 2 and min(score.dice) > 0.5 for score in scores)
    model = MaskModel.from_pretrained(tmp_path / "models" / "mamba")
    said = model.predict(data.test_images, patch_size=8) > 0.5
    assert mean_dice(said, data.test_masks > 0.5) == pytest.approx(scores[1].dice[0])
    assert scores_table(scores).count("\n") == 3


def test_images_and_masks_are_cut_and_flipped_alike():
    images = torch.rand(3, 2, 10, 6)
    data = MaskArrays(images, images[:, :1], images, images[:, :1], patch_size=8)
    sample = data.sample(1, torch.Generator().manual_seed(0))
    assert sample["images"].shape == (2, 8, 8)
    torch.testing.assert_close(sample["masks"], sample["images"][:1])
    assert (sample["images"][0] == 0).sum() == 8 * 2  # filled up from 6 to 8 columns


def test_scores_have_their_hand_values():
    true, said = torch.zeros(2, 1, 9, 9, dtype=torch.bool), torch.zeros(2, 1, 9, 9, dtype=torch.bool)
    true[0, 0, 2:4, 2:4] = said[0, 0, 2:4, 4:6] = True
    assert mean_dice(said, true) == 0
    assert mean_hd95(said, true) == pytest.approx(2)
    assert mean_dice(true, true) == 1
    assert math.isnan(mean_dice(said[1:], true[1:]))
    assert math.isnan(mean_hd95(said[1:], true[1:]))


def test_whole_images_and_patches_agree_where_a_patch_is_the_image():
    torch.manual_seed(0)
    model = MaskModel(MaskModelConfig(network="ssm-unet", network_settings={"dims": (4, 8)})).eval()
    images = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(model.predict(images), model.predict(images, patch_size=16))
    assert model.predict(torch.rand(1, 1, 20, 37), patch_size=16).shape == (1, 1, 20, 37)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"train_masks": None}, "has no train_masks"),
        ({"test_masks": np.zeros((4, 1, 5, 5))}, "masks of the same N and sizes"),
        ({"train_masks": np.full((8, 1, 16, 16), 2)}, r"outside \[0, 1\]"),
        ({"train_images": np.full((8, 1, 16, 16), np.nan)}, "with NaN"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change: dict, complaint: str):
    held = {name: array for name, array in (arrays() | change).items() if array is not None}
    np.savez(tmp_path / "data.npz", **held)
    with pytest.raises(ValueError, match=complaint):
        read_mask_arrays(tmp_path / "data.npz")
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(ValueError, match=r"no \.npz file"):
        read_mask_arrays(tmp_path / "text.npz")


def test_nothing_to_compare_is_refused():
    images = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="0 networks"):
        compare_networks({}, MaskArrays(images, images, images, images), TrainingSettings())
