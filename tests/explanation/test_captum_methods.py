"""Captum's methods by the weighted sum of outputs: the same numbers, for every kind of network."""

import captum.attr
import pytest
import torch
from tiny_networks import KINDS, methods_for, small_options, tiny_network
from torch import nn
from torch.nn import functional as F

from foveal.explanation import attribute, explain, region
from foveal.explanation.methods import ask
from foveal.explanation.superpixels import superpixels


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_gives_finite_maps_of_the_inputs_shape(kind):
    network, images, target = tiny_network(kind)
    for name in methods_for(kind):
        found = explain(network, images, target, method=name, **small_options(name))
        assert found.shape == (2, *images.shape[2:]), name
        assert torch.isfinite(found).all(), name
        assert bool((found != 0).any()), name


@pytest.mark.parametrize("kind", KINDS)
def test_saliency_is_the_gradient_of_the_class_where_it_is_predicted(kind):
    network, images, target = tiny_network(kind)
    given = images.clone().requires_grad_()
    outputs = network(given)
    inside = (outputs.argmax(1) == target) if outputs.ndim > 2 else torch.ones(2)
    (expected,) = torch.autograd.grad((outputs[:, target] * inside).sum(), given)
    found = attribute(network, images, target, method="saliency")
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_add_up_to_the_score_gained(kind):
    network, images, target = tiny_network(kind)
    asked = ask(network, images, target)
    gained = asked.score(images) - asked.score(images * 0)
    found = explain(network, images, target, method="integrated-gradients").flatten(1).sum(1)
    torch.testing.assert_close(found, gained.detach(), rtol=0.01, atol=1e-4)


def test_shapley_sampling_takes_colours_and_says_what_it_lacks():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    images = torch.rand(1, 3, 16, 16)
    found = explain(network.eval(), images, 0, method="shapley-sampling", segments=4, samples=2)
    assert found.shape == (1, 16, 16)
    assert bool((found != 0).any())
    with pytest.raises(ValueError, match="layer-guided-backprop needs the option layer"):
        explain(network, images, 0, method="layer-guided-backprop")


def test_deep_lift_and_shapley_values_add_up_to_the_score_gained():
    network, images, target = tiny_network("2-D segmenter")
    asked = ask(network, images, target)
    gained = (asked.score(images) - asked.score(images * 0)).detach()
    found = explain(network, images, target, method="deep-lift").flatten(1).sum(1)
    torch.testing.assert_close(found, gained, rtol=1e-4, atol=1e-4)
    options = {"segments": 6, "samples": 3, "baseline": 0.0}
    values = explain(network, images, target, method="shapley-sampling", **options)
    for image, value, wanted in zip(images, values, gained, strict=True):
        labels = superpixels(image, segments=6)
        each = torch.stack([value[labels == label].mean() for label in labels.unique()])
        torch.testing.assert_close(each.sum(), wanted, rtol=1e-4, atol=1e-3)


def test_official_scores_by_out_over_out_have_no_gradient():
    """The published score sums (out / out) where out is above a threshold: 1, whatever the input."""
    network, images, target = tiny_network("2-D segmenter")
    given = images.clone().requires_grad_()
    outputs = network(given)[:, target]
    count = ((outputs / outputs) * (outputs > 0)).sum()
    assert count > 0
    (gradient,) = torch.autograd.grad(count, given)
    assert gradient.abs().max() < 1e-6
    assert explain(network, images, target, method="saliency").max() > 1e-3


def test_captums_own_calls_agree():
    network, images, target = tiny_network("2-D classifier")
    network = nn.Sequential(*(nn.ReLU() if isinstance(m, nn.ReLU) else m for m in network)).eval()
    for name, explainer, options in (
        ("input-x-gradient", captum.attr.InputXGradient(network), {}),
        ("integrated-gradients", captum.attr.IntegratedGradients(network), {"n_steps": 64}),
        ("deep-lift", captum.attr.DeepLift(network), {}),
        ("guided-backprop", captum.attr.GuidedBackprop(network), {}),
        ("deconvolution", captum.attr.Deconvolution(network), {}),
    ):
        expected = explainer.attribute(images.clone().requires_grad_(), target=target, **options)
        found = attribute(network, images, target, method=name)
        torch.testing.assert_close(found, expected.detach().float(), rtol=1e-4, atol=1e-6, msg=name)


