"""Weights set to 0 by size, by gradient or by chance, in one shot or in rounds (arXiv 2307.11988)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from foveal.blocks.attention_taps import LayerAttention, attention_tapped
from foveal.compression.masks import Masks
from foveal.compression.methods import Material, Outcome, Target, register_compressor
from foveal.compression.narrowing import narrow_blocks_to
from foveal.models.classifier import Classifier
from foveal.models.pretrained import WEIGHTS
from foveal.objectives.base import Objective
from foveal.objectives.classification import ClassificationObjective
from foveal.settings import unknown_name
from foveal.training.loop import fit
from foveal.training.sampling import SampledDataset
from foveal.training.settings import TrainingSettings

Criterion = Literal["magnitude", "layer magnitude", "gradient", "random"]
Removed = Literal["weights", "heads and units"]
# The norms of a block as timm, torchvision and transformers call them; a model's last norm is not among them.
_NORM = re.compile(r"[._]\d+\.(.+\.)?(norm_?\d|ln_?\d|layer_norm\d|layernorm_(before|after))$")
_BATCH = 64


def prunable_weights(model: nn.Module, *, include_norm: bool = True) -> list[str]:
    """Names of the weights that pruning may set to 0, in the order of the model's parameters.

    They are the weights of all linear layers and convolutions, the classifier's too, and as published those
    of the norms within blocks. Biases, class tokens, positions and the last norm are not among them.

    Args:
        model: any.
        include_norm: the norms within blocks. Their weights are near 1, so size seldom takes one.

    Raises:
        ValueError: there are none.
    """
    found = []
    for name, module in model.named_modules():
        layer = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        norm = isinstance(module, nn.LayerNorm | nn.RMSNorm) and _NORM.search(f".{name}")
        if (layer or (include_norm and norm)) and isinstance(module.weight, nn.Parameter):
            found.append(f"{name}.weight" if name else "weight")
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            found.append(f"{name}.in_proj_weight" if name else "in_proj_weight")
    found = [name for name, _ in model.named_parameters() if name in set(found)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no weights to prune; allowed: models with linear layers or "
            "convolutions"
        )
    return found


def masks_by_score(
    scores: Mapping[str, Tensor], amount: float, *, within_layers: bool = False, held: Masks | None = None
) -> Masks:
    """Masks that take the weights of the lowest scores.

    Exactly round(amount * number) weights are taken, ties or not: of equal scores which ones is up to
    `torch.topk`, and the same each time on one machine. With |w| for scores the masks are those of torch's
    `prune.global_unstructured` with `L1Unstructured`.

    Args:
        scores: of each weight by the names of parameters.
        amount: share to take, 0 to 1.
        within_layers: the same share of each parameter, in place of one threshold for all.
        held: of an earlier round; what it took stays taken.

    Raises:
        ValueError: an amount out of range, or scores that are not finite.
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"amount is {amount}; allowed: a share of the weights, 0 to 1")
    if wrong := [name for name, score in scores.items() if not score.isfinite().all()]:
        raise ValueError(
            f"scores of {', '.join(wrong)} are not finite; the model's weights may have diverged"
        )
    flat = {name: score.detach().flatten() for name, score in scores.items()}
    if held is not None:
        flat = {
            name: score.masked_fill(~held.kept[name].to(score.device).flatten(), -torch.inf)
            for name, score in flat.items()
        }
    if within_layers:
        taken = {name: _lowest(score, amount) for name, score in flat.items()}
    else:
        lengths = [len(score) for score in flat.values()]
        parts = _lowest(torch.cat(list(flat.values())), amount).split(lengths)
        taken = dict(zip(flat, parts, strict=True))
    return Masks({name: ~gone.view(scores[name].shape) for name, gone in taken.items()})


def magnitude_masks(
    model: nn.Module,
    amount: float,
    *,
    criterion: Criterion = "magnitude",
    include_norm: bool = True,
    gradients: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    held: Masks | None = None,
) -> Masks:
    """Which weights stay when a share of them is taken.

    Args:
        model: any.
        amount: share to take, 0 to 1.
        criterion: "magnitude", the smallest of the whole network; "layer magnitude", the smallest of each
            layer; "gradient", the smallest |w g| of the whole network; "random", any of the whole network.
        include_norm: see `prunable_weights`.
        gradients: of a loss, for "gradient"; see `mean_gradients`.
        seed: for "random".
        held: see `masks_by_score`.

    Raises:
        ValueError: another criterion, an amount out of range, gradients that are missing, or a model without
            weights to prune.

    Example:
        >>> masks = magnitude_masks(vit, 0.3)  # doctest: +SKIP
        >>> masks.apply(vit)  # doctest: +SKIP
    """
    if criterion not in get_args(Criterion):
        raise ValueError(unknown_name("criterion", criterion, get_args(Criterion)))
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name] for name in prunable_weights(model, include_norm=include_norm)}
    draw = torch.Generator().manual_seed(seed)
    scores = {}
    for name, weight in weights.items():
        if criterion == "random":
            scores[name] = torch.rand(weight.shape, generator=draw).to(weight.device)
        elif criterion == "gradient":
            if gradients is None or name not in gradients:
                raise ValueError(f"no gradient of {name}; give those of mean_gradients with gradients=")
            scores[name] = (weight.detach() * gradients[name]).abs()
        else:
            scores[name] = weight.detach().abs()
    return masks_by_score(scores, amount, within_layers=criterion == "layer magnitude", held=held)


