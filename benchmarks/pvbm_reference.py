"""What the package pvbm says of drawn eyes, for the evidence of the recipe `pvbm`.

    python benchmarks/pvbm_reference.py --write

`pvbm` is not among foveal's dependencies: `pip install pvbm`. Its values of the arteries and of the veins of
twelve synthetic eyes go to docs/evidence/pvbm_reference.csv, one row a mask, with the columns that
tests/measurement/data/README.md explains; `foveal verify pvbm --full` compares foveal's with them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from functools import partial

import pandas as pd

from foveal.files import write_atomically
from foveal.recipes._pvbm_reference import REFERENCE, drawn_masks
from peers.pvbm import Pvbm, reference_row

SKIPPED = ("uncut_geometry", "upright_fractals", "old_angles")  # the last takes half a minute a mask


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"measure, and write {REFERENCE.name}")
    if not parser.parse_args().write:
        print(f"{REFERENCE.name} is kept; --write measures it anew with the installed pvbm")
        return
    try:
        print(f"pvbm {importlib.metadata.version('pvbm')}")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("pvbm is not installed: pip install pvbm") from None
    pvbm = Pvbm()
    rows = pd.DataFrame([reference_row(pvbm, case, SKIPPED) for case in drawn_masks()])
    write_atomically(REFERENCE, partial(rows.to_csv, index=False, lineterminator="\n"))


if __name__ == "__main__":
    main()
