"""Metrics of explanations beside Quantus, Captum and pytorch-grad-cam: equal values, and the ratio of times.

    pip install --no-deps --target PEERS quantus grad-cam ttach opencv-python-headless tqdm
    python benchmarks/explanation_faithfulness.py --peers PEERS [--side 80] [--images 16] [--write]

One small network, one set of images, one run, all taking turns. Peers are only measured: none is part of
foveal, and what is not there is left out. Images have one channel, as Quantus' ROAD takes no others. How
definitions were made one is said beside each. `--write` keeps the table in docs/evidence.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import captum.metrics
import numpy as np
import torch
from torch import Tensor, nn

from foveal.explanation.faithfulness import confidence_change, infidelity, sensitivities
from foveal.explanation.localisation import mass_in_mask, pointing_game, rank_accuracy
from foveal.explanation.methods import Question, ask
from foveal.explanation.perturbing import Perturbations, blurred, given, relevance_ranks
from foveal.explanation.randomisation import cascading_randomisation
from foveal.explanation.removal_curves import pixel_flipping, road
from foveal.files import write_atomically
from foveal.machine import describe_environment, seconds_of
from foveal.markdown import table

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence" / "explanation-faithfulness.md"
BOX, STEPS, SAMPLES = 8, 50, 20
PERCENTAGES = (10, 30, 50, 70, 90)
GOAL = 5.0


@dataclass(frozen=True)
class Rival:
    """A metric computed by a peer and by foveal.

    Attributes:
        peer: package.
        metric: as the peer calls it.
        alignment: how the two definitions were made one.
        theirs, ours: give values of one shape.
        passes: images that must go through the model; their time alone is the floor of both.
        backward: whether their gradients are needed.
        equal: whether values are to be equal; else only the work is the same.
    """

    peer: str
    metric: str
    alignment: str
    theirs: Callable[[], Any]
    ours: Callable[[], Any]
    passes: int = 0
    backward: bool = False
    equal: bool = True


class Setting:
    """The network, images, maps and masks that all metrics are given."""

    def __init__(self, side: int, count: int) -> None:
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1)
        self.model = nn.Sequential(
            *layers, nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 5)
        )
        self.model.eval().requires_grad_(False)
        self.images = blurred(torch.randn(count, 1, side, side), 2.0)
        self.images = (self.images / self.images.std()).contiguous()
        self.asked = ask(self.model, self.images)
        self.target = self.asked.outputs.argmax(1)
        self.gradient = gradient(self.asked)
        ranks = relevance_ranks(blurred(self.gradient.abs(), 1.0)[:, 0])
        self.maps = 1 - ranks / side**2  # all values differ: each package orders equal ones in its own way
        self.masks = self.images[:, 0] > 1
        self.noise = 0.1 * torch.randn(count, SAMPLES, 1, side, side)

    def pass_images(self, passes: int, backward: bool) -> None:
        """So many images through the model, and nothing else."""
        while passes > 0:
            batch = self.images[: min(passes, len(self.images))]
            if backward:
                gradient(Question(self.model, batch, self.asked.weights[: len(batch)], self.asked.outputs))
            else:
                with torch.inference_mode():
                    self.model(batch)
            passes -= len(batch)

    def growing_boxes(self) -> Perturbations:
        """What Quantus' infidelity takes away: one box more each time, row by row, all of them in the end."""
        side = self.images.shape[-1] // BOX
        number_of = torch.arange(side * side).view(side, side)
        number_of = number_of.repeat_interleave(BOX, 0).repeat_interleave(BOX, 1)

        def make(images: Tensor, _at: Tensor, number: Tensor) -> Tensor:
            return images * (number_of <= number[:, None, None]).unsqueeze(1)

        return Perturbations(side * side, make)


def gradient(asked: Question) -> Tensor:
    """Gradient of the score."""
    with torch.enable_grad():
        images = asked.images.detach().clone().requires_grad_()
        return torch.autograd.grad(asked.score(images).sum(), images)[0]


