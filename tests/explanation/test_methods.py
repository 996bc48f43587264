"""One call for every explainer: targets, checks, layers."""

import warnings

import pytest
import torch
from torch import nn

from foveal.explanation import attribute, explain, list_methods, region
from foveal.explanation.methods import ask, find_method
from foveal.explanation.taps import as_maps, last_map_layer, tapped
from foveal.explanation.targets import score_of, weights_of


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*layers).eval()


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()


def test_no_target_is_the_class_that_the_model_says(network):
    images = torch.rand(5, 3, 8, 8)
    weights = ask(network, images).weights
    assert torch.equal(weights.argmax(1), network(images).argmax(1))
    torch.testing.assert_close(ask(network, images).score(images), network(images).amax(1))


def test_a_class_of_a_segmenter_is_explained_where_it_is_predicted(segmenter):
    images = torch.rand(2, 3, 8, 8)
    outputs = segmenter(images)
    found = outputs.argmax(1)[:, 4, 4]
    asked = ask(segmenter, images, found)
    inside = outputs.argmax(1) == found[:, None, None]

    def wanted(outputs):
        return (outputs[torch.arange(2), found] * inside).sum((1, 2))

    torch.testing.assert_close(asked.score(images), wanted(outputs))
    changed = asked.score(images * 0.5)  # the mask stays that of the unchanged images
    torch.testing.assert_close(changed, wanted(segmenter(images * 0.5)))


def test_regions_can_be_masks_voxels_and_means(segmenter):
    images = torch.rand(2, 3, 8, 8)
    outputs = segmenter(images)
    voxel = torch.zeros(8, 8)
    voxel[2, 3] = 1
    torch.testing.assert_close(score_of(outputs, weights_of(outputs, region(2, voxel))), outputs[:, 2, 2, 3])
    whole = weights_of(outputs, region(torch.tensor([0, 2]), "everywhere", mean=True))
    torch.testing.assert_close(
        score_of(outputs, whole), torch.stack([outputs[0, 0].mean(), outputs[1, 2].mean()])
    )


def test_a_segmenter_of_independent_classes_calls_each_by_its_own_threshold():
    from foveal.models.segmenter import Segmenter
    from foveal.models.shipped import shipped_model

    model = Segmenter.from_pretrained(shipped_model("lesions"))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(images)
    chosen = torch.tensor([0, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = ask(model, images, chosen).weights
    for number, index in enumerate(chosen.tolist()):
        least = model.config.threshold(model.config.classes[index])
        expected = (1 + model.signed(outputs[number, index])) / 2 >= least
        assert torch.equal(weights[number, index] > 0, expected)
        assert weights[number].sum() == expected.sum()


def test_an_empty_region_warns_and_scores_nothing():
    outputs = torch.full((1, 1, 4, 4), -1.0)
    with pytest.warns(UserWarning, match="hold nothing"):
        weights = weights_of(outputs, 0)
    assert score_of(outputs, weights) == 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "indices from 0 to 2"),
        (-1, "indices from 0 to 2"),
        (torch.tensor([0, 1, 2]), "2 indices"),
        (torch.tensor([0.5, 1.0]), "class index"),
        (lambda outputs: outputs[:1], "weights of shape"),
    ],
)
def test_bad_targets_are_refused(network, target, message):
    with pytest.raises(ValueError, match=message):
        explain(network, torch.rand(2, 3, 8, 8), target)


def test_bad_questions_are_refused(network):
    images = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match="did you mean 'grad-cam'"):
        explain(network, images, 0, method="gradcam")
    with pytest.raises(ValueError, match="option"):
        explain(network, images, 0, method="grad-cam", layers="0")
    with pytest.raises(ValueError, match="NaN"):
        explain(network, images * torch.nan, 0)
    with pytest.raises(ValueError, match="training mode"):
        explain(network.train(), images, 0)
    with pytest.raises(ValueError, match="allowed: float"):
        explain(network.eval(), images[0], 0)


def test_weights_of_the_model_are_as_before(network):
    network[0].weight.requires_grad_(False)
    explain(network, torch.rand(1, 3, 8, 8), 0, method="lrp")
    assert [p.requires_grad for p in network.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in network.parameters())


def test_every_method_tells_what_it_is():
    for name in list_methods():
        method = find_method(name)
        assert len(method.summary) > 20, name


