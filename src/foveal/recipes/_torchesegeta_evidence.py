"""What proves TorchEsegeta: scores, completeness, all methods, tiles, measures, vessels, drawn weights."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveal.explanation import explain, region
from foveal.explanation.methods import ask, find_method
from foveal.explanation.targets import Region
from foveal.recipes._torchesegeta_networks import (
    KINDS,
    VesselNet,
    described,
    methods_for,
    small_options,
    tiny_network,
    trained_vessel_net,
    vessels_in_noise,
)
from foveal.recipes.base import Evidence, Finding, Scale

ON_VESSELS: dict[str, dict[str, Any]] = {
    "saliency": {},
    "input-x-gradient": {},
    "integrated-gradients": {"steps": 16, "batch_size": 8},
    "smoothgrad": {"samples": 8},
    "guided-backprop": {},
    "deconvolution": {},
    "gradient-shap": {"samples": 8, "batch_size": 8},
}


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; vessels, randomised weights and the runner in full."""
    yield scores
    yield completeness
    yield partial(all_methods, kinds=KINDS if scale == "full" else KINDS[2:])
    yield tiles
    yield measures
    yield refused
    if scale == "full":
        yield partial(vessels, seeds=3)
        yield partial(randomised, seeds=3)
        yield survives


def scores() -> Iterator[Finding]:
    """Scores of classifiers and segmenters by fixed weights, and the published count."""
    from captum.attr import Saliency

    from foveal.explanation.captum_methods import Scored

    worst, size, apart = 0.0, torch.inf, 0.0
    for kind in KINDS:
        network, images, target = tiny_network(kind)
        found = find_method("saliency").attribute(ask(network, images, target))
        given = images.clone().requires_grad_()
        outputs = network(given)
        inside = outputs.argmax(1) == target if outputs.ndim > 2 else torch.ones(2)
        (expected,) = torch.autograd.grad((outputs[:, target] * inside).sum(), given)
        worst = max(worst, float((found - expected).abs().max()))
        size = min(size, float(expected.abs().max()))
        weights = ask(network, images, target).weights
        captum = Saliency(Scored(network)).attribute(given, abs=False, additional_forward_args=(weights,))
        apart = max(apart, float((captum - expected).abs().max()))
    yield Finding.at_most(
        "gradient of the score, difference to autograd over the class's voxels", worst, 1e-6
    )
    yield Finding.at_most("and of Captum's Saliency through the wrapper", apart, 1e-6)
    yield Finding.at_least("largest gradient, of the weakest network", size, 1e-4)
    network, images, target = tiny_network("2-D segmenter")
    given = images.clone().requires_grad_()
    outputs = network(given)[:, target]
    (counted,) = torch.autograd.grad(((outputs / outputs) * (outputs > 0)).sum(), given)
    yield Finding.at_most("gradient of the published score by out / out", float(counted.abs().max()), 1e-6)


def completeness() -> Iterator[Finding]:
    """Integrated gradients add up to what the score gains over the baseline."""
    for kind in KINDS[2:]:
        network, images, target = tiny_network(kind)
        asked = ask(network, images, target)
        gained = (asked.score(images) - asked.score(images * 0)).detach()
        found = explain(network, images, target, method="integrated-gradients", steps=64)
        share = ((found.flatten(1).sum(1) - gained) / gained).abs().max()
        yield Finding.at_most(f"64 steps, {kind}: relative gap of the sum", float(share), 0.01)


