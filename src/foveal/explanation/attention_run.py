"""A saved classifier and image files in, a report of its attention heads out, for `foveal attention`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from foveal.blocks.attention_taps import attention_of
from foveal.explanation.attention_analysis import AttentionSettings, analyse_attention
from foveal.explanation.attention_report import ALL, write_attention_report
from foveal.explanation.subjects import Case, file_cases, load_model
from foveal.models.classifier import Classifier
from foveal.settings import unknown_name

LABEL = "label"


@dataclass(frozen=True)
class AttentionRun:
    """How a run ended.

    Attributes:
        page: the report.
        images: how many were analysed.
        failures: (name, reason) of those that were not.
    """

    page: Path
    images: int
    failures: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        """0 all images are in the report, 1 some are not."""
        return 1 if self.failures else 0


def analyse_files(
    model: str | Path,
    sources: Sequence[str | Path],
    out: str | Path,
    settings: AttentionSettings | None = None,
    *,
    labels: str | Path | None = None,
    title: str = "Attention heads",
    progress: Callable[[str], None] | None = None,
) -> AttentionRun:
    """Analyse the attention heads of a saved classifier over image files, and write the report.

    Args:
        model: folder of a saved `Classifier` of one class an image, with attention.
        sources: files, folders, globs or manifests; each image is prepared as the model wants it.
        out: new, empty, or of an earlier report, which is written anew.
        settings: see `AttentionSettings`.
        labels: CSV or Parquet with the columns `path` and `label`: a file, by its path from the table's
            folder, its name or its name without ending, and a class of the model by name or number. Images
            without a label are left out.
        title: heading of the report.
        progress: called with a line for each step.

    Raises:
        ValueError: nothing could start: another kind of model, no attention, fewer than two images, a label
            that is no class, or a folder with other files.
        OSError: a source or a file of the model is missing.
    """
    chosen, tell = settings or AttentionSettings(), progress or (lambda line: None)
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / ALL).is_file())):
        raise ValueError(
            f"{out} holds other files; name a new or an empty folder, or one of an earlier report"
        )
    loaded = load_model(model)
    if not isinstance(loaded, Classifier) or loaded.config.activation != "softmax":
        told = "one of many findings an image" if isinstance(loaded, Classifier) else type(loaded).__name__
        raise ValueError(f"{model} is a {told}; allowed: a Classifier of one class an image")
    classifier = loaded.to(_device(chosen.device)).eval()
    side, channels = classifier.config.size, classifier.encoder.in_channels
    attention_of(classifier, torch.zeros(1, channels, side, side, device=classifier.mean.device))
    cases, unread = file_cases(sources)
    known = None if labels is None else read_labels(labels, cases, classifier.config.classes)
    failures = [(str(path), reason) for path, reason in unread]
    names: list[str] = []
    images: list[Tensor] = []
    for case in cases:
        if known is not None and case.name not in known:
            failures.append((case.name, f"no label in {labels}"))
            continue
        try:
            images.append(case.read(classifier).images)
            names.append(case.name)
        except (ValueError, OSError) as error:
            failures.append((case.name, str(error)))
            tell(f"{case.name}: left out: {error}")
    if len(images) < 2:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures[:3])
        raise ValueError(f"{len(images)} images could be read, two at least are wanted. {reasons}")
    stacked = torch.cat(images).to(classifier.mean.device)
    answers = None if known is None else torch.tensor([known[name] for name in names])
    analysis = analyse_attention(classifier, stacked, answers, chosen, progress=tell)
    shown = stacked[: chosen.overlays]
    said = classifier.predict_proba(shown).argmax(dim=1).tolist() if len(shown) else []
    told_of = [
        f"the model says {classifier.config.classes[each]}"
        + ("" if answers is None else f", labelled {classifier.config.classes[int(answers[k])]}")
        for k, each in enumerate(said)
    ]
    page = write_attention_report(
        analysis, folder, title=title, images=stacked, names=names, told=told_of, failures=failures
    )
    return AttentionRun(page, len(images), tuple(failures))


def read_labels(table: str | Path, cases: Sequence[Case], classes: Sequence[str]) -> dict[str, int]:
    """Class of each case that a table labels, by the case's name.

    Raises:
        FileNotFoundError: no such table.
        ValueError: a column is missing, a label is no class, or no row belongs to an image.
    """
    from foveal.scans.manifest import read_manifest

    path = Path(table)
    frame = read_manifest(path)
    if LABEL not in frame.columns:
        raise ValueError(f"{path} has the columns {', '.join(frame.columns)}; allowed: path and {LABEL}")
    by = _spellings(cases)
    found: dict[str, int] = {}
    for number, (written, value) in enumerate(zip(frame["path"], frame[LABEL], strict=True), start=2):
        case = by.get(str((path.parent / str(written)).resolve())) or by.get(str(written))
        word = _word(value)
        if case is None or not word:
            continue
        if word in classes:
            found[case] = list(classes).index(word)
        elif word.isdigit() and int(word) < len(classes):
            found[case] = int(word)
        else:
            raise ValueError(f"{path}, row {number}: {unknown_name('label', word, list(classes))}")
    if not found:
        raise ValueError(
            f"no row of {path} is of one of the images, such as {cases[0].file or cases[0].name}"
        )
    return found


def _spellings(cases: Sequence[Case]) -> Mapping[str, str]:
    """Names of cases by path, by name, and by the file's name where no other file has it."""
    by: dict[str, str] = {}
    files = [case for case in cases if case.file is not None]
    for spell in (lambda file: file.stem, lambda file: file.name):
        words = [spell(case.file) for case in files]
        by |= {word: case.name for word, case in zip(words, files, strict=True) if words.count(word) == 1}
    by |= {case.name: case.name for case in cases}
    by |= {str(case.file.resolve()): case.name for case in files if case.file is not None}
    return by


def _word(value: object) -> str:
    """A label as text: 1.0, as pandas reads a column with gaps, is 1; nothing is empty."""
    if isinstance(value, float):
        return "" if value != value else f"{value:g}"
    return str(value).strip() if value is not None else ""


def _device(wanted: str) -> torch.device:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ValueError("device is 'cuda', but torch sees no CUDA device; allowed here: 'cpu' or 'auto'")
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")
