"""Sanity check: does a map change when the model's weights are drawn anew (Adebayo, arXiv 1810.03292)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from foveal.explanation.cam import unit_range
from foveal.explanation.faithfulness import Explainer, explainer_of
from foveal.explanation.methods import Question, find_method, frozen
from foveal.explanation.perturbing import generator_of

Draw = Literal["uniform", "reset"]


@dataclass(frozen=True)
class Randomised:
    """Likeness of maps to the original one after each layer is drawn anew.

    Attributes:
        layers: names in the order in which they were drawn.
        spearman: (L, B) rank correlation over pixels; NaN where a map does not vary.
        ssim: (L, B) structural similarity of maps scaled to [0, 1].
        maps: (L + 1, B, ...), the original first.
    """

    layers: tuple[str, ...]
    spearman: Tensor
    ssim: Tensor
    maps: Tensor


def cascading_randomisation(
    asked: Question,
    explainer: Explainer | str,
    *,
    draw: Draw = "uniform",
    cascade: bool = True,
    absolute: bool = False,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Randomised:
    """Explain again while the weights are drawn anew, layer by layer, from the output back.

    Layers are the modules that hold parameters themselves, the last to run first. The model is as before
    afterwards, bit for bit, also when an error is raised. The score keeps its weights.

    Args:
        asked: the question.
        explainer: a method's name or a function from a question to relevance.
        draw: "uniform", each parameter from U(mean - std, mean + std) of its own values, as TorchEsegeta
            does (what is constant, such as an untrained bias, stays); or "reset", as a layer starts, with its
            `reset_parameters`, and U where it has none.
        cascade: layers stay as they are drawn; else each is drawn alone and put back.
        absolute: compare sizes of relevance, not values.
        options: of a method that is named.
        seed: of what is drawn.

    Raises:
        ValueError: another draw, or a model without parameters.
    """
    if draw not in ("uniform", "reset"):
        raise ValueError(f"draw is {draw!r}; allowed: uniform, reset")
    answer = explainer_of(explainer, **(options or {}))
    signed = find_method(explainer).signed if isinstance(explainer, str) else True
    model, images = asked.model, asked.images

    def relevance() -> Tensor:
        with frozen(model):
            found = answer(Question(model, images, asked.weights)).detach().float()
        if found.ndim == images.ndim:
            found = found.sum(dim=1) if signed and not absolute else found.abs().amax(dim=1)
        return found.abs() if absolute else found

    layers = layers_from_output(model, images)
    maps = [relevance()]
    with restored(model) as put_back:
        for number, (_, module) in enumerate(layers):
            if not cascade:
                put_back()
            _draw_anew(module, draw, generator_of(seed, number))
            with warnings.catch_warnings():  # what is odd about a random model's answers is no news
                warnings.simplefilter("ignore", UserWarning)
                maps.append(relevance())
    original = maps[0]
    return Randomised(
        tuple(name for name, _ in layers),
        torch.stack([rank_correlation(original, x) for x in maps[1:]]),
        torch.stack([similarity(original, x) for x in maps[1:]]),
        torch.stack(maps),
    )


def layers_from_output(model: nn.Module, images: Tensor) -> list[tuple[str, nn.Module]]:
    """Modules that hold parameters themselves, the last to start in a forward pass first.

    One that is not called, as its owner uses its weights, counts as starting with its owner; one that is
    called several times by its last call.

    Raises:
        ValueError: there is none.
    """
    started: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():

        def note(_module: nn.Module, _inputs: Any, name: str = name) -> None:
            started[name] = step[0] = step[0] + 1

        handles.append(module.register_forward_pre_hook(note))
    step = [0]
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()

    def start(name: str) -> int:
        while name and name not in started:
            name = name.rpartition(".")[0]
        return started.get(name, 0)

    owners = [
        (name, m) for name, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None
    ]
    if not owners:
        raise ValueError(f"{type(model).__name__} has no parameters to draw anew")
    return sorted(owners, key=lambda owner: start(owner[0]), reverse=True)


@contextmanager
def restored(model: nn.Module) -> Iterator[Any]:
    """Let parameters and buffers change inside, and put them back bit for bit; yields what puts them back."""
    kept = [(x, x.detach().clone()) for x in (*model.parameters(), *model.buffers())]

    def put_back() -> None:
        with torch.no_grad():
            for now, before in kept:
                now.copy_(before)

    try:
        yield put_back
    finally:
        put_back()


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """(B,) Spearman's correlation over the pixels of maps (B, ...); NaN where one does not vary."""
    ranks = [rankdata(x.flatten(1).cpu().numpy(), axis=1) for x in (first, second)]
    a, b = (x - x.mean(axis=1, keepdims=True) for x in ranks)
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.where(size > 0, (a * b).sum(axis=1) / size, np.nan)).float()


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """(B,) SSIM of maps (B, H, W) or (B, T, H, W), each scaled to [0, 1].

    Its Gaussian window has sigma 1.5, and less on sides below 11 pixels, which it would not fit.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (unit_range(x.float()).unsqueeze(1) for x in (first, second))
    sigma = min(1.5, (min(a.shape[2:]) - 1) / 2 / 3.5)
    found = structural_similarity_index_measure(a, b, sigma=sigma, data_range=1.0, reduction="none")
    if not isinstance(found, Tensor):
        raise TypeError("SSIM gave several values")
    return found.cpu()


def _draw_anew(module: nn.Module, draw: Draw, source: torch.Generator) -> None:
    reset = getattr(module, "reset_parameters", None)
    if draw == "reset" and callable(reset):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(source.initial_seed())
            reset()
        return
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            mean, std = parameter.mean(), parameter.std(correction=0)
            noise = torch.rand(parameter.shape, generator=source, dtype=parameter.dtype)
            parameter.copy_(mean + (2 * noise.to(parameter.device) - 1) * std)