def mean_gradients(
    objective: Objective, model: nn.Module, samples: SampledDataset, *, most: int = 512, seed: int = 0
) -> dict[str, Tensor]:
    """Gradient of an objective's loss over samples, of every parameter of the model that has one.

    Args:
        objective: around the model.
        model: whose parameters are named; it is left in the mode in which it was, and without gradients.
        samples: as `foveal.training.fit` takes them.
        most: of them, drawn by the seed.
        seed: of the draw.
    """
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(samples), generator=draw)[:most].tolist()
    mode = objective.training
    objective.eval().zero_grad(set_to_none=True)
    device = next(model.parameters()).device
    for start in range(0, len(chosen), _BATCH):
        part = chosen[start : start + _BATCH]
        batch = default_collate([samples.sample(index, draw) for index in part])
        batch = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()
        }
        (objective(batch)["loss"] * (len(part) / len(chosen))).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    objective.zero_grad(set_to_none=True)
    objective.train(mode)
    return found


def prune(
    model: nn.Module,
    amount: float,
    *,
    objective: Objective,
    samples: SampledDataset,
    criterion: Criterion = "magnitude",
    include_norm: bool = True,
    rounds: int = 1,
    recovery: TrainingSettings | None = None,
    seed: int = 0,
) -> Masks:
    """Set weights of a model to 0, in place, in one shot or in rounds with training between them.

    Round r of R keeps (1 - amount)^(r / R) of the weights, so that each takes the same share of what is left
    (the last one exactly `amount`; with an amount of 1 all but the last take equal shares of the whole).

    Args:
        model: any.
        amount: share to take in the end, 0 to 1.
        objective: around the model, for gradients and recovery.
        samples: the same.
        criterion: see `magnitude_masks`.
        include_norm: see `prunable_weights`.
        rounds: 1 is one shot, as published.
        recovery: training after each round, in which nothing that was taken comes back; None is none, as
            published.
        seed: of what is drawn.

    Returns:
        The masks; they are applied.

    Raises:
        ValueError: see `magnitude_masks`, or rounds below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; allowed: 1 or more")
    masks: Masks | None = None
    for number in range(1, rounds + 1):
        share = amount * number / rounds if amount == 1 else 1 - (1 - amount) ** (number / rounds)
        gradients = mean_gradients(objective, model, samples, seed=seed) if criterion == "gradient" else None
        masks = magnitude_masks(
            model,
            amount if number == rounds else share,
            criterion=criterion,
            include_norm=include_norm,
            gradients=gradients,
            seed=seed,
            held=masks,
        )
        masks.apply(model)
        if recovery is not None:
            mode = objective.training
            with masks.held(model):
                fit(objective.train(), samples, recovery, progress=False)
            objective.train(mode)
    assert masks is not None
    return masks


@torch.no_grad()
def attention_entropies(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Mean entropy in nats of the attention rows of each layer: log N where all keys get the same.

    Args:
        model: in evaluation mode.
        images: (B, C, ...).

    Returns:
        By the names of the layers; empty where the model has no attention.
    """
    found: dict[str, float] = {}

    def read(layer: LayerAttention) -> None:
        found[layer.name] = float(torch.special.entr(layer.weights.float()).sum(dim=-1).mean())

    with attention_tapped(model, read=read):
        model(images)
    return found


def sparsity_rows(model: nn.Module, masks: Masks) -> list[dict[str, Any]]:
    """A row for each masked parameter: `name`, `weights`, `kept` and `sparsity`, the share that is 0."""
    parameters = dict(model.named_parameters())
    rows = []
    for name, mask in masks.kept.items():
        zeros = int((parameters[name] == 0).sum())
        row = {"name": name, "weights": mask.numel(), "kept": int(mask.sum())}
        rows.append({**row, "sparsity": zeros / max(mask.numel(), 1)})
    return rows


