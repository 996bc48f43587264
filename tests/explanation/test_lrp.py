"""Layer-wise relevance propagation: what is shared out is what there was."""

import pytest
import timm
import torch
from captum.attr import LRP
from torch import nn
from torch.nn import functional as F

from foveal.encoders import create_encoder
from foveal.explanation import explain
from foveal.explanation.lrp import COMPOSITES, propagate
from foveal.explanation.lrp_mode import Composite
from foveal.explanation.lrp_rules import AlphaBeta, Box, Epsilon, Flat, Gamma, WSquare


def relevance(model, images, target, composite, layers=()):
    return propagate(model, images, target, composite, layers=layers)


def without_biases(model):
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return model.eval()


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()]
    layers += [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 4)]
    return without_biases(nn.Sequential(*layers))


@pytest.fixture
def images():
    return torch.randn(2, 3, 18, 18, generator=torch.Generator().manual_seed(1))


def test_epsilon_is_gradient_times_input_without_biases(network, images):
    found, _ = relevance(network, images, 2, "epsilon")
    given = images.clone().requires_grad_()
    gradient = torch.autograd.grad(network(given)[:, 2].sum(), given)[0]
    torch.testing.assert_close(found, images * gradient)


@pytest.mark.parametrize("composite", sorted(set(COMPOSITES) - {"epsilon-gamma-box"}))
def test_every_layer_holds_the_whole_score(network, images, composite):
    score = network(images)[:, 2]
    pixels, inside = relevance(network, images, 2, composite, ["0", "1", "2", "3", "4", "5", "6"])
    for name, value in {**inside, "pixels": pixels}.items():
        sums = value.flatten(1).sum(1)
        torch.testing.assert_close(sums, score, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_positive_contributions_of_a_positive_score_are_nowhere_negative(network, images):
    score = network(images)
    chosen = score.argmax(1)
    assert (score.amax(1) > 0).all()
    found, _ = relevance(network, images, chosen, Composite(AlphaBeta(), AlphaBeta()))
    assert found.min() >= 0


def test_captums_rules_agree_where_they_coincide(network, images):
    class Reshaped(nn.Module):  # Captum has no rule for Flatten
        def __init__(self):
            super().__init__()
            self.maps, self.head = network[:6], network[7]

        def forward(self, images):
            return self.head(self.maps(images).flatten(1))

    network[0].bias.data.normal_(std=0.1)
    model = Reshaped().eval()
    expected = LRP(model).attribute(images.clone(), target=1)  # epsilon 1e-9
    found, _ = relevance(network, images, 1, Composite(Epsilon(1e-9), Epsilon(1e-9)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def by_hand(rule, x, weight, bias, of_outputs):
    """Relevance of inputs by the definition, contribution by contribution."""
    result = torch.zeros_like(x)
    w, b = weight.double(), bias.double()
    for k in range(len(w)):
        if isinstance(rule, Flat):
            share = torch.full_like(x[0], 1 / x.shape[1]).expand_as(x)
        elif isinstance(rule, WSquare):
            share = (w[k] ** 2 / (w[k] ** 2).sum()).expand_as(x)
        elif isinstance(rule, Box):
            up, down = w[k].clamp(min=0), w[k].clamp(max=0)
            z = x * w[k] - rule.low * up - rule.high * down
            share = z / (z.sum(1, keepdim=True) + b[k] - b[k].clamp(min=0) - b[k].clamp(max=0))
        else:
            z = x * w[k]
            positive, negative = z.clamp(min=0), z.clamp(max=0)
            above, below = b[k].clamp(min=0), b[k].clamp(max=0)
            if isinstance(rule, AlphaBeta):
                share = rule.alpha * positive / (positive.sum(1, keepdim=True) + above)
                share = share - rule.beta * negative / (negative.sum(1, keepdim=True) + below)
            elif isinstance(rule, Gamma):
                own = (z.sum(1, keepdim=True) + b[k]) > 0
                more = torch.where(own, positive, negative)
                counted = z + rule.gamma * more
                share = counted / (
                    counted.sum(1, keepdim=True) + b[k] + rule.gamma * torch.where(own, above, below)
                )
            else:
                share = z / (z.sum(1, keepdim=True) + b[k])
        result += share * of_outputs[:, k : k + 1]
    return result


@pytest.mark.parametrize(
    "rule",
    [
        Epsilon(0),
        Gamma(0.25, 0),
        AlphaBeta(1, 0, 0),
        AlphaBeta(2, 1, 0),
        Flat(0),
        WSquare(0),
        Box(-4.0, 4.0, 0),
    ],
)
def test_rules_are_their_definitions(rule):
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(s, dtype=torch.float64) for s in ((5, 7), (4, 7), (4,)))
    of_outputs = torch.randn(5, 4, dtype=torch.float64)
    found = rule.relevance(F.linear, x, weight, bias, of_outputs)
    torch.testing.assert_close(found, by_hand(rule, x, weight, bias, of_outputs))
    if not isinstance(rule, Flat | WSquare | Box):
        torch.testing.assert_close(x * rule.gradient(F.linear, x, weight, bias, of_outputs), found)


def test_fixed_normalisation_is_merged_into_the_convolution_before(images):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    conv = nn.Conv2d(3, 8, 3)
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    apart = nn.Sequential(conv, norm, head).eval()
    merged = nn.Sequential(nn.utils.fusion.fuse_conv_bn_eval(conv.eval(), norm.eval()), head).eval()
    for composite in ("epsilon-plus-flat", "epsilon-alpha2-beta1"):
        found, expected = (relevance(m, images, 0, composite)[0] for m in (apart, merged))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_a_transformer_without_biases_keeps_its_score_in_the_embeddings(fused):
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
    vit = without_biases(timm.create_model("vit_tiny_patch16_224", **options))
    nn.init.normal_(vit.head.weight)
    for block in vit.blocks:
        block.attn.fused_attn = fused
    images = torch.randn(2, 3, 32, 32)
    score = vit(images)[:, 3]
    names = ["norm_pre", "blocks.0", "blocks.1", "blocks.2", "norm"]
    _, inside = relevance(vit, images, 3, "cp-lrp", names)
    for name in names:
        torch.testing.assert_close(inside[name].sum((1, 2)), score, rtol=1e-4, atol=1e-5)
    # Through the softmax it is not conserved.
    _, product = relevance(vit, images, 3, "attn-lrp", names)
    assert not torch.allclose(product["norm_pre"].sum((1, 2)), score, rtol=1e-2)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vim", {"dim": 16, "depth": 2, "image_size": 32, "patch_size": 8}),
        ("vmamba", {"dim": 8, "depths": (1, 1)}),
        ("rsmamba", {"dim": 16, "depth": 2, "image_size": 32, "stride": 8}),
        ("vir", {"dim": 16, "depth": 2, "heads": 2, "image_size": 32, "patch_size": 8}),
    ],
)
def test_scans_keep_the_relevance_that_comes_to_them(name, settings):
    torch.manual_seed(0)
    encoder = without_biases(create_encoder(name, in_channels=3, **settings))

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = encoder, nn.Linear(encoder.dim, 3, bias=False)

        def forward(self, images):
            return self.head(self.encoder(images).pooled)

    model, images = Head().eval(), torch.randn(2, 3, 32, 32)
    found, _ = relevance(model, images, 1, "cp-lrp")
    assert torch.isfinite(found).all()
    assert (found.abs().sum((1, 2, 3)) > 0).all()


