"""What proves DVT: its parts to the number, known features recovered, and a small ViT cleaned."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional as F

from foveal.blocks.denoiser import DenoiserBlock
from foveal.blocks.hash_grid import HashGrid
from foveal.encoders import create_encoder
from foveal.encoders.denoised import Denoised
from foveal.evaluation.feature_approximation import approximate_features
from foveal.explanation.decomposition import DecompositionSettings, SingleImageDenoiser, average_views
from foveal.explanation.denoising import distil_denoised, paper_training
from foveal.explanation.denoising_run import features_of
from foveal.explanation.feature_pictures import features_png
from foveal.machine import seconds_of
from foveal.metrics.position_variance import position_explained_variance
from foveal.recipes import _dvt_learning as learning
from foveal.recipes.base import Evidence, Finding, Scale, Section
from foveal.scans.crop_views import crop_views


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts and one recovery of known parts at either scale; a ViT cleaned, and costs, in full."""
    yield coordinates
    yield hash_grid
    yield phases
    yield block_size
    yield partial(recovery, range(3) if scale == "full" else range(1))
    yield wrong_input
    if scale == "full":
        yield artifact_taken_off
        yield plain_vit
        yield distilled
        yield picture
        yield costs


def coordinates() -> Iterator[Finding]:
    """Crops of an image of its own coordinates show what is told of them."""
    line = (torch.arange(96) + 0.5) / 96
    ramp = torch.stack([line.expand(96, 96), line[:, None].expand(96, 96)])
    for flip, kind in ((0.0, "plain"), (1.0, "mirrored")):
        views, places = crop_views(ramp, 32, stride=8, flip=flip)
        shown = F.avg_pool2d(views, 8).movedim(1, -1)
        yield Finding.at_most(
            f"coordinates shown in {kind} crops, farthest from those told, in cells",
            12 * float((shown - places).abs().max()),
            1.0,
        )
    for at, wanted in (("edges", torch.linspace(0, 1, 12)), ("centres", (torch.arange(12) + 0.5) / 12)):
        whole = crop_views(ramp, 2, stride=8, at=at).coordinates[-1]  # type: ignore[arg-type]
        away = max(float((whole[..., 0] - wanted).abs().max()), float((whole[..., 1].T - wanted).abs().max()))
        told = "linspace(0, 1)" if at == "edges" else "the middles of its cells"
        yield Finding.at_most(f"whole image, coordinates at {at}: farthest from {told}", away, 1e-6)


def hash_grid() -> Iterator[Finding]:
    """Values, collisions, continuity and gradients of the field."""
    options = {"levels": 3, "features": 2, "table_size": 256, "base_resolution": 4, "max_resolution": 25}
    grid = HashGrid(**options).double()
    with torch.no_grad():
        grid.table.normal_()
    worst, collisions = 0.0, {}
    for level, side in enumerate(grid.resolutions):
        line = torch.arange(side)
        vertices = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).flatten(0, 1)
        rows = grid.entries(vertices[:, None].expand(-1, 3, -1))[:, level]
        collisions[side] = len(rows) - len(rows.unique())
        found = grid(vertices.double() / (side - 1))[:, 2 * level : 2 * level + 2]
        worst = max(worst, float((found - grid.table[rows]).detach().abs().max()))
    yield Finding.at_most("at the vertices of a level: difference to its entries", worst, 1e-12)
    dense = {side: count for side, count in collisions.items() if side**2 <= 256}
    yield Finding.fact(
        "levels whose table holds all vertices have no collisions",
        not any(dense.values()) and collisions[25] > 0,
        measured=", ".join(f"{side} x {side}: {count}" for side, count in collisions.items()),
    )
    places = torch.rand(500, 2, dtype=torch.float64)
    moved = (places + 1e-6 * torch.randn_like(places)).clamp(0, 1)
    slope = float(((grid(moved) - grid(places)).abs().amax(1) / (moved - places).norm(dim=1)).max().detach())
    most = 4 * float(grid.table.detach().abs().max()) * max(grid.resolutions)
    yield Finding.at_most(f"steepest finite difference, bounded by {most:.0f} from the entries", slope, most)
    some = places[:6].requires_grad_()
    yield Finding.fact(
        "gradients equal finite differences (float64)", torch.autograd.gradcheck(grid, (some,))
    )