def test_guided_grad_cam_is_captums_with_linear_enlargement():
    network, images, target = tiny_network("2-D classifier")
    network = nn.Sequential(*(nn.ReLU() if isinstance(m, nn.ReLU) else m for m in network)).eval()
    explainer = captum.attr.GuidedGradCam(network, network[4])
    expected = explainer.attribute(images.clone(), target=target, interpolate_mode="bilinear")
    found = attribute(network, images, target, method="guided-grad-cam", layer="4")
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)


def test_noisy_averages_are_captums_noise_tunnel():
    network, images, target = tiny_network("2-D classifier")
    images = (images - images.amin((1, 2, 3), True)) / (images - images.amin((1, 2, 3), True)).amax(
        (1, 2, 3), True
    )
    tunnel = captum.attr.NoiseTunnel(captum.attr.InputXGradient(network))
    for name, kind in (
        ("smoothgrad", "smoothgrad"),
        ("smoothgrad-squared", "smoothgrad_sq"),
        ("vargrad", "vargrad"),
    ):
        torch.manual_seed(7)
        expected = tunnel.attribute(
            images.clone(), nt_type=kind, nt_samples=6, nt_samples_batch_size=1, stdevs=0.1, target=target
        )
        options = {"over": "input-x-gradient", "samples": 6, "noise": 0.1, "seed": 7}
        found = attribute(network, images, target, method=name, **options)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-6, msg=name)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, images):
        return self.head(F.relu(self.conv(images)).mean((2, 3)))


def test_guided_backprop_reaches_functional_rectifiers():
    torch.manual_seed(0)
    network = Functional().eval()
    modules = nn.Sequential(network.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.head)
    images = torch.rand(2, 1, 8, 8)
    found, expected = (attribute(n.eval(), images, 1, method="guided-backprop") for n in (network, modules))
    torch.testing.assert_close(found, expected)


def test_a_network_without_rectifiers_is_told_about():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.warns(UserWarning, match="has no ReLU"):
        explain(network, torch.rand(1, 1, 8, 8), 1, method="guided-backprop")


def test_perturbations_keep_the_mask_of_the_unchanged_image():
    network, images, target = tiny_network("2-D segmenter")
    labels = superpixels(images[0], segments=6)
    found = explain(network, images[:1], target, method="feature-ablation", segments=6, baseline=0.0)[0]
    score = ask(network, images[:1], target).score
    for label in labels.unique():
        expected = score(images[:1]) - score(images[:1] * (labels != label))
        torch.testing.assert_close(found[labels == label].mean(), expected[0].detach(), rtol=1e-3, atol=1e-4)


def test_occlusion_takes_windows_of_any_sides():
    network, images, target = tiny_network("3-D segmenter")
    everywhere = region(target, "everywhere")
    found = explain(network, images, everywhere, method="occlusion", window=(8, 10, 12), stride=4)
    score = ask(network, images, everywhere).score
    expected = (score(images) - score(images * 0)).detach()
    torch.testing.assert_close(found.flatten(1).mean(1), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="3 sides"):
        explain(network, images, target, method="occlusion", window=(4, 4))


def test_the_same_seed_draws_the_same_map_and_leaves_the_generators_alone():
    network, images, target = tiny_network("2-D classifier")
    for name in ("gradient-shap", "lime", "kernel-shap", "shapley-sampling", "smoothgrad"):
        state = torch.get_rng_state()
        one, two = (
            explain(network, images, target, method=name, seed=3, **small_options(name)) for _ in "ab"
        )
        assert torch.equal(one, two), name
        assert torch.equal(torch.get_rng_state(), state), name


def test_layers_in_place_are_left_as_they_were():
    network, images, target = tiny_network("2-D classifier")
    explain(network, images, target, method="layer-deep-lift", layer="0")
    assert network[2].inplace
    assert not any(module._forward_hooks for module in network.modules())


def test_supervoxels_are_connected_pieces_without_gaps():
    volume = torch.rand(1, 8, 12, 12, generator=torch.Generator().manual_seed(0))
    labels = superpixels(volume, segments=10)
    assert labels.shape == (8, 12, 12)
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
    with pytest.raises(ValueError, match="segments"):
        superpixels(volume, segments=1)
