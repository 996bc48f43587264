import pytest
import torch

from foveal.objectives.hard_masks import BceDiceObjective
from foveal.objectives.sauna import SaunaObjective, jaccard_distance, jaccard_metric_loss, stable_focal_l1


def test_focal_l1_weights_by_the_side_of_zero():
    # Right side: 2 e^2; wrong side: e.
    p, y = torch.tensor([0.5, -0.2]), torch.tensor([0.8, 0.4])
    assert stable_focal_l1(p[:1], y[:1]) == pytest.approx(2 * 0.3**2)
    assert stable_focal_l1(p[1:], y[1:]) == pytest.approx(0.6)
    assert stable_focal_l1(p, y) == pytest.approx((0.18 + 0.6) / 2)


def test_focal_l1_options():
    p, y = torch.tensor([0.5], requires_grad=True), torch.tensor([0.8])
    assert stable_focal_l1(p, y, base="l2").item() == pytest.approx(0.6 * 0.09)
    assert stable_focal_l1(p, y, base="smooth_l1").item() == pytest.approx(0.6 * 0.045)
    assert stable_focal_l1(p, y, positive_weight=3).item() == pytest.approx(3 * 0.18)
    stable_focal_l1(p, y).backward()
    assert p.grad.item() == pytest.approx(-2 * 2 * 0.3)
    p.grad = None
    stable_focal_l1(p, y, detach_weight=True).backward()
    assert p.grad.item() == pytest.approx(-2 * 0.3)
    with pytest.raises(ValueError, match="unknown base"):
        stable_focal_l1(p, y, base="l3")


def test_jaccard_of_another_hypercube_is_that_of_its_shifted_copy():
    generator = torch.Generator().manual_seed(0)
    p, y = 2 * torch.rand(2, 4, 50, generator=generator, dtype=torch.float64) - 1
    expected = jaccard_distance(p, y)
    torch.testing.assert_close(jaccard_distance(3 * p + 5, 3 * y + 5, low=2, high=8), expected)
    # With the neutral point at the lower end it is the soft Jaccard of the positive class alone.
    a, b = (p + 1) / 2, (y + 1) / 2
    soft = 1 - torch.minimum(a, b).sum(1) / torch.maximum(a, b).sum(1)
    torch.testing.assert_close(jaccard_distance(a, b, low=0, high=1, neutral=0), soft)


def test_jaccard_pools_the_batch_unless_told_otherwise():
    p = torch.tensor([[1.0, -1, -1, -1], [1, 1, 1, 1]])
    y = torch.tensor([[-1.0, -1, -1, -1], [1, 1, 1, 1]])
    assert jaccard_metric_loss(p, y) == pytest.approx(1 - 7 / 9)
    assert jaccard_metric_loss(p, y, per_image=True) == pytest.approx((1 - 3 / 5) / 2)
    assert jaccard_metric_loss(torch.zeros(1, 3), torch.zeros(1, 3)) == 0


def test_losses_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="differ in shape"):
        stable_focal_l1(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="low <= neutral <= high"):
        jaccard_distance(torch.zeros(1, 2), torch.zeros(1, 2), low=1, high=-1)
    with pytest.raises(ValueError, match="unknown variant 3"):
        jaccard_distance(torch.zeros(1, 2), torch.zeros(1, 2), variant=3)


def test_objectives_name_their_losses_and_reach_every_weight():
    model = torch.nn.Conv2d(3, 1, 3, padding=1)
    labels = torch.rand(2, 1, 8, 8) * 2 - 1
    batch = {"images": torch.rand(2, 3, 8, 8), "soft_labels": labels, "masks": (labels > 0).float()}
    losses = SaunaObjective(model, jaccard_weight=0.5, cross_entropy_weight=2.0)(batch)
    parts = losses["focal_l1"] + 0.5 * losses["jaccard"] + 2 * losses["cross_entropy"]
    torch.testing.assert_close(losses["loss"], parts)
    assert set(SaunaObjective(model)(batch)) == {"loss", "focal_l1", "jaccard"}
    losses["loss"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    hard = BceDiceObjective(model, dice_weight=0.5)(batch)
    torch.testing.assert_close(hard["loss"], hard["bce"] + 0.5 * hard["dice"])
