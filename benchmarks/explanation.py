"""Every explainer on real photographs: its map, its time, how faithful it is; beside Captum and others.

    pip install --no-deps --target PEERS grad-cam zennit ttach opencv-python-headless tqdm
    python benchmarks/explanation.py --data DATA [--peers PEERS ...] [--photographs 4] [--write]

The question is why the shipped network calls the optic disc where it does, in the public-domain retina and
in photographs of IDRiD, whose discs are outlined; methods that take less than `--slow` seconds are also
asked why the network of lesions calls hard exudates, of which IDRiD has masks. A small vision transformer,
trained here for a minute on PneumoniaMNIST, is asked why it sees pneumonia, also by methods that learn
(a minute more). All is one run of one thread.
`--write` keeps docs/explanation.md and its picture.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the libraries that read it

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from foveal.explanation import explain, list_methods
from foveal.explanation.faithfulness import sensitivity_max
from foveal.explanation.localisation import masks_on_grid, mass_ratio, pointing_game
from foveal.explanation.methods import ask, find_method
from foveal.explanation.pace_fitting import fit_pace
from foveal.explanation.perturbing import baseline_images, uniform
from foveal.explanation.pictures import Drawn, comparison_png
from foveal.explanation.randomisation import rank_correlation
from foveal.explanation.removal_curves import deletion, insertion, road
from foveal.explanation.superpixels import superpixels
from foveal.explanation.taps import find_layer, last_map_layer
from foveal.files import write_atomically
from foveal.machine import describe_environment, seconds_of
from foveal.markdown import table
from foveal.models import Segmenter, shipped_model
from foveal.recipes import load_recipe
from foveal.recipes.t_tame import TTameSettings
from foveal.scans.field_of_view import crop_padded, find_field_of_view
from foveal.scans.reading import read_scan
from foveal.scans.structure_datasets import iterate_idrid
from foveal.segmentation.frames import working_frame
from peers.attribution import (
    captum_attributions,
    grad_cam_attributions,
    lxt_attributions,
    zennit_attributions,
)

PAGE = Path(__file__).parents[1] / "docs" / "explanation.md"
SHEET = "explanation.jpg"
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
VIT_STEPS = 500
VIT_BLOCK = "encoder.layers.encoder_layer_{}"
VIT_LAYER = VIT_BLOCK.format(3) + ".ln_1"
HEAD_EPOCHS = 4  # of T-TAME on the radiographs to learn from
CONCEPTS = {"concepts": 8, "dimensions": 16, "prior_strength": 50.0}
VIT_METHODS = {
    "attention-rollout": {}, "attention-flow": {}, "attention-relevance": {}, "lrp": {}, "saliency": {},
    "input-x-gradient": {}, "integrated-gradients": {}, "smoothgrad": {}, "gradient-shap": {},
    "deep-lift": {}, "deep-lift-shap": {},
    "grad-cam": {"layer": VIT_LAYER}, "layer-cam": {"layer": VIT_LAYER}, "occlusion": {},
    "feature-ablation": {}, "kernel-shap": {}, "lime": {}, "rise": {},
}  # fmt: skip
SMALL = 64  # pixels along the side of images of which an answer rests on a large share
LARGE_SHARES = (0.1, 0.3, 0.5, 0.7)
STEPS = 25  # of deletion and insertion
CROP = 512  # pixels of the network of lesions' own frame
NOT_THERE = {
    "kept-patches": "of models with reduced tokens alone, such as `foveal compress --method evit` makes",
    "t-tame": "of classifiers; see [the transformer](#a-transformer)",
    "pace": "with classes of classifiers alone; see [the transformer](#a-transformer)",
} | dict.fromkeys(
    ("attention-flow", "attention-relevance", "attention-rollout"),
    "of models with attention; see [the transformer](#a-transformer)",
)
DRAWN = (
    "saliency", "integrated-gradients", "smoothgrad", "guided-backprop", "deep-lift", "gradient-shap",
    "grad-cam", "cam", "layer-cam", "score-cam", "lrp", "excitation-backprop", "salient-relevance",
    "occlusion", "feature-ablation", "lime", "rise",
)  # fmt: skip

HEAD = (
    "method", "family", "ms", "times a gradient", "deletion", "insertion", "ROAD", "sensitivity",
    "points at it", "mass over chance",
)  # fmt: skip
PEER_HEAD = (
    "package", "method", "largest difference", "correlation", "foveal ms", "package ms",
    "package over foveal", "remark",
)  # fmt: skip
REMARKS = {
    ("Captum", "guided-backprop"): "its hooks meet `nn.ReLU` alone; the network also calls `F.relu`",
    ("Captum", "deconvolution"): "the same",
    ("zennit", "lrp"): "it meets no sums of branches that are not modules, as the network has them",
    ("LXT", "lrp"): "radiograph, CP-LRP",
}


class Answer(nn.Module):
    """The mean logit of a structure where a segmenter calls it in one unchanged image, (B, 1)."""

    def __init__(self, model: Segmenter, structure: str, images: Tensor) -> None:
        super().__init__()
        self.model, self.index = model, model.config.classes.index(structure)
        with torch.inference_mode():
            called = (1 + model.signed(model(images)[0, self.index])) / 2
        self.where = (called >= model.config.threshold(structure)).clone()
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)[:, self.index][:, self.where].mean(dim=1, keepdim=True)


@dataclass
class Case:
    """One photograph of one question.

    Attributes:
        name: for messages.
        model: to (1, 1).
        images: (1, 3, H, W).
        mask: (1, H, W) bool of what should be found; None where nobody outlined it.
    """

    name: str
    model: nn.Module
    images: Tensor
    mask: Tensor | None


@dataclass
class Scores:
    """What was measured of one method, one entry a photograph."""

    seconds: list[float] = field(default_factory=list)
    deletion: list[float] = field(default_factory=list)
    insertion: list[float] = field(default_factory=list)
    road: list[float] = field(default_factory=list)
    sensitivity: list[float] = field(default_factory=list)
    pointing: list[float] = field(default_factory=list)
    mass: list[float] = field(default_factory=list)

    def cells(self, gradient: float) -> list[str]:
        """Cells of the table, means over photographs."""
        if not self.deletion:
            return [""] * 8
        time = statistics.mean(self.seconds) if self.seconds else None
        texts = [
            "" if time is None else f"{1e3 * time:.0f}",
            "" if time is None else f"{time / gradient:.1f}",
        ]
        for name, digits in (("deletion", 3), ("insertion", 3), ("road", 3), ("sensitivity", 2)):
            values = known(getattr(self, name))
            texts.append(f"{statistics.mean(values):.{digits}f}" if values else "")
        texts.append(f"{sum(self.pointing):.0f} of {len(self.pointing)}" if self.pointing else "")
        mass = known(self.mass)
        texts.append(f"{statistics.mean(mass):.1f}" if mass else "")
        return texts


def known(values: list[float]) -> list[float]:
    """Those that are numbers: a map without positive values has no mass."""
    return [value for value in values if math.isfinite(value)]


def disc_cases(data: Path, photographs: int) -> Iterator[Case]:
    """The retina of the samples, then photographs of IDRiD."""
    model = Segmenter.from_pretrained(shipped_model("landmarks")).eval()
    yield framed("retina", model, "disc", read_scan(data / "samples" / "retina.jpg").image, None)
    for number, case in enumerate(iterate_idrid(data / "IDRiD" / "segmentation", ("disc",))):
        if number == photographs:
            return
        yield framed(case.name, model, "disc", case.image, case.masks[0])


def exudate_cases(data: Path, photographs: int) -> Iterator[Case]:
    """Crops of IDRiD's photographs around most hard exudates, where the network calls some."""
    model = Segmenter.from_pretrained(shipped_model("lesions")).eval()
    found = 0
    for case in iterate_idrid(data / "IDRiD" / "segmentation", ("hard_exudates",)):
        if found == photographs:
            return
        whole = framed(case.name, model, "hard_exudates", case.image, case.masks[0])
        assert whole.mask is not None
        crowded = nn.functional.avg_pool2d(whole.mask[None].float(), CROP, stride=64)[0, 0]
        row, column = (64 * int(i) for i in np.unravel_index(int(crowded.argmax()), crowded.shape))
        images = whole.images[:, :, row : row + CROP, column : column + CROP].contiguous()
        mask = whole.mask[:, row : row + CROP, column : column + CROP]
        answer = Answer(model, "hard_exudates", images)
        if bool(answer.where.any()) and bool(mask.any()):
            found += 1
            yield Case(case.name, answer, images, mask)


