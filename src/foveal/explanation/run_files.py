"""A saved model and files in, maps out: what `foveal explain` calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from foveal.explanation.run import RunSummary, run_explanations
from foveal.explanation.run_settings import ExplainSettings, Failed
from foveal.explanation.subjects import file_cases, load_model, model_folder
from foveal.models.pretrained import CONFIG, weights_hash


def explain_files(
    model: str | Path,
    sources: Sequence[str | Path],
    out: str | Path,
    settings: ExplainSettings,
    *,
    progress: Callable[[str], None] | None = None,
) -> RunSummary:
    """Explain what a saved model says of photographs or volumes; see `run_explanations` for what is written.

    Args:
        model: folder of a saved `Classifier`, `Segmenter` or `MaskModel`, or the name of a shipped one.
        sources: files, folders, globs or manifests; each is prepared as the model wants it.
        out: new, empty, or of an earlier run, which goes on.
        settings: methods, targets and how.
        progress: called with a line for each map.

    Raises:
        ValueError: nothing could start: a model, a source, a method or a target that is not there.
        OSError: a source or a file of the model is missing.
    """
    folder = model_folder(model)
    cases, unread = file_cases(sources)
    config = hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest()
    return run_explanations(
        partial(load_model, folder),
        cases,
        out,
        settings,
        model_key=f"{weights_hash(folder)} {config}",
        failed=[Failed(case=str(path), reason=reason) for path, reason in unread],
        progress=progress,
    )
