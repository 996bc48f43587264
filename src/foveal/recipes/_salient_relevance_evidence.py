"""What proves salient relevance: relevance is conserved, areas stand out, and they lie on the object."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from foveal.encoders.base import create_encoder
from foveal.explanation.context_saliency import context_saliency
from foveal.explanation.localisation import components, pointing_game
from foveal.explanation.lrp import COMPOSITES, propagate
from foveal.explanation.lrp_mode import Composite
from foveal.explanation.lrp_rules import AlphaBeta
from foveal.explanation.methods import attribute, explain, frozen
from foveal.explanation.perturbing import relevance_ranks
from foveal.explanation.randomisation import rank_correlation
from foveal.machine import seconds_of
from foveal.recipes._encoder_learning import PooledHead
from foveal.recipes.base import Evidence, Finding, Scale


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; trained networks and costs in full."""
    yield every_layer_holds_the_score
    yield transformers_keep_it_in_their_embeddings
    yield scans_keep_it_too
    yield epsilon_is_gradient_times_input
    yield positive_parts_stay_positive
    yield odd_patches_stand_out
    if scale == "full":
        yield lambda: areas_on_objects(seeds=range(3))
        yield costs


def plain_network(bias: bool = False) -> nn.Sequential:
    """A small convolutional network with pooling and a normalisation, in evaluation mode."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, bias=bias), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 8, 3, bias=bias), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(72, 4, bias=bias)).eval()


def _relevance(
    model: nn.Module,
    images: Tensor,
    target: int | Tensor,
    composite: str | Composite,
    layers: Sequence[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    return propagate(model, images, target, composite, layers=layers)


def every_layer_holds_the_score() -> Iterator[Finding]:
    """In a network without biases relevance adds up to the score at every layer, whatever the rules."""
    network, images = plain_network(), torch.randn(2, 3, 18, 18)
    score = network(images)[:, 2].detach()
    for name in sorted(set(COMPOSITES) - {"epsilon-gamma-box"}):
        pixels, inside = _relevance(network, images, 2, name, [str(k) for k in range(8)])
        # The first convolution is merged with the normalisation behind it, and has no output of its own.
        inside.pop("0")
        worst = max(
            float(((value.flatten(1).sum(1) - score) / score).abs().max())
            for value in (pixels, *inside.values())
        )
        yield Finding.at_most(
            f"composite {name}: sums of relevance at all layers, relative to the logit", worst, 1e-4
        )


def transformers_keep_it_in_their_embeddings() -> Iterator[Finding]:
    """CP-LRP conserves in every block of a transformer without biases; the softmax of AttnLRP does not."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
        "depth": 4,
        "num_heads": 3,
        "num_classes": 5,
    }
    vit = timm.create_model("vit_tiny_patch16_224", **options).eval()
    for name, parameter in vit.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    nn.init.normal_(cast(nn.Linear, vit.head).weight)
    images = torch.randn(2, 3, 32, 32)
    score = vit(images)[:, 3].detach()
    names = ["norm_pre", *(f"blocks.{k}" for k in range(4)), "norm"]
    for composite in ("cp-lrp", "attn-lrp"):
        _, inside = _relevance(vit, images, 3, composite, names)
        worst = max(float(((v.sum((1, 2)) - score) / score).abs().max()) for v in inside.values())
        claim = (
            f"{composite}: patches, class token and positions together at every block, relative to the logit"
        )
        if composite == "cp-lrp":
            yield Finding.at_most(claim, worst, 1e-4)
        else:
            yield Finding.at_least(f"{claim}: the softmax loses", worst, 1e-3)


def scans_keep_it_too() -> Finding:
    """Through Mamba's scan, its convolution and its gate."""
    from foveal.blocks.mamba import MambaMixer

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.mixer = MambaMixer(8, states=4)
            nn.init.zeros_(self.mixer.conv1d.bias)  # type: ignore[arg-type]

        def forward(self, images: Tensor) -> Tensor:
            return self.mixer(images.flatten(2).mT).sum(1)

    model, images = Tokens().eval(), torch.randn(2, 8, 6, 6)
    score = model(images)[:, 5].detach()
    found, _ = _relevance(model, images, 5, "cp-lrp")
    error = float(((found.flatten(1).sum(1) - score) / score).abs().max())
    return Finding.at_most("a Mamba mixer: sum of the pixels' relevance, relative to the score", error, 1e-4)


def epsilon_is_gradient_times_input() -> Finding:
    """Without biases."""
    network, images = plain_network(), torch.randn(2, 3, 18, 18)
    given = images.clone().requires_grad_()
    gradient = torch.autograd.grad(network(given)[:, 1].sum(), given)[0]
    difference = float((_relevance(network, images, 1, "epsilon")[0] - images * gradient).abs().max())
    return Finding.at_most("epsilon rule beside gradient times input without biases", difference, 1e-5)


def positive_parts_stay_positive() -> Iterator[Finding]:
    """The z+ rule at every layer, for a logit above 0."""
    network, images = plain_network(), torch.randn(4, 3, 18, 18)
    score, chosen = network(images).max(dim=1)
    found, _ = _relevance(network, images, chosen, Composite(AlphaBeta(), AlphaBeta()))
    yield Finding.at_least("z+ at every layer: least relevance of a pixel", float(found.min()), 0.0)
    error = float(((found.flatten(1).sum(1) - score.detach()) / score.detach()).abs().max())
    yield Finding.at_most("and its sum, relative to the logit", error, 1e-4)