def framed(name: str, model: Segmenter, structure: str, image: np.ndarray, mask: np.ndarray | None) -> Case:
    """A whole photograph as the network sees it, with the mask of what should be found."""
    frame = working_frame(image, find_field_of_view(image), diameter=model.preprocess.working_diameter)
    inside = None
    if mask is not None:
        cropped = torch.from_numpy(np.ascontiguousarray(crop_padded(mask, frame.box)))
        inside = masks_on_grid(cropped[None], tuple(frame.image.shape[2:]))
    return Case(name, Answer(model, structure, frame.image), frame.image, inside)


@dataclass(frozen=True)
class Way:
    """How a map comes about: a method with its options, asked of the case's model or of a changed one.

    Attributes:
        method: registered.
        options: of the method, or what makes them from a case.
        model: asked instead of the case's.
        target: class of the model.
    """

    method: str
    options: dict[str, Any] | Callable[[Case], dict[str, Any]] = field(default_factory=dict)
    model: nn.Module | None = None
    target: int = 0

    def chosen(self, case: Case) -> dict[str, Any]:
        """Options for a case."""
        return self.options(case) if callable(self.options) else self.options

    def __call__(self, case: Case) -> Tensor:
        """(1, H, W)."""
        model = case.model if self.model is None else self.model
        return explain(model, case.images, self.target, method=self.method, **self.chosen(case))

    def sensitivity(self, case: Case) -> float:
        """Largest change of the map among five small changes of the image."""
        asked = ask(case.model if self.model is None else self.model, case.images, self.target)
        noise, options = uniform(samples=5), self.chosen(case)
        return float(sensitivity_max(asked, self.method, perturbations=noise, options=options))


