"""What proves Sparse then Prune: the penalty and the masks to the number, then accuracy against sparsity."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune as torch_prune

from foveal.compression.costs import macs_of
from foveal.compression.magnitude_pruning import (
    Criterion,
    magnitude_masks,
    prunable_weights,
    prune,
)
from foveal.compression.masks import zeros_of
from foveal.compression.narrowing import narrow_blocks_to
from foveal.compression.pruning_sweep import (
    TENTHS,
    PairedDifference,
    SweepRow,
    paired_difference,
    sweep_picture,
    sweep_table,
)
from foveal.machine import seconds_of
from foveal.models import Classifier, ClassifierConfig
from foveal.objectives.attention_sparsity import attention_penalty, log_sum
from foveal.objectives.classification import ClassificationObjective
from foveal.recipes._encoder_learning import digits
from foveal.recipes._sparse_then_prune_learning import (
    PLAIN,
    PUBLISHED,
    SHARPENED,
    SIDE,
    STRENGTHS,
    TRAININGS,
    score,
    sweep,
    tuned,
)
from foveal.recipes.base import Evidence, Finding, Scale, Section
from foveal.sparse_files import SparseForm, read_tensors, write_sparse
from foveal.training import TrainingSettings

RATIOS = (0.3, 0.5, 0.7)
_EPOCH = 1200 // 16  # steps of the paper's batch of 16


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; tuned models and costs in full."""
    yield penalty_of_even_and_single_rows
    yield gradient_of_the_penalty
    yield layers_that_feel_it
    yield masks_are_torchs
    yield nothing_and_everything
    yield masks_last
    yield sizes
    if scale == "full":
        seeds = tuple(range(5))
        yield partial(penalised_and_pruned, seeds)
        yield partial(criteria_compared, seeds)
        yield partial(recovered, seeds[:3])
        yield speed


def classifier(**changes: int) -> Classifier:
    """An untrained one of 3 blocks on 17 tokens, in evaluation mode."""
    torch.manual_seed(0)
    settings = {
        "in_channels": 1,
        "image_size": 32,
        "patch_size": 8,
        "embed_dim": 64,
        "depth": 3,
        "num_heads": 4,
    }
    config = ClassifierConfig(
        encoder="timm/vit_tiny_patch16_224",
        encoder_settings={**settings, **changes},
        classes=("a", "b", "c"),
        size=int(changes.get("image_size", 32)),
        mean=(0.5,),
        std=(0.25,),
    )
    return Classifier(config).eval()


def penalty_of_even_and_single_rows() -> Iterator[Finding]:
    """log(1 + 1/N^2) of even rows, log(2)/N of one-hot rows."""
    apart, ordered = 0.0, True
    for keys in range(2, 578):
        even = float(log_sum(torch.full((3, keys), 1 / keys)))
        single = float(log_sum(F.one_hot(torch.arange(3) % keys, keys)))
        apart = max(apart, abs(even - math.log1p(1 / keys**2)), abs(single - math.log(2) / keys))
        ordered &= even < single
    yield Finding.at_most("2 to 577 keys: penalty of even and one-hot rows to their formulas", apart, 1e-7)
    yield Finding.fact("2 to 577 keys: even rows have a smaller penalty than one-hot rows", ordered)


def gradient_of_the_penalty() -> Finding:
    """Against central differences in double precision."""
    scores = torch.randn(1, 2, 5, 5, dtype=torch.float64)

    def penalty(values: torch.Tensor) -> torch.Tensor:
        return torch.log1p(values.softmax(-1).square()).mean()

    single = scores.float().requires_grad_()
    (found,) = torch.autograd.grad(log_sum(single.softmax(-1)), single)
    shifts = 1e-5 * torch.eye(scores.numel(), dtype=torch.float64).view(-1, *scores.shape)
    wanted = torch.stack([(penalty(scores + s) - penalty(scores - s)) / 2e-5 for s in shifts])
    apart = (found.flatten() - wanted).abs().max() / wanted.abs().max()
    return Finding.at_most("gradient to central differences, relative", float(apart), 1e-4)


def layers_that_feel_it() -> Iterator[Finding]:
    """Gradients of the penalty by each layer's attention."""
    weights = [torch.rand(2, 2, 5, 5).softmax(-1).requires_grad_() for _ in range(3)]
    last = torch.autograd.grad(attention_penalty(weights, layers="last"), weights, allow_unused=True)
    yield Finding.fact(
        "'last': no gradient by attention of other blocks", last[0] is None and last[1] is None
    )
    mean = torch.autograd.grad(attention_penalty(weights, layers="mean"), weights)
    yield Finding.fact("'mean': a gradient by attention of all blocks", all(bool(g.all()) for g in mean))