def test_signed_channels_are_summed(network):
    images = torch.rand(2, 3, 8, 8)
    each = attribute(network, images, 1, method="lrp")
    assert each.shape == images.shape
    torch.testing.assert_close(explain(network, images, 1, method="lrp"), each.sum(1))


@pytest.mark.parametrize("method", ["cam", "grad-cam", "grad-cam++", "hires-cam", "layer-cam", "score-cam"])
def test_maps_of_layers_explain_networks_of_two_and_three_dimensions(method):
    torch.manual_seed(0)
    for conv, pool, shape in (
        (nn.Conv2d, nn.AdaptiveAvgPool2d, (8, 8)),
        (nn.Conv3d, nn.AdaptiveAvgPool3d, (4, 6, 8)),
    ):
        network = nn.Sequential(conv(1, 4, 3), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(4, 2)).eval()
        found = explain(network, torch.rand(2, 1, *shape), 1, method=method)
        assert found.shape == (2, *shape)
        assert torch.isfinite(found).all()


def test_grad_cam_of_a_pooled_linear_head_is_the_class_activation_map(network):
    images = torch.rand(2, 3, 8, 8)
    maps = network[1](network[0](images))
    expected = torch.einsum("bdhw,d->bhw", maps, network[4].weight[2]).relu() / maps[0, 0].numel()
    torch.testing.assert_close(explain(network, images, 2, method="grad-cam", layer="1"), expected)


def test_score_cam_weighs_maps_by_the_masked_scores(network):
    images = torch.rand(1, 3, 8, 8)
    maps = network[1](network[0](images))[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    masks = (maps - low) / (high - low)
    gains = network(images * masks[:, None])[:, 1] - network(images * 0)[:, 1]
    expected = torch.einsum("d,dhw->hw", gains.softmax(0), maps).relu()
    torch.testing.assert_close(explain(network, images, 1, method="score-cam", layer="1")[0], expected)


def test_layers_are_found_by_name_and_by_what_they_give(network):
    images = torch.rand(2, 3, 8, 8)
    assert last_map_layer(network, images) == "1"
    modules = nn.ModuleDict({"layer1": nn.Identity(), "head": nn.Identity()})
    with pytest.raises(ValueError, match="did you mean 'layer1'"), tapped(modules, ["layr1"]):
        pass
    with pytest.raises(ValueError, match="has no layer of maps"):
        last_map_layer(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), images)


def test_tokens_are_laid_out_as_maps():
    images = torch.rand(1, 3, 32, 64)
    tokens = torch.arange(9.0).view(1, 9, 1)
    assert as_maps(tokens[:, :8], images).shape == (1, 1, 2, 4)
    with_class = as_maps(tokens, images)
    assert with_class[0, 0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert as_maps(tokens, images, prefix_tokens=1).equal(with_class)
    with pytest.raises(ValueError, match="prefix_tokens"):
        as_maps(torch.rand(1, 13, 2), images)


@pytest.mark.parametrize(
    "method", ["saliency", "input-x-gradient", "guided-backprop", "grad-cam", "lrp", "salient-relevance"]
)
def test_one_pass_serves_the_score_and_its_gradient(network, method):
    passes = []
    network.register_forward_hook(lambda *_: passes.append(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the score may be below 0
        explain(network, torch.rand(2, 3, 8, 8), method=method)
    assert len(passes) == 1


def test_a_question_about_other_images_keeps_its_weights(network):
    images, other = torch.rand(2, 2, 3, 8, 8)
    asked = ask(network, images, torch.Tensor.sigmoid)  # weights that depend on the outputs
    assert not torch.equal(ask(network, other, torch.Tensor.sigmoid).weights, asked.weights)
    assert torch.equal(asked.about(images=other).weights, asked.weights)
    asked = ask(network, images)
    assert torch.equal(asked.first_score(images), asked.score(images))
    assert torch.equal(asked.outputs, network(images))


def test_inference_mode_leaves_a_question_of_which_gradients_can_be_had(network):
    asked = ask(network, torch.rand(2, 3, 8, 8))
    with torch.inference_mode():
        asked.weights  # noqa: B018
    images = asked.images.clone().requires_grad_()
    assert torch.autograd.grad(asked.score(images).sum(), images)[0].abs().sum() > 0
