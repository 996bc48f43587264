"""Sanity check by random weights: order of layers, restoration, likeness of maps."""

import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import nn
from torch.nn import functional as F

from foveal.explanation.methods import ask
from foveal.explanation.randomisation import (
    cascading_randomisation,
    layers_from_output,
    rank_correlation,
    similarity,
)


def blobs(count, seed):
    """Images of noise with a bright blob on the left or on the right, and which side it is."""
    source = torch.Generator().manual_seed(seed)
    images = 0.2 * torch.rand(count, 1, 16, 16, generator=source)
    side = torch.randint(2, (count,), generator=source)
    for image, right in zip(images, side.tolist(), strict=True):
        row = int(torch.randint(2, 11, (1,), generator=source))
        image[0, row : row + 4, 2 + 8 * right : 6 + 8 * right] += 0.8
    return images, side


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
    more = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 2)
    model = nn.Sequential(*layers, *more)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    images, side = blobs(256, 0)
    for step in range(60):
        part = slice(32 * (step % 8), 32 * (step % 8) + 32)
        optimiser.zero_grad()
        F.cross_entropy(model(images[part]), side[part]).backward()
        optimiser.step()
    model.eval()
    test, truth = blobs(64, 1)
    assert (model(test).argmax(1) == truth).float().mean() > 0.95
    return model, test[:6]


def snapshot(model):
    return [x.detach().clone() for x in model.state_dict().values()]


@pytest.mark.parametrize(("method", "options"), [("lrp", {}), ("grad-cam", {"layer": "5"})])
@pytest.mark.parametrize("draw", ["uniform", "reset"])
def test_random_weights_change_the_maps_and_are_taken_back(trained, method, options, draw):
    model, images = trained
    before, flags = snapshot(model), [p.requires_grad for p in model.parameters()]
    found = cascading_randomisation(ask(model, images), method, options=options, draw=draw, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(model), strict=True))
    assert flags == [p.requires_grad for p in model.parameters()]
    assert found.layers == ("7", "4", "1", "0")
    assert found.spearman.shape == found.ssim.shape == (4, 6)
    assert found.maps.shape == (5, 6, 16, 16)
    assert found.spearman[-1].nanmean() < 0.5
    assert found.ssim[-1].mean() < 0.9


def test_the_same_seed_draws_the_same_weights(trained):
    model, images = trained
    asked = ask(model, images)
    first, again, other = (cascading_randomisation(asked, "lrp", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.maps, again.maps)
    assert torch.equal(first.maps[0], other.maps[0])
    assert not torch.equal(first.maps, other.maps)


def test_layers_can_be_drawn_one_at_a_time(trained):
    model, images = trained
    asked = ask(model, images)
    before = snapshot(model)
    alone = cascading_randomisation(asked, "lrp", cascade=False, seed=1)
    together = cascading_randomisation(asked, "lrp", seed=1)
    assert torch.equal(alone.maps[1], together.maps[1])
    assert not torch.equal(alone.maps[2], together.maps[2])
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(model), strict=True))


def test_an_error_leaves_the_model_as_it_was(trained):
    model, images = trained
    before, calls = snapshot(model), []

    def fails(asked):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no more")
        return torch.rand(asked.images.shape)

    with pytest.raises(RuntimeError, match="no more"):
        cascading_randomisation(ask(model, images), fails)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(model), strict=True))


def test_a_map_that_ignores_the_model_is_found_out(trained):
    model, images = trained
    found = cascading_randomisation(ask(model, images), lambda asked: asked.images)
    torch.testing.assert_close(found.spearman, torch.ones(4, 6))
    torch.testing.assert_close(found.ssim, torch.ones(4, 6))


def test_uniform_weights_have_the_mean_and_reach_of_the_old_ones():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(400, 50)).eval()
    mean, std = model[1].weight.detach().mean(), model[1].weight.detach().std(correction=0)
    seen = []

    def look(asked):
        seen.append(asked.model[1].weight.detach().clone())
        return asked.images

    cascading_randomisation(ask(model, torch.rand(1, 1, 20, 20)), look)
    drawn = seen[1]
    assert ((drawn >= mean - std - 1e-7) & (drawn <= mean + std + 1e-7)).all()
    assert float(drawn.std()) == pytest.approx(float(2 * std / 12**0.5), rel=0.02)
    assert torch.equal(model[1].weight, seen[0])


class Tangled(nn.Module):
    """Layers that are registered in another order than they run, with weights of its own."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        self.stem = nn.Linear(1, 4)
        self.position = nn.Parameter(torch.zeros(1, 64, 4))

    def forward(self, images):
        tokens = self.stem(images.flatten(2).mT) + self.position
        tokens, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head(tokens.mean(1))


def test_layers_go_by_when_they_run_and_not_by_how_they_are_written():
    torch.manual_seed(0)
    layers = layers_from_output(Tangled().eval(), torch.rand(1, 1, 8, 8))
    assert [name for name, _ in layers] == ["head", "attention", "attention.out_proj", "stem", ""]
    with pytest.raises(ValueError, match="no parameters"):
        layers_from_output(nn.Flatten(), torch.rand(1, 1, 8, 8))


def test_likeness_is_scipys_and_skimages():
    torch.manual_seed(0)
    first, second = torch.randn(3, 96, 90).relu(), torch.randn(3, 96, 90).relu()
    second[0] += 2 * first[0]
    ranks = rank_correlation(first, second)
    shape = similarity(first, second)
    for i in range(3):
        a, b = first[i].numpy(), second[i].numpy()
        assert float(ranks[i]) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic, abs=1e-6)
        a, b = ((x - x.min()) / (x.max() - x.min()) for x in (a, b))
        wanted = structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
        )
        assert float(shape[i]) == pytest.approx(wanted, abs=0.01)  # edges are not cropped
    assert rank_correlation(first, torch.ones_like(first)).isnan().all()
    torch.testing.assert_close(similarity(first[:, :5, :6], first[:, :5, :6]), torch.ones(3))
    assert similarity(torch.rand(2, 4, 8, 8), torch.rand(2, 4, 8, 8)).shape == (2,)


def test_other_draws_are_refused(trained):
    model, images = trained
    with pytest.raises(ValueError, match="uniform, reset"):
        cascading_randomisation(ask(model, images), "lrp", draw="normal")
