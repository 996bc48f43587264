"""Warps, flows, their metrics, the registration model and its loss."""

import numpy as np
import pytest
import torch
from torch import nn

from foveal.blocks.warping import compose, identity_grid, integrate, warp
from foveal.metrics.registration import folded_share, jacobian_determinants, mean_endpoint_error
from foveal.models.registration import RegistrationConfig, RegistrationModel
from foveal.objectives.registration import RegistrationObjective, bending, roughness


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("grid", [(5, 7), (4, 5, 6)])
def test_no_flow_leaves_images_and_whole_steps_shift_them(grid: tuple[int, ...]):
    images = torch.rand(2, 3, *grid)
    flow = torch.zeros(2, len(grid), *grid)
    torch.testing.assert_close(warp(images, flow), images)
    for axis in range(len(grid)):
        step = flow.clone()
        step[:, axis] = 1
        shifted = images.roll(-1, dims=2 + axis).narrow(2 + axis, 0, grid[axis] - 1)
        for mode in ("bilinear", "nearest"):
            torch.testing.assert_close(
                warp(images, step, mode=mode).narrow(2 + axis, 0, grid[axis] - 1), shifted
            )


def test_half_a_step_is_the_mean_of_neighbours_and_borders_go_on():
    images = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 3, 5)
    flow = torch.zeros(1, 2, 3, 5)
    flow[:, 1] = 0.5
    assert warp(images, flow)[0, 0, 0].tolist() == [0.5, 1.5, 2.5, 3.5, 4.0]
    assert warp(images, flow + 9, padding="zeros").abs().max() == 0


def test_warping_passes_gradcheck_in_image_and_flow():
    images = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    flow = (0.3 * torch.rand(1, 2, 4, 5, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(warp, (images, flow))


def test_composition_is_one_warp_after_another():
    y, x = identity_grid(torch.zeros(1, 2, 24, 24))
    images = torch.sin(x / 5 + y / 7)[None, None]
    first = torch.stack([torch.sin(x / 6), torch.cos(y / 6)])[None] * 0.8
    second = torch.stack([torch.cos(x / 7), torch.sin(y / 5)])[None] * 0.8
    twice, once = warp(warp(images, first), second), warp(images, compose(first, second))
    assert (twice - once)[..., 3:-3, 3:-3].abs().max() < 0.02


def test_a_constant_velocity_carries_as_far_and_its_reverse_back():
    velocity = torch.full((1, 2, 9, 9), 1.5)
    torch.testing.assert_close(integrate(velocity), velocity)
    y, x = identity_grid(torch.zeros(1, 2, 32, 32))
    smooth = torch.stack([torch.sin(x / 8), torch.sin(y / 8)])[None] * 2
    around = compose(integrate(smooth), integrate(-smooth))
    assert around[..., 6:-6, 6:-6].abs().max() < 0.05


def test_jacobians_of_linear_flows_are_exact_and_folds_are_counted():
    y, x = np.mgrid[:6, :8].astype(float)
    np.testing.assert_allclose(jacobian_determinants(np.stack([0.5 * y, 0.25 * x])), 1.5 * 1.25)
    z, y, x = np.mgrid[:4, :5, :6].astype(float)
    np.testing.assert_allclose(jacobian_determinants(np.stack([0.5 * x, 0 * y, 0 * z])), 1.0)
    assert folded_share(np.stack([-2 * z, 0 * y, 0 * x])) == 1.0
    assert folded_share(np.zeros((2, 5, 5))) == 0.0
    assert mean_endpoint_error(np.zeros((2, 3, 3)), np.full((2, 3, 3), 3.0)) == pytest.approx(18**0.5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_untrained_models_move_nothing_and_every_parameter_learns(dimensions: int):
    settings = {"dims": (4, 8), "block_bot": "conv"}
    model = RegistrationModel(
        RegistrationConfig(network_settings=settings, spatial_dims=dimensions, features=4)
    )
    moving, fixed = torch.rand(2, 2, 1, *(9,) * dimensions)
    found = model(moving, fixed)
    assert found.flow.shape == (2, dimensions, *(9,) * dimensions)
    assert found.flow.abs().max() < 1e-3
    assert (found.warped - moving).abs().max() < 1e-3
    nn.init.normal_(model.to_flow.weight, std=0.1)
    masks = (torch.rand(2, 1, *(9,) * dimensions) > 0.5).float()
    objective = RegistrationObjective(model, window=5, dice_weight=0.5)
    losses = objective({"moving": moving, "fixed": fixed, "moving_masks": masks, "fixed_masks": masks})
    losses["loss"].backward()
    assert set(losses) == {"loss", "likeness", "smoothness", "dice"}
    # A bias before an instance norm has no effect.
    still = [n for n, p in model.named_parameters() if p.grad is None or (p.ndim > 1 and not p.grad.any())]
    assert not still


def test_equal_images_are_as_like_as_can_be_and_a_constant_flow_is_smooth():
    class Still(nn.Module):
        def forward(self, moving, fixed):
            from foveal.models.registration import Registered

            return Registered(moving, torch.full((len(moving), 2, *moving.shape[2:]), 2.0))

    image = torch.rand(1, 1, 32, 32)
    for smoothness in ("gradient", "bending"):
        losses = RegistrationObjective(Still(), smoothness=smoothness)({"moving": image, "fixed": image})
        assert float(losses["smoothness"]) == 0
        assert float(losses["likeness"]) == pytest.approx(-1, abs=0.01)
    assert (
        float(RegistrationObjective(Still(), likeness="mse")({"moving": image, "fixed": image})["loss"]) == 0
    )


def test_smoothness_of_a_slope_and_of_a_parabola():
    x = torch.arange(6.0).expand(1, 1, 5, 6)
    flow = torch.cat([2 * x, 0 * x], dim=1)
    assert float(roughness(flow)) == pytest.approx(2)
    assert float(bending(flow)) == 0
    assert float(bending(flow.square() / 4)) == pytest.approx(2)


def test_models_are_saved_and_loaded(tmp_path):
    config = RegistrationConfig(network_settings={"dims": (4, 8)}, features=4, integration_steps=3)
    model = RegistrationModel(config).eval()
    nn.init.normal_(model.to_flow.weight, std=0.1)
    again = RegistrationModel.from_pretrained(model.save_pretrained(tmp_path / "model"))
    pair = torch.rand(2, 1, 1, 12, 10)
    torch.testing.assert_close(again(*pair).flow, model(*pair).flow)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="a flow of shape"):
        warp(torch.rand(1, 1, 4, 4), torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match="sides of 2 or more"):
        jacobian_determinants(np.zeros((2, 1, 4)))
    model = RegistrationModel(RegistrationConfig(network_settings={"dims": (4, 8)}))
    with pytest.raises(ValueError, match=r"both \(B, 1, H, W\)"):
        model(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 9))
    with pytest.raises(ValueError, match=r"both \(B, 1, H, W\)"):
        model(torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8))
    with pytest.raises(ValueError, match="window is 4"):
        RegistrationObjective(model, window=4)
    with pytest.raises(ValueError, match="unknown likeness"):
        RegistrationObjective(model, likeness="nc")