class BothAnswers(nn.Module):
    """The logits 0 and z of no and yes, whose softmax is the sigmoid of a model's logit z (B, 1)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logit = self.model(images)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def trained_ways(model: nn.Module, images: Tensor) -> tuple[dict[str, Way], str]:
    """T-TAME's head and PACE's concepts of a small transformer, and how long they took to learn."""
    both = BothAnswers(model).eval()
    layers = tuple("model." + VIT_BLOCK.format(block) + ".ln_2" for block in (1, 2, 3))
    steps = HEAD_EPOCHS * len(images) // 32
    training = {
        "steps": steps, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 5e-4,
        "warmup_fraction": 0.1, "tensorboard": False, "log_every": steps,
    }  # fmt: skip
    begun = time.perf_counter()
    head = load_recipe("t-tame").build(TTameSettings(layers=layers, training=training))
    explained = head(both, images[:8], [{"images": image} for image in images])
    taken = [f"T-TAME's head {HEAD_EPOCHS} epochs of them, {time.perf_counter() - begun:.0f} s"]
    begun = time.perf_counter()
    concepts = fit_pace(both, images[:: len(images) // 1000 or 1], class_names=("well", "ill"), **CONCEPTS)
    taken.append(f"PACE's {CONCEPTS['concepts']} concepts a thousand, {time.perf_counter() - begun:.0f} s")
    ways = {
        name: Way(name, {"trained": trained}, both, 1)
        for name, trained in (("t-tame", explained), ("pace", concepts))
    }
    return ways, " and ".join(taken)


def radiograph_cases(data: Path, count: int) -> tuple[list[Case], Tensor]:
    """Validation radiographs that a small transformer, trained here, says pneumonia; what it learned from."""
    with np.load(next((data / "pneumoniamnist").glob("*.npz"))) as found:
        pixels = {part: torch.from_numpy(found[f"{part}_images"]) for part in ("train", "val")}
        labels = torch.from_numpy(found["train_labels"]).float()
    images = {part: (x.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1) for part, x in pixels.items()}
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=28, patch_size=4, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=256, num_classes=1
    )
    nn.init.normal_(model.heads.head.weight, std=0.02)  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    for _ in range(VIT_STEPS):
        chosen = torch.randint(len(labels), (64,))
        loss = nn.functional.binary_cross_entropy_with_logits(model(images["train"][chosen]), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    with torch.inference_mode():
        sure = model(images["val"])[:, 0] > 2
    cases = [
        Case(f"radiograph {at}", model, images["val"][at : at + 1].contiguous(), None)
        for at in sure.nonzero()[:count, 0].tolist()
    ]
    return cases, images["train"].contiguous()


def tried(case: Case, relevance: Tensor, scores: Scores) -> None:
    """Add how faithful a map (1, H, W) is."""
    shares = SHARES if case.images.shape[3] > SMALL else LARGE_SHARES
    asked = ask(case.model, case.images, 0)
    through = {"reading": "probability", "batch_size": 8}
    scores.deletion.append(float(deletion(asked, relevance, steps=STEPS, **through).area))
    scores.insertion.append(float(insertion(asked, relevance, steps=STEPS, **through).area))
    worst, best = (
        road(asked, relevance, shares=shares, order=order, **through).mean
        for order in ("most relevant first", "least relevant first")
    )
    scores.road.append(float(best - worst))
    if case.mask is not None:
        scores.pointing.append(float(pointing_game(relevance, case.mask)))
        scores.mass.append(float(mass_ratio(relevance.clamp_min(0), case.mask)))


def of_last_maps(case: Case) -> dict[str, Any]:
    """Options of a method that must be told its layer."""
    return {"layer": last_map_layer(case.model, case.images)}


def of_all() -> dict[str, Way]:
    """Every registered method by its name."""
    return {
        name: Way(name, of_last_maps if name == "layer-guided-backprop" else {}) for name in list_methods()
    }


def measured(
    cases: list[Case], methods: dict[str, Callable[[Case], Tensor]], *, slow: float, known: dict[str, Scores]
) -> tuple[dict[str, Scores], dict[str, str]]:
    """Scores of each method over cases, and why some have none.

    Args:
        cases: of one question.
        methods: maps by name.
        slow: seconds from which a method has no sensitivity, and is left out where it is known to be slow.
        known: scores that tell which are slow.
    """
    scores, refused = {}, {}
    for name, method in methods.items():
        if name in known and known[name].seconds and statistics.mean(known[name].seconds) >= slow:
            refused[name] = "slow"
            continue
        each = Scores()
        try:
            for case in cases:
                begun = time.perf_counter()
                relevance = method(case)
                each.seconds.append(time.perf_counter() - begun)
                if each.seconds[-1] < slow:
                    each.seconds[-1] = seconds_of({name: partial(method, case)}, rounds=1)[name]
                tried(case, relevance, each)
                if each.seconds[-1] < slow and isinstance(method, Way):
                    each.sensitivity.append(method.sensitivity(case))
        except (ValueError, NotImplementedError, RuntimeError, TypeError) as error:
            refused[name] = " ".join(str(error).split())[:110]
        else:
            scores[name] = each
            print(name, " ".join(each.cells(1.0)), flush=True)
    return scores, refused


def gradient_seconds(case: Case) -> float:
    """What one forward and backward pass to the pixels costs."""

    def passes() -> None:
        given = case.images.clone().requires_grad_()
        torch.autograd.grad(case.model(given).sum(), given)

    return seconds_of({"gradient": passes}, rounds=5)["gradient"]


def of_nothing(case: Case) -> Tensor:
    """A map (1, H, W) drawn at random."""
    return torch.rand(1, *case.images.shape[2:], generator=torch.Generator().manual_seed(0))


def of_edges(case: Case) -> Tensor:
    """(1, H, W) size of the image's own gradient."""
    down, right = torch.gradient(case.images.mean(dim=1), dim=(1, 2))
    return down.hypot(right)