def all_methods(kinds: Iterable[str]) -> Iterator[Finding]:
    """Every method on every kind of network: shape, finite, not all zero, seconds."""
    tried = 0
    wrong, slowest = [], ("", 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in kinds:
            network, images, target = tiny_network(kind)
            for name in methods_for(kind):
                tried += 1
                start = time.perf_counter()
                try:
                    found = explain(network, images, target, method=name, **small_options(name))
                    good = found.shape == (2, *images.shape[2:]) and bool(torch.isfinite(found).all())
                    good = good and bool((found != 0).any())
                except Exception as error:
                    good, name = False, f"{name} ({type(error).__name__}: {error})"
                slowest = max(slowest, (name, time.perf_counter() - start), key=lambda pair: pair[1])
                if not good:
                    wrong.append(f"{name} on the {kind}")
    yield Finding.fact(
        f"finite maps of the input's shape by every method on {', '.join(kinds)}",
        not wrong,
        expected=f"all {tried}",
        measured="; ".join(wrong) or f"all {tried}",
    )
    yield Finding.at_most(f"seconds of the slowest of them ({slowest[0]})", slowest[1], 20)


def tiles() -> Iterator[Finding]:
    """Tiles cover all voxels and agree with the whole volume."""
    from foveal.explanation.tiled import explain_tiled

    for sides, tile in (((37, 50), 16), ((14, 17, 23), 8)):
        torch.manual_seed(0)
        conv: Any = nn.Conv2d if len(sides) == 2 else nn.Conv3d
        network, images = nn.Sequential(conv(1, 3, 3, padding=1)).eval(), torch.rand(1, 1, *sides)
        options: dict[str, Any] = {"method": "input-x-gradient", "tile": tile, "overlap": 0.5}
        whole = explain(network, images, 1, method="input-x-gradient")
        found = explain_tiled(network, images, 1, **options).values
        gap = float((found - whole).abs().max() / whole.abs().max())
        yield Finding.at_most(
            f"{len(sides)}-D linear model in tiles: relative difference to whole", gap, 1e-5
        )
        mean = explain_tiled(network, images, region(1, "everywhere"), blend="mean", **options).values
        share = float((mean != 0).float().mean())
        yield Finding.close(
            f"{len(sides)}-D: share of voxels that averaged tiles cover", share, 1.0, tolerance=0
        )


def measures() -> Iterator[Finding]:
    """Infidelity and sensitivity against Captum's on the same changes, and of a linear model."""
    from captum.metrics import infidelity as captum_infidelity
    from captum.metrics import sensitivity_max as captum_sensitivity

    from foveal.explanation.captum_methods import Scored
    from foveal.explanation.faithfulness import infidelity, sensitivity_max
    from foveal.explanation.perturbing import gaussian, given

    network, images, target = tiny_network("2-D segmenter")
    network, images = network.double(), images.double()
    asked = ask(network, images, target)
    phi = find_method("saliency").attribute(asked).detach()
    changes = 0.05 * torch.randn(2, 6, *images.shape[1:], dtype=torch.float64)
    ours = infidelity(asked, phi, perturbations=given(changes))
    flat = changes.flatten(0, 1)
    theirs = captum_infidelity(
        Scored(network),
        lambda x, *_: (flat, x - flat),
        images,
        phi,
        additional_forward_args=(asked.weights,),
        n_perturb_samples=6,
    )
    gap = float(((ours - theirs) / theirs).abs().max())
    yield Finding.at_most("infidelity, relative difference to Captum's on the same changes", gap, 1e-5)

    def map_of(x: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        part = x[0] if isinstance(x, tuple) else x  # Captum asks with a tuple first, then with tensors
        found = find_method("saliency").attribute(asked.about(images=part)).detach()
        return (found,) if isinstance(x, tuple) else found

    calls = iter(range(6))
    ours = sensitivity_max(asked, "saliency", perturbations=given(changes))
    theirs = captum_sensitivity(
        map_of,
        images,
        perturb_func=lambda x: x - changes[:, next(calls)],
        n_perturb_samples=6,
        max_examples_per_batch=2,
    )
    gap = float(((ours - theirs) / theirs).abs().max())
    yield Finding.at_most("largest sensitivity, relative difference to Captum's", gap, 1e-5)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double().eval()
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    asked = ask(linear, x, 1)
    phi = find_method("saliency").attribute(asked).detach()
    exact = infidelity(asked, phi, perturbations=gaussian(0.05))
    still = sensitivity_max(asked, "saliency", perturbations=gaussian(0.05))
    yield Finding.at_most("infidelity of a linear model's weights", float(exact.max()), 1e-10)
    yield Finding.at_most("and their sensitivity", float(still.max()), 0)


def refused() -> Iterator[Finding]:
    """Targets that are not there, empty masks and NaN."""
    network, images, _ = tiny_network("3-D segmenter")
    passed = []
    for name, target, given in (("class 3 of 3", 3, images), ("NaN in the images", 1, images * torch.nan)):
        try:
            explain(network, given, target, method="saliency")
            passed.append(name)
        except ValueError:
            pass
    yield Finding.fact("refused: class 3 of 3, NaN in the images", not passed, measured=", ".join(passed))
    empty = region(1, torch.zeros(images.shape[2:]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        nothing = float(explain(network, images, empty, method="saliency").abs().max())
    warned = any("hold nothing" in str(warning.message) for warning in told)
    yield Finding.fact("an empty prediction warns and explains nothing", warned and nothing == 0)


@cache
def _trained(seed: int) -> VesselNet:
    return trained_vessel_net(seed=seed)


def vessels(seeds: int, volumes: int = 4) -> Iterator[Finding]:
    """Relevance on vessels in noise, by a U-Net of volumes that is trained on them."""
    from foveal.explanation.localisation import mass_ratio
    from foveal.metrics.segmentation import binary_counts, overlap_scores

    images, masks = vessels_in_noise(volumes, seed=99)
    inside = masks[:, 0] > 0
    found: dict[str, list[float]] = {name: [] for name in ON_VESSELS}
    dice, chance = [], []
    for seed in range(seeds):
        network = _trained(seed)
        with torch.no_grad():
            called = network(images)[:, 0] > 0
        dice.append(overlap_scores(binary_counts(called.numpy(), inside.numpy()))["dice"])
        for name, options in ON_VESSELS.items():
            relevance = explain(network, images, 0, method=name, **options)
            found[name].append(float(mass_ratio(relevance, inside).mean()))
        noise = torch.rand(inside.shape, generator=torch.Generator().manual_seed(seed))
        chance.append(float(mass_ratio(noise, inside).mean()))
    yield Finding.at_least("Dice of the network on other volumes", dice, 0.6)
    means = {name: sum(values) / seeds for name, values in found.items()}
    good = sum(value >= 2 for value in means.values())
    told = f"{good} of {len(means)}: {described(means)}"
    claim = "gradient methods with at least twice the vessels' share of relevance on vessels"
    yield Finding(claim, ">= 5", told, good >= 5)
    yield Finding.close("the same ratio of a random map", chance, 1.0, tolerance=0.05)


def randomised(seeds: int) -> Iterator[Finding]:
    """Likeness to the original map when all weights are drawn anew, from the output back.

    Explained are the logits everywhere, and where vessel is predicted. There the target itself, which stays
    as it is, tells the map its place.
    """
    from foveal.explanation.randomisation import cascading_randomisation

    images, _ = vessels_in_noise(2, seed=99)
    names = ("saliency", "integrated-gradients", "guided-backprop")
    asked_about: tuple[tuple[Region, str], ...] = (
        ("everywhere", "of all logits"),
        ("predicted", "of predicted vessels"),
    )
    for where, told in asked_about:
        found: dict[str, list[float]] = {name: [] for name in names}
        for seed in range(seeds):
            asked = ask(_trained(seed), images, region(0, where))
            for name in names:
                changed = cascading_randomisation(
                    asked, name, options=ON_VESSELS[name], absolute=True, seed=seed
                )
                found[name].append(float(changed.spearman[-1].mean()))
        for name in names[:2]:
            claim = f"{name} {told}: Spearman to the original map, all weights drawn anew"
            yield Finding.at_most(claim, found[name], 0.5)
        over = [a - b for a, b in zip(found["guided-backprop"], found["saliency"], strict=True)]
        yield Finding.at_least(f"{told}: guided backprop stays more like its original by", over, 0.0)


def survives() -> Finding:
    """A run goes on past a method that raises and one that is too slow."""
    from foveal.explanation.run import run_explanations
    from foveal.explanation.run_settings import ExplainSettings
    from foveal.explanation.subjects import tensor_case

    network, images, target = tiny_network("3-D segmenter")
    methods = [
        {"name": "grad-cam", "options": {"layer": "nowhere"}},
        {"name": "rise", "options": {"masks": 10**9}},
        {"name": "saliency"},
        {"name": "occlusion"},
    ]
    settings = ExplainSettings.model_validate({"methods": methods, "targets": (target,), "timeout": 20})
    with tempfile.TemporaryDirectory() as folder:
        summary = run_explanations(
            network, [tensor_case("noise", images[:1])], Path(folder) / "out", settings
        )
    made, lost = ([each.label for each in group] for group in (summary.records, summary.failures))
    told = f"made {', '.join(made)}; recorded as failed {', '.join(lost)}"
    holds = made == ["saliency", "occlusion"] and sorted(lost) == ["grad-cam", "rise"]
    return Finding.fact("one method raises, one never ends; the others finish", holds, measured=told)
