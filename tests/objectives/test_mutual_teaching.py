"""Learning from scribbles, from each other, and from tokens that are visible."""

import pytest
import torch
from torch import nn

from foveal.blocks.token_interpolation import StateInterpolation
from foveal.models.networks import create_network
from foveal.objectives.mutual_teaching import (
    CrossSupervisionObjective,
    ScribbleObjective,
    class_dice,
    partial_cross_entropy,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def student(block: str = "conv") -> nn.Module:
    return create_network("ssm-unet", outputs=3, in_channels=1, dims=(4, 8), block_bot=block)


def test_unlabelled_pixels_have_no_gradient_and_none_at_all_is_no_loss():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    classes = torch.full((1, 4, 4), -1)
    assert float(partial_cross_entropy(logits, classes).detach()) == 0
    classes[0, 1, 2] = 2
    loss = partial_cross_entropy(logits, classes)
    expected = nn.functional.cross_entropy(logits[:, :, 1, 2], torch.tensor([2]))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert int((logits.grad != 0).any(dim=1).sum()) == 1


def test_dice_is_0_for_the_right_classes_and_near_1_for_wrong_ones():
    classes = torch.randint(0, 3, (2, 5, 6))
    right = nn.functional.one_hot(classes, 3).movedim(-1, 1).float()
    assert float(class_dice(right, classes)) == pytest.approx(0, abs=1e-6)
    assert float(class_dice(right.roll(1, dims=1), classes)) == pytest.approx(1, abs=1e-5)


def test_mixtures_are_convex_and_change():
    objective = ScribbleObjective([student(), student(), student("mamba")])
    said = torch.randn(3, 2, 3, 4, 4).softmax(dim=2)
    mixed = [objective.mixture(said) for _ in range(2)]
    for each in mixed:
        torch.testing.assert_close(each.sum(dim=1), torch.ones(2, 4, 4))
        assert (each <= said.amax(dim=0) + 1e-6).all()
        assert (each >= said.amin(dim=0) - 1e-6).all()
    assert not torch.equal(*mixed)
    torch.testing.assert_close(objective.mixture(said[:1].expand(3, -1, -1, -1, -1)), said[0])


def test_students_of_one_mind_have_dice_with_their_own_classes():
    one = student()
    batch = {"images": torch.rand(1, 1, 8, 8), "classes": torch.full((1, 8, 8), -1)}
    losses = ScribbleObjective([one, one])(batch)
    said = one(batch["images"]).softmax(dim=1)
    torch.testing.assert_close(losses["pseudo"], class_dice(said, said.argmax(dim=1)))
    assert float(losses["scribble"].detach()) == 0


@pytest.mark.parametrize("sizes", [(8, 8), (4, 8, 8)])
def test_every_network_learns_in_either_setting(sizes: tuple[int, ...]):
    def make(block: str = "conv") -> nn.Module:
        return create_network(
            "ssm-unet", outputs=3, in_channels=1, dims=(4, 8), block_bot=block, spatial_dims=len(sizes)
        )

    classes = torch.full((2, *sizes), -1)
    classes[0] = torch.randint(0, 3, sizes)
    batch = {"images": torch.rand(2, 1, *sizes), "classes": classes}
    for objective in (
        ScribbleObjective([make(), make(), make("mamba")]),
        CrossSupervisionObjective(make("mamba"), make(), classes=3, pixels=16),
    ):
        losses = objective(batch)
        losses["loss"].backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert all(p.grad is not None for p in objective.parameters())


def test_networks_that_agree_have_the_least_contrast():
    objective = CrossSupervisionObjective(student(), student(), classes=3, pixels=64, temperature=0.05)
    objective.projectors[1] = objective.projectors[0]
    a, b = torch.randn(2, 1, 3, 8, 8)
    assert float(objective.contrast(a, a)) < float(objective.contrast(a, b)) - 0.5


def test_wrong_classes_and_settings_are_refused():
    logits = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="classes from 0 to 3"):
        partial_cross_entropy(logits, torch.tensor([[[0, 1], [2, 3]]]))
    with pytest.raises(ValueError, match=r"of torch\.float32"):
        partial_cross_entropy(logits, torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="1 students"):
        ScribbleObjective([student()])
    with pytest.raises(ValueError, match="1 pixels"):
        CrossSupervisionObjective(student(), student(), classes=3, pixels=1)


def test_masked_tokens_lie_between_their_visible_neighbours_and_nearer_to_the_nearer():
    fill = StateInterpolation(2, decay=0.5)
    x = torch.zeros(1, 7, 2)
    x[0, 1], x[0, 5] = 0.0, 1.0
    visible = torch.tensor([[False, True, False, False, False, True, False]])
    y = fill(x.where(visible[..., None], 99.0), visible)[0, :, 0]
    # Weights 0.5^p and 0.5^q: at place 2, 1/2 and 1/8.
    assert y.tolist() == pytest.approx([0, 0, 0.2, 0.5, 0.8, 1, 1])
    fill(torch.randn(1, 7, 2), visible).square().sum().backward()
    assert fill.logit.grad is not None
    assert torch.isfinite(fill.logit.grad).all()
    assert fill.logit.grad.abs().min() > 0
    with pytest.raises(ValueError, match="no visible token"):
        fill(x, ~torch.ones(1, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="decay is 1"):
        StateInterpolation(2, decay=1.0)