def beside_peers(case: Case, vit: Case, rounds: int) -> list[list[str]]:
    """Rows that compare foveal's maps and times with those of others for one photograph, and one "
    "radiograph."""
    layer = find_layer(case.model, last_map_layer(case.model, case.images))
    segments = superpixels(case.images[0], segments=64)[None, None]
    base = baseline_images(case.images, "mean")
    peers: dict[str, Callable[[], dict[str, Callable[[Tensor], Tensor]]]] = {
        "Captum": lambda: captum_attributions(case.model, layer, segments, base),
        "pytorch-grad-cam": lambda: grad_cam_attributions(case.model, layer),
        "zennit": lambda: zennit_attributions(case.model),
        "LXT": lambda: lxt_attributions(vit.model),
    }
    rows = []
    for peer, make in peers.items():
        try:
            attributions = make()
        except ModuleNotFoundError as missing:
            print(f"{peer}: {missing}; left out")
            continue
        for method, theirs in attributions.items():
            asked = vit if peer == "LXT" else case
            ours = partial(Way(method), asked)
            first, second = ours()[0], theirs(asked.images).to(torch.float32)
            times = seconds_of({"ours": ours, "theirs": partial(theirs, asked.images)}, rounds=rounds)
            difference = float((unit(first) - unit(second)).abs().max())
            alike = float(rank_correlation(first[None], second[None])[0])
            spent = [f"{1e3 * times[who]:.0f}" for who in ("ours", "theirs")]
            ratio = f"{times['theirs'] / times['ours']:.2f}"
            remark = REMARKS.get((peer, method), "")
            rows.append([peer, method, f"{difference:.1e}", f"{alike:.4f}", *spent, ratio, remark])
            print(" ".join(rows[-1]), flush=True)
    return rows


