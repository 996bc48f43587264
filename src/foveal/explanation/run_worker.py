"""A process that explains one map after the other for a run, and may be killed at any moment."""

from __future__ import annotations

import io
import os
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveal.explanation.methods import ask, explain, find_method, frozen
from foveal.explanation.run_settings import ALL, PREDICTED, ExplainSettings, MapRecord, MethodChoice
from foveal.explanation.subjects import Case, Subject, class_names, nifti
from foveal.explanation.targets import Target, called, region, score_of
from foveal.explanation.tiled import explain_tiled
from foveal.files import write_atomically
from foveal.machine import become_worker

MAPS = "maps"


@dataclass(frozen=True)
class Task:
    """One map to be made."""

    case: Case
    method: MethodChoice
    target: str
    key: str
    stem: str


def serve(pipe: Any, make_model: Callable[[], nn.Module], settings: ExplainSettings, out: Path) -> None:
    """Answer tasks until there are no more: ("mapped", record), then ("done", record), or ("failed", reason).

    A record that is "mapped" has its files and lacks its measures, of which only then the clock starts.

    Sent first is ("ready", None), or ("broken", reason) where the model cannot be made.
    """
    become_worker()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        import captum.attr  # noqa: F401
        import matplotlib.figure  # noqa: F401  both before the clock of the first map starts

        find_method("saliency")
        model = make_model().to(settings.device).eval()
    except Exception as error:
        pipe.send(("broken", f"{type(error).__name__}: {error}"))
        return
    pipe.send(("ready", None))
    read: tuple[str, Subject] | None = None
    while (task := pipe.recv()) is not None:
        try:
            if read is None or read[0] != task.case.name:
                read = task.case.name, task.case.read(model)
            record = _explain(
                task, read[1], model, settings, out, lambda record: pipe.send(("mapped", record))
            )
            pipe.send(("done", record))
        except Exception as error:  # whatever a method raises is a record, never the end of the run
            kind = "" if isinstance(error, ValueError | ImportError) else f"{type(error).__name__}: "
            pipe.send(("failed", f"{kind}{error}"))


def target_names(model: nn.Module, target: str | int, *, dense: bool) -> tuple[str, ...]:
    """The classes that a target of the settings stands for.

    Raises:
        ValueError: a name that the model does not have, or "predicted" of a segmenter of several classes.
    """
    names = class_names(model)
    if target == ALL or (target == PREDICTED and dense and len(names) > 1):
        if not names:
            raise ValueError("the model does not name its classes; give their indices as targets")
        return names
    if target == PREDICTED:
        return (names[0],) if dense and names else (PREDICTED,)
    word = str(target)
    if word in names:
        return (word,)
    if word.isdigit() and (not names or int(word) < len(names)):
        return (names[int(word)] if names else word,)
    raise ValueError(f"target {target!r}; allowed: {', '.join(names) or 'an index'}, {PREDICTED}, {ALL}")


def _explain(
    task: Task,
    subject: Subject,
    model: nn.Module,
    settings: ExplainSettings,
    out: Path,
    tell: Callable[[MapRecord], None],
) -> MapRecord:
    method = find_method(task.method.name)
    options = dict(task.method.options)
    if "seed" in method.options:
        options.setdefault("seed", settings.seed)
    images = subject.images.to(next(model.parameters(), subject.images).device)
    chosen = target_weights(task.target, model, settings)
    lower = None if settings.autocast is None else getattr(torch, settings.autocast)
    explained = task.target
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if settings.tile is None:
            with nullcontext() if lower is None else torch.autocast(images.device.type, dtype=lower):
                values = explain(model, images, chosen, method=method.name, **options)
            if lower is not None and not bool(torch.isfinite(values).all()):
                values = explain(model, images, chosen, method=method.name, **options)
            asked = ask(model, images, chosen)
            score, tiles = float(score_of(asked.outputs, asked.weights)[0]), 1
            if task.target == PREDICTED:
                index, names = int(asked.weights[0].argmax()), class_names(model)
                explained = names[index] if names else str(index)
        else:
            tiled = explain_tiled(
                model, images, chosen, method=method.name, tile=settings.tile, overlap=settings.overlap,
                blend=settings.blend, autocast=lower, **options,
            )  # fmt: skip
            values, score, tiles = tiled.values, float(tiled.scores.sum()), len(tiled.corners)
    seconds = time.perf_counter() - start
    relevance = values[0].detach().float().cpu().numpy()
    if not np.isfinite(relevance).all():
        raise ValueError("the map holds NaN or infinity")
    folder = out / MAPS / task.case.name
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{task.method.label}: {explained}" if settings.pictures else None
    files = _write(task.stem, subject, relevance, folder, signed=method.signed, title=title)
    record = MapRecord(
        key=task.key,
        case=task.case.name,
        method=method.name,
        label=task.method.label,
        options=_plain(options),
        target=task.target,
        explained=explained,
        score=score,
        seconds=round(seconds, 4),
        shape=tuple(relevance.shape),
        signed=method.signed,
        tiles=tiles,
        notes=tuple(dict.fromkeys(_note(w) for w in caught if _counts(w))),
        files=tuple(f"{MAPS}/{task.case.name}/{name}" for name in files),
    )
    if settings.measures:
        tell(record)
        measured = _measures(model, images, chosen, method.name, options, settings)
        record = record.replace(measured=measured)
    write_atomically(folder / f"{task.stem}.json", record.model_dump_json(indent=1) + "\n")
    return record


