"""DeepLIFT: Captum's numbers where its hooks reach, and the score gained where they do not."""

import captum.attr
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from foveal.explanation import attribute
from foveal.explanation.methods import ask

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def small(activation=nn.ReLU, pool=nn.MaxPool2d):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), activation(), pool(2), nn.Conv2d(6, 8, 3)]
    return nn.Sequential(*body, activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


class Functional(nn.Module):
    """The same network with functions, one of which works in place."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, images):
        x = F.max_pool2d(F.relu(self.body[1](self.body[0](images)), inplace=True), 2)
        return self.body[8](torch.relu(self.body[4](x)).mean((2, 3)))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LeakyReLU])
def test_modules_have_captums_numbers(activation):
    network = small(activation, nn.AvgPool2d)
    expected = captum.attr.DeepLift(network).attribute(
        IMAGES.clone().requires_grad_(), IMAGES.flip(0), target=1
    )
    found = attribute(network, IMAGES, 1, method="deep-lift", baseline=IMAGES.flip(0))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)


def test_averages_over_baselines_are_captums_too():
    network, baselines = small(pool=nn.AvgPool2d), torch.rand(3, 3, 16, 16)
    explainer = captum.attr.DeepLiftShap(network)
    expected = torch.cat([explainer.attribute(x.clone(), baselines, target=2) for x in IMAGES.split(1)])
    found = attribute(network, IMAGES, 2, method="deep-lift-shap", baselines=baselines)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)


def test_functions_have_the_numbers_of_modules():
    network = small()
    expected, found = (
        attribute(n, IMAGES, 1, method="deep-lift") for n in (network, Functional(network).eval())
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "make",
    [lambda: Functional(small()), lambda: small(nn.Sigmoid), lambda: timm.create_model("resnet10t")],
    ids=["functions", "modules", "resnet"],
)
def test_values_add_up_to_the_score_gained(make):
    """Captum's do not behind max pooling."""
    torch.manual_seed(0)
    network, images = make().eval(), F.interpolate(IMAGES, size=32)
    asked = ask(network, images, 1)
    gained = (asked.score(images) - asked.score(images * 0)).detach()
    found = attribute(network, images, 1, method="deep-lift").flatten(1).sum(1)
    torch.testing.assert_close(found, gained, rtol=1e-3, atol=1e-5)


def test_a_transformer_is_explained_by_rescaled_activations_and_gradients_of_the_rest():
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    network = timm.create_model("vit_tiny_patch16_224", **options).eval()
    assert torch.isfinite(attribute(network, IMAGES, 1, method="deep-lift")).all()


def test_layers_have_captums_numbers_and_those_of_modules_where_functions_follow():
    network = small(pool=nn.AvgPool2d)
    expected = captum.attr.LayerDeepLift(network, network[0]).attribute(
        IMAGES.clone().requires_grad_(), IMAGES.flip(0), target=1
    )
    options = {"layer": "0", "baseline": IMAGES.flip(0)}
    found = attribute(network, IMAGES, 1, method="layer-deep-lift", **options)
    torch.testing.assert_close(found, expected.detach().sum(1), rtol=1e-4, atol=1e-6)
    network = small()
    for one, other in (("0", "body.0"), ("4", "body.4")):
        expected = attribute(network, IMAGES, 1, method="layer-deep-lift", layer=one)
        found = attribute(Functional(network).eval(), IMAGES, 1, method="layer-deep-lift", layer=other)
        torch.testing.assert_close(found, expected)
