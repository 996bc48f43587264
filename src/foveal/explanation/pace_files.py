"""PACE of a saved model over a folder of images: concepts, their sheet, and a table of what they drive."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from foveal.explanation.pace import ConceptModel, Pace, PaceSettings, drivers
from foveal.explanation.pace_fitting import fit_pace
from foveal.explanation.pace_pictures import concept_sheet_png, nearest_patches
from foveal.explanation.subjects import Case, class_names, file_cases, load_model
from foveal.files import write_atomically

SHEET, TABLE = "concepts.png", "concepts.csv"
LEAST_SHARE = 0.01  # of all attention, for a concept to be counted


@dataclass(frozen=True)
class PaceRun:
    """What `fit_pace_files` did.

    Attributes:
        pace: the model with its concepts.
        folder: that was written.
        images: how many were found.
        skipped: name of each that was left out, to the reason.
    """

    pace: Pace
    folder: Path
    images: int
    skipped: dict[str, str]

    def told(self) -> list[str]:
        """Lines for somebody who waits for it: the largest concepts, what drives each class, the files."""
        fitted = self.pace.fitted
        shares = [(concept, float(fitted.prevalence[concept])) for concept in fitted.order()]
        some = sum(share >= LEAST_SHARE for _, share in shares)
        largest = ", ".join(f"{concept} ({share:.1%})" for concept, share in shares[:5])
        lines = [
            f"{self.images - len(self.skipped)} images, {some} of {len(shares)} concepts with "
            f"{LEAST_SHARE:.0%} of the attention or more; the largest: {largest}"
        ]
        for name, best in zip(_names(fitted), drivers(fitted), strict=True):
            lines.append(f"for {name}: " + ", ".join(f"{concept} (eta {eta:+.2f})" for concept, eta in best))
        if self.skipped:
            lines.append(f"{len(self.skipped)} images left out: {', '.join(self.skipped)}")
        return [*lines, f"concepts: {self.folder}, see {SHEET} and {TABLE} there"]


class ImageBatches:
    """Images of cases in batches, read anew each time they are gone through, in an order drawn by a seed.

    Args:
        cases: one image or volume each, all of one shape as the model takes them.
        model: that they are prepared for.
        batch_size: images in a batch.
        seed: of the order.

    A case that cannot be read is left out, with a warning.
    """

    def __init__(self, cases: Iterable[Case], model: nn.Module, *, batch_size: int, seed: int) -> None:
        listed = list(cases)
        order = torch.randperm(len(listed), generator=torch.Generator().manual_seed(seed))
        self.cases, self.model, self.batch_size = [listed[i] for i in order.tolist()], model, batch_size
        self.unreadable: dict[str, str] = {}

    def __iter__(self) -> Iterator[Tensor]:
        """Batches (B, C, ...)."""
        images = self._images()
        while batch := list(islice(images, self.batch_size)):
            yield torch.cat(batch)

    def _images(self) -> Iterator[Tensor]:
        for case in self.cases:
            if case.name in self.unreadable:
                continue
            try:
                yield case.read(self.model).images
            except (OSError, ValueError) as error:
                self.unreadable[case.name] = str(error)
                warnings.warn(f"{case.name} is left out: {error}", stacklevel=2)


def fit_pace_files(
    model: str | Path, source: str | Path, out: str | Path, settings: PaceSettings | None = None
) -> PaceRun:
    """Fit concepts of a saved model to a folder of images without labels, and write them.

    `out` receives the concepts (`ConceptModel.from_pretrained(out)`), `concepts.png`, a sheet of their
    nearest patches, and `concepts.csv`, the share of attention and eta of each. `explain(...,
    method="pace", trained=out)` takes the folder.

    Args:
        model: folder of a saved classifier, segmenter or mask model, or a shipped one's name.
        source: file, folder, glob or manifest.
        out: folder, made where missing.
        settings: see `PaceSettings`.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: no model, no images, or settings that do not fit.
    """
    settings = settings or PaceSettings()
    loaded = load_model(model).eval()
    cases, failed = file_cases([source])
    for path, reason in failed:
        warnings.warn(f"{path} is left out: {reason}", stacklevel=2)
    batches = ImageBatches(cases, loaded, batch_size=settings.batch_size, seed=settings.seed)
    pace = fit_pace(loaded, batches, settings, class_names=class_names(loaded))
    folder = pace.fitted.save_pretrained(out, card=_card(pace.fitted, str(model), len(cases)))
    write_atomically(folder / SHEET, concept_sheet_png(pace.fitted, nearest_patches(pace, batches)))
    write_atomically(folder / TABLE, concept_table(pace.fitted))
    skipped = {str(path): reason for path, reason in failed} | batches.unreadable
    return PaceRun(pace, folder, len(cases) + len(failed), skipped)


def concept_table(fitted: ConceptModel) -> str:
    """CSV: a row a concept, the most prevalent first, with eta of each class above the classes' mean."""
    names = _names(fitted)
    eta = fitted.eta - fitted.eta.mean(dim=0) if names else fitted.eta
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["concept", "share_of_attention", *(f"eta_{name}" for name in names)])
    for concept in fitted.order():
        share = float(fitted.prevalence[concept])
        writer.writerow([concept, f"{share:.6g}", *(f"{float(v):.6g}" for v in eta[:, concept])])
    return buffer.getvalue()


def _names(fitted: ConceptModel) -> list[str]:
    """Of the classes that the concepts know, numbers where they have no name."""
    count = len(fitted.eta)
    names = list(fitted.config.class_names[:count])
    return names + [str(number) for number in range(len(names), count)]


def _card(fitted: ConceptModel, model: str, images: int) -> str:
    config = fitted.config
    return (
        f"# Concepts of {model}\n\n{config.fitted.concepts} concepts of its patches by PACE (arXiv "
        f"2406.12649), fitted to {images} images without labels. `{SHEET}` shows their nearest patches, "
        f"`{TABLE}` what each says for the classes. They describe this model on such images, no other.\n"
    )
