"""A segmenter against human masks: per-image scores inside the field of view, at the original size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from foveal.metrics.segmentation import binary_counts, overlap_scores, pixel_auc
from foveal.models.segmenter import Segmenter
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.vessel_datasets import VesselCase
from foveal.segmentation.inference import segment_vessels


def evaluate_vessels(model: Segmenter, cases: Sequence[VesselCase], **inference: Any) -> pd.DataFrame:
    """Score a model on labelled photographs.

    The field of view that the model sees is found in the photograph; scores are taken inside the one
    that comes with the data.

    Args:
        model: in evaluation mode.
        cases: labelled photographs.
        **inference: passed on to `segment_vessels`.

    Returns:
        One row a photograph: `name`, `dataset`, `patient`, `auc`, the counts `tp fp fn tn` and the
        `overlap_scores` of the mask at 0.5.
    """
    rows = []
    for case in cases:
        found = segment_vessels(model, case.image, find_field_of_view(case.image), **inference)
        counts = binary_counts(found.mask(), case.vessels, case.field)
        rows.append(
            {
                "name": case.name,
                "dataset": case.dataset,
                "patient": case.patient,
                "auc": pixel_auc(found.probability, case.vessels, case.field),
                **counts,
                **overlap_scores(counts),
            }
        )
    return pd.DataFrame(rows)
