"""Score the network of landmarks (optic disc, fovea, side of the eye) on eyes that it has not seen.

    python benchmarks/landmarks.py --data DATA [--runs runs/structures] [--write]

The disc is scored on IDRiD by the network of the fold that left a photograph out, on the folds that
`benchmarks/training/structures.py landmarks` has trained; disc, fovea and side by the shipped network on
LES-AV, CHASE_DB1, fresh synthetic eyes and the public-domain photograph. What the networks say is kept in
RUNS/kept. `--write` keeps the page, its tables and its pictures in docs/evidence; `landmarks_before.csv`
there holds the same measures of the weights that were shipped before, and stays as it is.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from foveal.scans.field_of_view import find_field_of_view
from landmark_page import BEFORE, NAME, disc_name, page
from landmark_pictures import circle_picture, disc_picture
from landmark_scores import add_disc, circle_rows, disc_cases, disc_row, fovea_rows, read_circled, sample_row
from landmark_sizes import size_rows
from structure_doubt import Doubt, Worth, worth_of
from structure_maps import DATA, Networks
from structure_tables import EVIDENCE, keep
from training.structures import WEIGHTS

WORST = 2  # discs of each kind of error that are shown


@dataclass(frozen=True)
class Landmarks:
    """What was measured.

    Attributes:
        discs: a row a photograph of IDRiD.
        circles: a row a photograph of LES-AV and CHASE_DB1, and the sample.
        foveas: a row a synthetic eye.
        before: a row a photograph of any of these, by the weights that were shipped before.
        worth: calibration and doubt of the disc.
        sizes: a row a photograph with a known disc and a size in which all are looked at.
    """

    discs: pd.DataFrame
    circles: pd.DataFrame
    foveas: pd.DataFrame
    before: pd.DataFrame
    worth: Worth
    sizes: pd.DataFrame

    @property
    def by_eye(self) -> pd.DataFrame:
        """The rows of `circles` that have a disc placed by eye."""
        return self.circles[self.circles.radius_by_eye.notna()]

    def before_of(self, group: str, now: pd.DataFrame) -> pd.DataFrame:
        """What was measured before of a group, of the photographs that were measured now."""
        return self.before[(self.before.group == group) & self.before.photograph.isin(now.photograph)]

    @property
    def shown(self) -> list[str]:
        """Photographs whose circles are shown: those lost, the farthest, the most wrong radii, the sample."""
        by_eye = self.by_eye
        lost = by_eye[by_eye.radius.isna()].photograph
        farthest = by_eye.nlargest(1, "center_error_radii").photograph
        wrong = by_eye.loc[(by_eye.radius_ratio - 1).abs().nlargest(WORST).index].photograph
        return [*dict.fromkeys([*lost, *farthest, *wrong]), "samples/retina"]


def measure(data: Path, networks: Networks) -> tuple[Landmarks, dict[str, bytes]]:
    """Everything on the page, and its pictures by name."""
    doubt, rows, pictures = Doubt(), [], {}
    for case in disc_cases(data, networks):
        rows.append(disc_row(case))
        add_disc(case, doubt)
        worst = pd.DataFrame(rows).nsmallest(WORST, "dice").photograph
        if case.patient in set(worst):
            pictures[disc_name(case.patient)] = disc_picture(case)
        pictures = {name: pictures[name] for name in map(disc_name, worst)}
    circles = pd.DataFrame([*circle_rows(data, networks), sample_row(data, networks)])
    worth = worth_of({"disc": doubt})
    before = pd.read_csv(EVIDENCE / f"{NAME}_{BEFORE}.csv")
    sizes = pd.DataFrame(size_rows(data, networks, circles[circles.radius_by_eye.notna()]))
    foveas = pd.DataFrame(fovea_rows(networks))
    found = Landmarks(pd.DataFrame(rows), circles, foveas, before, worth, sizes)
    for name in found.shown:
        image = read_circled(data, name)
        field = find_field_of_view(image)
        vessels = networks.found_vessels(name, image, field)
        probability = networks.shipped("landmarks").landmarks(name, image, field, vessels)["disc"]
        row = circles[circles.photograph == name].iloc[0]
        pictures[disc_name(name)] = circle_picture(image, row, probability, field)
    return found, pictures | worth.figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder with LES-AV, CHASE_DB1 and IDRiD")
    parser.add_argument("--runs", type=Path, default=Path("runs/structures"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"keep {NAME}.md, its tables and pictures")
    options = parser.parse_args()
    if not ((options.data / "IDRiD").is_dir() and (options.runs / "landmarks").is_dir()):
        print(
            f"needs the data in {options.data} and the trained networks in {options.runs}; nothing measured"
        )
        return
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    found, pictures = measure(options.data, Networks(options.runs, Path(), WEIGHTS))
    text = page(found, time.perf_counter() - start)
    print(text)
    if options.write:
        tables = {"disc": found.discs, "circles": found.circles, "synthetic": found.foveas}
        tables["sizes"] = found.sizes
        keep(NAME, text, tables=tables, pictures=pictures)


if __name__ == "__main__":
    main()
