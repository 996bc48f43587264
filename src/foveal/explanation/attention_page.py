"""The interactive page of an analysis of attention: one file with all that it shows, opened from disk."""

from __future__ import annotations

import io
import json
import math
from base64 import b64encode
from collections.abc import Sequence
from datetime import date
from typing import Any

import torch
from torch import Tensor

import foveal
from foveal.explanation.attention_analysis import AttentionAnalysis
from foveal.explanation.pictures import grey_photograph
from foveal.pages import data_uri, page_environment

PAGE = "attention.html"
_POINTS = 4000  # of the picture of patterns
_PICTURE_SIDE = 480
_TITLES = {
    "accuracy_drop": ("accuracy lost", "share of the images answered right with the head and wrong without"),
    "loss_increase": ("loss gained", "cross-entropy of the labels without the head less that with it"),
    "true_probability_drop": ("probability of the label lost", "mean over images"),
    "probability_drop": ("probability of the answer lost", "of the class that the whole model says"),
    "divergence": ("answers moved", "divergence of Jensen and Shannon, nats"),
    "embedding_shift": ("embedding moved", "1 - cosine of what the last linear layer reads"),
    "layer_shift": ("layer's output moved", "1 - cosine of what the head's own block gives"),
    "kept_alone": (
        "kept alone in its layer",
        "probability lost with the layer's other heads out, sign turned",
    ),
    "sensitivity": ("gradient of the gate", "|d loss / d gate|, the fast measure of first order"),
    "entropy": ("entropy of attention", "of a query's attention, nats"),
    "distance": ("mean distance", "between query and key, pixels"),
    "to_prefix": ("attention to prefix tokens", "share of patches' attention to tokens before the patches"),
    "from_class": ("class token to patches", "share of the class token's attention that goes to patches"),
    "itself": ("attention to itself", "share of a patch's attention"),
    "pattern_entropy": ("patterns over images", "entropy of the head's clusters, nats; 0 is always one"),
}


def quantities_of(analysis: AttentionAnalysis) -> dict[str, Tensor]:
    """(L, H) of all that is measured of a head, by name."""
    profiles = analysis.profiles
    return {
        **analysis.all_measures,
        "entropy": profiles.entropy,
        "distance": profiles.distance,
        "itself": profiles.strength[..., 0],
        "to_prefix": profiles.to_prefix,
        "from_class": profiles.from_class,
        "pattern_entropy": analysis.atlas.entropy(),
    }


def attention_page(
    analysis: AttentionAnalysis,
    tables: dict[str, Any],
    *,
    title: str,
    images: Tensor | None,
    names: Sequence[str],
    told: Sequence[str] | None,
    failures: Sequence[tuple[str, str]],
) -> str:
    """The page of an analysis and its tables; see `write_attention_report`."""
    what = "Accuracy" if analysis.labelled else "Share of answers that stay"
    measures = [
        name for name in ("loss_increase", "accuracy_drop", "divergence") if name in analysis.all_measures
    ]
    heads = analysis.rank.shape[1]
    overlays = None if images is None else analysis.overlays
    data = _data(analysis, images, names, told)
    environment = page_environment("foveal.explanation")
    return environment.get_template(PAGE).render(
        title=title,
        layers=analysis.profiles.layers,
        head_count=len(tables["heads"]),
        image_count=len(names),
        importance_images=len(analysis.importance.classes),
        labelled=analysis.labelled,
        day=date.today().isoformat(),
        version=foveal.__version__,
        cards=_cards(analysis, tables),
        projection={"pca": "two principal components", "t-sne": "t-SNE", "umap": "UMAP"}[
            analysis.settings.projection
        ],
        error=analysis.atlas.error,
        has_overlays=overlays is not None,
        no_overlays="the images were not handed on"
        if images is None
        else "the model does not tell how its windows lie in the image; timm's Swin transformers do, by "
        "`input_resolution`, `window_size` and `shift_size` of their blocks"
        if analysis.overlay_images
        else "no image was asked for",
        accuracy=what,
        ablation="A head taken out gives 0."
        if analysis.settings.ablation == "zero"
        else "A head taken out gives its mean output over the images.",
        curves=list(analysis.curves),
        curve_rows=[
            [points[0][0], *(f"{100 * value:.1f} %" for _, value in points)]
            for points in zip(*analysis.curves.values(), strict=True)
        ],
        layer_counts=list(analysis.layer_counts),
        layer_rows=[
            {
                "name": f"L{k}" if k < len(analysis.profiles.layers) else "all",
                "cells": [f"{100 * float(v):.0f} %" for v in row],
            }
            for k, row in enumerate(analysis.layer_curve)
        ],
        top_measures=[_TITLES[name][0] for name in measures],
        top=[
            {
                "index": row["layer"] * heads + row["head"],
                "layer": row["layer"],
                "head": row["head"],
                "rank": f"{row['rank']:.2f}",
                "measures": [f"{row[name]:.3g}" for name in measures],
                "kind": row["profile_class"],
                "distance": f"{row['distance']:.0f}",
                "pattern": row["pattern"],
                "share": f"{100 * row['pattern_share']:.0f} %",
            }
            for row in tables["top"]
        ],
        associations=[
            {
                "of": row.of,
                "test": row.test,
                "statistic": f"{row.statistic:+.2f}" if row.test == "Spearman" else f"{row.statistic:.1f}",
                "p": f"{row.p:.2g}",
                "corrected": f"{row.corrected:.2g}",
                "clear": row.corrected < 0.05,
            }
            for row in analysis.associations
        ],
        not_tested=analysis.not_tested,
        agreement={
            "names": [_TITLES[name][0] for name in tables["agreement"]["measures"]],
            "rows": [
                {"name": _TITLES[name][0], "cells": ["–" if math.isnan(v) else f"{v:.2f}" for v in row]}
                for name, row in zip(
                    tables["agreement"]["measures"], tables["agreement"]["spearman"], strict=True
                )
            ],
        },
        failures=failures,
        settings=analysis.settings.model_dump_json(exclude_defaults=True),
        data=_embedded(data),
    )