@register_compressor("sparse-then-prune", "kept")
def sparse_then_prune(
    model: Classifier,
    material: Material,
    target: Target,
    *,
    criterion: Criterion = "magnitude",
    include_norm: bool = True,
    remove: Removed = "weights",
    rounds: int = 1,
    recovery_steps: int = 0,
    learning_rate: float = 1e-4,
) -> Outcome:
    """The smallest weights of the whole network are set to 0, or its weakest heads and MLP units taken out.

    Args:
        model: fine-tuned best by `foveal train sparse-then-prune`; any model with linear layers serves, for
            "heads and units" vision transformers of timm and transformers.
        material: its samples recover the model and give gradients.
        target: kept share of the weights, or of the operations where heads and units are taken out.
        criterion: see `magnitude_masks`.
        include_norm: see `prunable_weights`.
        remove: "weights" as published, which makes files smaller and nothing faster; "heads and units" for
            real speed.
        rounds: see `prune`.
        recovery_steps: of training after each round; 0 is none, as published.
        learning_rate: of recovery, its peak.

    Raises:
        ValueError: an option out of range, or a model that does not suit.
    """
    if remove not in get_args(Removed):
        raise ValueError(unknown_name("remove", remove, get_args(Removed)))
    if recovery_steps < 0:
        raise ValueError(f"recovery_steps is {recovery_steps}; allowed: 0 or more")
    before = attention_entropies(model, material.images[:_BATCH])
    if remove == "heads and units":
        if (criterion, rounds, recovery_steps) != ("magnitude", 1, 0):
            raise ValueError(
                "heads and units are taken out in one shot by the norm of their weights; leave criterion, "
                "rounds and recovery_steps out, and recover the model with --tune"
            )
        return _narrowed(model, material, target, before)
    settings = TrainingSettings(
        steps=max(recovery_steps, 1),
        batch_size=min(32, len(material.samples)),
        learning_rate=learning_rate,
        seed=material.seed,
        tensorboard=False,
    )
    masks = prune(
        model,
        1 - target.value,
        objective=ClassificationObjective(model, several=model.config.activation == "sigmoid"),
        samples=material.samples,
        criterion=criterion,
        include_norm=include_norm,
        rounds=rounds,
        recovery=settings if recovery_steps else None,
        seed=material.seed,
    )
    model.eval()
    stored, after = masks.storage(model), attention_entropies(model, material.images[:_BATCH])
    way = f"in {rounds} rounds" if rounds > 1 else "in one shot"
    recovered = f", with {recovery_steps} steps of training after each" if recovery_steps else ""
    summary = (
        f"{1 - masks.share:.1%} of the weights are 0, chosen by {criterion} {way}{recovered}. The pruned "
        f"tensors take {stored.dense / 1e6:.3f} MB as they are and {stored.bitmask / 1e6:.3f} MB with a bit "
        f"a weight, as `{WEIGHTS}` holds them ({stored.csr / 1e6:.3f} MB as CSR). Zeros that are scattered "
        "make nothing faster."
    )
    rows = [*sparsity_rows(model, masks), *_entropy_rows(before, after)]
    return Outcome(_with_entropy(summary, before, after), layers=rows, masks=masks, scattered=True)


def _narrowed(model: Classifier, material: Material, target: Target, before: dict[str, float]) -> Outcome:
    kept = narrow_blocks_to(model, material.images, target.value)
    after = attention_entropies(model, material.images[:_BATCH])
    summary = (
        f"{kept.heads_left} of {kept.heads} heads and {kept.units_left} of {kept.units} MLP units are left, "
        f"those of the largest weights; {kept.share:.1%} of the operations."
    )
    rows = [*kept.rows, *_entropy_rows(before, after)]
    return Outcome(_with_entropy(summary, before, after), layers=rows)


def _entropy_rows(before: Mapping[str, float], after: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {"name": name, "attention_entropy_before": value, "attention_entropy_after": after[name]}
        for name, value in before.items()
        if name in after
    ]


def _with_entropy(summary: str, before: Mapping[str, float], after: Mapping[str, float]) -> str:
    if not before or not after:
        return summary
    told = [sum(each.values()) / len(each) for each in (before, after)]
    return f"{summary} Mean entropy of attention {told[0]:.3f} nats before, {told[1]:.3f} after."


def _lowest(scores: Tensor, amount: float) -> Tensor:
    """(N,) bool, true for the round(amount * N) lowest."""
    taken = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    count = round(amount * len(scores))
    if count:
        taken[torch.topk(scores, count, largest=False).indices] = True
    return taken