def test_a_scan_shares_out_what_it_has_exactly():
    from foveal.blocks.mamba import MambaMixer

    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = without_biases(MambaMixer(8, states=4))

        def forward(self, images):
            return self.mixer(images.flatten(2).mT).sum(1)

    model, images = Tokens().eval(), torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        model.mixer.scan.dt_proj.bias.copy_(torch.full((16,), -2.0))
    found, _ = relevance(model, images, 5, "cp-lrp")
    torch.testing.assert_close(found.sum((1, 2, 3)), model(images)[:, 5], rtol=1e-4, atol=1e-6)


def test_an_operation_without_a_rule_is_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(12, 2)

        def forward(self, images):
            return torch.erf(self.inner(images.flatten(1)))

    with pytest.raises(NotImplementedError, match=r"erf.* in the model"):
        explain(Odd().eval(), torch.rand(1, 3, 2, 2), 0, method="lrp")


def test_unknown_composites_are_refused(network, images):
    with pytest.raises(ValueError, match="did you mean 'epsilon-plus-flat'"):
        explain(network, images, 0, method="lrp", composite="epsilon_plus_flat")
    with pytest.raises(ValueError, match="alpha - beta = 1"):
        AlphaBeta(2, 0)


def test_other_weights_make_another_map(network, images):
    before = explain(network, images, 2, method="lrp").flatten(1)
    for module in network:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    after = explain(network, images, 2, method="lrp").flatten(1)
    ranks = [x.argsort(1).argsort(1).float() for x in (before, after)]
    correlation = torch.corrcoef(torch.stack([r[0] for r in ranks]))[0, 1]
    assert correlation < 0.5


def test_a_score_below_nought_is_told(network, images):
    lowest = network(images).argmin(1)
    with pytest.warns(UserWarning, match="below 0"):
        explain(network, images, lowest, method="lrp")


def test_pixels_scaled_on_their_way_in_keep_their_relevance(network, images):
    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, pixels):
            return self.inner(nn.functional.pixel_unshuffle((pixels - 0.5) / 0.25, 1))

    model = Standardised().eval()
    found = relevance(model, images * 0.25 + 0.5, 2, "epsilon-plus-flat")[0]
    torch.testing.assert_close(
        found, relevance(network, images, 2, "epsilon-plus-flat")[0], rtol=1e-3, atol=1e-5
    )
