"""What the package pvbm says of drawn eyes, for the evidence of the recipe `pvbm`.

    python benchmarks/pvbm_reference.py

`pvbm` is not among foveal's dependencies: `pip install pvbm`. Its values of the arteries and of the veins of
twelve synthetic eyes go to docs/evidence/pvbm_reference.csv, one row a mask, with the columns that
tests/measurement/data/README.md explains; `foveal verify pvbm --full` compares foveal's with them.
"""

from __future__ import annotations

import importlib.metadata

import pandas as pd

from foveal.recipes._pvbm_reference import REFERENCE, drawn_masks
from peers.pvbm import Pvbm, reference_row

SKIPPED = ("uncut_geometry", "upright_fractals", "old_angles")  # the last takes half a minute a mask


def main() -> None:
    try:
        print(f"pvbm {importlib.metadata.version('pvbm')}")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("pvbm is not installed: pip install pvbm") from None
    pvbm = Pvbm()
    rows = pd.DataFrame([reference_row(pvbm, case, SKIPPED) for case in drawn_masks()])
    rows.to_csv(REFERENCE, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
