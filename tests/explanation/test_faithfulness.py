"""Infidelity, sensitivity and confidence under masks: by definition, by hand and beside Captum."""

import captum.metrics
import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import nn

from foveal.explanation import region
from foveal.explanation.cam import unit_range
from foveal.explanation.faithfulness import (
    confidence_change,
    infidelity,
    kept,
    measure_faithfulness,
    sensitivities,
    sensitivity_max,
    sensitivity_mean,
    summary,
)
from foveal.explanation.methods import ask
from foveal.explanation.perturbing import gaussian, given, removed_boxes, uniform


def linear(shape, classes=3, dtype=torch.float32):
    torch.manual_seed(1)
    layer = nn.Linear(int(np.prod(shape)), classes).to(dtype)
    return nn.Sequential(nn.Flatten(), layer).eval(), layer.weight.detach().view(classes, *shape)


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)
    return nn.Sequential(*layers).eval()


def gradient(asked):
    images = asked.images.detach().clone().requires_grad_()
    return torch.autograd.grad(asked.score(images).sum(), images)[0]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 6, 5)])
def test_the_weights_of_a_linear_model_explain_it_without_fault(shape):
    model, weights = linear(shape)
    images = torch.rand(4, *shape)
    asked = ask(model, images, torch.tensor([0, 1, 2, 1]))
    phi = weights[[0, 1, 2, 1]]
    for changes in (gaussian(0.02), uniform(0.1), removed_boxes(images, 2, baseline=0.0)):
        assert infidelity(asked, phi, perturbations=changes).amax() < 1e-10
    assert sensitivity_max(asked, gradient).amax() == 0
    assert infidelity(asked, torch.zeros_like(images)).amin() > 1e-6


def test_double_precision_bears_tiny_perturbations():
    model, weights = linear((1, 8, 8), dtype=torch.float64)
    asked = ask(model, torch.rand(2, 1, 8, 8, dtype=torch.float64), 2)
    assert infidelity(asked, weights[[2, 2]], perturbations=gaussian(1e-4)).amax() < 1e-25


def test_infidelity_is_captums_given_the_same_perturbations(network):
    images = torch.rand(3, 3, 10, 10)
    asked, drawn = ask(network, images, 1), 0.3 * torch.randn(3, 7, 3, 10, 10)
    phi = gradient(asked)
    calls = iter(range(7))

    def perturb(inputs):
        changes = drawn[:, next(calls)]
        return changes, inputs - changes

    for normalise in (False, True):
        calls = iter(range(7))
        theirs = captum.metrics.infidelity(
            network, perturb, images, phi, target=1, n_perturb_samples=7, normalize=normalise,
            max_examples_per_batch=3,
        )  # fmt: skip
        ours = infidelity(asked, phi, perturbations=given(drawn), normalise=normalise, batch_size=5)
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-5, atol=1e-9)


def test_sensitivity_is_captums_given_the_same_perturbations(network):
    images = torch.rand(3, 3, 10, 10)
    asked, drawn = ask(network, images, 1), 0.05 * torch.randn(3, 6, 3, 10, 10)
    calls = iter(range(6))

    def saliency(inputs):  # a tuple first, then tensors
        x = inputs[0] if isinstance(inputs, tuple) else inputs
        found = Saliency(network).attribute(x.clone().requires_grad_(), target=1, abs=False)
        return (found,) if isinstance(inputs, tuple) else found

    theirs = captum.metrics.sensitivity_max(
        saliency,
        images,
        lambda inputs: inputs - drawn[:, next(calls)],
        n_perturb_samples=6,
        max_examples_per_batch=3,
    )
    ours = sensitivity_max(asked, gradient, perturbations=given(drawn), batch_size=4)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    every = sensitivities(asked, gradient, perturbations=given(drawn))
    torch.testing.assert_close(sensitivity_mean(asked, gradient, perturbations=given(drawn)), every.mean(1))


def test_results_do_not_depend_on_the_batches(network):
    images = torch.rand(3, 3, 10, 10)
    asked = ask(network, images, 1)
    phi = gradient(asked)
    for batch in (1, 4, 100):
        torch.testing.assert_close(
            infidelity(asked, phi, perturbations=gaussian(0.3, seed=3), batch_size=batch),
            infidelity(asked, phi, perturbations=gaussian(0.3, seed=3), batch_size=7),
        )
    other = infidelity(asked, phi, perturbations=gaussian(0.3, seed=4))
    assert not torch.allclose(other, infidelity(asked, phi, perturbations=gaussian(0.3, seed=3)))


def test_relevance_of_pixels_counts_in_each_channel(network):
    images = torch.rand(2, 3, 8, 8)
    asked, phi = ask(network, images, 1), torch.randn(2, 8, 8)
    torch.testing.assert_close(infidelity(asked, phi), infidelity(asked, phi[:, None].expand(-1, 3, -1, -1)))


def test_boxes_take_each_pixel_away_once():
    images = torch.rand(2, 3, 7, 10)
    boxes = removed_boxes(images, 3, baseline=0.0)
    at = torch.arange(2).repeat_interleave(boxes.count)
    less = boxes.make(images[at], at, torch.arange(boxes.count).repeat(2)).unflatten(0, (2, boxes.count))
    assert boxes.count == 3 * 4
    torch.testing.assert_close(less.sum(1), images)
    assert (less[0, 0] != 0).all(0).nonzero().amax(0).tolist() == [2, 2]


