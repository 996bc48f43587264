"""What an analysis of attention leaves in its folder: tables, arrays, a figure and one interactive page.

The page holds all that it shows and opens from disk (Li et al., arXiv 2303.13731).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import foveal
from foveal.explanation.attention_analysis import AttentionAnalysis
from foveal.explanation.attention_figure import attention_figure
from foveal.explanation.attention_page import PAGE, attention_page, quantities_of
from foveal.files import sweep_partial_files, write_atomically

TABLE, ALL, ARRAYS, FIGURE = "heads.csv", "attention.json", "attention.npz", "attention.png"


def write_attention_report(
    analysis: AttentionAnalysis,
    out: str | Path,
    *,
    title: str = "Attention heads",
    images: Tensor | None = None,
    names: Sequence[str] | None = None,
    told: Sequence[str] | None = None,
    failures: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write `attention.html`, `.json`, `.npz`, `.png`, `heads.csv` and `failures.csv`; returns the page.

    Each file appears whole or not at all.

    Args:
        analysis: see `analyse_attention`.
        out: folder, made where missing.
        title: heading.
        images: (I, C, H, W) those that were analysed, to show the first of them; without them no attention is
            laid over images.
        names: of the images.
        told: what the model says of each image, for the page.
        failures: (name, reason) of images that were left out.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    sweep_partial_files(folder)
    labels = list(names or (f"image {k}" for k in range(analysis.image_count)))
    tables = analysis_tables(analysis, names=labels, failures=failures)
    write_atomically(folder / ALL, json.dumps(_plain(tables), indent=1, allow_nan=False) + "\n")
    write_atomically(folder / TABLE, _csv(tables["heads"]))
    write_atomically(folder / "failures.csv", _csv([{"image": a, "reason": b} for a, b in failures] or [{}]))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **_arrays(analysis))  # type: ignore[arg-type]
    write_atomically(folder / ARRAYS, buffer.getvalue())
    write_atomically(folder / FIGURE, attention_figure(analysis))
    page = attention_page(
        analysis, tables, title=title, images=images, names=labels, told=told, failures=failures
    )
    write_atomically(folder / PAGE, page)
    return folder / PAGE


def analysis_tables(
    analysis: AttentionAnalysis, *, names: Sequence[str] = (), failures: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """All tables of an analysis, as `attention.json` holds them; NaN where a head or a value is not there."""
    measures, agreement = analysis.agreement()
    clusters = analysis.cluster_of()
    shares = analysis.atlas.distribution()
    quantities = quantities_of(analysis)
    kinds = analysis.profiles.kinds()
    heads = []
    for place, (layer, head) in enumerate(analysis.heads(), start=1):
        at = (layer, head)
        cluster = int(clusters[at])
        heads.append(
            {
                "layer": layer,
                "head": head,
                "name": analysis.profiles.layers[layer],
                "place": place,
                "rank": float(analysis.rank[at]),
                **{name: float(table[at]) for name, table in quantities.items()},
                "profile_class": kinds[layer][head],
                "profile_group": int(analysis.groups[at]),
                "pattern": analysis.atlas.names[cluster],
                "pattern_share": float(shares[at][cluster]),
                **{f"strength_{k}": float(v) for k, v in enumerate(analysis.profiles.strength[at])},
                **{f"density_{k}": float(v) for k, v in enumerate(analysis.profiles.density[at])},
            }
        )
    classes = analysis.importance.classes.unique().tolist()
    return {
        "foveal": foveal.__version__,
        "settings": analysis.settings.model_dump(mode="json"),
        "labelled": analysis.labelled,
        "layers": list(analysis.profiles.layers),
        "grid": list(analysis.profiles.grid),
        "windows": list(analysis.profiles.windows),
        "images": list(names),
        "left_out": [{"image": name, "reason": reason} for name, reason in failures],
        "heads": heads,
        "top": heads[: analysis.settings.top],
        "agreement": {"measures": list(measures), "spearman": agreement.tolist()},
        "of_classes": {
            str(number): {
                name: value.tolist()
                for name, value in analysis.importance.of_class(int(number)).measures.items()
            }
            for number in classes
        },
        "trend": analysis.profiles.trend().tolist(),
        "profile_groups": analysis.group_profiles.tolist(),
        "pruning": {name: [list(point) for point in curve] for name, curve in analysis.curves.items()},
        "layers_pruned": {"kept": list(analysis.layer_counts), "accuracy": analysis.layer_curve.tolist()},
        "patterns": [
            {"name": name, "share": float((analysis.atlas.clusters == k).double().mean())}
            for k, name in enumerate(analysis.atlas.names)
        ],
        "reconstruction_error": analysis.atlas.error,
        "associations": [vars(row) for row in analysis.associations],
        "not_tested": dict(analysis.not_tested),
    }


def _arrays(analysis: AttentionAnalysis) -> dict[str, np.ndarray]:
    profiles = analysis.profiles
    found = {f"importance_{name}": value for name, value in analysis.all_measures.items()}
    found |= {
        name: getattr(profiles, name)
        for name in ("strength", "density", "distance", "entropy", "to_prefix", "from_class", "offsets")
    }
    found |= {
        "rank": analysis.rank,
        "prototypes": analysis.atlas.prototypes,
        "pattern_shares": analysis.atlas.distribution(),
        "layers_pruned": analysis.layer_curve,
    }
    return {name: value.numpy() for name, value in found.items()}


def _plain(value: Any) -> Any:
    """The same with None for numbers that are not there."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    names = list(rows[0]) or ["image", "reason"]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if row:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return buffer.getvalue()