def phases() -> Iterator[Finding]:
    """What moves in which phase, and that a run repeats."""
    truth = learning.known_parts(0, side=6, dim=8, views=8)
    changes = {"levels": 2, "steps": 40, "warmup_steps": 4, "batch_size": 256}
    settings = learning.SMALL.replace(centred=False, **changes)
    first, second = (learning.fitted(truth, **changes) for _ in range(2))
    yield Finding.fact(
        "two runs of one seed have the same losses, to the bit", torch.equal(first.losses, second.losses)
    )
    whole = learning.fitted(truth, centred=False, **changes)
    # The rest learns in the second half alone: weighed otherwise it must leave the artifact as it is.
    other = learning.fitted(truth, centred=False, residual=5.0, **changes)
    same = torch.equal(whole.artifact, other.artifact) and not torch.equal(whole.residual, other.residual)
    yield Finding.fact("what happens in the second half leaves the artifact as it is, to the bit", same)
    model = SingleImageDenoiser(8, (6, 6), settings)
    with torch.no_grad():
        for parameter in model.rest.parameters():
            parameter.normal_()
    y, at, cells = (
        truth.features.flatten(0, 2)[:200],
        truth.coordinates.flatten(0, 2)[:200],
        torch.arange(200) % 36,
    )
    field = list(model.field.parameters())
    found = torch.autograd.grad(model.loss(y, at, cells, late=True), field)
    fixed = model.field(at) + model.artifact.detach()[cells] + model.rest(y).detach()
    wanted = torch.autograd.grad(F.mse_loss(fixed, y) + 1 - F.cosine_similarity(fixed, y).mean(), field)
    away = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
    yield Finding.at_most("the rest's own losses in the gradient of the field", away, 1e-7)
    moved = first.clean - whole.clean
    spread = float((moved - moved[:1, :1]).abs().max())
    total = float((first.clean + first.artifact - whole.clean - whole.artifact).abs().max())
    yield Finding.at_most(
        "a constant moved from artifact to field: change of their sum", max(total, spread), 1e-5
    )


def block_size() -> Iterator[Finding]:
    """Parameters of the block."""
    with torch.device("meta"):
        block = sum(p.numel() for p in DenoiserBlock(768, (37, 37)).parameters())
        one = sum(p.numel() for p in Block(768, 12, qkv_bias=True).parameters())
        vit = create_encoder("timm/vit_base_patch14_dinov2", image_size=518)
        all_of = sum(p.numel() for p in vit.parameters())
    yield Finding.close(
        "parameters less those of one block and its positions", block - one - 37 * 37 * 768, 0, tolerance=0
    )
    yield Finding.close(
        "the block over a ViT-B/14's parameters (with its positions "
        f"{block / all_of:.3f})", one / all_of, 0.08, tolerance=0.005,
    )  # fmt: skip


def recovery(seeds: Sequence[int]) -> Iterator[Finding]:
    """Features made of a known image part and a known artifact, taken apart again."""
    likeness, errors, windows, crops = [], [], [], []
    for seed in seeds:
        truth = learning.known_parts(seed)
        found = learning.fitted(truth)
        pair = torch.stack([learning.centred(each).flatten() for each in (found.artifact, truth.artifact)])
        likeness.append(float(torch.corrcoef(pair)[0, 1]))

        def error(features: Tensor, truth: learning.Truth = truth) -> float:
            away = learning.centred(features) - learning.centred(truth.semantics)
            return float(away.square().mean())

        grid = truth.semantics.shape[:2]
        errors.append(error(found.clean) / error(found.raw))
        windows.append(
            error(found.clean) / error(average_views(truth.shifted, truth.shifted_coordinates, grid))
        )
        crops.append(error(found.clean) / error(average_views(truth.features, truth.coordinates, grid)))
    yield Finding.at_least("artifact found, correlation with the true one", likeness, 0.9)
    yield Finding.at_most("error of the clean features over that of the raw ones", errors, 0.35)
    yield Finding.at_most("error over that of a mean over as many shifted windows", windows, 1.0)
    yield Finding.at_most("error over that of a mean over the very same crops", crops, 1.0)


def wrong_input() -> Finding:
    """Images, views and coordinates that cannot be raise ValueError."""
    field = HashGrid(levels=2, table_size=256, max_resolution=16)
    cases = (
        lambda: crop_views(torch.rand(3, 50, 64), 4, stride=16),
        lambda: crop_views(torch.rand(3, 64, 64), 1, stride=16),
        lambda: DecompositionSettings(views=1),
        lambda: field(torch.tensor([[0.5, 1.2]])),
    )
    refused = 0
    for case in cases:
        try:
            case()
        except ValueError:
            refused += 1
    return Finding.fact(
        "sides not divisible, fewer than two views, coordinates outside are refused",
        refused == len(cases),
        measured=f"{refused} of {len(cases)}",
    )


def artifact_taken_off() -> Iterator[Finding | Section]:
    """A small ViT with a pattern of place put on its tokens, on images that no stage has seen."""
    found = learning.cleaned_vit(artifact=True)
    yield from _explained(found, "pattern put on", least=0.5)
    pattern = found.raw.get_buffer("pattern").view_as(found.held_out[0].artifact)
    alike = [
        float(
            torch.corrcoef(torch.stack([learning.centred(a).flatten() for a in (each.artifact, pattern)]))[
                0, 1
            ]
        )
        for each in found.held_out
    ]
    yield Finding.at_least("artifact found in one image, correlation with the pattern", _mean(alike), 0.9)
    yield from _generalises(found, "pattern put on")
    tried = (learning.trained_vit(), found.raw, found.denoised)
    whole, before, after = (learning.probed(each) for each in tried)
    yield Finding.at_least(
        "pattern put on: mIoU of a linear head, points gained by the block", after - before, 2.0
    )
    yield Section(
        "How far the small experiment goes",
        f"A linear head reaches {whole:.1f} points on the ViT without the pattern and {before:.1f} with it: "
        f"so much there is to regain. Behind the block it reaches {after:.1f}. The block learned from "
        f"{learning.TRAINED} images of 12 x 12 patches in 400 steps, where the paper takes 10 000 images and "
        "50 000 steps, and each image was decomposed in 400 steps of 1024 vectors, where the paper takes "
        "25 000 of 2048. The ViT without the pattern has little of its own that place explains. Features "
        "that lose all detail would pass as free of artifacts, and be near to smooth targets: the head is "
        "what tells whether they serve.",
    )