def _cards(analysis: AttentionAnalysis, tables: dict[str, Any]) -> list[dict[str, str]]:
    first = tables["heads"][0]
    curve = analysis.curves["least first"]
    whole = curve[0][1]
    free = max((count for count, value in curve if value >= whole - 0.01), default=0)
    kinds = [row["profile_class"] for row in tables["heads"]]
    common = max(set(kinds), key=kinds.count)
    return [
        {
            "title": "Most important head",
            "value": f"L{first['layer']} H{first['head']}",
            "note": f"reach: {first['profile_class']}; pattern: {first['pattern']}",
        },
        {
            "title": "Heads that can go together",
            "value": f"{free} of {len(kinds)}",
            "note": "least important first, for one point of accuracy at most"
            if analysis.labelled
            else "least important first, with 99 % of the answers unchanged",
        },
        {
            "title": "Accuracy with all heads" if analysis.labelled else "Labels",
            "value": f"{100 * whole:.1f} %" if analysis.labelled else "none",
            "note": f"{len(analysis.importance.classes)} images"
            if analysis.labelled
            else "measures that need none, and pruning by unchanged answers",
        },
        {
            "title": "Most frequent reach",
            "value": common,
            "note": f"{kinds.count(common)} of {len(kinds)} heads",
        },
    ]


def _data(
    analysis: AttentionAnalysis, images: Tensor | None, names: Sequence[str], told: Sequence[str] | None
) -> dict[str, Any]:
    """What the page's script reads; arrays of bytes in base64."""
    profiles, atlas = analysis.profiles, analysis.atlas
    heads = analysis.rank.shape[1]
    offsets = profiles.offsets.nan_to_num().clamp_min(0)
    offsets = (offsets / offsets.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-12)).sqrt()
    shares = atlas.distribution()
    own = analysis.cluster_of()
    tables = {"rank": analysis.rank, **quantities_of(analysis)}
    titles = {
        "rank": ("combined rank", "mean over the measures that take heads out; 1 is the most"),
        **_TITLES,
    }
    drawn = torch.randperm(len(atlas.samples), generator=torch.Generator().manual_seed(0))[:_POINTS]
    samples = atlas.samples

    def named(number: int) -> str:
        image = names[int(samples.image[number])] if int(samples.image[number]) < len(names) else ""
        return f"L{int(samples.layer[number])} H{int(samples.head[number])}, {image}"

    data: dict[str, Any] = {
        "layers": list(profiles.layers),
        "heads": heads,
        "grid": list(profiles.grid),
        "there": (~analysis.rank.isnan()).flatten().tolist(),
        "order": [layer * heads + head for layer, head in analysis.heads()],
        "measures": {
            name: {
                "title": titles[name][0],
                "note": titles[name][1],
                "signed": name in analysis.all_measures,
                "values": _rounded(table.flatten()),
            }
            for name, table in tables.items()
            if not table.isnan().all()
        },
        "kinds": [kind for row in profiles.kinds() for kind in row],
        "groups": analysis.groups.flatten().tolist(),
        "groupCount": len(analysis.group_profiles),
        "strength": [_rounded(row) for row in profiles.strength.flatten(0, 1)],
        "density": [_rounded(row) for row in profiles.density.flatten(0, 1)],
        "offsets": _bytes(offsets),
        "offsetShape": list(offsets.shape[-2:]),
        "patternShape": list(atlas.prototypes.shape[1:]),
        "clusters": [
            {
                "name": name,
                "share": float((atlas.clusters == k).double().mean()),
                "heads": int((own == k).sum()),
                "prototype": _bytes(atlas.prototypes[k]),
                "medoid": _bytes(samples.patterns[atlas.medoids[k]].float()),
                "medoidOf": named(int(atlas.medoids[k])),
            }
            for k, name in enumerate(atlas.names)
        ],
        "points": {
            "x": _rounded(atlas.points[drawn, 0]),
            "y": _rounded(atlas.points[drawn, 1]),
            "cluster": atlas.clusters[drawn].tolist(),
            "head": (samples.layer * heads + samples.head)[drawn].tolist(),
        },
        "shares": [_rounded(row) for row in shares.nan_to_num().flatten(0, 1)],
        "curves": {name: [list(point) for point in curve] for name, curve in analysis.curves.items()},
        "overlays": None,
    }
    data["top"] = data["order"][0]
    if images is not None and analysis.overlays is not None:
        data["overlays"] = {
            "views": list(analysis.views),
            "grid": list(analysis.overlay_grid),
            "maps": b64encode(analysis.overlays.numpy().tobytes()).decode("ascii"),
            "images": [
                {
                    "name": names[k],
                    "src": _picture(images[k]),
                    "told": "" if told is None else told[k],
                }
                for k in analysis.overlay_images
            ],
        }
    return data


def _picture(image: Tensor) -> str:
    from PIL import Image

    picture = Image.fromarray(grey_photograph(image.cpu().numpy()))
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "png")


def _bytes(values: Tensor) -> str:
    """Values in [0, 1] as bytes in base64."""
    return b64encode((255 * values.clamp(0, 1)).round().byte().numpy().tobytes()).decode("ascii")


def _rounded(values: Tensor) -> list[float | None]:
    return [None if math.isnan(v) else float(f"{v:.4g}") for v in values.double().tolist()]


def _embedded(data: dict[str, Any]) -> Any:
    """JSON that may stand inside a script element."""
    from markupsafe import Markup

    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
