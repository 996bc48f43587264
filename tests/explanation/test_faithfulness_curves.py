"""Deletion, insertion, pixel flipping and ROAD against slow loops by definition."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from foveal.explanation import imputation
from foveal.explanation.imputation import impute, neighbour_system
from foveal.explanation.methods import ask
from foveal.explanation.perturbing import baseline_images, blurred, read, relevance_ranks
from foveal.explanation.removal_curves import Curve, deletion, insertion, pixel_flipping, road
from foveal.explanation.targets import region, weights_of


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).eval()


def by_definition(model, image, relevance, base, steps, target, *, insert):
    """Area of one image's curve, pixel by pixel."""
    order = sorted(range(relevance.numel()), key=lambda i: -float(relevance.flatten()[i]))
    scores = []
    for step in range(steps + 1):
        changed = (base if insert else image).clone().flatten(1)
        chosen = order[: round(step * len(order) / steps)]
        changed[:, chosen] = (image if insert else base).flatten(1)[:, chosen]
        scores.append(float(model(changed.view_as(image)[None])[0, target].detach()))
    return sum((a + b) / 2 / steps for a, b in pairwise(scores))


def test_deletion_and_insertion_are_what_a_slow_loop_gives(network):
    images, relevance = torch.rand(3, 2, 6, 6), torch.randn(3, 6, 6)
    asked = ask(network, images, torch.tensor([0, 2, 1]))
    mean, blur = baseline_images(images, "mean"), baseline_images(images, "blur")
    gone = deletion(asked, relevance, steps=9, batch_size=7).area
    put = insertion(asked, relevance, steps=9, batch_size=7).area
    for i, target in enumerate((0, 2, 1)):
        for found, base, insert in ((gone, mean, False), (put, blur, True)):
            wanted = by_definition(network, images[i], relevance[i], base[i], 9, target, insert=insert)
            assert float(found[i].detach()) == pytest.approx(wanted, abs=1e-5)


def test_curves_begin_and_end_at_the_image_and_the_baseline(network):
    images, relevance = torch.rand(2, 2, 6, 6), torch.randn(2, 2, 6, 6)
    asked = ask(network, images, 1)
    nothing = asked.score(torch.zeros_like(images))
    for order in ("most relevant first", "least relevant first"):
        gone = deletion(asked, relevance, steps=36, baseline=0.0, order=order)
        put = insertion(asked, relevance, steps=36, baseline=0.0, order=order)
        for curve, first, last in ((gone, asked.score(images), nothing), (put, nothing, asked.score(images))):
            torch.testing.assert_close(curve.readings[:, 0], first)
            torch.testing.assert_close(curve.readings[:, -1], last)
    least, most = deletion(asked, relevance, steps=36, baseline=0.0, order=order), gone
    assert torch.equal(least.readings, most.readings)


def test_the_true_relevance_of_a_linear_model_deletes_fastest():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    images = torch.rand(4, 1, 8, 8)
    asked = ask(model, images, 0)
    true = (model[1].weight[0].view(1, 8, 8) * images[:, 0]).detach()
    best = deletion(asked, true, steps=64, baseline=0.0).area
    for seed in range(5):
        other = torch.rand(true.shape, generator=torch.Generator().manual_seed(seed))
        assert (deletion(asked, other, steps=64, baseline=0.0).area > best).all()
    assert (insertion(asked, true, steps=64, baseline=0.0).area > best).all()


def test_pixel_flipping_reads_after_each_step_and_not_before(network):
    images, relevance = torch.rand(2, 2, 5, 5), torch.randn(2, 5, 5)
    asked = ask(network, images, 1)
    curve = pixel_flipping(asked, relevance, pixels_a_step=4, baseline=0.3, batch_size=3)
    assert curve.readings.shape == (2, 7)
    assert float(curve.shares[-1]) == 1
    ranks = relevance_ranks(relevance)
    for step in range(7):
        changed = torch.where((ranks < 4 * (step + 1))[:, None], 0.3, images)
        torch.testing.assert_close(curve.readings[:, step], network(changed).softmax(1)[:, 1].detach())


def test_curves_of_volumes_and_segmenters():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 2, 1)).eval()
    images, relevance = torch.rand(2, 1, 4, 5, 6), torch.randn(2, 4, 5, 6)
    asked = ask(model, images, region(1, "everywhere", mean=True))
    for reading in ("score", "probability", "decision"):
        assert deletion(asked, relevance, steps=5, reading=reading).area.shape == (2,)
        found = road(asked, relevance, shares=(0.2, 0.6), reading=reading)
        assert found.readings.shape == (2, 2)
        assert torch.isfinite(found.readings).all()


@pytest.mark.parametrize("shape", [(9, 7), (4, 5, 6), (1, 8)])
def test_imputed_pixels_are_the_weighted_means_of_their_neighbours(shape):
    source = torch.Generator().manual_seed(0)
    image = torch.rand(2, *shape, generator=source, dtype=torch.float64)
    for share in (0.05, 0.5, 0.95):
        removed = torch.rand(shape, generator=source) < share
        removed.view(-1)[0] = False
        filled = impute(image, removed, noise=0)
        assert torch.equal(filled[:, ~removed], image[:, ~removed])
        for place in removed.nonzero().tolist():
            total, size = torch.zeros(2, dtype=torch.float64), 0.0
            for other in torch.cartesian_prod(*[torch.arange(n) for n in shape]).tolist():
                moved = [abs(a - b) for a, b in zip(place, other, strict=True)]
                if max(moved) == 1:
                    weight = 0.5 ** (sum(moved) - 1)
                    total, size = total + weight * filled[(slice(None), *other)], size + weight
            torch.testing.assert_close(filled[(slice(None), *place)], total / size, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(17, 13), (6, 5, 7)])
