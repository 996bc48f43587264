"""The optic disc with every photograph looked at in one size: what chose the sizes of a screening run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from foveal.markdown import table
from foveal.measurement.landmarks import disc_of_mask
from foveal.measurement.optic_disc import FoundDisc, find_disc_on_copy
from foveal.measurement.small_copy import small_copy
from foveal.metrics.segmentation import binary_counts, overlap_scores
from foveal.scans.field_of_view import FieldOfView, find_field_of_view
from foveal.scans.structure_datasets import iterate_idrid
from landmark_scores import read_circled
from structure_maps import Network, Networks
from training.structures import idrid_folds

SIZES = (160, 192, 224, 256, 288, 320)  # pixels across the field
IDRID = "IDRiD"


def size_rows(data: Path, networks: Networks, by_eye: pd.DataFrame) -> Iterator[dict[str, object]]:
    """A row a photograph and size: IDRiD by the folds' networks, circles placed by eye by the shipped one."""
    folds = idrid_folds(data)
    for case in iterate_idrid(data / "IDRiD" / "segmentation", ("disc",)):
        if not networks.has_fold("landmarks", folds[case.patient]):
            continue
        field, truth = find_field_of_view(case.image), case.masks[0]
        vessels = networks.found_vessels(case.patient, case.image, field)
        network, radius = networks.fold("landmarks", folds[case.patient]), disc_of_mask(truth).radius
        for size, found in _discs(network, case.patient, case.image, field, vessels):
            mask = found.mask if found else np.zeros_like(truth)
            yield {
                "group": IDRID,
                "photograph": case.patient,
                "size": size,
                "dice": overlap_scores(binary_counts(mask, truth))["dice"],
                "radius_ratio": found.disc.radius / radius if found else np.nan,
            }
    for row in by_eye.itertuples():
        image = read_circled(data, row.photograph)
        field = find_field_of_view(image)
        vessels = networks.found_vessels(row.photograph, image, field)
        for size, found in _discs(networks.shipped("landmarks"), row.photograph, image, field, vessels):
            error = np.nan
            if found is not None:
                offset = np.subtract(found.disc.center, (row.row_by_eye, row.column_by_eye))
                error = np.hypot(*offset) / row.radius_by_eye
            yield {
                "group": row.group,
                "photograph": row.photograph,
                "size": size,
                "center_error_radii": error,
                "radius_ratio": found.disc.radius / row.radius_by_eye if found else np.nan,
            }


def size_table(rows: pd.DataFrame) -> str:
    """A row a size: mean Dice in IDRiD; elsewhere centres within half a radius, and the median radius."""
    others = [group for group in rows.group.unique() if group != IDRID]
    lines = []
    for size, of_size in rows.groupby("size"):
        line = [str(size), f"{of_size[of_size.group == IDRID].dice.mean():.3f}"]
        for group in others:
            here = of_size[of_size.group == group]
            near = int((here.center_error_radii <= 0.5).sum())
            line.append(f"{near} of {len(here)}; {here.radius_ratio.median():.2f}")
        lines.append(line)
    return table(["pixels across", "IDRiD, Dice", *others], lines)


def _discs(
    network: Network, name: str, image: np.ndarray, field: FieldOfView, vessels: np.ndarray
) -> Iterator[tuple[int, FoundDisc | None]]:
    copy = small_copy(field)
    tubes = copy.shrink(vessels)
    for size in SIZES:
        maps = network.structures(name, image, field, diameter=size)
        seen = copy.keep_inside(maps.mean("disc", field.box, copy.share.shape))
        yield size, find_disc_on_copy(seen, copy, field, tubes=tubes)