def numpy_changes(p, q):
    """Average drop and increase in confidence of probabilities before and after, as T-TAME states them."""
    drop, rise = 0.0, 0.0
    for before, after in zip(p, q, strict=True):
        drop += max(0.0, before - after) / before
        rise += float(after > before)
    return 100 * drop / len(p), 100 * rise / len(p)


def test_drop_and_increase_are_those_of_a_reference(network):
    images = torch.rand(9, 3, 8, 8)
    asked = ask(network, images)
    maps = torch.rand(9, 8, 8)
    change = confidence_change(asked, maps, batch_size=5)
    said = asked.outputs.argmax(1)
    p = network(images).softmax(1)[torch.arange(9), said].detach().numpy()
    for number, share in enumerate((1.0, 0.5, 0.15)):
        limit = np.quantile(maps.numpy().reshape(9, -1), 1 - share, axis=1)
        mask = maps * (maps >= torch.tensor(limit)[:, None, None])
        q = network(images * mask[:, None]).softmax(1)[torch.arange(9), said].detach().numpy()
        wanted = numpy_changes(p, q)
        assert 100 * float(change.drop[:, number].mean()) == pytest.approx(wanted[0], abs=1e-3)
        assert 100 * float(change.increase[:, number].mean()) == pytest.approx(wanted[1], abs=1e-3)


def test_a_map_of_ones_neither_drops_nor_raises_anything(network):
    asked = ask(network, torch.rand(33, 3, 8, 8))
    change = confidence_change(asked, torch.ones(33, 8, 8), keep=(1.0,), batch_size=7)
    assert change.drop.abs().amax() == 0
    assert change.increase.amax() == 0


@pytest.mark.parametrize("shape", [(7, 9), (5, 4, 3)])
def test_the_share_that_is_kept_is_right_to_a_pixel(shape):
    maps = torch.rand(3, *shape).clamp_min(0.3)  # with ties
    for share in (1.0, 0.5, 0.15, 0.01):
        found = kept(maps, share)
        assert (((found > 0).flatten(1).sum(1) - share * maps[0].numel()).abs() <= 1).all()
        assert torch.equal(found[found > 0], maps[found > 0])
        largest = maps.flatten(1).sort(descending=True).values[:, : int((found[0] > 0).sum())]
        torch.testing.assert_close(found.flatten(1).sum(1), largest.sum(1))


def test_a_segmenter_of_volumes_is_measured_in_its_region():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1)).eval()
    images = torch.rand(2, 1, 6, 8, 8)
    asked = ask(model, images, region(1, "everywhere", mean=True))
    relevance = gradient(asked)
    assert infidelity(asked, relevance).shape == (2,)
    change = confidence_change(asked, unit_range(relevance.sum(1)))
    assert change.drop.shape == (2, 3)
    assert ((change.drop >= 0) & (change.drop <= 1)).all()


def test_no_confidence_to_lose_is_told_as_unknown(network):
    asked = ask(network, torch.rand(2, 3, 8, 8), lambda outputs: torch.zeros_like(outputs))
    assert confidence_change(asked, torch.rand(2, 8, 8)).drop.isnan().all()


def test_a_changed_image_costs_one_pass_where_the_method_needs_no_outputs(network):
    images = torch.rand(2, 3, 8, 8)
    asked = ask(network, images)
    calls = []
    handle = network.register_forward_hook(lambda *_: calls.append(1))
    sensitivities(asked, "saliency", perturbations=uniform(samples=3), batch_size=len(images))
    handle.remove()
    assert len(calls) == 1 + 3  # once for the map itself


def test_wrong_input_is_refused(network):
    asked = ask(network, torch.rand(2, 3, 8, 8), 0)
    with pytest.raises(ValueError, match="did you mean 'window'"):
        sensitivity_max(asked, "occlusion", options={"windw": 3})
    with pytest.raises(ValueError, match=r"cam\.unit_range"):
        confidence_change(asked, 3 * torch.rand(2, 8, 8))
    with pytest.raises(ValueError, match="one value a pixel"):
        infidelity(asked, torch.rand(2, 4, 4))
    with pytest.raises(ValueError, match="above 0 to 1"):
        kept(torch.rand(1, 4, 4), 0.0)
    with pytest.raises(ValueError, match="allowed: 1 to 8"):
        removed_boxes(asked.images, 9)
    with pytest.raises(ValueError, match="did you mean"):
        sensitivity_max(asked, "gradcam")


def test_one_call_measures_a_method_and_a_summary_gives_intervals(network):
    torch.manual_seed(2)
    images, masks = torch.rand(4, 3, 12, 12), torch.rand(4, 12, 12) > 0.7
    masks[3] = False
    scores = measure_faithfulness(
        network, images, 1, method="grad-cam", options={"layer": "1"}, masks=masks, steps=6, samples=3
    )
    assert {len(values) for values in scores.values()} == {4}
    assert scores["pointing_game"].isnan().tolist() == [False, False, False, True]
    means = summary(scores, patients=["a", "a", "b", "c"], resamples=200)
    assert means.keys() == scores.keys()
    assert all(m.low <= m.value <= m.high for m in means.values())
    assert means["pointing_game"].value == pytest.approx(float(scores["pointing_game"][:3].mean()))
    assert np.isnan(summary({"none": torch.full((2,), torch.nan)})["none"].value)