def odd_patches_stand_out() -> Iterator[Finding]:
    """Context-aware saliency on drawn maps."""
    flat = context_saliency(torch.full((1, 1, 64, 64), 0.4))
    yield Finding.at_most("a map that is the same everywhere: largest saliency", float(flat.max()), 0.0)
    stripes = (torch.arange(128) % 8 < 4).float().expand(128, 128).clone()
    stripes[60:68, 92:100] = torch.eye(8)
    salient = context_saliency(stripes[None, None])[0]
    row, column = divmod(int(salient.argmax()), 128)
    away = math.hypot(row - 64, column - 96)
    yield Finding.at_most("an odd patch on stripes: distance of the largest saliency, px of 128", away, 8.0)
    ground = float(torch.cat([salient[:40].flatten(), salient[90:].flatten()]).mean())
    yield Finding.at_least("its saliency over that of the stripes", 1 / max(ground, 1e-6), 5.0)
    image = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    shifted = float((context_saliency(image + 2) - context_saliency(image)).abs().max())
    yield Finding.at_most("a constant added to the map changes the saliency by", shifted, 1e-3)
    difference = context_saliency(image.flip(3)).flip(2) - context_saliency(image)
    yield Finding.at_most(
        "a mirrored map: difference to the mirrored saliency", float(difference.abs().max()), 2e-2
    )


def areas_on_objects(seeds: Sequence[int] = range(1)) -> Iterator[Finding]:
    """Areas of trained networks beside their raw maps, on pictures of one object each."""
    from foveal.recipes._object_pictures import object_pictures, trained_on_objects

    pictures = object_pictures()
    rows: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:
        learned = trained_on_objects(seed)
        labels = torch.from_numpy(learned.labels)
        right = torch.from_numpy(learned.probabilities).argmax(1) == labels
        images, masks = pictures.data.test_images[right], pictures.masks[right]
        relevance = attribute(learned.model, images, method="lrp", composite="official")
        raw, salient = relevance.abs().amax(1), context_saliency(relevance.abs())
        above = salient > 0.5
        counts = above.flatten(1).sum(1).clamp_min(1)
        as_many = relevance_ranks(raw) < counts.view(-1, 1, 1)
        rows["right"].append(float(right.float().mean()))
        rows["pieces"].append(float((components(above) / components(as_many)).mean()))
        areas, same = (area_overlap_of(area, masks) for area in (above, as_many))
        rows["overlap"].append(float((areas - same).mean()))
        points, raw_points = (float(pointing_game(maps, masks).mean()) for maps in (salient, raw))
        rows["points"].append(points)
        rows["pointing"].append(points - raw_points)
        torch.manual_seed(1000 + seed)
        other = PooledHead(
            create_encoder("conv-pyramid", widths=(16, 32, 48), in_channels=3), 4,
            mean=learned.model.mean, std=learned.model.std,
        ).eval()  # fmt: skip
        random = explain(other, images, labels[right], method="lrp", composite="official")
        rows["random"].append(float(rank_correlation(relevance.sum(1), random).mean()))
    told = f"{len(seeds)} networks, {fmean(rows['right']):.2f} of the pictures right"
    yield Finding.at_most(
        f"connected pieces of areas above 0.5 over those of the raw map at equal area ({told})",
        rows["pieces"], 0.2,
    )  # fmt: skip
    yield Finding.at_least("overlap (IoU) with the object's box, areas less raw map", rows["overlap"], 0.10)
    yield Finding.at_least(
        f"largest value on the object, areas less raw map (areas {fmean(rows['points']):.3f})",
        rows["pointing"], 0.0,
    )  # fmt: skip
    yield Finding.at_most("rank correlation with the map of untrained weights", rows["random"], 0.5)


def area_overlap_of(areas: Tensor, masks: Tensor) -> Tensor:
    """(B,) intersection over union of areas and masks, (B, H, W) bool."""
    return (areas & masks).flatten(1).sum(1) / (areas | masks).flatten(1).sum(1)


def costs() -> Iterator[Finding]:
    """Time of a propagation over that of a forward and backward pass, and of the saliency."""
    from timm import create_model

    torch.manual_seed(0)
    images = torch.rand(2, 3, 128, 128)
    for name, composite in (("resnet18", "epsilon-plus-flat"), ("vit_tiny_patch16_224", "cp-lrp")):
        sizes: dict[str, Any] = {"img_size": 128} if "vit" in name else {}
        model = create_model(name, num_classes=5, **sizes).eval()

        def both(model: nn.Module = model) -> None:
            with frozen(model):
                given = images.clone().requires_grad_()
                torch.autograd.grad(model(given)[:, 1].sum(), given)

        def propagated(model: nn.Module = model, composite: str = composite) -> None:
            explain(model, images, 1, method="lrp", composite=composite)

        taken = seconds_of({"both": both, "lrp": propagated}, rounds=5)
        claim = f"{name}, {composite}: time over a forward and backward pass (the score's own pass included)"
        yield Finding.at_most(claim, taken["lrp"] / taken["both"], 3.0)
    salient = seconds_of({"saliency": lambda: context_saliency(torch.rand(1, 3, 224, 224))}, rounds=3)
    yield Finding.at_most("seconds of the saliency of a map of 224 px", salient["saliency"], 3.0)