def unit(values: Tensor) -> Tensor:
    """Over the largest size, so that maps that packages scale in their own way can be compared."""
    return values / values.abs().max().clamp_min(1e-12)


def sheet(case: Case, methods: tuple[str, ...]) -> bytes:
    """The methods side by side on one photograph, JPEG."""
    grey = (case.images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    maps = [Drawn(Way(name)(case)[0].numpy(), name, find_method(name).signed) for name in methods]
    picture = Image.open(io.BytesIO(comparison_png(maps, grey, title="retina"))).convert("RGB")
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=86)
    return written.getvalue()


def rows_of(scores: dict[str, Scores], gradient: float, *, short: bool) -> list[list[str]]:
    """Rows of a table, the most faithful by ROAD first."""
    rows = []
    for name, each in sorted(scores.items(), key=lambda item: -statistics.mean(item[1].road)):
        family = find_method(name).family if name in list_methods() else ""
        cells = each.cells(gradient)
        rows.append([name, family, *(cells[2:5] + cells[6:] if short else cells)])
    return rows


def main() -> None:
    """Measure, print and, if asked, keep the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of IDRiD and samples")
    parser.add_argument("--peers", type=Path, nargs="*", default=[], help="folders with the peers")
    parser.add_argument("--photographs", type=int, default=4, help="of IDRiD, for each question")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow", type=float, default=1.5, help="seconds a map")
    parser.add_argument("--only", nargs="*", help="these methods")
    parser.add_argument("--write", action="store_true", help=f"keep {PAGE.name} and its picture")
    options = parser.parse_args()
    sys.path += [str(folder) for folder in options.peers]
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    vits, radiographs = radiograph_cases(options.data, 2 * options.photographs)
    trained, learned = trained_ways(vits[0].model, radiographs)
    discs = list(disc_cases(options.data, options.photographs))
    gradient = gradient_seconds(discs[0])
    methods: dict[str, Callable[[Case], Tensor]] = {"(random)": of_nothing, "(edges of the image)": of_edges}
    methods |= {name: way for name, way in of_all().items() if name in (options.only or list_methods())}
    suited = {name: way for name, way in methods.items() if name not in NOT_THERE}
    scores, refused = measured(discs, suited, slow=options.slow, known={})
    refused |= {name: why for name, why in NOT_THERE.items() if name in methods}
    peers = beside_peers(discs[0], vits[0], options.rounds)
    exudates = list(exudate_cases(options.data, options.photographs))
    second, _ = measured(exudates, {n: methods[n] for n in scores}, slow=options.slow, known=scores)
    third, _ = measured(
        vits,
        {n: methods[n] for n in methods if n.startswith("(")}
        | {
            name: way
            for name, way in ({n: Way(n, more) for n, more in VIT_METHODS.items()} | trained).items()
            if name in (options.only or list_methods())
        },
        slow=options.slow,
        known={},
    )
    vit_gradient = gradient_seconds(vits[0])
    if not options.write:
        return
    drawn = tuple(name for name in DRAWN if name in scores)
    write_atomically(PAGE.with_name(SHEET), sheet(discs[0], drawn))
    write_atomically(
        PAGE,
        page(
            discs, exudates, vits, scores, second, third, refused, peers, gradient, vit_gradient, learned
        ).encode(),
    )


def page(
    discs: list[Case], exudates: list[Case], vits: list[Case], scores: dict[str, Scores],
    second: dict[str, Scores], third: dict[str, Scores], refused: dict[str, str], peers: list[list[str]],
    gradient: float, vit_gradient: float, learned: str,
) -> str:  # fmt: skip
    """The page."""
    side = discs[0].images.shape[2]
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    parts = [
        "# Explainers side by side",
        "Written by `python benchmarks/explanation.py --data DATA --peers PEERS --write`; how to make such "
        "maps is in [explain.md](explain.md). Every method is asked the same of the same network: why "
        "does it "
        "call the optic disc where it does?",
        f"![Maps of {sum(name in scores for name in DRAWN)} methods over one retina]({SHEET})",
        "Orange speaks for the disc, blue against it; methods without signs go from violet to yellow.",
        "## What they cost, and what they are worth",
        f"{len(discs)} photographs of {side} x {side} pixels: the retina above and {len(discs) - 1} of "
        "IDRiD; "
        f"one thread. A gradient takes {1e3 * gradient:.0f} ms. Deletion is the area under the "
        "probability of "
        "the disc while the most relevant pixels go to the image's mean, insertion while they come to a "
        "blurred image: less of the first and more of the second are better. ROAD is the probability left "
        f"when the least relevant {shares} of the pixels are filled in from around them, less that when the "
        "most relevant are; more is better, and the table goes by it. Sensitivity is the largest change of "
        "the map, over its size, among five small changes of the image; less is better. Pointing: in how "
        "many "
        "of IDRiD's photographs the largest value lies in the outlined disc. Mass over chance: the share of "
        "positive relevance in the disc over the disc's share of pixels. In brackets: maps that know nothing "
        "of the network, which an explanation has to beat.",
        table(HEAD, rows_of(scores, gradient, short=False)),
        "Not there: " + "; ".join(f"`{name}` ({why})" for name, why in refused.items()) + ".",
        "## The same of hard exudates",
        f"{len(exudates)} crops of {CROP} pixels of IDRiD, the network of lesions, and IDRiD's masks of hard "
        "exudates; methods that are not slow.",
        table([*HEAD[:2], *HEAD[4:7], *HEAD[8:]], rows_of(second, gradient, short=True)),
        "## A transformer",
        f"{len(vits)} validation radiographs of PneumoniaMNIST, 28 x 28 pixels, that a vision transformer "
        f"of 4 blocks of 64 (patches of 4 pixels, trained here for {VIT_STEPS} steps) calls pneumonia with "
        f"confidence. A gradient takes {1e3 * vit_gradient:.1f} ms. Trained methods learned from the "
        f"transformer's own training images: {learned}; not counted in their times. Layer maps are of "
        "the last block's first normalisation; ROAD takes "
        f"{', '.join(f'{share:.0%}' for share in LARGE_SHARES)}.",
        table(HEAD[:-2], [row[:-2] for row in rows_of(third, vit_gradient, short=False)]),
        "## Beside other packages",
        "One photograph (the retina), taken in turn, least time. The difference is the largest between maps "
        "scaled to 1; the correlation is Spearman's over pixels.",
        table(PEER_HEAD, peers),
        "## How it was run",
        table(["", ""], [[k, v] for k, v in describe_environment().items()]),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