def masks_are_torchs() -> Iterator[Finding]:
    """Equal to torch.nn.utils.prune and to a threshold, at three ratios."""
    model, same, thresholds, off = classifier(), True, True, 0.0
    names = prunable_weights(model)
    weights = {name: model.get_parameter(name).detach().abs() for name in names}
    every = np.sort(torch.cat([weight.flatten() for weight in weights.values()]).numpy())
    for amount in RATIOS:
        masks = magnitude_masks(model, amount)
        other = deepcopy(model)
        pairs = [(other.get_submodule(name.removesuffix(".weight")), "weight") for name in names]
        torch_prune.global_unstructured(pairs, torch_prune.L1Unstructured, amount=amount)
        same &= all(
            masks.kept[name].equal(module.weight_mask.bool())  # type: ignore[operator, union-attr]
            for name, (module, _) in zip(names, pairs, strict=True)
        )
        threshold = float(every[round(amount * len(every)) - 1])
        thresholds &= all(masks.kept[name].equal(weights[name] > threshold) for name in names)
        off = max(off, abs(1 - masks.share - amount) * len(every))
    yield Finding.fact("masks equal torch's global_unstructured, bit for bit, at 30, 50 and 70 %", same)
    yield Finding.fact("masks equal one threshold on all |w|", thresholds)
    yield Finding.at_most("weights taken off the share, in weights", off, 1.0)
    again = magnitude_masks(classifier(), 0.5).sha256 == magnitude_masks(classifier(), 0.5).sha256
    yield Finding.fact("the same model twice: masks of the same hash", again)


def nothing_and_everything() -> Iterator[Finding]:
    """Amounts of 0 and of 1; biases in between."""
    model, images = classifier(), torch.rand(4, 1, 32, 32)
    nn.init.normal_(model.head.bias)
    with torch.no_grad():
        magnitude_masks(model, 0.0).apply(same := deepcopy(model))
        yield Finding.fact("0 % taken: the same logits to the bit", bool(same(images).equal(model(images))))
        magnitude_masks(model, 1.0).apply(empty := deepcopy(model))
        constant = empty(images).equal(empty.head.bias.expand(4, -1))
        yield Finding.fact("100 % taken: logits are the head's bias", bool(constant))
    masks = magnitude_masks(model, 0.5)
    masks.apply(half := deepcopy(model))
    others = [name for name, _ in model.named_parameters() if name not in masks.kept]
    still = all(half.get_parameter(name).equal(model.get_parameter(name)) for name in others)
    yield Finding.fact("50 % taken: biases, positions, class token and last norm are unchanged", still)


def masks_last() -> Finding:
    """Through saving and loading."""
    model = classifier()
    masks = magnitude_masks(model, 0.5, include_norm=False)
    masks.apply(model)
    with tempfile.TemporaryDirectory() as folder:
        loaded = Classifier.from_pretrained(model.save_pretrained(folder))
    found = zeros_of(loaded).kept
    same = all(found[name].equal(mask) for name, mask in masks.kept.items())
    return Finding.fact("saved and loaded: the same weights are 0", same)


def sizes() -> Iterator[Finding]:
    """Files of a model with half of its weights at 0."""
    model = classifier(embed_dim=192)
    masks = magnitude_masks(model, 0.5)
    masks.apply(model)
    forms: tuple[SparseForm, ...] = ("bitmask", "csr")
    for form in forms:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.safetensors"
            told = write_sparse(model, path, form=form)
            same = all(value.equal(model.state_dict()[name]) for name, value in read_tensors(path).items())
        yield Finding.at_most(
            f"50 % taken, {form}: file over the dense tensors", told.bytes / told.dense, 0.999
        )
        yield Finding.fact(f"50 % taken, {form}: read again, the same to the bit", same)


def penalised_and_pruned(seeds: Sequence[int]) -> Iterator[Finding | Section]:
    """Digits, a tiny transformer tuned with each penalty, pruned in one shot."""
    rows = sweep(tuple(TRAININGS), tuple(seeds))
    for name in (PUBLISHED, *STRENGTHS):
        found = paired_difference(rows, name, PLAIN, amounts=RATIOS)
        yield Finding(
            f"penalty {name}: accuracy above plain tuning, pruned by 30, 50 and 70 %",
            ">= 0 within the 95 % interval",
            _interval(found),
            found.difference.high >= 0,
        )
    whole = {name: _entropy(rows, name) for name in TRAININGS}
    for name in (PUBLISHED, "all blocks, 10"):
        yield Finding.at_least(
            f"penalty {name}: entropy of attention above plain tuning, nats",
            whole[name] - whole[PLAIN],
            -1e-3,
        )
    yield Finding.at_most(
        "the other sign: entropy of attention above plain tuning, nats", whole[SHARPENED] - whole[PLAIN], 0.0
    )
    differences = [
        f"- {name}: {_interval(paired_difference(rows, name, PLAIN, amounts=RATIOS))}; over all ratios "
        f"{_interval(paired_difference(rows, name, PLAIN))}"
        for name in TRAININGS
        if name != PLAIN
    ]
    body = "\n\n".join(
        [
            f"Digits of scikit-learn, {len(seeds)} seeds: pre-trained without penalty, then tuned with each; "
            "same steps, order and new head. Accuracy on 597 digits after global pruning without retraining, "
            "and the entropy of attention before it.",
            sweep_table(rows),
            "Above plain tuning, points of accuracy in pairs of a seed, mean of 30, 50 and 70 %, with 95 % "
            "bootstrap intervals over seeds:",
            "\n".join(differences),
        ]
    )
    yield Section("Accuracy against sparsity", body, sweep_picture(rows))