def test_wide_bands_are_solved_by_sparse_decomposition_to_the_same_values(shape, monkeypatch):
    image = torch.rand(2, *shape, dtype=torch.float64)
    for share in (0.1, 0.6, 0.95):
        removed = torch.rand(shape) < share
        removed.view(-1)[-1] = False
        banded = impute(image, removed, noise=0)
        monkeypatch.setattr(imputation, "_BAND_NUMBERS", 0)
        monkeypatch.setattr(imputation, "_LEAF", 8)
        torch.testing.assert_close(impute(image, removed, noise=0), banded, rtol=0, atol=1e-12)
        monkeypatch.undo()


def test_the_system_of_a_plane_has_the_weights_of_the_paper():
    rows = neighbour_system((3, 3)).toarray()
    assert rows[4] == pytest.approx([-1 / 12, -1 / 6, -1 / 12, -1 / 6, 1, -1 / 6, -1 / 12, -1 / 6, -1 / 12])
    assert rows.sum(axis=1) == pytest.approx(0)


def test_planes_of_brightness_are_imputed_exactly():
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    plane = (2 * x - y)[None]
    removed = torch.zeros(12, 10, dtype=torch.bool)
    removed[3:9, 2:7] = True
    torch.testing.assert_close(impute(plane, removed, noise=0), plane)


def test_noise_is_added_to_imputed_pixels_alone_and_by_seed():
    image, removed = torch.rand(1, 40, 40), torch.rand(40, 40) < 0.5
    plain = impute(image, removed, noise=0)
    first, again, other = (impute(image, removed, noise=0.1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[:, ~removed], image[:, ~removed])
    assert float((first - plain)[:, removed].std()) == pytest.approx(0.1, rel=0.1)


def test_road_reads_imputed_images(network):
    images, relevance = torch.rand(3, 2, 8, 8), torch.randn(3, 8, 8)
    asked = ask(network, images)
    ranks = relevance_ranks(relevance, "least relevant first")
    found = road(
        asked, relevance, shares=(0.25, 0.75), noise=0, order="least relevant first", reading="score",
        batch_size=4,
    )  # fmt: skip
    for i in range(3):
        for number, count in enumerate((16, 48)):
            changed = impute(images[i], ranks[i] < count, noise=0)
            wanted = network(changed[None])[0, asked.outputs[i].argmax()]
            torch.testing.assert_close(found.readings[i, number], wanted.detach())
    noisy = [road(asked, relevance, noise=0.5, reading="score", batch_size=b).readings for b in (2, 50)]
    torch.testing.assert_close(noisy[0], noisy[1])


def test_decisions_of_classifiers_are_1_where_the_class_stays():
    outputs = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert read(outputs, weights_of(outputs, 1), "decision").tolist() == [1, 0]
    single = torch.tensor([[0.5], [-0.5]])
    assert read(single, torch.ones(2, 1), "decision").tolist() == [1, 0]
    assert read(single, torch.ones(2, 1), "probability").tolist() == single.sigmoid()[:, 0].tolist()


def test_blurring_keeps_what_is_flat_and_the_mean_of_waves():
    assert torch.allclose(blurred(torch.full((1, 2, 9, 7), 0.4), 3.0), torch.tensor(0.4))
    wave = torch.sin(torch.arange(64.0)).expand(1, 1, 8, 64)
    assert blurred(wave, 4.0)[..., 16:-16].abs().amax() < 0.01


def test_the_area_of_a_straight_line_is_its_middle():
    line = Curve(torch.tensor([0.0, 0.25, 1.0]), torch.tensor([[1.0, 0.75, 0.0]]))
    assert float(line.area) == pytest.approx(0.5)
    assert float(line.mean) == pytest.approx(1.75 / 3)


def test_wrong_input_is_refused(network):
    asked = ask(network, torch.rand(2, 2, 4, 4), 0)
    relevance = torch.rand(2, 4, 4)
    with pytest.raises(ValueError, match="steps is 0"):
        deletion(asked, relevance, steps=0)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        road(asked, relevance, shares=(1.0,))
    with pytest.raises(ValueError, match="NaN"):
        deletion(asked, relevance * torch.nan, steps=4)
    with pytest.raises(ValueError, match="most relevant first"):
        deletion(asked, relevance, steps=4, order="random")
    with pytest.raises(ValueError, match="score, probability"):
        deletion(asked, relevance, steps=4, reading="logit")
    with pytest.raises(ValueError, match="mean, blur"):
        deletion(asked, relevance, steps=4, baseline="black")
    with pytest.raises(ValueError, match="at least one must be kept"):
        impute(torch.rand(1, 4, 4), torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="bool mask"):
        impute(torch.rand(1, 4, 4), torch.ones(4, 4))