def beside_quantus(s: Setting) -> Iterator[Rival]:
    """Every metric of Quantus that has the same definition."""
    if not hasattr(np, "trapz"):  # Quantus 0.6 asks for the name that NumPy 1 had
        setattr(np, "trapz", np.trapezoid)  # noqa: B010
    import quantus

    x, y = s.images.numpy(), s.target.numpy()
    maps, grad, masks = (t.numpy() for t in (s.maps[:, None], s.gradient, s.masks[:, None]))
    silent = {"disable_warnings": True}
    raw = {"normalise": False, **silent}

    def call(metric: Any, attributions: np.ndarray | None, **more: Any) -> Any:
        return metric(
            model=s.model,
            x_batch=x,
            y_batch=y,
            a_batch=attributions,
            device="cpu",
            channel_first=True,
            **more,
        )

    pixels = x[0].size // STEPS
    yield Rival(
        "Quantus",
        "PixelFlipping",
        f"{pixels} pixels a step to 0; probabilities after each step; trapezoids of length 1",
        lambda: call(
            quantus.PixelFlipping(
                features_in_step=pixels, perturb_baseline=0.0, return_auc_per_sample=True, **raw
            ),
            maps,
            softmax=True,
        ),
        lambda: torch.trapezoid(
            pixel_flipping(s.asked, s.maps, pixels_a_step=pixels, baseline=0.0).readings, dim=1
        ),
        passes=len(x) * STEPS,
    )
    yield Rival(
        "Quantus",
        "Infidelity",
        f"boxes of {BOX} pixels go to 0 one after the other and stay away, as Quantus does; logits",
        lambda: call(
            quantus.Infidelity(perturb_patch_sizes=[BOX], n_perturb_samples=1, perturb_baseline=0.0, **raw),
            grad,
            softmax=False,
        ),
        lambda: infidelity(s.asked, s.gradient, perturbations=s.growing_boxes()),
        passes=len(x) * s.growing_boxes().count,
    )

    def explain(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
        images = torch.as_tensor(inputs).detach().requires_grad_()
        chosen = model(images).gather(1, torch.as_tensor(targets)[:, None])
        return torch.autograd.grad(chosen.sum(), images)[0].numpy()

    def shaker() -> Callable[..., np.ndarray]:
        numbers = iter(range(SAMPLES))
        return lambda arr, **_: arr - s.noise[:, next(numbers)].numpy().reshape(arr.shape)

    for name, ours in (("MaxSensitivity", torch.amax), ("AvgSensitivity", torch.mean)):
        yield Rival(
            "Quantus",
            name,
            f"gradients under the same {SAMPLES} perturbations through `perturb_func`; over the map's norm",
            lambda name=name: call(  # type: ignore[misc]
                getattr(quantus, name)(nr_samples=SAMPLES, perturb_func=shaker(), **raw),
                grad,
                explain_func=explain,
            ),
            lambda ours=ours: ours(  # type: ignore[misc]
                sensitivities(s.asked, gradient, relevance=s.gradient, perturbations=given(s.noise)), 1
            ),
            passes=len(x) * SAMPLES,
            backward=True,
        )
    yield Rival(
        "Quantus",
        "ROAD",
        f"no noise; {', '.join(map(str, PERCENTAGES))} % go, most relevant first; accuracy over the images",
        lambda: list(call(quantus.ROAD(noise=0.0, percentages=list(PERCENTAGES), **raw), maps).values()),
        lambda: road(s.asked, s.maps, noise=0, shares=[p / 100 for p in PERCENTAGES]).readings.mean(0),
        passes=len(x) * len(PERCENTAGES),
    )
    localisations = (
        ("PointingGame", pointing_game), ("RelevanceMassAccuracy", mass_in_mask),
        ("RelevanceRankAccuracy", rank_accuracy),
    )  # fmt: skip
    for name, metric in localisations:
        yield Rival(
            "Quantus",
            name,
            "maps that are nowhere below 0, as Quantus sums signed values",
            lambda name=name: call(getattr(quantus, name)(**raw), maps, s_batch=masks),  # type: ignore[misc]
            lambda metric=metric: metric(s.maps, s.masks),  # type: ignore[misc]
        )
    yield Rival(
        "Quantus",
        "MPRT",
        "cascading randomisation of all layers by their own start, Spearman: each draws its own weights, so "
        "only the work is the same",
        lambda: call(
            quantus.MPRT(similarity_func=quantus.correlation_spearman, **(raw | {"abs": False})),
            grad,
            explain_func=explain,
        ),
        lambda: cascading_randomisation(s.asked, gradient, draw="reset").spearman,
        passes=4 * len(x),
        backward=True,
        equal=False,
    )


def beside_captum(s: Setting) -> Iterator[Rival]:
    """Captum's two metrics, given the same perturbations."""
    flat = s.noise.flatten(0, 1)
    yield Rival(
        "Captum",
        "infidelity",
        f"the same {SAMPLES} perturbations, all in one batch",
        lambda: captum.metrics.infidelity(
            s.model,
            lambda x: (flat, x - flat),
            s.images,
            s.gradient,
            target=s.target,
            n_perturb_samples=SAMPLES,
        ),
        lambda: infidelity(s.asked, s.gradient, perturbations=given(s.noise)),
        passes=len(flat),
    )

    def explain(inputs: Any, target: Tensor) -> Any:
        images = inputs[0] if isinstance(inputs, tuple) else inputs
        with torch.enable_grad():
            images = images.detach().clone().requires_grad_()
            chosen = s.model(images).gather(1, target.expand(len(images))[:, None])
            found = torch.autograd.grad(chosen.sum(), images)[0]
        return (found,) if isinstance(inputs, tuple) else found

    yield Rival(
        "Captum",
        "sensitivity_max",
        f"gradients under the same {SAMPLES} perturbations",
        lambda: captum.metrics.sensitivity_max(
            explain, s.images, lambda x: x - flat, n_perturb_samples=SAMPLES, target=s.target
        ),
        lambda: sensitivities(s.asked, gradient, perturbations=given(s.noise)).amax(1),
        passes=len(flat) + len(s.images),
        backward=True,
    )


def beside_grad_cam(s: Setting) -> Iterator[Rival]:
    """The metrics of pytorch-grad-cam."""
    from pytorch_grad_cam.metrics import cam_mult_image, perturbation_confidence
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    maps = s.maps.double().numpy()  # percentiles in single precision are a pixel off now and then
    shares = [p / 100 for p in PERCENTAGES]
    scores = [lambda out, t=t: out[t] for t in s.target]  # type: ignore[misc]
    chances = [lambda out, t=t: out.softmax(-1)[t] for t in s.target]  # type: ignore[misc]

    def remove() -> np.ndarray:
        columns = []
        for percentage in PERCENTAGES:
            first = perturbation_confidence.RemoveMostRelevantFirst(
                100 - percentage, NoisyLinearImputer(noise=0)
            )
            metric = perturbation_confidence.PerturbationConfidenceMetric(first)
            columns.append(metric(s.images, maps, scores, s.model, return_diff=False))
        return np.stack(columns, axis=1)

    yield Rival(
        "pytorch-grad-cam",
        "ROAD",
        "no noise; most relevant first; logits",
        remove,
        lambda: road(s.asked, s.maps, noise=0, shares=shares, reading="score").readings,
        passes=len(maps) * len(PERCENTAGES),
    )
    before = s.asked.outputs.softmax(1).gather(1, s.target[:, None])[:, 0]
    yield Rival(
        "pytorch-grad-cam",
        "DropInConfidence, IncreaseInConfidence",
        "image times map; its drop is not divided by the confidence, so ours is multiplied by it",
        lambda: np.stack(
            [
                metric()(s.images, s.maps[:, None].numpy(), chances, s.model)
                for metric in (cam_mult_image.DropInConfidence, cam_mult_image.IncreaseInConfidence)
            ]
        ),
        lambda: torch.stack(
            [
                change[:, 0] * scale
                for change, scale in zip(
                    confidence_change(s.asked, s.maps, keep=(1.0,)), (before, 1.0), strict=True
                )
            ]
        ),
        passes=len(maps),
    )


def rivals(setting: Setting) -> Iterator[Rival]:
    """All that can be measured here."""
    for beside in (beside_quantus, beside_captum, beside_grad_cam):
        try:
            yield from beside(setting)
        except ModuleNotFoundError as missing:
            print(f"{beside.__name__}: {missing}; left out")


def row_of(setting: Setting, rival: Rival, rounds: int) -> tuple[list[str], float]:
    """Cells of the table, and how many times faster foveal is."""
    if rival.equal:
        theirs, ours = (np.asarray(values(), dtype=float) for values in (rival.theirs, rival.ours))
        if theirs.shape != ours.shape:
            raise ValueError(f"{rival.metric}: shapes {theirs.shape} and {ours.shape}")
        difference = f"{np.max(np.abs(theirs - ours)) / max(np.max(np.abs(theirs)), 1e-12):.1e}"
    else:
        difference = "not comparable"
    work = {"theirs": rival.theirs, "ours": rival.ours}
    work["floor"] = lambda: setting.pass_images(rival.passes, rival.backward)
    times = seconds_of(work, rounds=rounds)
    ratio = times["theirs"] / times["ours"]
    spent = [f"{1e3 * times[name]:.1f}" for name in ("theirs", "ours")]
    floor = f"{1e3 * times['floor']:.1f}" if rival.passes else ""
    return [rival.peer, rival.metric, difference, *spent, floor, f"{ratio:.1f}", rival.alignment], ratio


def main() -> None:
    """Measure, print and, if asked, keep the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, help="folder in which the peers are installed")
    parser.add_argument("--side", type=int, default=80, help="of the images, a multiple of 40")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"keep {EVIDENCE.name}")
    options = parser.parse_args()
    if options.peers:
        sys.path.append(str(options.peers))
    if options.side % 40:
        parser.error(f"--side {options.side}: a multiple of 40 is wanted, so that shares are whole pixels")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    setting = Setting(options.side, options.images)
    rows, ratios = [], {}
    for rival in rivals(setting):
        row, ratio = row_of(setting, rival, options.rounds)
        print("  ".join(row[:7]), flush=True)
        rows.append(row)
        ratios.setdefault(rival.peer, []).append(ratio)
    head = "peer, metric, largest difference, peer ms, foveal ms, passes alone ms, times faster, aligned by"
    text = table(head.split(", "), rows)
    print("\n" + text)
    if options.write:
        write_atomically(EVIDENCE, page(text, ratios, options).encode())


def page(text: str, ratios: dict[str, list[float]], options: argparse.Namespace) -> str:
    """The page of evidence."""
    met = [f"{sum(r >= GOAL for r in found)} of {len(found)} ({peer})" for peer, found in ratios.items()]
    parts = [
        "# Metrics of explanations beside their peers",
        f"{options.images} images of {options.side} x {options.side} pixels, one channel, through a network "
        f"of two convolutions on {options.threads} thread(s); least time of {options.rounds} rounds in which "
        "all take turns. The difference is the largest over the largest of the peer's values. Passes alone "
        "are as many images through the model as the metric needs, and nothing else: what neither can save.",
        f"At least {GOAL:.0f} times faster: {', '.join(met)}.",
        text,
        "## How it was run",
        table(["", ""], [[k, v] for k, v in describe_environment().items()]),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