def criteria_compared(seeds: Sequence[int]) -> Iterator[Finding | Section]:
    """One threshold against one for each layer, gradients and chance, of the plainly tuned model."""
    criteria: tuple[Criterion, ...] = ("magnitude", "layer magnitude", "gradient", "random")
    rows = sweep((PLAIN,), tuple(seeds), criteria)
    bare = sweep((PLAIN,), tuple(seeds), criteria, (0.5,), include_norm=False)
    for other in ("layer magnitude", "random"):
        for told, table in (("", rows), (", norms left out", bare)):
            found = paired_difference(
                table, PLAIN, PLAIN, criteria=("magnitude", other), amounts=(0.5,)
            ).by_seed
            yield Finding.at_least(
                f"50 % taken{told}: points of global magnitude above {other}",
                [100 * value for value in found.values()],
                5.0,
            )
    yield Section("Criteria", sweep_table(rows), sweep_picture(rows))


def recovered(seeds: Sequence[int]) -> Iterator[Finding]:
    """One epoch with the masks held, after half the weights went."""
    data = digits(SIDE)
    kinds: tuple[Criterion, ...] = ("magnitude", "layer magnitude")
    for criterion in kinds:
        lost, regained, back = [], [], 0
        for seed in seeds:
            model = deepcopy(tuned(PLAIN, seed))
            objective, before = ClassificationObjective(model), score(model)
            masks = prune(model, 0.5, objective=objective, samples=data, criterion=criterion, seed=seed)
            pruned = score(model)
            training = TrainingSettings(
                steps=_EPOCH, batch_size=16, learning_rate=1e-3, seed=seed, tensorboard=False
            )
            prune(
                model,
                0.5,
                objective=objective,
                samples=data,
                criterion=criterion,
                recovery=training,
                seed=seed,
            )
            back += sum(int((model.get_parameter(n)[~m] != 0).sum()) for n, m in masks.kept.items())
            lost.append(100 * (before - pruned))
            regained.append(100 * (score(model.eval()) - pruned))
        told = f"lost {fmean(lost):.2f} points, regained {fmean(regained):.2f}"
        yield Finding(
            f"50 % taken by {criterion}, one epoch of recovery regains half of what was lost",
            f">= {fmean(lost) / 2:.2f} points",
            told,
            fmean(regained) >= fmean(lost) / 2,
        )
        yield Finding.at_most(f"weights that came back in it ({criterion})", back, 0)


def speed() -> Iterator[Finding]:
    """Scattered zeros make nothing faster; fewer heads and units do."""
    model = classifier(image_size=112, embed_dim=192, depth=4, num_heads=6)
    images = torch.rand(4, 1, 112, 112)
    magnitude_masks(model, 0.5).apply(zeros := deepcopy(model))
    narrow = deepcopy(model)
    narrow_blocks_to(narrow, images, 0.5)
    models = {"whole": model, "zeros": zeros, "narrow": narrow}
    with torch.inference_mode():
        times = seconds_of({name: partial(each, images) for name, each in models.items()}, rounds=25)
    ratio = times["zeros"] / times["whole"]
    yield Finding.close("time with half the weights at 0 over the whole model's", ratio, 1.0, tolerance=0.1)
    share = macs_of(narrow, images) / macs_of(model, images)
    yield Finding.at_most("operations left with heads and units taken out to 50 %", share, 0.5)
    yield Finding.at_most("its time over the whole model's", times["narrow"] / times["whole"], 0.75)


def _entropy(rows: Sequence[SweepRow], name: str) -> float:
    """Of the whole models of a training."""
    return fmean(
        fmean(row.entropy.values()) for row in rows if row.training == name and row.amount == TENTHS[0]
    )


def _interval(found: PairedDifference) -> str:
    value, low, high = (100 * end for end in found.difference)
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f}) points"