def target_weights(name: str, model: nn.Module, settings: ExplainSettings) -> Target:
    """A class, or for outputs with places a class in a region of them."""
    if name == PREDICTED:
        return None
    names = class_names(model)
    index = names.index(name) if name in names else int(name)

    def weights(outputs: Tensor) -> Tensor:
        if outputs.ndim > 2:
            where = settings.where if settings.where == "everywhere" else called(model, outputs, index)
            return region(index, where, mean=settings.mean)(outputs)
        if not 0 <= index < outputs.shape[1]:
            raise ValueError(f"target {index}; allowed: 0 to {outputs.shape[1] - 1}")
        one = torch.zeros_like(outputs)
        one[:, index] = 1
        return one

    return weights


def _measures(
    model: nn.Module,
    images: Tensor,
    target: Target,
    method: str,
    options: dict[str, Any],
    settings: ExplainSettings,
) -> dict[str, float]:
    """Infidelity and sensitivity of an image, or the median over its tiles without those that are NaN."""
    if not settings.measures:
        return {}
    from foveal.explanation.tiled import cut_tiles

    parts = [images] if settings.tile is None else cut_tiles(images, settings.tile, settings.overlap)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [_measured(model, part, target, method, options, settings) for part in parts]
    medians = {}
    for name in found[0]:
        known = [each[name] for each in found if not np.isnan(each[name])]
        medians[name] = statistics.median(known) if known else float("nan")
    return {name: float(f"{value:.6g}") for name, value in medians.items() if not np.isnan(value)}


def _measured(
    model: nn.Module,
    images: Tensor,
    target: Target,
    method: str,
    options: dict[str, Any],
    settings: ExplainSettings,
) -> dict[str, float]:
    from foveal.explanation.faithfulness import explainer_of, infidelity, sensitivity_max
    from foveal.explanation.methods import Question
    from foveal.explanation.perturbing import gaussian, uniform
    from foveal.explanation.randomisation import cascading_randomisation, layers_from_output

    span = settings.perturbation * float(images.max() - images.min())
    drawn = {"samples": settings.measure_samples, "seed": settings.seed}
    answer = explainer_of(method, **options)

    def measure(asked: Question, relevance: Tensor) -> dict[str, float]:
        values = {}
        if "infidelity" in settings.measures:
            noise = gaussian(span, **drawn)
            values["infidelity"] = float(
                infidelity(asked, relevance, perturbations=noise, normalise=True, batch_size=8)[0]
            )
        if "sensitivity" in settings.measures:
            values["sensitivity"] = float(
                sensitivity_max(
                    asked, answer, relevance=relevance, perturbations=uniform(span, **drawn), batch_size=4
                )[0]
            )
        return values

    asked = ask(model, images, target)
    with frozen(model):
        values = measure(asked, answer(asked).detach())
    if "randomisation" in settings.measures:
        last = len(layers_from_output(model, images))
        calls = 0

        def watching(question: Question) -> Tensor:
            nonlocal calls
            found = answer(question)
            if calls == last:  # all weights are drawn anew now
                again = measure(question, found.detach())
                values.update({f"{name}_randomised": value for name, value in again.items()})
            calls += 1
            return found if find_method(method).signed else found.abs()

        changed = cascading_randomisation(asked, watching, seed=settings.seed)
        values["spearman_randomised"] = float(changed.spearman[-1, 0])
    return values


def _write(
    stem: str, subject: Subject, relevance: np.ndarray, folder: Path, *, signed: bool, title: str | None
) -> list[str]:
    """The array and, with a title, what shows it; each file appears whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, relevance=relevance)
    write_atomically(folder / f"{stem}.npz", buffer.getvalue())
    files = [f"{stem}.npz"]
    volume = relevance.ndim == 3
    if volume and subject.affine is not None:
        nibabel = nifti()
        image = nibabel.Nifti1Image(relevance.astype(np.float32), subject.affine)
        write_atomically(folder / f"{stem}.nii", image.to_bytes())
        files.append(f"{stem}.nii")
    if title is not None:
        from foveal.explanation.pictures import Drawn, overlay_png, projections_png

        drawn = Drawn(over_background(subject, relevance), title, signed)
        picture = (
            projections_png(drawn, subject.images[0].mean(dim=0).numpy())
            if volume
            else overlay_png(drawn, background_of(subject))
        )
        write_atomically(folder / f"{stem}.png", picture)
        files.append(f"{stem}.png")
    return files


def over_background(subject: Subject, relevance: np.ndarray) -> np.ndarray:
    """A map on the grid of what it is drawn on."""
    return relevance if subject.place is None else subject.place(relevance)


def background_of(subject: Subject) -> np.ndarray:
    """(H, W, 3) uint8 to draw on."""
    from foveal.explanation.pictures import grey_photograph

    return grey_photograph(subject.images[0].numpy()) if subject.background is None else subject.background


def _counts(warning: warnings.WarningMessage) -> bool:
    """Whether a warning tells of the map, and not of how a library goes about it."""
    return issubclass(warning.category, UserWarning) and f"{os.sep}foveal{os.sep}" in warning.filename


def _note(warning: warnings.WarningMessage) -> str:
    return str(warning.message)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else value
        for name, value in options.items()
    }