def plain_vit() -> Iterator[Finding]:
    """The same ViT as it is, with the artifacts of its own."""
    found = learning.cleaned_vit(artifact=False)
    yield from _explained(found, "ViT as it is", least=0.5)
    yield from _generalises(found, "ViT as it is")
    gain = learning.probed(found.denoised) - learning.probed(found.raw)
    yield Finding.at_least("ViT as it is: mIoU of a linear head, points gained by the block", gain, -0.5)


def distilled() -> Iterator[Finding]:
    """Stage 3: the ViT itself learns what it gives behind the block."""
    found = learning.cleaned_vit(artifact=False)
    pictures = learning.scenes()
    training = paper_training(steps=200, batch_size=16, learning_rate=1e-3, tensorboard=False, log_every=200)
    student = distil_denoised(found.denoised, _Mirrored(pictures.images), training)
    images = pictures.test_images[:64]
    target, raw, own = (features_of(each, images) for each in (found.denoised, found.raw, student))
    error = float((own - target).square().mean() / (raw - target).square().mean())
    yield Finding.at_most(
        "distilled ViT: error to the block's features over that of the ViT before", error, 0.5
    )
    before, after = position_explained_variance(raw), position_explained_variance(own)
    yield Finding.at_most(
        f"distilled ViT: variance that place explains over before ({before:.3f})", after / before, 1.0
    )


def picture() -> Section:
    """Colours, lengths and likeness before and after."""
    found = learning.cleaned_vit(artifact=True)
    image, one = learning.scenes().test_images[0], found.held_out[0]
    maps = {
        "raw": one.raw,
        "decomposed": one.clean,
        "denoiser block": features_of(found.denoised, image[None])[0],
    }
    maps["artifact"] = one.artifact
    return Section(
        "Features of a held-out image",
        "A small ViT with a pattern put on its tokens: principal components as colours, lengths, cosine "
        "to one patch.",
        features_png(maps, image, together=("decomposed", "denoiser block")),
    )


def costs() -> Iterator[Finding]:
    """The block behind a ViT-S of twelve blocks at 224 px, and a decomposition by the settings for a CPU."""
    torch.manual_seed(0)
    vit = create_encoder("timm/vit_small_patch16_224").eval()
    denoised = Denoised(encoder=vit, grid=(14, 14)).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        tokens = vit(images).patches.unflatten(1, (14, 14))
        taken = seconds_of(
            {"vit": lambda: vit(images), "block": lambda: denoised.denoiser(tokens)}, rounds=15
        )
    yield Finding.at_most("time of the block over that of the ViT", taken["block"] / taken["vit"], 0.12)
    decompose_one = learning.timed_settings()
    begun = time.perf_counter()
    decompose_one()
    one = time.perf_counter() - begun
    yield Finding.at_most("seconds of one decomposition, 16 x 16 cells of 192 channels", one, 60.0)


def _explained(found: learning.Cleaned, told: str, *, least: float) -> Iterator[Finding]:
    """How far the variance that place explains falls, of 64 held-out images."""
    images = learning.scenes().test_images[:64]
    raw, clean = features_of(found.raw, images), features_of(found.denoised, images)
    before, after = position_explained_variance(raw), position_explained_variance(clean)
    yield Finding.at_least(
        f"{told}: variance that place explains ({before:.3f}), share that goes", 1 - after / before, least
    )
    before, after = _place_told(raw), _place_told(clean)
    yield Finding.at_least(
        f"{told}: R^2 of place regressed on features ({before:.3f}), share that goes",
        1 - after / before,
        least,
    )


def _place_told(features: Tensor) -> float:
    """R^2 of a linear map from features to one-hot places, fitted to half of the images."""
    x = features.flatten(1, 2)
    onehot = torch.eye(x.shape[1]).expand(len(x), -1, -1)
    half = len(x) // 2
    return approximate_features(x[:half], onehot[:half], x[half:], onehot[half:]).explained


def _generalises(found: learning.Cleaned, told: str) -> Iterator[Finding]:
    images = learning.scenes().test_images[: len(found.held_out)]
    target = torch.stack([each.clean for each in found.held_out])
    gains = [
        float(F.cosine_similarity(features_of(each, images), target, dim=-1).mean())
        for each in (found.raw, found.denoised)
    ]
    yield Finding.at_least(
        f"{told}, held-out images: cosine to their decomposed features, gained over {gains[0]:.3f}",
        gains[1] - gains[0], 0.05,
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class _Mirrored:
    """Training samples of images, mirrored at random."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        image = self.images[index]
        return {"images": image.flip(2) if torch.rand((), generator=generator) < 0.5 else image}
