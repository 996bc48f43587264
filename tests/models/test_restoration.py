"""Restoration: masked scans and their spread, the model, its loss and its scores."""

import numpy as np
import pytest
import torch
from torch import nn

from foveal.blocks.masked_scan import MaskedSS2D, drawn_masks, spread_over_masks
from foveal.blocks.ss2d import SS2D
from foveal.metrics.restoration import restoration_scores
from foveal.models.restoration import RestorationConfig, RestorationModel
from foveal.objectives.restoration import RestorationObjective


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Identity(nn.Module):
    def forward(self, x, *, order=None):
        return x


def test_without_masks_it_is_ss2d():
    masked, plain = MaskedSS2D(6, states=2).eval(), SS2D(6, states=2)
    plain.load_state_dict(masked.state_dict())
    x = torch.randn(2, 5, 4, 6)
    torch.testing.assert_close(masked(x), plain(x))
    torch.testing.assert_close(
        MaskedSS2D(6, mask_rate=0.0).train().scan(x.repeat(1, 1, 1, 2)).shape, x.repeat(1, 1, 1, 2).shape
    )


@pytest.mark.parametrize(("merge", "factor"), [("sum", 4), ("mean", 1)])
def test_routes_that_keep_a_cell_stand_in_for_those_that_do_not(merge: str, factor: int):
    mixer = MaskedSS2D(4, mask_rate=0.3, merge=merge).train()
    mixer.scans = nn.ModuleList(Identity() for _ in range(4))
    x = torch.rand(1, 20, 20, 8) + 1
    y = mixer.scan(x)
    whole = (y - factor * x).abs().amax(dim=-1) < 1e-5
    lost = y.abs().amax(dim=-1) == 0
    assert (whole | lost).all()
    assert 0 < lost.float().mean() < 0.05  # about 0.3^4


def test_spread_over_masks_is_that_of_its_seed_and_leaves_the_model_as_it_was():
    model = nn.Sequential(MaskedSS2D(4, states=2), nn.Linear(4, 1)).eval()
    x = torch.randn(1, 6, 6, 4)
    before = model(x)
    mean, spread = spread_over_masks(model, x, passes=6, seed=3)
    again = spread_over_masks(model, x, passes=6, seed=3)
    other = spread_over_masks(model, x, passes=6, seed=4)
    assert mean.shape == spread.shape == before.shape
    assert (spread > 0).any()
    torch.testing.assert_close((mean, spread), again)
    assert not torch.equal(mean, other[0])
    torch.testing.assert_close(model(x), before)
    with drawn_masks(model, 1):
        assert not torch.allclose(model(x), before)


def test_models_restore_images_and_volumes_and_are_saved_and_loaded(tmp_path):
    for axes in (2, 3):
        config = RestorationConfig(network="ssm-unet", network_settings={"dims": (4, 8)}, spatial_dims=axes)
        model = RestorationModel(config)
        images = torch.rand(2, 1, *(7,) * axes)
        losses = RestorationObjective(model)({"images": images, "targets": images})
        losses["loss"].backward()
        assert model(images).shape == images.shape
    again = RestorationModel.from_pretrained(model.save_pretrained(tmp_path / "model"))
    torch.testing.assert_close(again(images), model.eval()(images))


def test_a_network_of_masked_scans_tells_its_spread():
    config = RestorationConfig(network="mambamir", network_settings={"dims": (4, 8)})
    model = RestorationModel(config).eval()
    mean, spread = spread_over_masks(model, torch.rand(1, 1, 10, 12), passes=3)
    assert mean.shape == spread.shape == (1, 1, 10, 12)
    assert (spread > 0).all()


def test_distances_have_their_hand_values():
    batch = {"images": torch.zeros(1, 1, 1, 2), "targets": torch.tensor([[[[3.0, 0.0]]]])}
    assert float(RestorationObjective(nn.Identity(), distance="l1")(batch)["loss"]) == 1.5
    smooth = RestorationObjective(nn.Identity(), epsilon=4.0)(batch)["loss"]
    assert float(smooth) == pytest.approx((5 + 4) / 2)


def test_scores_have_their_hand_values():
    clean = np.random.default_rng(0).random((2, 1, 16, 16)).astype(np.float32)
    assert restoration_scores(clean + 0.1, clean)["psnr"] == pytest.approx(20, abs=1e-3)
    assert restoration_scores(2 * clean + 0.2, 2 * clean, value_range=2)["psnr"] == pytest.approx(
        20, abs=1e-3
    )
    exact = restoration_scores(clean, clean)
    assert exact["psnr"] == np.inf
    assert exact["ssim"] == pytest.approx(1)
    volumes = np.random.default_rng(0).random((1, 1, 11, 12, 13)).astype(np.float32)
    assert restoration_scores(volumes, volumes)["ssim"] == pytest.approx(1)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="mask_rate is 1"):
        MaskedSS2D(4, mask_rate=1.0)
    with pytest.raises(ValueError, match="0 layers that mask"):
        spread_over_masks(nn.Identity().eval(), torch.zeros(1))
    with pytest.raises(ValueError, match="unknown distance"):
        RestorationObjective(nn.Identity(), distance="l2")
    with pytest.raises(ValueError, match="differ in shape"):
        RestorationObjective(nn.Identity())(
            {"images": torch.zeros(1, 1, 2, 2), "targets": torch.zeros(1, 1, 2, 3)}
        )
    with pytest.raises(ValueError, match="11 px or more"):
        restoration_scores(np.zeros((1, 1, 8, 8)), np.zeros((1, 1, 8, 8)))
    model = RestorationModel(RestorationConfig(network="ssm-unet", network_settings={"dims": (4, 8)}))
    with pytest.raises(ValueError, match=r"allowed: \(B, 1, H, W\)"):
        model(torch.zeros(1, 3, 8, 8))
