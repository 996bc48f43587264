"""RISE, excitation backprop and images that a model would like to see, against their definitions."""

import pytest
import torch
from tiny_networks import KINDS, tiny_network
from torch import nn

from foveal.explanation import explain, region
from foveal.explanation.imagining import deep_dream, invert_representation, maximise_channel, maximise_class
from foveal.explanation.masking_methods import random_masks
from foveal.explanation.methods import ask


@pytest.mark.parametrize(("sides", "cells"), [((30, 41), (5, 7)), ((9, 14, 20), (3, 4, 5))])
def test_random_masks_are_soft_and_seen_as_often_as_asked(sides, cells):
    masks = random_masks(600, sides, cells, keep=0.3, generator=torch.Generator().manual_seed(0))
    assert masks.shape == (600, *sides)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    assert (masks.mean(0) - 0.3).abs().max() < 0.08
    assert not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("kind", ["2-D classifier", "3-D classifier"])
def test_rise_finds_the_only_place_that_counts(kind):
    _, images, _ = tiny_network(kind)
    place = tuple(side // 2 for side in images.shape[2:])

    class One(nn.Module):
        def forward(self, images):
            value = images[(slice(None), 0, *place)]
            return torch.stack([-value, value], dim=1)

    images = torch.ones_like(images)
    found = explain(One().eval(), images, 1, method="rise", masks=400)
    assert found[(0, *place)] > 0.9 * found[0].max()
    assert found[0].flatten().median() < 0.2 * found[0].max()


def test_rise_is_the_mean_of_masks_weighted_by_scores_whatever_the_batches():
    network, images, target = tiny_network("2-D classifier")
    masks = random_masks(12, (16, 20), (7, 7), keep=0.5, generator=torch.Generator().manual_seed(0))
    score = ask(network, images[:1], target).score
    scores = torch.stack([score(images[:1] * mask)[0] for mask in masks])
    expected = torch.einsum("n,nhw->hw", scores.detach(), masks) / (12 * 0.5)
    options = {"masks": 12, "centred": False, "batch_size": 12}
    found = explain(network, images[:1], target, method="rise", **options)[0]
    torch.testing.assert_close(found, expected)


def test_excitation_is_the_chance_of_positive_contributions():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    images = torch.rand(2, 3, 2, 2)
    x = images.flatten(1)
    hidden = network[2](network[1](x)).detach()
    chance = torch.zeros(2, 3)
    chance[:, 2] = 1
    for activations, layer in ((hidden, network[3]), (x, network[1])):
        weight = layer.weight.detach().clamp(min=0)
        share = activations[:, None] * weight
        share = share / (share.sum(2, keepdim=True) + 1e-12)
        chance = torch.einsum("bk,bkj->bj", chance, share)
    expected = chance.view(2, 3, 2, 2).sum(1)
    found = explain(network, images, 2, method="excitation-backprop")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2), rtol=1e-3, atol=0)


def test_contrastive_excitation_takes_away_what_excites_the_opposite():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    images = torch.rand(2, 3, 2, 2)
    before = network(images)
    opposite = nn.Sequential(network[0], network[1], network[2], nn.Linear(5, 3)).eval()
    opposite[3].weight.data, opposite[3].bias.data = -network[3].weight.data, -network[3].bias.data
    own, other = (explain(n, images, 2, method="excitation-backprop") for n in (network, opposite))
    expected = (own / own.sum((1, 2), True) - other / other.sum((1, 2), True)).relu()
    found = explain(network, images, 2, method="contrastive-excitation")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(network(images), before)


@pytest.mark.parametrize("kind", KINDS)
def test_maximised_classes_score_higher_than_noise(kind):
    network, images, target = tiny_network(kind)
    wanted = target if kind.endswith("classifier") else region(target, "everywhere")
    made = maximise_class(network, wanted, images.shape, steps=30)
    assert made.shape == images.shape
    assert made.min() >= 0
    assert made.max() <= 1
    score = ask(network, images, wanted).score
    assert (score(made) > score(images)).all()
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_maximised_channels_respond_more():
    network, images, _ = tiny_network("3-D segmenter")
    made = maximise_channel(network, "3", 2, images.shape, steps=30)
    inner = network[:4]
    assert inner(made)[:, 2].mean() > inner(images)[:, 2].mean()
    with pytest.raises(ValueError, match="channel 9"):
        maximise_channel(network, "3", 9, images.shape, steps=1)


@pytest.mark.parametrize("kind", ["2-D segmenter", "3-D segmenter"])
def test_dreams_exaggerate_what_the_layer_saw(kind):
    network, images, _ = tiny_network(kind)
    dream = deep_dream(network, images, "3", octaves=2, steps=5)
    assert dream.shape == images.shape
    inner = network[:4]
    assert inner(dream).square().mean() > 1.1 * inner(images).square().mean()


def test_inversion_comes_near_the_representation():
    network, images, _ = tiny_network("2-D classifier")
    inner = network[:1]
    found = invert_representation(network, images, "0", steps=80, roughness=0.0)
    before = (inner(torch.full_like(images, 0.5)) - inner(images)).square().mean()
    assert (inner(found) - inner(images)).square().mean() < 0.2 * before
